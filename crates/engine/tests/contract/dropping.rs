//! A loop that is dropped with everything in flight: nothing leaks, and the peers see the end.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kolk_engine::Close;
use kolk_engine::driver::{DriverConfig, Socket};
use kolk_engine::op::{Interest, OutDatagram};
use kolk_engine::socket::{self, ListenOptions};

use crate::support::{Counter, Peer, Rig, STUCK, World, fresh_address, open_descriptors, pattern};

contract!(everywhere:
    a_dropped_loop_frees_everything,
    a_loop_that_never_turned_frees_everything,
    leases_outlive_their_loop,
);
contract!(everywhere_with_leaks: a_loop_dropped_on_another_thread_closes_its_descriptors);

fn a_dropped_loop_frees_everything(world: World) {
    for turns in [0, 1, 10] {
        let counter = Counter::default();
        let before = open_descriptors();
        let (rig, peers, others) = everything_in_flight(world, &counter, turns);
        drop(rig);
        assert_eq!(counter.alive(), 0, "after {turns} turns");
        assert_peers_see_the_end(peers);
        drop(others);
        if !world.is_sim() {
            assert_eq!(open_descriptors(), before, "after {turns} turns");
        }
    }
}

fn a_loop_that_never_turned_frees_everything(world: World) {
    let counter = Counter::default();
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    rig.event_loop.write(conn, counter.bytes(pattern(1000)).into()).expect("a fresh name");
    rig.event_loop.receive(conn).expect("a fresh name");
    let (closed, other) = rig.pair();
    rig.event_loop.receive(closed).expect("a fresh name");
    rig.event_loop.close(closed, Close::Discard);
    let (idle, third) = rig.pair();
    rig.event_loop.close(idle, Close::Discard);
    drop(rig);
    assert_eq!(counter.alive(), 0);
    assert_peers_see_the_end(vec![peer, other, third]);
}

fn a_loop_dropped_on_another_thread_closes_its_descriptors(world: World) {
    for (turns, thread_lives) in [(0, false), (3, false), (0, true), (3, true)] {
        let before = open_descriptors();
        let (hand_over, handed_over) = mpsc::channel();
        let (let_go, is_let_go) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            hand_over.send(everything_in_flight(world, &Counter::default(), turns)).expect("somebody waits");
            if thread_lives {
                is_let_go.recv().expect_err("nothing is ever sent");
            }
        });
        let (rig, peers, others) = handed_over.recv().expect("nothing fails there");
        let living = if thread_lives {
            Some(thread)
        } else {
            thread.join().expect("it has handed over");
            None
        };
        drop(rig);
        assert_peers_see_the_end(peers);
        drop(let_go);
        if let Some(thread) = living {
            thread.join().expect("it was let go");
        }
        drop(others);
        if !world.is_sim() {
            assert_eq!(open_descriptors(), before, "after {turns} turns");
        }
    }
}

/// A loop with one of each operation in flight or about to be, several of them stuck, and what must
/// outlive it.
fn everything_in_flight(world: World, counter: &Counter, turns: usize) -> (Rig, Vec<Peer>, Vec<Socket>) {
    let small = DriverConfig { ring_buffers: 8, ring_spare_buffers: 8, ..DriverConfig::default() };
    let mut rig = Rig::with_config(world, small);
    let mut peers = Vec::new();
    let mut others = Vec::new();
    for number in 0..40 {
        let (conn, mut peer) = rig.pair();
        match number % 5 {
            0 => rig.event_loop.receive(conn).expect("a fresh name"),
            1 => {
                let buffer = BytesMut::with_capacity(1000);
                rig.event_loop.receive_into(conn, buffer).expect("a fresh name");
            }
            2 => rig.event_loop.watch(conn, Interest::READABLE).expect("a fresh name"),
            3 => {
                rig.event_loop.receive(conn).expect("a fresh name");
                peer.write_all(&pattern(10_000)).expect("there is room");
            }
            _ => {}
        }
        for len in [1000, STUCK, 2000] {
            rig.event_loop.write(conn, counter.bytes(vec![b'x'; len]).into()).expect("a fresh name");
        }
        peers.push(peer);
    }
    let (listener, address) = rig.listen();
    peers.push(rig.dial(&address));
    rig.event_loop.write_copy(listener, b"").expect("nothing is no write");
    let (datagrams, _) = rig.datagram();
    rig.event_loop.receive_from(datagrams, u32::MAX).expect("a fresh name");
    let (sender, _) = rig.datagram();
    let datagram = OutDatagram { to: None, bytes: counter.bytes(pattern(100)) };
    rig.event_loop.send_to(sender, Box::new(datagram)).expect("a fresh name");

    let nobody = fresh_address(world.family);
    let nobody = match &rig.net {
        Some(net) => {
            net.blackhole(&nobody);
            nobody
        }
        None => {
            let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
            let listener = Socket::from(socket::listen(&nobody, &options).expect("a fresh address"));
            let nobody = listener.local_address().expect("a bound socket");
            others.push(listener);
            nobody
        }
    };
    for _ in 0..6 {
        let conn = rig.event_loop.connect(&nobody).expect("an address to connect to");
        rig.event_loop.write(conn, counter.bytes(pattern(100_000)).into()).expect("a fresh name");
    }
    let never = rig.event_loop.now() + Duration::from_secs(1000);
    rig.event_loop.set_timer(never, 0);
    for _ in 0..turns {
        rig.turn();
    }
    // Some are about to be closed, and one is in flight that was not submitted yet.
    for how in [Close::Flush, Close::Discard, Close::Reset] {
        let (conn, peer) = rig.pair();
        rig.event_loop.receive(conn).expect("a fresh name");
        rig.event_loop.write(conn, counter.bytes(pattern(3000)).into()).expect("a fresh name");
        rig.event_loop.close(conn, how);
        peers.push(peer);
    }
    let (idle, peer) = rig.pair();
    rig.event_loop.close(idle, Close::Discard);
    peers.push(peer);
    (rig, peers, others)
}

/// Reads each peer to its end, without a loop to turn.
#[track_caller]
fn assert_peers_see_the_end(peers: Vec<Peer>) {
    let give_up = Instant::now() + Duration::from_secs(10);
    for (number, mut peer) in peers.into_iter().enumerate() {
        let mut bytes = Vec::new();
        while peer.read_available(&mut bytes).is_none() {
            assert!(Instant::now() < give_up, "peer {number} never sees the end");
            thread::yield_now();
        }
    }
}

fn leases_outlive_their_loop(world: World) {
    let mut rig = Rig::new(world);
    rig.hoards = true;
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    peer.write_all(b"kept").expect("there is room");
    rig.expect_bytes(conn, b"kept");
    let leases = std::mem::take(&mut rig.record(conn).leases);
    drop(rig);
    let kept: Vec<u8> = leases.iter().flat_map(|lease| lease.to_vec()).collect();
    assert_eq!(kept, b"kept");
    let bytes: Vec<Bytes> = leases.into_iter().map(Bytes::from).collect();
    thread::spawn(move || drop(bytes)).join().expect("a lease may be dropped anywhere");
}
