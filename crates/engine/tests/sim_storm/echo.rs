//! Many peers, one echo.

use std::collections::BTreeSet;
use std::io::{self, Write};

use kolk_engine::driver::SimPeer;
use kolk_engine::{Close, Event};

use crate::sim_helper::{Dice, for_seeds, read_available};
use crate::station::{SEEDS, Station, TURNS_MAX, address, network};

#[test]
fn an_echo_gives_back_what_came_in_whatever_the_peers_do() {
    for_seeds(SEEDS, |seed| echo_storm(seed, |_| {}));
}

#[test]
fn the_same_seed_brings_the_same_events() {
    for_seeds(40, |seed| {
        let trace = || {
            let mut trace = Vec::new();
            echo_storm(seed, |event| trace.push(describe(event)));
            trace
        };
        let (first, second) = (trace(), trace());
        assert!(!first.is_empty());
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        assert_eq!(differs.map(|at| (&first[at], &second[at])), None, "two runs differ");
        assert_eq!(first.len(), second.len());
    });
}

/// The event with its bytes.
fn describe(event: &Event<()>) -> String {
    match event {
        Event::Received(_, Ok(lease)) => format!("{event:?} {:?}", &**lease),
        _ => format!("{event:?}"),
    }
}

/// How a peer of the outside ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Sends everything, ends its direction, reads to the end.
    HalfClose,
    /// Resets at some moment.
    Reset,
    /// Closes at some moment.
    Leave,
}

struct Peer {
    /// `None` once it is gone.
    stream: Option<SimPeer>,
    fate: Fate,
    sends: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Peer {
    fn new(stream: SimPeer, dice: &mut Dice) -> Self {
        let fate = [Fate::HalfClose, Fate::HalfClose, Fate::Reset, Fate::Leave][dice.below(4)];
        let len = [0, 1, 50, 400, 4000, 20_000][dice.below(6)];
        let first = dice.below(256);
        let sends = (0..len).map(|place| (first + place * 3 + (place >> 8)) as u8).collect();
        Self { stream: Some(stream), fate, sends, sent: 0, received: Vec::new() }
    }

    /// Writes, reads, goes or does nothing.
    #[track_caller]
    fn act(&mut self, dice: &mut Dice) {
        match dice.below(8) {
            0..3 => self.write(1 + dice.below(2000)),
            3..6 => self.read(),
            6 if self.fate != Fate::HalfClose && dice.below(8) == 0 => self.go(),
            _ => {}
        }
    }

    fn write(&mut self, most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let rest = &self.sends[self.sent..];
        if rest.is_empty() {
            if self.fate == Fate::HalfClose {
                stream.shutdown_write();
            }
            return;
        }
        match stream.write(&rest[..rest.len().min(most)]) {
            Ok(count) => self.sent += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the echo ends after us"),
        }
    }

    #[track_caller]
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let end = read_available(stream, &mut self.received);
        assert!(self.sends[..self.sent].starts_with(&self.received), "other bytes came back");
        if let Some(end) = end {
            end.expect("nobody resets but the peers");
            assert_eq!(self.fate, Fate::HalfClose, "the echo ends only after its peer");
            assert_eq!(self.received.len(), self.sends.len(), "some bytes did not come back");
            self.stream = None;
        }
    }

    fn go(&mut self) {
        let stream = self.stream.take();
        if self.fate == Fate::Reset {
            stream.into_iter().for_each(SimPeer::reset);
        }
    }
}

#[track_caller]
fn echo_storm(seed: u64, mut observe: impl FnMut(&Event<()>)) {
    let net = network(seed);
    let mut dice = Dice::new(seed);
    let mut station = Station::new(&net, 0);
    let before = net.open_sockets();
    let listener = station.listen(net.listen(&address(80)));
    let mut to_come = 10 + dice.below(41);
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..TURNS_MAX {
        if to_come > 0 && dice.below(3) > 0 {
            to_come -= 1;
            let stream = net.connect(&address(80)).expect("the backlog is long enough");
            peers.push(Peer::new(stream, &mut dice));
        }
        for peer in &mut peers {
            peer.act(&mut dice);
        }
        station.turn();
        while let Some(event) = station.next_event() {
            observe(&event);
            echo(&mut station, event);
        }
        if to_come == 0 && station.live.len() == 1 && peers.iter().all(|peer| peer.stream.is_none()) {
            break;
        }
    }
    assert!(peers.iter().all(|peer| peer.stream.is_none()), "some peer never came to its end");
    assert_eq!(station.live, BTreeSet::from([listener]), "some connection never closed");
    station.close_all();
    assert_eq!(net.open_sockets(), before);
}

pub(crate) fn echo(station: &mut Station, event: Event<()>) {
    match event {
        Event::Accepted(_, socket) => {
            let conn = station.attach(socket);
            station.receive(conn);
        }
        Event::Received(conn, Ok(bytes)) if bytes.is_empty() => station.close(conn, Close::Flush),
        Event::Received(conn, Ok(bytes)) => station.write(conn, bytes),
        Event::Received(conn, Err(_)) | Event::SendFailed(conn, _) => station.close(conn, Close::Discard),
        Event::AcceptFailed(..) | Event::Closed(_) => {}
        other => panic!("{other:?} was not asked for"),
    }
}
