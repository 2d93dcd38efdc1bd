//! The three ways to close a socket, and what becomes of what is under way.

use std::io::ErrorKind::InvalidInput;
use std::time::Duration;

use bytes::BytesMut;
use kolk_engine::limits;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Config};

use crate::support::{Counter, Rig, STUCK, World, assert_errno, assert_kind, pattern};

contract!(everywhere:
    the_timer_of_a_connection_ends_with_it,
    a_closed_socket_gives_its_memory_back,
    a_flushing_close_delivers_everything,
    a_flushing_close_survives_a_peer_that_still_sends,
    a_flushing_close_makes_room_for_a_peer_that_writes_before_it_reads,
    a_discarding_close_does_not_wait,
    a_discarding_close_overrides_a_flushing_one,
);
contract!(each_driver: a_resetting_close_resets_the_peer);
contract!(everywhere: a_flushing_close_takes_as_long_as_the_configuration_says);
contract!(simulated:
    a_peer_that_never_reads_cannot_hold_a_closing_socket,
    a_peer_that_never_ends_cannot_hold_a_closing_socket,
);

fn a_closed_socket_gives_its_memory_back(world: World) {
    let mut rig = Rig::new(world);
    let counter = Counter::default();
    for round in 0..20 {
        let (conn, mut peer) = rig.pair();
        let buffered = round % 2 == 0;
        let chunk = counter.bytes(vec![b'x'; STUCK]);
        rig.event_loop.write(conn, chunk.into()).expect("a fresh name");
        if buffered {
            rig.event_loop.receive_into(conn, BytesMut::with_capacity(100)).expect("a fresh name");
        } else {
            rig.event_loop.receive(conn).expect("a fresh name");
        }
        if round > 3 {
            rig.settle();
        }
        rig.event_loop.write(conn, counter.bytes(pattern(1000)).into()).expect("an open name");
        if round % 3 == 0 {
            peer.write_available(b"unread");
        }
        rig.event_loop.close(conn, Close::Discard);
        rig.event_loop.close(conn, Close::Discard);
        rig.closed(conn);
        rig.settle();
        assert_eq!(counter.alive(), 0, "round {round}");
        assert_eq!(rig.record(conn).received_into.len(), usize::from(buffered), "the buffer comes back");
        assert!(rig.record(conn).receive_ends.is_empty() && rig.record(conn).send_failures.is_empty());
    }
    assert_eq!(rig.event_loop.stats().sockets, 0);
}

fn a_flushing_close_delivers_everything(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let counter = Counter::default();
    rig.event_loop.write(conn, counter.bytes(pattern(4 << 20)).into()).expect("a fresh name");
    rig.event_loop.close(conn, Close::Flush);
    rig.event_loop.close(conn, Close::Flush);
    assert_kind(rig.event_loop.write_copy(conn, b"late"), std::io::ErrorKind::NotConnected);
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read == pattern(4 << 20));
    assert!(!rig.record(conn).is_closed, "our last bytes may be under way until the peer ends too");
    drop(peer);
    rig.closed(conn);
    assert_eq!(counter.alive(), 0);
}

fn a_flushing_close_survives_a_peer_that_still_sends(world: World) {
    let mut rig = Rig::new(world);
    for round in 0..200 {
        let (conn, mut peer) = rig.pair();
        if round % 2 == 0 {
            rig.event_loop.receive(conn).expect("a fresh name");
        }
        peer.write_available(&[b'p'; 5000]);
        rig.turn();
        rig.event_loop.write_copy(conn, &pattern(20_000)).expect("an open name");
        rig.event_loop.close(conn, Close::Flush);
        let (mut read, mut end) = (Vec::new(), None);
        let mut sent = 0;
        rig.until("the end of the stream at the peer", |_| {
            // As a careless client does: it reads a little, and goes on sending meanwhile.
            if sent < 50_000 {
                sent += peer.write_available(&[b'p'; 1000]);
            }
            end = peer.read_some(&mut read, 4000);
            end.is_some()
        });
        end.expect("`until` has ended").unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(read == pattern(20_000), "round {round}: {} bytes arrived", read.len());
        drop(peer);
        rig.closed(conn);
    }
}

fn a_flushing_close_makes_room_for_a_peer_that_writes_before_it_reads(world: World) {
    const SIZE: usize = 8 << 20;
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    // No receive is in flight: the close itself must read on, or both sides wait for the other.
    rig.event_loop.write(conn, pattern(SIZE).into()).expect("a fresh name");
    rig.event_loop.close(conn, Close::Flush);
    let mut sent = 0;
    rig.until("all of the peer's bytes to leave", |_| {
        sent += peer.write_available(&[b'p'; 64 << 10]);
        sent >= SIZE
    });
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read == pattern(SIZE));
    drop(peer);
    rig.closed(conn);
}

fn a_discarding_close_does_not_wait(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.write_copy(conn, b"never sent").expect("a fresh name");
    let before = rig.event_loop.now();
    rig.event_loop.close(conn, Close::Discard);
    rig.closed(conn);
    assert!(rig.event_loop.now() - before < Duration::from_secs(1));
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read.is_empty());
}

