//! Sockets come and go: accepting, connecting, names, many at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kolk_engine::Close;
use kolk_engine::driver::Socket;
use kolk_engine::op::{Interest, OutDatagram};
use kolk_engine::socket::{self, ListenOptions};
use kolk_engine::token::ConnId;

use crate::support::{
    Dice, Family, Peer, Rig, World, assert_errno, assert_kind, fresh_address, pattern, raise_descriptor_limit,
};
use std::io::ErrorKind::{NotConnected, ResourceBusy};

contract!(everywhere:
    a_thousand_connects_at_once_are_all_served,
    a_connect_carries_what_was_written_before_it_ended,
    a_refused_connect_says_so,
    an_unanswered_connect_ends_with_its_socket,
    a_receive_into_a_buffer_waits_for_the_connect,
    stale_names_are_harmless,
    a_second_operation_of_a_kind_is_refused,
    a_detached_socket_keeps_its_unread_bytes,
    nothing_is_lost_between_a_cancel_and_a_detach,
    no_byte_strays_when_numbers_are_used_again,
    ten_thousand_idle_sockets_cost_no_turns,
);

fn a_thousand_connects_at_once_are_all_served(world: World) {
    const COUNT: u64 = 1000;
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen();
    let mut peers: Vec<_> = (0..COUNT).map(|_| (rig.dial(&address), Vec::new())).collect();
    for (number, (peer, _)) in peers.iter_mut().enumerate() {
        peer.write_all(&number.to_le_bytes()).expect("there is room");
    }
    let mut open = Vec::new();
    rig.until("every peer has its number back", |rig| {
        for socket in std::mem::take(&mut rig.record(listener).accepted) {
            let conn = rig.event_loop.attach(socket).expect("a socket can be attached");
            rig.event_loop.receive(conn).expect("a fresh name");
            open.push(conn);
        }
        for &conn in &open {
            let bytes = std::mem::take(&mut rig.record(conn).bytes);
            rig.event_loop.write_copy(conn, &bytes).expect("an open name");
        }
        for (peer, bytes) in &mut peers {
            assert!(peer.read_available(bytes).is_none());
        }
        peers.iter().all(|(_, bytes)| bytes.len() == 8)
    });
    for (number, (_, bytes)) in peers.iter().enumerate() {
        assert_eq!(bytes[..], number.to_le_bytes());
    }
    assert!(rig.record(listener).accept_failures.is_empty());
    assert_eq!(rig.event_loop.stats().sockets, 1 + COUNT as usize);
}

fn a_connect_carries_what_was_written_before_it_ended(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen_outside();
    let conn = rig.event_loop.connect(&address).expect("an address to connect to");
    rig.event_loop.write_copy(conn, b"early ").expect("writes wait for the connect");
    rig.event_loop.write(conn, Bytes::from(pattern(100_000)).into()).expect("writes wait");
    rig.event_loop.receive(conn).expect("a receive waits for the connect");
    rig.event_loop.shutdown_write(conn).expect("so does the end of our direction");
    rig.until("Connected", |rig| !rig.record(conn).connected.is_empty());
    rig.record(conn).connected[0].as_ref().expect("somebody listens");
    let mut peer = listener.accept();
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read[..6] == *b"early " && read[6..] == pattern(100_000));
    peer.write_all(b"answer").expect("there is room");
    rig.expect_bytes(conn, b"answer");
    assert_eq!(rig.record(conn).connected.len(), 1);
}

fn a_receive_into_a_buffer_waits_for_the_connect(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen_outside();
    let conn = rig.event_loop.connect(&address).expect("an address to connect to");
    rig.event_loop.receive_into(conn, BytesMut::with_capacity(100)).expect("a receive waits too");
    rig.until("Connected", |rig| !rig.record(conn).connected.is_empty());
    rig.settle();
    assert!(rig.record(conn).received_into.is_empty());
    listener.accept().write_all(b"x").expect("there is room");
    rig.until("the byte", |rig| !rig.record(conn).received_into.is_empty());
    let (buffer, result) = rig.record(conn).received_into.remove(0);
    assert_eq!((&buffer[..], result.expect("it arrived")), (&b"x"[..], 1));
}

