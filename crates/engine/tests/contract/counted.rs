//! Receives that bring so much and no more, and sends that say how much left.

use std::io::Write;

use bytes::Bytes;
use kolk_engine::buffer::Chunk;
use kolk_engine::op::{OutDatagram, is_cancelled};
use kolk_engine::token::ConnId;
use std::io::ErrorKind::{InvalidInput, NotConnected, ResourceBusy};

use crate::support::{Rig, World, assert_kind, pattern};

contract!(everywhere:
    a_single_receive_brings_one_piece,
    single_receives_bring_a_large_stream_in_order,
    a_single_receive_ends_with_the_stream,
    a_single_receive_is_cancelled_once,
    so_many_datagrams_are_received_as_were_asked_for,
    sends_are_reported_with_their_bytes,
    a_cancelled_send_says_how_much_left_and_output_goes_on,
    a_broken_stream_is_reported_as_a_send,
    a_single_receive_waits_for_the_connect,
);

contract!(real_drivers: single_receives_take_much_where_much_comes);

/// As many single receives as it takes for `bytes`: one may bring less than what was written.
#[track_caller]
fn expect_by_single_receives(rig: &mut Rig, conn: ConnId, bytes: &[u8]) {
    rig.until("all the peer's bytes", |rig| {
        let has_all = rig.record(conn).bytes.len() >= bytes.len();
        if !has_all {
            // Ends with an error while the last one is still in flight.
            let _ = rig.event_loop.receive_once(conn);
        }
        has_all
    });
    assert!(std::mem::take(&mut rig.record(conn).bytes) == bytes);
}

fn a_single_receive_brings_one_piece(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive_once(conn).expect("a fresh name");
    assert_kind(rig.event_loop.receive_once(conn), ResourceBusy);
    peer.write_all(b"first").expect("there is room");
    expect_by_single_receives(&mut rig, conn, b"first");
    peer.write_all(b"second").expect("there is room");
    rig.settle();
    assert!(rig.record(conn).bytes.is_empty(), "nothing is received that was not asked for");
    expect_by_single_receives(&mut rig, conn, b"second");
    assert!(rig.record(conn).receive_ends.is_empty());
}

fn single_receives_bring_a_large_stream_in_order(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(1 << 20);
    let mut written = 0;
    rig.event_loop.receive_once(conn).expect("a fresh name");
    rig.until("all of a large stream", |rig| {
        written += peer.write_available(&bytes[written..]);
        // Ends with an error while the last one is still in flight.
        let _ = rig.event_loop.receive_once(conn);
        rig.record(conn).bytes.len() == bytes.len()
    });
    assert!(rig.record(conn).bytes == bytes);
}

/// Whoever sends much at a time is not read in pieces of a buffer of the ring.
fn single_receives_take_much_where_much_comes(world: World) {
    let mut rig = Rig::new(world);
    rig.hoards = true;
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(48 << 10);
    let mut pieces = Vec::new();
    for _ in 0..20 {
        peer.write_all(&bytes).expect("there is room");
        expect_by_single_receives(&mut rig, conn, &bytes);
        pieces.push(std::mem::take(&mut rig.record(conn).leases).len());
    }
    // The loop learns it from the first; a message may come in two parts.
    assert!(pieces[1..].iter().sum::<usize>() < 3 * pieces.len(), "{pieces:?}");
    if rig.event_loop.receive_once(conn).is_ok() {
        rig.settle();
        assert!(rig.record(conn).receive_ends.is_empty(), "it waits");
    }
    rig.event_loop.cancel_receive(conn).expect("it is open");
    let (_, end) = rig.receive_end(conn);
    assert!(is_cancelled(&end.expect_err("nothing came")));
    peer.write_all(b"little").expect("there is room");
    expect_by_single_receives(&mut rig, conn, b"little");
}

fn a_single_receive_ends_with_the_stream(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    peer.write_all(b"last words").expect("there is room");
    peer.shutdown_write();
    expect_by_single_receives(&mut rig, conn, b"last words");
    rig.event_loop.receive_once(conn).expect("the end was not seen yet");
    let (bytes, end) = rig.receive_end(conn);
    assert!(bytes.is_empty());
    end.expect("an end in order");
    assert_kind(rig.event_loop.receive_once(conn), NotConnected);
}

