//! Too little of everything that a loop shares with its kernel (L07), and silence. Slower, never wrong.

use std::time::Duration;

use kolk::DriverConfig;
use kolk::server::RunningServer;

use crate::support::{Calls, Peer, World, everywhere, on_real_kernels, pattern, start, telling, until};

everywhere!(l07_an_empty_buffer_ring_loses_nothing, silent_connections_are_parked_and_lose_nothing);

on_real_kernels!(l07_a_full_submission_queue_loses_nothing, l07_a_full_completion_queue_loses_nothing);

type Echo = Calls<(), ()>;

/// A server with little, and a crowd at it.
fn crowd(world: &World, count: usize, sizes: DriverConfig) -> (RunningServer<Echo>, Vec<Peer>) {
    let (tell, _told) = telling();
    let server = start(world.server().driver_config(sizes), move || Echo::new(&tell));
    let peers: Vec<_> = (0..count).map(|_| world.connect(&server)).collect();
    until("all are open", || server.stats().connections == count as u64);
    (server, peers)
}

/// What each of the crowd sends: unlike that of its neighbours.
fn own(number: usize, len: usize) -> Vec<u8> {
    pattern(len + 256)[number % 256..][..len].to_vec()
}

/// All send before any reads, and each has its own back.
fn all_at_once(peers: &mut [Peer], len: usize) {
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(own(number, len));
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.expect(own(number, len));
    }
}

fn l07_an_empty_buffer_ring_loses_nothing(world: &World) {
    let sizes = DriverConfig {
        ring_buffers: 8,
        ring_spare_buffers: 8,
        ring_buffer_size: 512,
        arena_blocks: 2,
        arena_block_size: 4096,
        ..DriverConfig::default()
    };
    // The storms take their time.
    let count = if world.is_real() { 1000 } else { 30 };
    let (server, mut peers) = crowd(world, count, sizes);
    for len in if world.is_real() { [3000, 100, 5000] } else { [700, 100, 1000] } {
        all_at_once(&mut peers, len);
    }
    if world.driver() == kolk::DriverKind::IoUring {
        assert!(server.stats().buffers_exhausted > 0, "that was to be provoked");
    }
}

fn l07_a_full_submission_queue_loses_nothing(world: &World) {
    let sizes = DriverConfig { submission_entries: 4, ..DriverConfig::default() };
    let (server, mut peers) = crowd(world, 1000, sizes);
    for round in 0..5_u8 {
        // As many sends in few turns, beside the answers.
        server.handle().broadcast(vec![round; 700]).expect("it runs");
        peers.iter_mut().for_each(|peer| peer.expect([round; 700]));
        all_at_once(&mut peers, 100);
    }
    if world.driver() == kolk::DriverKind::IoUring {
        assert!(server.stats().early_submits > 0, "that was to be provoked");
    }
}

fn l07_a_full_completion_queue_loses_nothing(world: &World) {
    let sizes = DriverConfig { submission_entries: 1, completion_entries: 1, ..DriverConfig::default() };
    let (server, mut peers) = crowd(world, 1000, sizes);
    for len in [100, 3000, 1] {
        all_at_once(&mut peers, len);
    }
    // Half of them reset, all at the same time as the rest sends.
    let rest = peers.split_off(500);
    peers.into_iter().for_each(Peer::reset);
    let mut peers = rest;
    all_at_once(&mut peers, 1000);
    until("the others are closed", || server.stats().connections == 500);
    if world.driver() == kolk::DriverKind::IoUring {
        assert!(server.stats().overflows > 0, "that was to be provoked");
    }
}

fn silent_connections_are_parked_and_lose_nothing(world: &World) {
    let sizes = DriverConfig { park_after: Some(Duration::from_millis(5)), ..DriverConfig::default() };
    let (server, mut peers) = crowd(world, 30, sizes);
    if world.driver() == kolk::DriverKind::IoUring {
        until("their silence is noticed", || server.stats().parked >= 30);
    }
    for len in [100, 3000, 20_000] {
        all_at_once(&mut peers, len);
    }
}
