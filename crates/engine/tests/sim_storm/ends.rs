//! Loops that are dropped, and sockets that are given back.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use kolk_engine::driver::{SimConfig, SimNet};
use kolk_engine::limits;
use kolk_engine::{Close, Event};

use crate::receives::Hoard;
use crate::sim_helper::{Dice, for_seeds, pattern, write_available};
use crate::station::{SEEDS, STEP, Station, address, network};

/// A port where nobody answers.
const NOBODY: u16 = 82;

/// Bytes that count how often they are dropped.
struct Counted {
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes counted bytes, some short enough to be copied.
fn counted(drops: &mut Vec<Arc<AtomicUsize>>, dice: &mut Dice) -> Bytes {
    let owner = Counted { bytes: pattern(1 + dice.below(4 * limits::COPY_SIZE)), drops: Arc::default() };
    drops.push(Arc::clone(&owner.drops));
    Bytes::from_owner(owner)
}

#[test]
fn a_loop_dropped_with_everything_in_flight_drops_each_thing_once() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let mut drops = Vec::new();
        let mut hoard = Hoard { kept: Vec::new() };
        let mut peers = Vec::new();
        station.listen(net.listen(&address(80)));
        net.blackhole(&address(NOBODY));
        for _ in 0..4 {
            peers.push(net.connect(&address(80)).expect("the backlog is long enough"));
            let (near, far) = net.pair();
            let conn = station.attach(near);
            station.receive(conn);
            peers.push(far);
            let silent = station.connect(&address(NOBODY));
            station.write(silent, counted(&mut drops, &mut dice));
        }
        for _ in 0..dice.below(60) {
            for peer in &mut peers {
                // Nobody reads, so that sends stay in flight.
                let _ = peer.write(&pattern(dice.below(400)));
            }
            station.turn();
            // Not always to the end: the rest is dropped with the loop.
            for _ in 0..dice.below(30) {
                match station.next_event() {
                    Some(Event::Accepted(_, socket)) => {
                        let conn = station.attach(socket);
                        let buffer = BytesMut::with_capacity(100);
                        station.event_loop.receive_into(conn, buffer).expect("just attached");
                    }
                    Some(Event::Received(_, Ok(lease))) => hoard.keep(usize::MAX, lease),
                    Some(_) => {}
                    None => break,
                }
            }
            let chosen = station.live.iter().nth(dice.below(station.live.len())).copied();
            let conn = chosen.expect("the listener lives");
            match dice.below(20) {
                0 => station.close(conn, [Close::Flush, Close::Discard, Close::Reset][dice.below(3)]),
                1 => {
                    let next = station.event_loop.now() + STEP;
                    station.event_loop.set_timer(next, 0);
                }
                _ => {
                    // Refused by what is closing and by what failed.
                    let _ = station.event_loop.write(conn, counted(&mut drops, &mut dice).into());
                }
            }
        }
        drop(station);
        for drops in &drops {
            assert_eq!(drops.load(Ordering::Relaxed), 1, "drops of one chunk");
        }
        hoard.age();
        drop(peers);
        assert_eq!(net.open_sockets(), 0);
    });
}

#[test]
fn a_socket_is_not_given_back_while_an_event_of_it_is_to_come() {
    let net = SimNet::new(SimConfig::calm(1));
    let mut station = Station::new(&net, 0);
    let (near, mut peer) = net.pair();
    let conn = station.attach(near);
    station.receive(conn);
    assert_eq!(write_available(&mut peer, b"abc"), 3);
    peer.shutdown_write();
    let mut got = Vec::new();
    while station.event_loop.detach(conn).is_err() {
        station.turn();
        assert!(station.event_loop.detach(conn).is_err(), "what came in this turn would be lost");
        while let Some(event) = station.next_event() {
            let Event::Received(_, Ok(bytes)) = event else { panic!("{event:?}") };
            got.extend_from_slice(&bytes);
        }
    }
    assert_eq!(got, b"abc");
    drop(peer);
    assert_eq!(net.open_sockets(), 0, "what detach gives back is closed on drop");
}