fn a_refused_connect_says_so(world: World) {
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen_outside();
    drop(listener);
    let conn = rig.event_loop.connect(&address).expect("an address to connect to");
    rig.event_loop.write_copy(conn, b"in vain").expect("writes wait for the connect");
    rig.event_loop.receive(conn).expect("a receive waits for the connect");
    rig.until("Connected", |rig| !rig.record(conn).connected.is_empty());
    rig.settle();
    let record = rig.record(conn);
    assert_eq!(record.connected.len(), 1);
    assert_errno(record.connected.remove(0), libc::ECONNREFUSED);
    assert!(record.receive_ends.is_empty() && record.send_failures.is_empty(), "neither was started");
    assert_kind(rig.event_loop.write_copy(conn, b"more"), NotConnected);
    let before = rig.event_loop.now();
    rig.event_loop.close(conn, Close::Flush);
    rig.closed(conn);
    assert!(rig.event_loop.now() - before < Duration::from_secs(1), "there is nothing to flush");
}

fn an_unanswered_connect_ends_with_its_socket(world: World) {
    let mut rig = Rig::new(world);
    let address = fresh_address(world.family);
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let (_listener, address) = match &rig.net {
        Some(net) => {
            net.blackhole(&address);
            (None, address)
        }
        None => {
            let listener = Socket::from(socket::listen(&address, &options).expect("a fresh address"));
            let address = listener.local_address().expect("a bound socket");
            (Some(listener), address)
        }
    };
    // The first few fill the backlog; whoever comes later waits.
    let conns: Vec<_> = (0..8).map(|_| rig.event_loop.connect(&address).expect("an address")).collect();
    rig.settle();
    let mut unanswered = 0;
    for &conn in &conns {
        rig.event_loop.write_copy(conn, b"x").ok();
        unanswered += usize::from(!matches!(rig.record(conn).connected[..], [Ok(())]));
    }
    assert!(unanswered > 0, "somebody waits");
    for (number, &conn) in conns.iter().enumerate() {
        rig.event_loop.close(conn, if number % 2 == 0 { Close::Discard } else { Close::Reset });
    }
    for &conn in &conns {
        rig.closed(conn);
        assert!(rig.record(conn).connected.len() <= 1, "a connect ends once");
    }
}

fn stale_names_are_harmless(world: World) {
    let mut rig = Rig::new(world);
    let (stale, _peer) = rig.pair();
    rig.event_loop.close(stale, Close::Discard);
    rig.closed(stale);
    // The slot has another owner.
    let (conn, mut peer) = rig.pair();
    assert_eq!(conn.key().index(), stale.key().index());
    rig.event_loop.receive(conn).expect("a fresh name");

    let event_loop = &mut rig.event_loop;
    let datagram = OutDatagram { to: None, bytes: Bytes::from_static(b"x") };
    assert_kind(event_loop.write_copy(stale, b"x"), NotConnected);
    assert_kind(event_loop.write(stale, Bytes::from_static(b"x").into()), NotConnected);
    assert_kind(event_loop.receive(stale), NotConnected);
    assert_kind(event_loop.receive_into(stale, BytesMut::with_capacity(1)), NotConnected);
    assert_kind(event_loop.receive_from(stale, u32::MAX), NotConnected);
    assert_kind(event_loop.cancel_receive(stale), NotConnected);
    assert_kind(event_loop.send_to(stale, Box::new(datagram)), NotConnected);
    assert_kind(event_loop.shutdown_write(stale), NotConnected);
    assert_kind(event_loop.accept(stale), NotConnected);
    assert_kind(event_loop.watch(stale, Interest::READABLE), NotConnected);
    assert_kind(event_loop.detach(stale), NotConnected);
    assert!(event_loop.socket(stale).is_none());
    event_loop.close(stale, Close::Flush);
    event_loop.close(stale, Close::Reset);

    peer.write_all(b"untouched").expect("there is room");
    rig.expect_bytes(conn, b"untouched");
    rig.event_loop.write_copy(conn, b"untouched").expect("an open name");
    assert_eq!(rig.read_exact(&mut peer, 9), b"untouched");
}

