//! What is written and has not left: how much it is, what may be dropped of it, and sending at once.

use std::io::Read;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use kolk_engine::Close;
use kolk_engine::buffer::Chunk;
use kolk_engine::limits;
use kolk_engine::token::ConnId;
use std::io::ErrorKind::{InvalidInput, NotConnected};

use crate::support::{Peer, Rig, World, assert_kind, pattern};

contract!(everywhere:
    what_is_queued_is_counted_until_it_has_left,
    the_oldest_whole_messages_are_dropped_and_the_stream_stays_whole,
    what_a_closure_writes_is_sent_like_all_else,
    a_closure_that_writes_nothing_does_not_hold_up_a_close,
    a_listener_that_pauses_accepts_nobody_and_goes_on,
);

// The simulated kernel leaves to chance when a send begins.
contract!(real_kernels:
    a_flush_sends_at_once,
    much_is_sent_before_the_next_event,
);

/// More than all buffers on the way.
const FLOOD: usize = 32 << 20;

/// A connection with a send in flight that the peer does not let end.
fn stuck(rig: &mut Rig) -> (ConnId, Peer) {
    let (conn, peer) = rig.pair();
    rig.event_loop.write(conn, Bytes::from(pattern(FLOOD)).into()).expect("an open name");
    rig.settle();
    assert_eq!(rig.event_loop.queued(conn), FLOOD as u64);
    (conn, peer)
}

fn what_is_queued_is_counted_until_it_has_left(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = stuck(&mut rig);
    let queued = rig.event_loop.write_copy(conn, b"and more").expect("an open name");
    assert_eq!(queued, FLOOD as u64 + 8);
    let received = rig.read_exact(&mut peer, FLOOD + 8);
    assert!(received[..FLOOD] == pattern(FLOOD) && received[FLOOD..] == *b"and more");
    rig.until("nothing is queued", |rig| rig.event_loop.queued(conn) == 0);
    rig.event_loop.close(conn, Close::Discard);
    rig.until("Closed", |rig| rig.record(conn).is_closed);
    assert_eq!(rig.event_loop.queued(conn), 0, "a stale name has nothing");
}

fn the_oldest_whole_messages_are_dropped_and_the_stream_stays_whole(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = stuck(&mut rig);
    // Small ones are packed by copy, large ones kept by reference.
    let messages: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; if n % 3 == 0 { 2000 } else { 100 }]).collect();
    for message in &messages {
        rig.event_loop.write(conn, Chunk::from(message.clone())).expect("an open name");
        rig.event_loop.end_message(conn, message.len() as u64);
    }
    let before = rig.event_loop.queued(conn);
    let (count, bytes) = rig.event_loop.drop_oldest(conn, 10_000);
    let expected: u64 = messages[..count as usize].iter().map(|message| message.len() as u64).sum();
    assert!(bytes == expected && (10_000..12_000).contains(&bytes), "{count} messages, {bytes} bytes");
    assert_eq!(rig.event_loop.queued(conn), before - bytes);
    let rest = messages[count as usize..].concat();
    let received = rig.read_exact(&mut peer, FLOOD + rest.len());
    assert!(received[..FLOOD] == pattern(FLOOD) && received[FLOOD..] == rest);
}

fn what_a_closure_writes_is_sent_like_all_else(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let long = pattern(3000);
    rig.event_loop.write_copy(conn, b"<").expect("an open name");
    let answer = rig.event_loop.write_with(conn, 8, |fill| {
        fill.put_u32(0x6b6f_6c6b);
        fill.put_slice(b"copied past the room that was asked for");
    });
    assert_eq!(answer.expect("an open name"), (43, 44));
    rig.event_loop.write(conn, Chunk::from(long.clone())).expect("an open name");
    rig.event_loop.write_with(conn, 0, |fill| fill.put_u8(b'>')).expect("an open name");
    let expected = [b"<kolk", &b"copied past the room that was asked for"[..], &long, b">"].concat();
    assert!(rig.read_exact(&mut peer, expected.len()) == expected);
    rig.event_loop.close(conn, Close::Discard);
    assert_kind(rig.event_loop.write_with(conn, 1, |_| panic!("nobody is to write")), NotConnected);
}

fn a_closure_that_writes_nothing_does_not_hold_up_a_close(world: World) {
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    rig.event_loop.write_with(conn, 100, |_| {}).expect("an open name");
    rig.event_loop.close(conn, Close::Flush);
    drop(peer);
    rig.until("Closed", |rig| rig.record(conn).is_closed);
}

fn a_flush_sends_at_once(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.settle();
    rig.event_loop.write_copy(conn, b"at once").expect("an open name");
    rig.event_loop.flush(conn);
    expect_without_a_turn(&mut peer, b"at once");
}

fn much_is_sent_before_the_next_event(world: World) {
    let mut rig = Rig::new(world);
    let (little, mut its_peer) = rig.pair();
    let (much, mut peer) = rig.pair();
    let (held, mut patient) = rig.pair();
    rig.settle();
    rig.event_loop.write_copy(little, b"little").expect("an open name");
    let bytes = pattern(limits::EAGER_SEND as usize);
    for way in 0..3 {
        let event_loop = &mut rig.event_loop;
        match way {
            0 => event_loop.write(much, bytes.clone().into()).map(drop),
            1 => event_loop.write_copy(much, &bytes).map(drop),
            _ => event_loop.write_with(much, 0, |fill| fill.put_slice(&bytes)).map(drop),
        }
        .expect("an open name");
        assert!(rig.event_loop.next_progress().is_none(), "nothing has happened");
        expect_without_a_turn(&mut peer, &bytes);
    }
    rig.event_loop.write_copy(held, &bytes).expect("an open name");
    rig.event_loop.hold_back(held);
    assert!(rig.event_loop.next_progress().is_none(), "nothing has happened");
    let mut early = Vec::new();
    its_peer.read_available(&mut early);
    patient.read_available(&mut early);
    assert_eq!(early.len(), 0, "these wait for the turn");
    assert_eq!(rig.read_exact(&mut its_peer, 6), b"little");
    assert!(rig.read_exact(&mut patient, bytes.len()) == bytes);
}

pub(crate) fn expect_without_a_turn(peer: &mut Peer, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    let patience = Some(Duration::from_secs(20));
    match peer {
        Peer::Tcp(stream) => {
            stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(patience)).expect("a socket");
            stream.read_exact(&mut received).expect("all of it arrives");
            stream.set_nonblocking(true).expect("a socket");
        }
        Peer::Unix(stream) => {
            stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(patience)).expect("a socket");
            stream.read_exact(&mut received).expect("all of it arrives");
            stream.set_nonblocking(true).expect("a socket");
        }
        Peer::Sim(_) => panic!("a simulated stream does not block"),
    }
    assert!(received == expected);
}

fn a_listener_that_pauses_accepts_nobody_and_goes_on(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen();
    let pause = Duration::from_millis(300);
    rig.settle();
    let begin = rig.event_loop.now();
    rig.event_loop.pause_accept(listener, pause).expect("a listener");
    rig.event_loop.pause_accept(listener, pause).expect("once more is once");
    rig.settle();
    let peers: Vec<_> = (0..3).map(|_| rig.dial(&address)).collect();
    rig.until("those that waited", |rig| rig.record(listener).accepted.len() == peers.len());
    assert!(rig.event_loop.now() - begin >= pause);
    assert!(rig.record(listener).accept_failures.is_empty());
    let (conn, _peer) = rig.pair();
    assert_kind(rig.event_loop.pause_accept(conn, pause), InvalidInput);
}