fn a_single_receive_is_cancelled_once(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive_once(conn).expect("a fresh name");
    rig.settle();
    rig.event_loop.cancel_receive(conn).expect("an open name");
    let (_, end) = rig.receive_end(conn);
    assert!(is_cancelled(&end.expect_err("nothing came")));
    rig.settle();
    peer.write_all(b"kept").expect("there is room");
    expect_by_single_receives(&mut rig, conn, b"kept");
    assert!(rig.record(conn).receive_ends.is_empty(), "one end for one receive");
}

fn so_many_datagrams_are_received_as_were_asked_for(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    assert_kind(rig.event_loop.receive_from(there, 0), InvalidInput);
    for number in 0..5u8 {
        let datagram = OutDatagram { to: Some(there_address.clone()), bytes: Bytes::from(vec![number]) };
        rig.event_loop.send_to(here, Box::new(datagram)).expect("nothing else is sent");
        rig.until("SentTo", |rig| rig.record(here).sent_to.pop().is_some());
    }
    for (count, expected) in [(2, &[0, 1][..]), (1, &[2]), (2, &[3, 4])] {
        rig.event_loop.receive_from(there, count).expect("the last one has ended");
        rig.until("datagrams", |rig| rig.record(there).datagrams.len() >= count as usize);
        rig.settle();
        let datagrams = std::mem::take(&mut rig.record(there).datagrams);
        let numbers: Vec<u8> = datagrams.iter().map(|datagram| datagram.bytes[0]).collect();
        assert_eq!(numbers, expected);
    }
    assert!(rig.record(there).datagram_ends.is_empty());
}

fn sends_are_reported_with_their_bytes(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.report_sends(conn, true).expect("an open name");
    let bytes = pattern(300_000);
    let mut received = Vec::new();
    let mut sent = 0;
    for piece in bytes.chunks(100_000) {
        let (head, tail) = piece.split_at(10);
        rig.event_loop.write_copy(conn, head).expect("an open name");
        rig.event_loop.write(conn, Chunk::from(tail.to_vec())).expect("an open name");
        rig.until("Sent", |rig| {
            peer.read_available(&mut received);
            rig.record(conn).sent.drain(..).any(|(count, result)| {
                result.expect("the peer reads");
                sent += count;
                true
            })
        });
    }
    assert_eq!(sent, bytes.len() as u64);
    rig.until("all bytes", |_| {
        peer.read_available(&mut received);
        received.len() == bytes.len()
    });
    assert!(received == bytes);
}

fn a_cancelled_send_says_how_much_left_and_output_goes_on(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.report_sends(conn, true).expect("an open name");
    let bytes = Bytes::from(pattern(32 << 20));
    rig.event_loop.write(conn, bytes.clone().into()).expect("an open name");
    rig.settle();
    assert!(rig.record(conn).sent.is_empty(), "more than every buffer on the way");
    rig.event_loop.cancel_send(conn).expect("an open name");
    rig.until("Sent", |rig| !rig.record(conn).sent.is_empty());
    let (count, result) = rig.record(conn).sent.remove(0);
    assert!(is_cancelled(&result.expect_err("the peer has not read")));
    assert!(count < bytes.len() as u64);
    rig.event_loop.write_copy(conn, b"then this").expect("the output goes on");
    let received = rig.read_exact(&mut peer, count as usize + 9);
    assert!(received[..count as usize] == bytes[..count as usize]);
    assert_eq!(&received[count as usize..], b"then this");
}

fn a_broken_stream_is_reported_as_a_send(world: World) {
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    rig.event_loop.report_sends(conn, true).expect("an open name");
    drop(peer);
    rig.until("a send that fails", |rig| {
        let _ = rig.event_loop.write_copy(conn, b"into the void");
        rig.record(conn).sent.iter().any(|(_, result)| result.is_err())
    });
    assert_kind(rig.event_loop.write_copy(conn, b"more"), NotConnected);
    assert!(rig.record(conn).send_failures.is_empty());
}

fn a_single_receive_waits_for_the_connect(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen_outside();
    let conn = rig.event_loop.connect(&address).expect("a socket");
    rig.event_loop.receive_once(conn).expect("it waits");
    rig.until("Connected", |rig| !rig.record(conn).connected.is_empty());
    let mut peer = listener.accept();
    peer.write_all(b"welcome").expect("there is room");
    expect_by_single_receives(&mut rig, conn, b"welcome");
    peer.write_all(b"and more").expect("there is room");
    rig.settle();
    assert!(rig.record(conn).bytes.is_empty());
}
