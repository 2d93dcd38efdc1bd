//! Too little of everything: buffers, queue entries, time. Slower, never wrong.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use kolk_engine::Close;
use kolk_engine::buffer::{Chunk, FileRange};
use kolk_engine::driver::DriverConfig;
use kolk_engine::limits;
use kolk_engine::op::is_cancelled;
use kolk_engine::token::ConnId;

use crate::support::{Peer, Rig, World, pattern, temporary_file};

contract!(everywhere:
    a_thousand_sockets_share_a_handful_of_buffers,
    a_flood_starves_nobody,
    a_hoarder_gets_private_copies_and_starves_nobody,
    many_writes_in_one_turn_overfill_a_small_submission_queue,
    a_tiny_completion_queue_loses_nothing,
);

contract!(real_kernels:
    a_large_file_leaves_turns_for_others,
    a_stream_in_full_flow_takes_its_share_of_a_turn,
    a_stream_in_full_flow_is_cancelled_at_any_turn_and_loses_nothing,
    a_stream_in_full_flow_is_closed_at_any_turn,
);

fn few_buffers() -> DriverConfig {
    DriverConfig {
        ring_buffers: 8,
        ring_spare_buffers: 8,
        ring_buffer_size: 512,
        arena_blocks: 2,
        arena_block_size: 4096,
        ..DriverConfig::default()
    }
}

/// `count` streams whose loop's ends receive.
fn receiving(rig: &mut Rig, count: usize) -> Vec<(ConnId, Peer)> {
    let streams: Vec<_> = (0..count).map(|_| rig.pair()).collect();
    for (conn, _) in &streams {
        rig.event_loop.receive(*conn).expect("a fresh name");
    }
    rig.settle();
    streams
}

fn a_thousand_sockets_share_a_handful_of_buffers(world: World) {
    let mut rig = Rig::with_config(world, few_buffers());
    let mut streams = receiving(&mut rig, 1000);
    let bytes_of = |number: usize| pattern(5000)[number % 256..][..3000].to_vec();
    for (number, (_, peer)) in streams.iter_mut().enumerate() {
        peer.write_all(&bytes_of(number)).expect("there is room");
    }
    for (number, (conn, _)) in streams.iter().enumerate() {
        rig.expect_bytes(*conn, &bytes_of(number));
    }
    if world.is_uring() {
        assert!(rig.event_loop.stats().driver.buffers_exhausted > 0, "that was to be provoked");
    }
    // It goes on as if nothing had been.
    for (conn, peer) in &mut streams {
        peer.write_all(b"again").expect("there is room");
        rig.expect_bytes(*conn, b"again");
    }
}

fn a_flood_starves_nobody(world: World) {
    let mut rig = Rig::with_config(world, few_buffers());
    let mut floods = receiving(&mut rig, 10);
    let mut streams = receiving(&mut rig, 200);
    let flood = |floods: &mut [(ConnId, Peer)]| {
        for (_, peer) in floods {
            peer.write_available(&[b'f'; 20_000]);
        }
    };
    flood(&mut floods);
    for (_, peer) in &mut streams {
        peer.write_all(&pattern(2000)).expect("there is room");
    }
    let begin = rig.event_loop.stats().turns;
    rig.until("the quiet ones between the floods", |rig| {
        flood(&mut floods);
        streams.iter().all(|(conn, _)| rig.record(*conn).bytes.len() == 2000)
    });
    let turns = rig.event_loop.stats().turns - begin;
    assert!(turns < 5000, "served after {turns} turns");
    for (conn, _) in &streams {
        rig.expect_bytes(*conn, &pattern(2000));
    }
    for (conn, _) in &floods {
        assert!(!rig.record(*conn).bytes.is_empty(), "nor does a flood starve");
    }
}

fn a_hoarder_gets_private_copies_and_starves_nobody(world: World) {
    let mut rig = Rig::with_config(world, few_buffers());
    let mut streams = receiving(&mut rig, 8);
    rig.hoards = true;
    for round in 0..100 {
        for (_, peer) in &mut streams {
            peer.write_all(&[round; 100]).expect("there is room");
        }
        for (conn, _) in &streams {
            rig.until("bytes", |rig| rig.record(*conn).bytes.len() == 100 * (usize::from(round) + 1));
        }
    }
    if world.is_uring() {
        // The hoarder has the spares; the ring keeps its eight buffers, one for each socket.
        assert_eq!(rig.event_loop.stats().driver.buffers_exhausted, 0);
    }
    let mut private = 0;
    for (conn, _) in &streams {
        let record = rig.record(*conn);
        let kept: Vec<u8> = record.leases.iter().flat_map(|lease| lease.to_vec()).collect();
        assert!(kept == record.bytes, "nobody writes to a lease");
        private += record.leases.iter().filter(|lease| !lease.is_pooled()).count();
        record.leases.clear();
        record.bytes.clear();
    }
    assert!(private > 0, "the loop's memory is not all the hoarder's");
    // With its memory back the loop lends again.
    let (conn, peer) = &mut streams[0];
    peer.write_all(b"more").expect("there is room");
    rig.expect_bytes(*conn, b"more");
    assert!(rig.record(*conn).leases[0].is_pooled());
}

