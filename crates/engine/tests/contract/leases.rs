//! Leases that are written: alone, as most answers are, they leave without a queue.

use kolk_engine::Close;
use kolk_engine::buffer::Lease;
use kolk_engine::limits::{COPY_SIZE, EAGER_SEND};
use kolk_engine::op::is_cancelled;
use kolk_engine::token::ConnId;
use std::io::ErrorKind::NotConnected;

use crate::output::expect_without_a_turn;
use crate::support::{Counter, Rig, World, assert_kind, pattern};

contract!(everywhere:
    a_lease_leaves_and_is_counted_until_then,
    what_is_written_behind_a_lease_stays_behind_it,
    a_lease_that_the_socket_has_no_room_for_goes_on,
    a_lease_leaves_before_a_close_and_before_the_end_of_output,
    a_lease_is_given_up_with_its_connection,
    a_lease_in_flight_is_cancelled_once,
    a_lease_is_a_message_that_newer_ones_may_replace,
    a_lease_is_reported_as_every_send,
);

contract!(real_kernels: a_flush_sends_a_lease_at_once, a_lease_behind_much_that_was_flushed_waits_for_the_turn);

contract!(real_drivers: more_than_an_operation_may_be_leaves_whole);

/// Lengths around all limits at which a lease takes another way.
const LENGTHS: [usize; 8] = [
    1,
    COPY_SIZE,
    COPY_SIZE + 1,
    5000,
    EAGER_SEND as usize - 1,
    EAGER_SEND as usize,
    EAGER_SEND as usize + 1,
    100_000,
];

/// Longer than what is copied, shorter than what is sent at once.
const MEDIUM: usize = 20_000;

fn lease(len: usize) -> Lease {
    Lease::from(bytes::Bytes::from(pattern(len)))
}

fn write(rig: &mut Rig, conn: ConnId, lease: Lease) -> u64 {
    rig.event_loop.write(conn, lease.into()).expect("an open name")
}

fn a_lease_leaves_and_is_counted_until_then(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.settle();
    for len in LENGTHS {
        let queued = write(&mut rig, conn, lease(len));
        // Much may have left at once, as far as the socket has room.
        assert!(queued == len as u64 || len as u64 >= EAGER_SEND, "{queued} of {len}");
        assert_eq!(rig.event_loop.queued(conn), queued);
        assert!(rig.event_loop.unsent(conn) == queued || len as u64 >= EAGER_SEND);
        assert!(rig.read_exact(&mut peer, len) == pattern(len), "{len} bytes");
        rig.until("nothing is queued", |rig| rig.event_loop.queued(conn) == 0);
        assert_eq!(rig.event_loop.unsent(conn), 0);
    }
    assert_eq!(write(&mut rig, conn, Lease::default()), 0, "nothing is nothing to send");
    rig.event_loop.close(conn, Close::Discard);
    rig.closed(conn);
    assert_kind(rig.event_loop.write(conn, lease(5).into()), NotConnected);
}

fn what_is_written_behind_a_lease_stays_behind_it(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.settle();
    for len in LENGTHS {
        write(&mut rig, conn, lease(len));
        rig.event_loop.write_copy(conn, b"behind").expect("an open name");
        write(&mut rig, conn, lease(len));
        rig.event_loop.write(conn, bytes::Bytes::from(pattern(3000)).into()).expect("an open name");
        let expected = [&*pattern(len), b"behind", &pattern(len), &pattern(3000)].concat();
        assert!(rig.read_exact(&mut peer, expected.len()) == expected, "{len} bytes");
    }
}

/// Writes leases, one a turn, until the socket has no room for another; how many bytes.
fn fill(rig: &mut Rig, conn: ConnId, len: usize) -> usize {
    rig.settle();
    let mut written = 0;
    while rig.event_loop.queued(conn) == 0 {
        write(rig, conn, lease(len));
        written += len;
        rig.settle();
        assert!(written < 64 << 20, "the socket takes everything");
    }
    written
}

fn a_lease_that_the_socket_has_no_room_for_goes_on(world: World) {
    for len in [MEDIUM, 100_000] {
        let mut rig = Rig::new(world);
        let (conn, mut peer) = rig.pair();
        let written = fill(&mut rig, conn, len);
        write(&mut rig, conn, lease(len));
        rig.settle();
        let received = rig.read_exact(&mut peer, written + len);
        assert!(received.chunks(len).all(|chunk| chunk == pattern(len)));
        rig.until("nothing is queued", |rig| rig.event_loop.queued(conn) == 0);
    }
}

fn a_lease_leaves_before_a_close_and_before_the_end_of_output(world: World) {
    for len in LENGTHS {
        let mut rig = Rig::new(world);
        let ((closed, mut its_peer), (ended, mut peer)) = (rig.pair(), rig.pair());
        write(&mut rig, closed, lease(len));
        rig.event_loop.close(closed, Close::Flush);
        write(&mut rig, ended, lease(len));
        rig.event_loop.shutdown_write(ended).expect("an open name");
        assert_kind(rig.event_loop.write(ended, lease(len).into()), NotConnected);
        for peer in [&mut its_peer, &mut peer] {
            let (received, end) = rig.read_to_end(peer);
            assert!(received == pattern(len), "{} of {len} bytes", received.len());
            end.expect("an ordinary end");
        }
        drop(its_peer);
        rig.closed(closed);
    }
}

