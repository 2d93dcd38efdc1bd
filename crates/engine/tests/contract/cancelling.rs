//! An operation that is cancelled completes once, whatever it was doing; so does one whose socket closes.

use std::io::ErrorKind::{InvalidInput, ResourceBusy};
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kolk_engine::Close;
use kolk_engine::buffer::{Chunk, OutQueue};
use kolk_engine::driver::Socket;
use kolk_engine::op::{Direction, Interest, Op, Outcome, is_cancelled};
use kolk_engine::socket::{self, ListenOptions};

use crate::support::{Bare, Counter, Rig, STUCK, World, assert_kind, brief, fresh_address, pattern, queue};

contract!(everywhere:
    a_cancelled_receive_completes_once,
    a_large_stream_loses_no_byte_however_often_its_receive_is_cancelled,
    a_cancelled_receive_into_a_buffer_completes_once,
    a_cancelled_send_completes_once,
    a_cancelled_accept_completes_once,
    a_listener_that_accepts_no_more_can_accept_again,
    a_cancelled_connect_completes_once,
    a_cancelled_watch_completes_once,
    what_is_watched_no_more_can_be_watched_for_something_else,
    a_close_ends_what_is_in_flight_then_itself,
);

fn is_received(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Received(_))
}

fn a_cancelled_receive_completes_once(world: World) {
    let mut bare = Bare::new(world);
    // Before the kernel has it, while it has it, while data is there, after its end.
    for moment in 0..40 {
        let (key, mut peer) = bare.pair();
        bare.submit(key, Op::Receive);
        if moment % 4 > 0 {
            bare.settle();
        }
        if moment % 4 > 1 {
            peer.write_all(b"data").expect("there is room");
        }
        if moment % 4 > 2 {
            drop(peer);
            bare.turn();
        }
        bare.driver.cancel(key, Direction::Receive);
        bare.driver.cancel(key, Direction::Receive);
        let (mut received, mut finals) = (Vec::new(), 0);
        bare.settle();
        for outcome in bare.log.extract_if(.., |done| done.key == key).map(|done| done.outcome) {
            assert_eq!(finals, 0, "after its final completion: {outcome:?}");
            match outcome {
                Outcome::Received(Ok(lease)) if !lease.is_empty() => received.extend_from_slice(&lease),
                Outcome::Received(Ok(_)) => finals += 1,
                Outcome::Received(Err(error)) => {
                    assert!(is_cancelled(&error), "{error}");
                    finals += 1;
                }
                other => panic!("{other:?} is no receive"),
            }
        }
        assert_eq!(finals, 1, "moment {moment}");
        assert!(b"data".starts_with(&received));
        // Nothing is left that a cancel could end.
        bare.driver.cancel(key, Direction::Receive);
        bare.exactly(0, key, is_received);
        bare.close(key);
    }
}

