//! A stream that was silent for a while waits another way on io_uring, and nobody can tell: whatever comes at whatever
//! moment of the change is reported in order. The other drivers have nothing to change, so it holds there as well.

use std::io::Write;
use std::thread;
use std::time::Duration;

use kolk_engine::Close;
use kolk_engine::driver::DriverConfig;
use kolk_engine::limits;
use kolk_engine::op::{Direction, Op, Outcome, is_cancelled};
use kolk_engine::token::ConnId;

use crate::support::{Bare, Dice, Peer, Rig, World, assert_kind, pattern};

contract!(everywhere:
    a_parked_stream_receives_all_in_order,
    a_parked_stream_ends_in_order,
    a_parked_stream_is_cancelled_closed_or_detached_at_any_turn,
    a_single_receive_is_parked_as_well,
    a_stream_in_a_crowd_begins_parked,
    many_streams_are_parked_with_a_small_submission_queue,
    a_storm_beside_the_clock_hand_loses_nothing,
);

contract!(each_driver:
    a_parked_stream_is_reset,
    the_hand_rests_when_all_are_parked,
    without_a_time_nobody_is_parked,
);

contract!(real_kernels:
    peers_of_another_thread_lose_nothing_to_the_clock_hand,
);

/// Turns after the hand has found a stream silent, by which it is parked for sure.
const MOMENTS: usize = 6;

fn impatient() -> DriverConfig {
    DriverConfig { park_after: Some(Duration::from_millis(2)), ..DriverConfig::default() }
}

fn receiving(rig: &mut Rig, count: usize) -> Vec<(ConnId, Peer)> {
    let streams: Vec<_> = (0..count).map(|_| rig.pair()).collect();
    for (conn, _) in &streams {
        rig.event_loop.receive(*conn).expect("a fresh name");
    }
    streams
}

fn parked(rig: &Rig) -> u64 {
    rig.event_loop.stats().driver.parked
}

/// Turns until `count` more streams than `before` are being parked, and `turns` further ones.
#[track_caller]
fn park(rig: &mut Rig, world: World, before: u64, count: u64, turns: usize) {
    if world.is_uring() {
        rig.until("the clock hand", |rig| parked(rig) >= before + count);
    }
    (0..turns).for_each(|_| rig.turn());
}

/// A receiving stream that is being parked for so many turns.
#[track_caller]
fn parked_stream(rig: &mut Rig, world: World, turns: usize) -> (ConnId, Peer) {
    let before = parked(rig);
    let stream = receiving(rig, 1).remove(0);
    park(rig, world, before, 1, turns);
    stream
}