fn a_second_operation_of_a_kind_is_refused(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    assert_kind(rig.event_loop.receive(conn), ResourceBusy);
    assert_kind(rig.event_loop.receive_into(conn, BytesMut::with_capacity(1)), ResourceBusy);
    let (listener, address) = rig.listen();
    assert_kind(rig.event_loop.accept(listener), ResourceBusy);
    let (watched, _peer) = rig.pair();
    rig.event_loop.watch(watched, Interest::READABLE).expect("a fresh name");
    assert_kind(rig.event_loop.watch(watched, Interest::WRITABLE), ResourceBusy);

    // The first goes on.
    peer.write_all(b"x").expect("there is room");
    rig.expect_bytes(conn, b"x");
    let _dialled = rig.dial(&address);
    rig.until("the connection", |rig| rig.record(listener).accepted.len() == 1);
    for conn in [conn, listener, watched] {
        rig.event_loop.close(conn, Close::Discard);
        rig.closed(conn);
    }
}

fn a_detached_socket_keeps_its_unread_bytes(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    rig.settle();
    assert_kind(rig.event_loop.detach(conn), ResourceBusy);
    rig.event_loop.cancel_receive(conn).expect("an open name");
    rig.receive_end(conn).1.expect_err("it was cancelled");
    rig.event_loop.write_copy(conn, b"out").expect("an open name");
    assert_kind(rig.event_loop.detach(conn), ResourceBusy);
    assert_eq!(rig.read_exact(&mut peer, 3), b"out");
    rig.settle();

    peer.write_all(b"unread").expect("there is room");
    let socket = rig.event_loop.detach(conn).expect("nothing is in flight");
    assert_kind(rig.event_loop.detach(conn), NotConnected);
    assert_eq!(read_detached(&rig, &socket, 6), b"unread");
    // It can come back, and go.
    let conn = rig.event_loop.attach(socket).expect("a socket can be attached");
    rig.event_loop.receive(conn).expect("a fresh name");
    peer.write_all(b"again").expect("there is room");
    rig.expect_bytes(conn, b"again");
}

/// Reads a socket that no loop has.
fn read_detached(rig: &Rig, socket: &Socket, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    match socket {
        Socket::Simulated(socket) => {
            let mut read = 0;
            while read < count {
                read += socket.try_read(&mut bytes[read..]).expect("the bytes have arrived");
            }
        }
        Socket::Descriptor(fd) => {
            let fd = fd.try_clone().expect("a descriptor is free");
            match rig.family {
                Family::Tcp => read_all(TcpStream::from(fd), &mut bytes),
                _ => read_all(UnixStream::from(fd), &mut bytes),
            }
        }
    }
    bytes
}

fn read_all(mut stream: impl Read, bytes: &mut [u8]) {
    stream.read_exact(bytes).expect("the bytes have arrived");
}

fn nothing_is_lost_between_a_cancel_and_a_detach(world: World) {
    let mut rig = Rig::new(world);
    for round in 0..50 {
        let (conn, mut peer) = rig.pair();
        rig.event_loop.receive(conn).expect("a fresh name");
        rig.settle();
        peer.write_all(b"0123456789").expect("there is room");
        // The bytes may have been taken from the socket, and lie in the loop.
        if round % 2 == 0 {
            let soon = rig.event_loop.now() + Duration::from_millis(1);
            rig.event_loop.turn(Some(soon)).expect("the driver goes on");
        }
        rig.event_loop.cancel_receive(conn).expect("an open name");
        let mut socket = None;
        rig.until("a detach", |rig| {
            socket = rig.event_loop.detach(conn).ok();
            socket.is_some()
        });
        let mut bytes = std::mem::take(&mut rig.record(conn).bytes);
        let missing = 10 - bytes.len();
        bytes.extend(read_detached(&rig, &socket.expect("`until` has ended"), missing));
        assert_eq!(bytes, b"0123456789", "round {round}");
    }
}