fn a_lease_is_given_up_with_its_connection(world: World) {
    let counter = Counter::default();
    for (close, turns) in [(Close::Discard, 0), (Close::Reset, 0), (Close::Discard, 1), (Close::Reset, 1)] {
        let mut rig = Rig::new(world);
        let (conn, _peer) = rig.pair();
        fill(&mut rig, conn, MEDIUM);
        let (other, _its_peer) = rig.pair();
        for conn in [conn, other] {
            write(&mut rig, conn, Lease::from(counter.bytes(pattern(MEDIUM))));
        }
        (0..turns).for_each(|_| rig.turn());
        rig.event_loop.close(conn, close);
        rig.event_loop.close(other, close);
        rig.closed(conn);
        rig.closed(other);
        rig.settle();
        assert_eq!(counter.alive(), 0, "after {turns} turns, {close:?}");
    }
    // Dropped with the loop.
    let mut rig = Rig::new(world);
    let (conn, _peer) = rig.pair();
    write(&mut rig, conn, Lease::from(counter.bytes(pattern(MEDIUM))));
    drop(rig);
    assert_eq!(counter.alive(), 0);
}

fn a_lease_in_flight_is_cancelled_once(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let written = fill(&mut rig, conn, MEDIUM) as u64;
    rig.event_loop.report_sends(conn, true).expect("an open name");
    rig.event_loop.cancel_send(conn).expect("an open name");
    rig.until("the end of the send", |rig| !rig.record(conn).sent.is_empty());
    rig.settle();
    let sent = std::mem::take(&mut rig.record(conn).sent);
    let [(count, Err(error))] = &sent[..] else { panic!("{sent:?}") };
    assert!(is_cancelled(error) && *count < MEDIUM as u64);
    assert_eq!(rig.event_loop.queued(conn), 0);
    // What follows comes behind exactly what has left.
    write(&mut rig, conn, lease(MEDIUM));
    let left = (written - MEDIUM as u64 + count) as usize;
    let received = rig.read_exact(&mut peer, left + MEDIUM);
    assert!(received[left..] == pattern(MEDIUM));
}

fn a_lease_is_a_message_that_newer_ones_may_replace(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    for (len, newer) in [(300, "first"), (MEDIUM, "second")] {
        rig.settle();
        write(&mut rig, conn, lease(len));
        rig.event_loop.end_message(conn, len as u64);
        assert_eq!(rig.event_loop.drop_oldest(conn, 1), (0, 0), "never the newest");
        rig.event_loop.write_copy(conn, newer.as_bytes()).expect("an open name");
        rig.event_loop.end_message(conn, newer.len() as u64);
        assert_eq!(rig.event_loop.drop_oldest(conn, 1), (1, len as u64));
        assert_eq!(rig.event_loop.queued(conn), newer.len() as u64);
        assert_eq!(rig.read_exact(&mut peer, newer.len()), newer.as_bytes());
    }
}

fn a_lease_is_reported_as_every_send(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.report_sends(conn, true).expect("an open name");
    for len in LENGTHS {
        assert_eq!(write(&mut rig, conn, lease(len)), len as u64, "it waits for the turn");
        rig.read_exact(&mut peer, len);
        rig.until("a report", |rig| !rig.record(conn).sent.is_empty());
        let sent = std::mem::take(&mut rig.record(conn).sent);
        assert!(matches!(sent[..], [(count, Ok(()))] if count == len as u64), "{sent:?}");
    }
}

fn a_flush_sends_a_lease_at_once(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.settle();
    for len in [COPY_SIZE, MEDIUM] {
        write(&mut rig, conn, lease(len));
        rig.event_loop.flush(conn);
        expect_without_a_turn(&mut peer, &pattern(len));
        rig.settle();
    }
}

fn a_lease_behind_much_that_was_flushed_waits_for_the_turn(world: World) {
    let mut rig = Rig::new(world);
    let ((conn, mut peer), (other, mut its_peer)) = (rig.pair(), rig.pair());
    rig.settle();
    let much = pattern(EAGER_SEND as usize);
    for len in [COPY_SIZE, MEDIUM] {
        write(&mut rig, other, lease(len));
        rig.event_loop.write_copy(conn, &much).expect("an open name");
        rig.event_loop.flush(conn);
        write(&mut rig, conn, lease(len));
        assert!(rig.event_loop.next_progress().is_none(), "nothing has happened");
        let received = rig.read_exact(&mut peer, much.len() + len);
        assert!(received[..much.len()] == much && received[much.len()..] == pattern(len));
        assert!(rig.read_exact(&mut its_peer, len) == pattern(len));
        rig.settle();
    }
}

fn more_than_an_operation_may_be_leaves_whole(world: World) {
    const LEN: usize = (1 << 32) + 100;
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    rig.settle();
    let reading = std::thread::spawn(|| peer.read_blocking());
    // It waits for the turn, as what is reported does.
    rig.event_loop.report_sends(conn, true).expect("an open name");
    let queued = write(&mut rig, conn, Lease::from(bytes::Bytes::from(vec![0; LEN])));
    assert_eq!(queued, LEN as u64);
    rig.until("a report", |rig| !rig.record(conn).sent.is_empty());
    let sent = std::mem::take(&mut rig.record(conn).sent);
    assert!(matches!(sent[..], [(count, Ok(()))] if count == LEN as u64), "{sent:?}");
    rig.event_loop.shutdown_write(conn).expect("an open name");
    rig.settle();
    assert_eq!(reading.join().expect("the peer reads"), LEN as u64);
}