fn a_parked_stream_receives_all_in_order(world: World) {
    let mut rig = Rig::with_config(world, impatient());
    for turns in 0..MOMENTS {
        let (conn, mut peer) = parked_stream(&mut rig, world, turns);
        // A little, much, and little again: each way of receiving after the other, with and without a pause.
        for (number, len) in [5, 5, 5, 100_000, 5, 4096, 20_000, 5].into_iter().enumerate() {
            let (bytes, mut written) = (pattern(len), 0);
            rig.until("room for all", |_| {
                written += peer.write_available(&bytes[written..]);
                written == len
            });
            rig.expect_bytes(conn, &bytes);
            if (number + turns) % 3 == 0 {
                rig.settle();
            }
        }
        rig.event_loop.write(conn, b"answer".as_slice().into()).expect("an open name");
        assert_eq!(rig.read_exact(&mut peer, 6), b"answer");
        peer.write_all(b"last").expect("there is room");
        peer.shutdown_write();
        let (bytes, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        assert_eq!(bytes, b"last");
    }
}

fn a_parked_stream_ends_in_order(world: World) {
    let mut rig = Rig::with_config(world, impatient());
    for turns in 0..MOMENTS {
        let (conn, mut peer) = parked_stream(&mut rig, world, turns);
        if turns % 2 == 0 {
            peer.write_all(b"last").expect("there is room");
        }
        drop(peer);
        let (bytes, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        assert_eq!(bytes, if turns % 2 == 0 { b"last".as_slice() } else { b"" });
    }
}

fn a_parked_stream_is_reset(world: World) {
    let mut rig = Rig::with_config(world, impatient());
    for turns in 0..MOMENTS {
        let (conn, peer) = parked_stream(&mut rig, world, turns);
        peer.reset();
        let (bytes, end) = rig.receive_end(conn);
        assert_kind(end, std::io::ErrorKind::ConnectionReset);
        assert_eq!(bytes, b"");
    }
}

fn a_parked_stream_is_cancelled_closed_or_detached_at_any_turn(world: World) {
    let mut rig = Rig::with_config(world, impatient());
    for (turns, with_data) in (0..MOMENTS).flat_map(|turns| [(turns, false), (turns, true)]) {
        let data: &[u8] = if with_data { b"data" } else { b"" };
        // Paused, and resumed.
        let (conn, mut peer) = parked_stream(&mut rig, world, turns);
        peer.write_all(data).expect("there is room");
        rig.event_loop.cancel_receive(conn).expect("an open name");
        let (mut bytes, end) = rig.receive_end(conn);
        assert!(end.is_err_and(|error| is_cancelled(&error)));
        rig.event_loop.receive(conn).expect("none is in flight");
        peer.write_all(b" and more").expect("there is room");
        peer.shutdown_write();
        let (rest, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        bytes.extend_from_slice(&rest);
        assert_eq!(bytes, [data, b" and more"].concat());

        let (conn, mut peer) = parked_stream(&mut rig, world, turns);
        peer.write_all(data).expect("there is room");
        rig.event_loop.close(conn, [Close::Discard, Close::Flush][turns % 2]);
        drop(peer);
        rig.closed(conn);

        let (conn, mut peer) = parked_stream(&mut rig, world, turns);
        peer.write_all(data).expect("there is room");
        rig.event_loop.cancel_receive(conn).expect("an open name");
        let (mut bytes, _) = rig.receive_end(conn);
        let socket = rig.event_loop.detach(conn).expect("nothing is in flight");
        // What it had not received is still there for its next owner.
        let conn = rig.event_loop.attach(socket).expect("a socket can be attached");
        rig.event_loop.receive(conn).expect("a fresh name");
        peer.shutdown_write();
        let (rest, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        bytes.extend_from_slice(&rest);
        assert_eq!(bytes, data);
    }
}

fn a_single_receive_is_parked_as_well(world: World) {
    let is_received = |outcome: &Outcome| matches!(outcome, Outcome::Received(_));
    let mut bare = Bare::with_config(world, &impatient());
    for (turns, cancels) in (0..MOMENTS).flat_map(|turns| [(turns, false), (turns, true)]) {
        let (key, mut peer) = bare.pair();
        let before = bare.driver.stats().parked;
        bare.submit(key, Op::ReceiveOnce);
        if world.is_uring() {
            bare.until("the clock hand", |bare| bare.driver.stats().parked > before);
        }
        (0..turns).for_each(|_| bare.turn());
        if cancels {
            bare.driver.cancel(key, Direction::Receive);
        } else {
            peer.write_all(b"data").expect("there is room");
        }
        let ended = bare.exactly(1, key, is_received);
        match &ended[0] {
            Outcome::Received(Ok(lease)) => {
                assert!(!cancels && !lease.is_empty() && b"data".starts_with(lease));
            }
            Outcome::Received(Err(error)) => assert!(cancels && is_cancelled(error), "{error}"),
            other => panic!("{other:?} is no receive"),
        }
        bare.close(key);
    }
}

/// The crowd itself is not needed, only the number of a slot.
fn a_stream_in_a_crowd_begins_parked(world: World) {
    let mut bare = Bare::with_config(world, &DriverConfig::default());
    bare.skip_slots(limits::CROWD as u32);
    for moment in 0..6 {
        let (key, mut peer) = bare.pair();
        bare.submit(key, Op::Receive);
        let mut expected = Vec::new();
        for number in 0..3 * limits::HEARD_IN_RING {
            peer.write_all(&[number; 10]).expect("there is room");
            expected.extend_from_slice(&[number; 10]);
            if number % 3 == moment % 3 {
                bare.turn();
            }
        }
        if moment < 3 {
            peer.shutdown_write();
        } else {
            // All that is there comes before the cancel.
            bare.settle();
            bare.driver.cancel(key, Direction::Receive);
        }
        let (mut bytes, mut ends) = (Vec::new(), 0);
        bare.until("the end", |bare| {
            bare.log.iter().any(|done| match &done.outcome {
                Outcome::Received(Ok(lease)) => lease.is_empty(),
                other => matches!(other, Outcome::Received(Err(_))),
            })
        });
        bare.settle();
        for done in bare.log.drain(..) {
            assert_eq!(ends, 0, "after the end: {done:?}");
            match done.outcome {
                Outcome::Received(Ok(lease)) if !lease.is_empty() => bytes.extend_from_slice(&lease),
                Outcome::Received(Ok(_)) => ends += u32::from(moment < 3),
                Outcome::Received(Err(error)) => ends += u32::from(moment >= 3 && is_cancelled(&error)),
                other => panic!("{other:?} is no receive"),
            }
        }
        assert_eq!(ends, 1);
        assert_eq!(bytes, expected);
        bare.close(key);
    }
}

fn many_streams_are_parked_with_a_small_submission_queue(world: World) {
    const COUNT: usize = 500;
    let config = DriverConfig { submission_entries: 4, ..impatient() };
    let mut rig = Rig::with_config(world, config);
    let mut streams = receiving(&mut rig, COUNT);
    // Half of them speak from time to time, the others never.
    for round in 0..4u8 {
        for (_, peer) in streams.iter_mut().step_by(2) {
            peer.write_all(&[round; 10]).expect("there is room");
        }
        let before = parked(&rig);
        for (conn, _) in streams.iter().step_by(2) {
            rig.expect_bytes(*conn, &[round; 10]);
        }
        if round == 0 {
            park(&mut rig, world, before, COUNT as u64 / 2, MOMENTS);
        }
    }
    for (conn, mut peer) in streams {
        peer.write_all(b"last").expect("there is room");
        drop(peer);
        let (bytes, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        assert_eq!(bytes, b"last");
    }
}

/// Portions of any size with pauses of any length, so that the hand comes by at every stage of a stream.
fn a_storm_beside_the_clock_hand_loses_nothing(world: World) {
    const STREAMS: usize = 12;
    let mut rig = Rig::with_config(world, impatient());
    let mut streams = receiving(&mut rig, STREAMS);
    let mut written = [0; STREAMS];
    let mut dice = Dice::new(world.seed);
    let text = pattern(4 << 20);
    for _ in 0..2000 {
        let one = dice.below(STREAMS);
        let bound = [1, 100, 5000, 30_000][dice.below(4)];
        let portion = &text[written[one]..];
        let portion = &portion[..portion.len().min(1 + dice.below(bound))];
        written[one] += streams[one].1.write_available(portion);
        if dice.below(20) == 0 {
            // Often enough for it to return to the ring.
            for _ in 0..limits::HEARD_IN_RING {
                written[one] += streams[one].1.write_available(&text[written[one]..][..10]);
                rig.turn();
            }
        }
        if dice.below(4) == 0 {
            let (conn, _) = streams[dice.below(STREAMS)];
            rig.event_loop.write(conn, b"x".as_slice().into()).expect("an open name");
        }
        (0..dice.below(4)).for_each(|_| rig.turn());
    }
    for (number, (conn, peer)) in streams.into_iter().enumerate() {
        peer.shutdown_write();
        let (bytes, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        assert!(bytes == text[..written[number]], "{} of {} bytes", bytes.len(), written[number]);
    }
    if world.is_uring() {
        assert!(parked(&rig) > STREAMS as u64, "only {} were parked", parked(&rig));
    }
}

fn peers_of_another_thread_lose_nothing_to_the_clock_hand(world: World) {
    const STREAMS: usize = 8;
    const PORTIONS: usize = 600;
    let mut rig = Rig::with_config(world, impatient());
    let (conns, peers): (Vec<_>, Vec<_>) = receiving(&mut rig, STREAMS).into_iter().unzip();
    let writers: Vec<_> = peers
        .into_iter()
        .enumerate()
        .map(|(number, mut peer)| {
            thread::spawn(move || {
                let mut dice = Dice::new(number as u64);
                for portion in 0..PORTIONS {
                    peer.write_all(&pattern(300)).expect("there is room");
                    // The load itself: silences of about the length that the hand waits for, between bursts long
                    // enough for a parked stream to return.
                    let silence = if portion % 15 == 0 { 8000 } else { 100 };
                    thread::sleep(Duration::from_micros(dice.below(silence) as u64));
                }
            })
        })
        .collect();
    for conn in conns {
        let (bytes, end) = rig.receive_end(conn);
        end.expect("the end of the stream");
        assert!(bytes == pattern(300).repeat(PORTIONS), "{} bytes came", bytes.len());
    }
    for writer in writers {
        writer.join().expect("it only writes");
    }
    if world.is_uring() {
        assert!(parked(&rig) > STREAMS as u64, "only {} were parked", parked(&rig));
    }
}

fn the_hand_rests_when_all_are_parked(world: World) {
    let mut rig = Rig::with_config(world, impatient());
    let (conn, mut peer) = parked_stream(&mut rig, world, MOMENTS);
    for round in 0..3 {
        rig.until("a turn that nothing cuts short", |rig| {
            let deadline = rig.event_loop.now() + Duration::from_millis(40);
            rig.turn_until(deadline);
            rig.event_loop.now() >= deadline
        });
        // It moves again as soon as there is somebody to park. Somebody who is late between two bytes stays parked,
        // and tries once more.
        let before = parked(&rig);
        rig.until("the clock hand", |rig| {
            for _ in 0..limits::HEARD_IN_RING {
                peer.write_all(&[round]).expect("there is room");
                rig.expect_bytes(conn, &[round]);
            }
            (0..20).for_each(|_| rig.turn());
            !world.is_uring() || parked(rig) > before
        });
        (0..MOMENTS).for_each(|_| rig.turn());
    }
}

fn without_a_time_nobody_is_parked(world: World) {
    let mut rig = Rig::with_config(world, DriverConfig { park_after: None, ..DriverConfig::default() });
    let (conn, mut peer) = receiving(&mut rig, 1).remove(0);
    let deadline = rig.event_loop.now() + Duration::from_millis(20);
    rig.turn_until(deadline);
    rig.until("the time", |rig| rig.event_loop.now() >= deadline);
    peer.write_all(b"data").expect("there is room");
    rig.expect_bytes(conn, b"data");
    assert_eq!(parked(&rig), 0);
}