fn a_discarding_close_overrides_a_flushing_one(world: World) {
    let mut rig = Rig::new(world);
    let (conn, _peer) = rig.pair();
    let counter = Counter::default();
    rig.event_loop.write(conn, counter.bytes(vec![b'x'; STUCK]).into()).expect("a fresh name");
    rig.event_loop.close(conn, Close::Flush);
    rig.settle();
    assert!(!rig.record(conn).is_closed);
    let before = rig.event_loop.now();
    rig.event_loop.close(conn, Close::Discard);
    rig.closed(conn);
    assert!(rig.event_loop.now() - before < Duration::from_secs(1));
    assert_eq!((counter.alive(), rig.event_loop.stats().timers), (0, 0));
}

fn a_resetting_close_resets_the_peer(world: World) {
    let mut rig = Rig::new(world);
    for round in 0..20 {
        let (conn, mut peer) = rig.pair();
        if round % 2 == 0 {
            rig.event_loop.receive(conn).expect("a fresh name");
            rig.settle();
        }
        if round % 4 < 2 {
            rig.event_loop.write(conn, vec![b'x'; STUCK].into()).expect("an open name");
            rig.settle();
        }
        rig.event_loop.close(conn, Close::Reset);
        rig.closed(conn);
        let (_, end) = rig.read_to_end(&mut peer);
        assert_errno(end, libc::ECONNRESET);
    }
}

fn a_peer_that_never_reads_cannot_hold_a_closing_socket(world: World) {
    let mut rig = Rig::new(world);
    let (conn, _peer) = rig.pair();
    let counter = Counter::default();
    rig.event_loop.write(conn, counter.bytes(pattern(1 << 20)).into()).expect("a fresh name");
    assert_closes_by_timeout(&mut rig, conn, limits::CLOSE_TIMEOUT);
    assert_eq!(counter.alive(), 0);
}

fn a_peer_that_never_ends_cannot_hold_a_closing_socket(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.write_copy(conn, b"goodbye").expect("a fresh name");
    assert_closes_by_timeout(&mut rig, conn, limits::CLOSE_TIMEOUT);
    assert_eq!(rig.read_to_end(&mut peer).0, b"goodbye");
}

fn a_flushing_close_takes_as_long_as_the_configuration_says(world: World) {
    // Unlike the default by more than any machine is late.
    for close_timeout in [Duration::ZERO, Duration::from_millis(30), Duration::from_millis(300)] {
        let mut rig = Rig::with(world, Config { close_timeout, ..Config::default() });
        let counter = Counter::default();
        for has_written in [true, false] {
            let (conn, _peer) = rig.pair();
            if has_written {
                rig.event_loop.write(conn, counter.bytes(vec![b'x'; STUCK]).into()).expect("a fresh name");
            }
            assert_closes_by_timeout(&mut rig, conn, close_timeout);
            assert_eq!(counter.alive(), 0);
        }
        // Who reads, and ends, is not cut.
        let (conn, mut peer) = rig.pair();
        rig.event_loop.write_copy(conn, b"goodbye").expect("a fresh name");
        rig.turn();
        rig.event_loop.close(conn, Close::Flush);
        let (read, end) = rig.read_to_end(&mut peer);
        end.expect("a FIN is no error");
        assert_eq!(read, b"goodbye");
        drop(peer);
        rig.closed(conn);
    }
}

#[track_caller]
fn assert_closes_by_timeout(rig: &mut Rig, conn: ConnId, limit: Duration) {
    let before = rig.event_loop.now();
    rig.event_loop.close(conn, Close::Flush);
    rig.closed(conn);
    let took = rig.event_loop.now() - before;
    // A real machine may be late, but not for as long as the default is.
    let slack = if rig.net.is_some() { Duration::from_millis(100) } else { limits::CLOSE_TIMEOUT / 2 };
    assert!(took >= limit && took < limit + slack, "{took:?}");
    assert_eq!(rig.event_loop.stats().timers, 0);
}

fn the_timer_of_a_connection_ends_with_it(world: World) {
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    let (now, later) = (rig.event_loop.now(), rig.event_loop.now() + Duration::from_secs(1000));
    rig.event_loop.set_conn_timer(conn, later, 1).expect("an open name");
    rig.event_loop.set_conn_timer(conn, now, 2).expect("it is moved, with its first payload");
    rig.until("the timer", |rig| !rig.fired.is_empty());
    assert_eq!((rig.fired.pop().map(|(_, payload, _)| payload), rig.event_loop.stats().timers), (Some(1), 0));
    assert!(!rig.event_loop.cancel_conn_timer(conn), "it has fired");
    for how in [Close::Flush, Close::Discard] {
        let (conn, peer) = rig.pair();
        rig.event_loop.set_conn_timer(conn, later, 3).expect("an open name");
        assert_eq!(rig.event_loop.stats().timers, 1);
        rig.event_loop.close(conn, how);
        drop(peer);
        rig.until("Closed", |rig| rig.record(conn).is_closed);
        assert_eq!(rig.event_loop.stats().timers, 0);
    }
    rig.event_loop.set_conn_timer(conn, later, 4).expect("an open name");
    rig.event_loop.detach(conn).expect("nothing is in flight");
    assert_eq!((rig.event_loop.stats().timers, rig.fired.len()), (0, 0));
    drop(peer);
    let (listener, _) = rig.listen();
    assert_kind(rig.event_loop.set_conn_timer(listener, later, 5), InvalidInput);
}