/// Much at a time is received another way than little; the cancel comes at every stage of the change.
fn a_large_stream_loses_no_byte_however_often_its_receive_is_cancelled(world: World) {
    let mut bare = Bare::new(world);
    let (key, mut peer) = bare.pair();
    let sent = pattern(1 << 20);
    let (mut offset, mut received, mut cancels) = (0, Vec::new(), 0);
    let give_up = Instant::now() + Duration::from_secs(20);
    for moment in 0.. {
        assert!(Instant::now() < give_up, "{} of {} bytes came", received.len(), sent.len());
        // Large and small portions, in turn.
        let portion = if moment % 3 == 2 { 53 } else { 48 * 1024 };
        let rest = &sent[offset..sent.len().min(offset + portion)];
        offset += if rest.is_empty() { 0 } else { peer.write(rest).unwrap_or(0) };
        bare.submit(key, Op::Receive);
        (0..moment % 5).for_each(|_| bare.turn());
        bare.driver.cancel(key, Direction::Receive);
        let mut finals = 0;
        while finals == 0 {
            assert!(Instant::now() < give_up, "a cancelled receive has not ended");
            bare.turn();
            for outcome in bare.log.drain(..).map(|done| done.outcome) {
                assert_eq!(finals, 0, "after its final completion: {outcome:?}");
                match outcome {
                    Outcome::Received(Ok(lease)) => {
                        assert!(!lease.is_empty(), "the stream has not ended");
                        received.extend_from_slice(&lease);
                    }
                    Outcome::Received(Err(error)) if is_cancelled(&error) => finals += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        cancels += finals;
        if received.len() == sent.len() {
            break;
        }
    }
    assert!(received == sent, "the bytes differ");
    assert!(cancels > 20, "only {cancels} cancels");
    bare.close(key);
}

fn a_cancelled_receive_into_a_buffer_completes_once(world: World) {
    let mut bare = Bare::new(world);
    for moment in 0..30 {
        let (key, mut peer) = bare.pair();
        bare.submit(key, Op::ReceiveInto(BytesMut::with_capacity(100)));
        if moment % 3 > 0 {
            bare.settle();
        }
        if moment % 3 > 1 {
            peer.write_all(b"data").expect("there is room");
        }
        bare.driver.cancel(key, Direction::Receive);
        let ended = bare.exactly(1, key, |outcome| matches!(outcome, Outcome::ReceivedInto(..)));
        let Outcome::ReceivedInto(buffer, result) = &ended[0] else { unreachable!("asked for") };
        match result {
            Ok(count) => assert!(*count == buffer.len() && b"data".starts_with(buffer)),
            Err(error) => assert!(is_cancelled(error) && buffer.is_empty()),
        }
        assert_eq!(buffer.capacity(), 100, "it is the same buffer");
        bare.close(key);
    }
}

fn a_cancelled_send_completes_once(world: World) {
    let mut bare = Bare::new(world);
    for moment in 0..20 {
        let (key, mut peer) = bare.pair();
        let counter = Counter::default();
        let mut stuck = Box::new(OutQueue::default());
        stuck.push(Chunk::from(counter.bytes(vec![b'x'; STUCK])));
        stuck.push(Chunk::from(counter.bytes(vec![b'x'; STUCK])));
        bare.send(key, stuck);
        if moment % 2 > 0 {
            bare.settle();
            assert!(bare.log.is_empty(), "nobody reads, so it cannot end");
        }
        bare.driver.cancel(key, Direction::Send);
        bare.driver.cancel(key, Direction::Send);
        let mut ended = bare.exactly(1, key, |outcome| matches!(outcome, Outcome::Sent(..)));
        let Some(Outcome::Sent(rest, Err(error))) = ended.pop() else { panic!("{}", brief(&ended)) };
        assert!(is_cancelled(&error), "{error}");
        // What was sent is what the peer can read.
        let sent = 2 * STUCK - rest.len() as usize;
        drop(rest);
        assert_eq!(counter.alive(), 0);
        bare.driver.shutdown_write(key).expect("a connected stream");
        let mut read = Vec::new();
        let give_up = Instant::now() + Duration::from_secs(10);
        while peer.read_available(&mut read).is_none() {
            assert!(Instant::now() < give_up, "no end after {} of {sent} bytes", read.len());
            bare.turn();
        }
        assert_eq!(read.len(), sent, "bytes that the queue says are sent, and bytes that arrived");
        bare.close(key);
    }
}

fn a_cancelled_accept_completes_once(world: World) {
    let mut rig = Rig::new(world);
    let (listener, _) = rig.listen();
    rig.settle();
    // A loop does not cancel an accept: it closes its listener.
    rig.event_loop.close(listener, Close::Discard);
    rig.closed(listener);
    let record = rig.record(listener);
    assert!(record.accepted.is_empty() && record.accept_failures.is_empty());

    let mut bare = Bare::new(world);
    let address = fresh_address(world.family);
    let socket = match &bare.net {
        Some(net) => net.listen(&address).into(),
        None => Socket::from(socket::listen(&address, &ListenOptions::default()).expect("a fresh address")),
    };
    let key = bare.attach(socket);
    for turns in [0, 1, 5] {
        bare.submit(key, Op::Accept);
        for _ in 0..turns {
            bare.turn();
        }
        bare.driver.cancel(key, Direction::Auxiliary);
        let ended = bare.exactly(1, key, |outcome| matches!(outcome, Outcome::Accepted(_)));
        assert!(matches!(&ended[0], Outcome::Accepted(Err(error)) if is_cancelled(error)), "{ended:?}");
    }
    bare.close(key);
}

fn a_cancelled_connect_completes_once(world: World) {
    let mut bare = Bare::new(world);
    let address = fresh_address(world.family);
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let listener = match &bare.net {
        Some(net) => net.listen(&address).into(),
        None => Socket::from(socket::listen(&address, &options).expect("a fresh address")),
    };
    let address = listener.local_address().expect("a bound socket");
    if let Some(net) = &bare.net {
        net.blackhole(&address);
    }
    for number in 0..12 {
        let socket = bare.driver.open_stream(&address).expect("a descriptor is free");
        let key = bare.attach(socket);
        bare.submit(key, Op::Connect(address.clone()));
        if number % 2 == 0 {
            bare.settle();
        }
        bare.driver.cancel(key, Direction::Auxiliary);
        bare.exactly(1, key, |outcome| matches!(outcome, Outcome::Connected(_)));
        bare.close(key);
    }
}

/// Who comes meanwhile waits in the backlog.
fn a_listener_that_accepts_no_more_can_accept_again(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen();
    for round in 1..=4 {
        let _first = rig.dial(&address);
        rig.until("a connection", |rig| rig.record(listener).accepted.len() == 2 * round - 1);
        if round > 2 {
            rig.event_loop.pause_accept(listener, Duration::from_secs(60)).expect("it accepts");
        }
        if round > 3 {
            // From here on it waits for the timer alone.
            rig.settle();
        }
        rig.event_loop.cancel_accept(listener).expect("it accepts");
        assert_kind(rig.event_loop.cancel_accept(listener), InvalidInput);
        if round < 4 {
            assert_kind(rig.event_loop.accept(listener), ResourceBusy);
        }
        rig.until("its end", |rig| rig.record(listener).accept_ends == round);
        let _second = rig.dial(&address);
        rig.settle();
        assert_eq!(rig.record(listener).accepted.len(), 2 * round - 1);
        rig.event_loop.accept(listener).expect("it has ended");
        rig.until("who waited", |rig| rig.record(listener).accepted.len() == 2 * round);
    }
    assert_eq!(rig.event_loop.stats().timers, 0);
}

fn what_is_watched_no_more_can_be_watched_for_something_else(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.watch(conn, Interest::READABLE).expect("a fresh name");
    rig.settle();
    rig.event_loop.cancel_watch(conn).expect("it is watched");
    rig.until("its end", |rig| !rig.record(conn).ready.is_empty());
    assert!(rig.record(conn).ready.pop().is_some_and(|end| end.is_err_and(|error| is_cancelled(&error))));
    assert_kind(rig.event_loop.cancel_watch(conn), InvalidInput);
    peer.write_all(b"x").expect("there is room");
    for interest in [Interest::READABLE, Interest::WRITABLE] {
        rig.event_loop.watch(conn, interest).expect("it has ended");
        rig.until("that it is ready", |rig| !rig.record(conn).ready.is_empty());
        let ready = std::mem::take(&mut rig.record(conn).ready);
        assert!(ready.iter().all(|ready| ready.as_ref().is_ok_and(|&ready| ready == interest)), "{ready:?}");
        rig.event_loop.cancel_watch(conn).expect("it is watched");
        rig.until("its end", |rig| rig.record(conn).ready.iter().any(Result::is_err));
        rig.record(conn).ready.clear();
    }
}

fn a_cancelled_watch_completes_once(world: World) {
    let mut bare = Bare::new(world);
    for turns in [0, 1, 5] {
        let (key, mut peer) = bare.pair();
        bare.submit(key, Op::Watch(Interest::READABLE));
        for _ in 0..turns {
            bare.turn();
        }
        if turns == 5 {
            peer.write_all(b"x").expect("there is room");
            bare.exactly(1, key, |outcome| matches!(outcome, Outcome::Ready(Ok(_))));
        }
        bare.driver.cancel(key, Direction::Auxiliary);
        let ended = bare.exactly(1, key, |outcome| matches!(outcome, Outcome::Ready(_)));
        assert!(matches!(&ended[0], Outcome::Ready(Err(error)) if is_cancelled(error)), "{ended:?}");
        bare.close(key);
    }
}

fn a_close_ends_what_is_in_flight_then_itself(world: World) {
    let mut bare = Bare::new(world);
    for turns in [0, 1, 5] {
        let (key, _peer) = bare.pair();
        let counter = Counter::default();
        let mut stuck = queue(b"head");
        stuck.push(Chunk::from(counter.bytes(vec![b'x'; STUCK])));
        bare.submit(key, Op::Receive);
        bare.send(key, stuck);
        bare.submit(key, Op::Watch(Interest::READABLE));
        for _ in 0..turns {
            bare.turn();
        }
        bare.close_logged(key);
        let outcomes: Vec<_> = bare.log.drain(..).map(|done| done.outcome).collect();
        let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
        assert_eq!(
            count(|outcome| matches!(outcome, Outcome::Received(Err(error)) if is_cancelled(error))),
            1
        );
        assert_eq!(
            count(|outcome| matches!(outcome, Outcome::Sent(_, Err(error)) if is_cancelled(error))),
            1
        );
        assert_eq!(count(|outcome| matches!(outcome, Outcome::Ready(Err(error)) if is_cancelled(error))), 1);
        assert_eq!(outcomes.len(), 4, "{}", brief(&outcomes));
        assert!(matches!(outcomes.last(), Some(Outcome::Closed)), "{}", brief(&outcomes));
        drop(outcomes);
        assert_eq!(counter.alive(), 0);
    }
}