fn many_writes_in_one_turn_overfill_a_small_submission_queue(world: World) {
    let config = DriverConfig { submission_entries: 4, ..DriverConfig::default() };
    let mut rig = Rig::with_config(world, config);
    let mut streams = receiving(&mut rig, 500);
    for round in 0..3 {
        for (number, (conn, peer)) in streams.iter_mut().enumerate() {
            let bytes = Bytes::from(vec![(number + round) as u8; 1000]);
            rig.event_loop.write(*conn, bytes.into()).expect("an open name");
            peer.write_all(&number.to_le_bytes()).expect("there is room");
        }
        for (number, (conn, peer)) in streams.iter_mut().enumerate() {
            assert_eq!(rig.read_exact(peer, 1000), vec![(number + round) as u8; 1000]);
            rig.expect_bytes(*conn, &number.to_le_bytes());
        }
    }
    if world.is_uring() {
        assert!(rig.event_loop.stats().driver.early_submits > 0, "that was to be provoked");
    }
}

fn a_tiny_completion_queue_loses_nothing(world: World) {
    let config = DriverConfig { submission_entries: 1, completion_entries: 1, ..DriverConfig::default() };
    let mut rig = Rig::with_config(world, config);
    let (listener, address) = rig.listen();
    let mut streams = receiving(&mut rig, 300);
    let dialled: Vec<_> = (0..100).map(|_| rig.dial(&address)).collect();
    for round in 0..5 {
        for (number, (conn, peer)) in streams.iter_mut().enumerate() {
            peer.write_all(&(number + round).to_le_bytes()).expect("there is room");
            rig.event_loop.write(*conn, pattern(3000).into()).expect("an open name");
        }
        for (number, (conn, peer)) in streams.iter_mut().enumerate() {
            rig.expect_bytes(*conn, &(number + round).to_le_bytes());
            assert!(rig.read_exact(peer, 3000) == pattern(3000));
        }
    }
    rig.until("all connections", |rig| rig.record(listener).accepted.len() == dialled.len());
    if world.is_uring() {
        assert!(rig.event_loop.stats().driver.overflows > 0, "that was to be provoked");
    }
}

fn a_large_file_leaves_turns_for_others(world: World) {
    const SIZE: u64 = 256 << 20;
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    let file = Arc::new(temporary_file(b""));
    file.set_len(SIZE).expect("a file of zeros takes no space");
    rig.event_loop.write(conn, Chunk::File(FileRange { file, offset: 0, len: SIZE })).expect("a fresh name");
    rig.event_loop.shutdown_write(conn).expect("an open name");
    let reader = thread::spawn(move || peer.read_blocking());
    let begin = rig.event_loop.stats().turns;
    rig.until("the end of the file", |_| reader.is_finished());
    assert_eq!(reader.join().expect("it only reads"), SIZE);
    let turns = rig.event_loop.stats().turns - begin;
    assert!(turns >= SIZE / limits::SEND_BYTES_PER_TURN, "all in {turns} turns");
}

/// A peer that writes as much as there is room for before each turn, and what it has written.
struct Flow {
    peer: Peer,
    written: Vec<u8>,
}

impl Flow {
    fn swell(&mut self) {
        let bytes = pattern(1 << 20);
        let count = self.peer.write_available(&bytes[self.written.len() % 251..]);
        self.written.extend_from_slice(&bytes[self.written.len() % 251..][..count]);
    }
}

fn flow(rig: &mut Rig) -> (ConnId, Flow) {
    let (conn, peer) = receiving(rig, 1).remove(0);
    (conn, Flow { peer, written: Vec::new() })
}

fn a_stream_in_full_flow_takes_its_share_of_a_turn(world: World) {
    const TURNS: usize = 200;
    let mut rig = Rig::new(world);
    let (conn, mut flow) = flow(&mut rig);
    let mut greedy = 0;
    for _ in 0..TURNS {
        let before = rig.record(conn).bytes.len();
        flow.swell();
        rig.turn();
        greedy += usize::from(rig.record(conn).bytes.len() - before > limits::RECEIVE_SIZE);
    }
    // Only until it is known for what it is.
    assert!(greedy <= TURNS / 20, "more than its share in {greedy} of {TURNS} turns");
    assert!(rig.record(conn).bytes.len() > TURNS * limits::RECEIVE_SIZE / 2, "it is received all the same");
    rig.expect_bytes(conn, &flow.written);
}

fn a_stream_in_full_flow_is_cancelled_at_any_turn_and_loses_nothing(world: World) {
    let mut rig = Rig::new(world);
    for turns in 0..12 {
        let (conn, mut flow) = flow(&mut rig);
        for _ in 0..turns {
            flow.swell();
            rig.turn();
        }
        flow.swell();
        rig.event_loop.cancel_receive(conn).expect("an open name");
        let (mut received, end) = rig.receive_end(conn);
        assert!(end.is_err_and(|error| is_cancelled(&error)));
        rig.event_loop.receive(conn).expect("none is in flight");
        flow.swell();
        flow.peer.shutdown_write();
        let (rest, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        received.extend_from_slice(&rest);
        assert!(received == flow.written, "{} of {} bytes", received.len(), flow.written.len());
    }
}

fn a_stream_in_full_flow_is_closed_at_any_turn(world: World) {
    let mut rig = Rig::new(world);
    for turns in 0..12 {
        let (conn, mut flow) = flow(&mut rig);
        for _ in 0..turns {
            flow.swell();
            rig.turn();
        }
        flow.swell();
        rig.event_loop.close(conn, Close::Discard);
        rig.closed(conn);
    }
}