fn no_byte_strays_when_numbers_are_used_again(world: World) {
    const ROUNDS: usize = 4000;
    let mut rig = Rig::new(world);
    let mut dice = Dice::new(7 + world.seed);
    let mut streams: Vec<Stream> = Vec::new();
    for round in 0..ROUNDS {
        if streams.len() < 40 && dice.below(2) == 0 {
            let (conn, peer) = rig.pair();
            rig.event_loop.receive(conn).expect("a fresh name");
            streams.push(Stream { conn, peer, tag: round as u8 });
        }
        if !streams.is_empty() {
            let chosen = dice.below(streams.len());
            match dice.below(8) {
                0 => {
                    let Stream { conn, mut peer, tag } = streams.swap_remove(chosen);
                    let how = [Close::Flush, Close::Discard, Close::Reset][dice.below(3)];
                    peer.write_available(&[tag; 100]);
                    rig.event_loop.close(conn, how);
                    assert_tagged(&rig.record(conn).bytes, tag);
                }
                1 => drop(streams.swap_remove(chosen)),
                2..5 => {
                    let Stream { peer, tag, .. } = &mut streams[chosen];
                    peer.write_available(&vec![*tag; 1 + dice.below(3000)]);
                }
                _ => {
                    let Stream { conn, tag, .. } = streams[chosen];
                    let bytes = Bytes::from(vec![tag; 1 + dice.below(3000)]);
                    rig.event_loop.write(conn, bytes.into()).expect("an open name");
                }
            }
        }
        if dice.below(3) == 0 {
            rig.turn();
        }
        for Stream { conn, peer, tag } in &mut streams {
            assert_tagged(&std::mem::take(&mut rig.record(*conn).bytes), *tag);
            let mut read = Vec::new();
            assert!(peer.read_available(&mut read).is_none());
            assert_tagged(&read, *tag);
        }
    }
}

struct Stream {
    conn: ConnId,
    peer: Peer,
    tag: u8,
}

#[track_caller]
fn assert_tagged(bytes: &[u8], tag: u8) {
    assert!(bytes.iter().all(|&byte| byte == tag), "a byte of another stream");
}

fn ten_thousand_idle_sockets_cost_no_turns(world: World) {
    let descriptors = if world.is_sim() { usize::MAX } else { raise_descriptor_limit() };
    let count = 9_000.min((descriptors - 200) / 2);
    let mut rig = Rig::new(world);
    let mut streams: Vec<_> = (0..count).map(|_| rig.pair()).collect();
    for (conn, _) in &streams {
        rig.event_loop.receive(*conn).expect("a fresh name");
    }
    // Attaching may be reported once.
    rig.settle();
    while rig.event_loop.stats().turns < 200 {
        rig.turn();
    }
    let begin = (Instant::now(), rig.event_loop.now());
    for _ in 0..10 {
        let deadline = rig.event_loop.now() + Duration::from_millis(10);
        rig.event_loop.turn(Some(deadline)).expect("the driver goes on");
        assert!(rig.event_loop.next_event().is_none(), "nothing happened");
    }
    assert!(rig.event_loop.now() - begin.1 >= Duration::from_millis(95), "idle turns wait");
    assert!(begin.0.elapsed() < Duration::from_secs(5));

    for (number, (_, peer)) in streams.iter_mut().enumerate() {
        peer.write_all(&number.to_le_bytes()).expect("there is room");
    }
    for (number, (conn, _)) in streams.iter().enumerate() {
        rig.expect_bytes(*conn, &number.to_le_bytes());
    }
}
