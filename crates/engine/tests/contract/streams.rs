//! Bytes in both directions, and how a stream ends.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kolk_engine::Close;
use kolk_engine::buffer::{Chunk, FileRange};
use kolk_engine::token::ConnId;

use crate::support::{Counter, Dice, Rig, World, assert_errno, assert_kind, pattern, temporary_file};

contract!(everywhere:
    bytes_arrive_in_both_directions,
    data_then_fin,
    data_together_with_fin,
    fin_then_data_from_us,
    a_slow_reader_gets_all_of_a_large_write,
    many_small_chunks_leave_in_order,
    a_file_shorter_than_its_range_fails_the_send,
    a_receive_into_a_buffer_fills_its_spare_capacity,
    output_ends_behind_what_was_written,
);
contract!(each_driver:
    data_together_with_a_reset,
    reset_while_reading,
    reset_while_writing,
);
contract!(real_drivers: a_receive_may_have_room_for_more_than_an_operation_may_be);

fn bytes_arrive_in_both_directions(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(300_000);
    rig.event_loop.receive(conn).expect("a fresh name");
    rig.event_loop.write(conn, Bytes::from(bytes.clone()).into()).expect("a fresh name");
    let (mut written, mut read) = (0, Vec::new());
    rig.until("both directions", |rig| {
        written += peer.write_available(&bytes[written..]);
        assert!(peer.read_available(&mut read).is_none());
        rig.record(conn).bytes.len() == bytes.len() && read.len() == bytes.len()
    });
    assert!(rig.record(conn).bytes == bytes && read == bytes);
}

fn data_then_fin(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    let bytes = pattern(10_000);
    assert_eq!(peer.write_available(&bytes), bytes.len());
    rig.expect_bytes(conn, &bytes);
    peer.shutdown_write();
    let (more, end) = rig.receive_end(conn);
    end.expect("a FIN is no error");
    assert!(more.is_empty());
    assert_kind(rig.event_loop.receive(conn), io::ErrorKind::NotConnected);
}

fn data_together_with_fin(world: World) {
    let mut rig = Rig::new(world);
    for round in 0..200 {
        let (conn, mut peer) = rig.pair();
        // The receive waits in the kernel already, or comes when both are there.
        if round % 2 == 0 {
            rig.event_loop.receive(conn).expect("a fresh name");
            rig.turn();
        }
        peer.write_all(b"last words").expect("there is room");
        if round % 4 < 2 {
            peer.shutdown_write();
        } else {
            drop(peer);
        }
        if round % 2 == 1 {
            rig.event_loop.receive(conn).expect("a fresh name");
        }
        let (bytes, end) = rig.receive_end(conn);
        assert_eq!(bytes, b"last words", "round {round}");
        end.expect("a FIN is no error");
        rig.event_loop.close(conn, Close::Discard);
        rig.closed(conn);
    }
}

fn fin_then_data_from_us(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    peer.shutdown_write();
    rig.receive_end(conn).1.expect("a FIN is no error");
    let bytes = pattern(1 << 20);
    rig.event_loop.write(conn, Bytes::from(bytes.clone()).into()).expect("our direction is open");
    rig.event_loop.shutdown_write(conn).expect("our direction is open");
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read == bytes, "{} of {} bytes arrived", read.len(), bytes.len());
}

fn data_together_with_a_reset(world: World) {
    let mut rig = Rig::new(world);
    for round in 0..200 {
        let (conn, mut peer) = rig.pair();
        rig.event_loop.receive(conn).expect("a fresh name");
        if round % 2 == 0 {
            rig.turn();
        }
        peer.write_all(b"last words").expect("there is room");
        if round % 4 < 2 {
            // The loop has taken the data, or is about to.
            rig.turn();
        }
        peer.reset();
        let (bytes, end) = rig.receive_end(conn);
        assert!(b"last words".starts_with(&bytes), "round {round}");
        assert_errno(end, libc::ECONNRESET);
        rig.event_loop.close(conn, Close::Discard);
        rig.closed(conn);
    }
}

fn reset_while_reading(world: World) {
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    rig.settle();
    peer.reset();
    let (bytes, end) = rig.receive_end(conn);
    assert!(bytes.is_empty());
    assert_errno(end, libc::ECONNRESET);
    rig.event_loop.close(conn, Close::Flush);
    rig.closed(conn);
}

fn reset_while_writing(world: World) {
    let mut rig = Rig::new(world);
    let (conn, peer) = rig.pair();
    let counter = Counter::default();
    rig.event_loop.write(conn, counter.bytes(vec![b'x'; 16 << 20]).into()).expect("a fresh name");
    rig.settle();
    peer.reset();
    rig.until("a failed send", |rig| !rig.record(conn).send_failures.is_empty());
    let error = rig.record(conn).send_failures.remove(0);
    assert!(matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)), "{error}");
    assert_eq!(counter.alive(), 0, "what was queued is dropped");
    assert_kind(rig.event_loop.write_copy(conn, b"more"), io::ErrorKind::NotConnected);
    rig.event_loop.close(conn, Close::Flush);
    rig.closed(conn);
}

fn a_slow_reader_gets_all_of_a_large_write(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(8 << 20);
    let counter = Counter::default();
    rig.event_loop.write(conn, counter.bytes(bytes.clone()).into()).expect("a fresh name");
    let mut read = Vec::new();
    rig.until("8 MiB", |_| {
        assert!(peer.read_some(&mut read, 50_000).is_none());
        read.len() == bytes.len()
    });
    assert!(read == bytes);
    rig.until("the chunk comes back", |_| counter.alive() == 0);
}

fn many_small_chunks_leave_in_order(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let mut dice = Dice::new(1);
    rig.hoards = true;
    rig.event_loop.receive(conn).expect("a fresh name");
    peer.write_all(&pattern(4000)).expect("there is room");
    rig.expect_bytes(conn, &pattern(4000));
    let mut leases = std::mem::take(&mut rig.record(conn).leases);

    static BYTES: [u8; 1000] = [b's'; 1000];
    let mut expected = Vec::new();
    for number in 0..10_000 {
        let len = 1 + dice.below(100);
        let bytes = vec![number as u8; len];
        let chunk = match number % 4 {
            0 => Chunk::Static(&BYTES[..len * 10]),
            1 => Chunk::from(Bytes::from(bytes)),
            2 if !leases.is_empty() => {
                let lease = &mut leases[0];
                let piece = lease.split_to(len.min(lease.len()));
                if lease.is_empty() {
                    leases.remove(0);
                }
                Chunk::Lease(piece)
            }
            _ => {
                expected.extend_from_slice(&bytes);
                rig.event_loop.write_copy(conn, &bytes).expect("an open name");
                continue;
            }
        };
        expected.extend_from_slice(&bytes_of(&chunk));
        rig.event_loop.write(conn, chunk).expect("an open name");
        if number == 5000 {
            let range =
                FileRange { file: Arc::new(temporary_file(&pattern(3 << 20))), offset: 7, len: 3_000_000 };
            expected.extend_from_slice(&pattern(3 << 20)[7..3_000_007]);
            rig.event_loop.write(conn, Chunk::File(range)).expect("an open name");
        }
    }
    let read = rig.read_exact(&mut peer, expected.len());
    assert!(read == expected);
}

fn bytes_of(chunk: &Chunk) -> Vec<u8> {
    match chunk {
        Chunk::Shared(bytes) => bytes.to_vec(),
        Chunk::Static(bytes) => bytes.to_vec(),
        Chunk::Lease(lease) => lease.to_vec(),
        Chunk::File(_) => panic!("a file has its bytes elsewhere"),
    }
}

fn a_file_shorter_than_its_range_fails_the_send(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    let range = FileRange { file: Arc::new(temporary_file(&pattern(1000))), offset: 0, len: 2000 };
    rig.event_loop.write_copy(conn, b"head").expect("a fresh name");
    rig.event_loop.write(conn, Chunk::File(range)).expect("a fresh name");
    rig.until("a failed send", |rig| !rig.record(conn).send_failures.is_empty());
    assert_eq!(rig.record(conn).send_failures[0].kind(), io::ErrorKind::UnexpectedEof);
    let read = rig.read_exact(&mut peer, 1004);
    assert!(read[4..] == pattern(1000));
    assert_kind(rig.event_loop.write_copy(conn, b"more"), io::ErrorKind::NotConnected);
    rig.event_loop.close(conn, Close::Flush);
    drop(peer);
    rig.closed(conn);
}

fn a_receive_may_have_room_for_more_than_an_operation_may_be(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    for room in [1_usize << 31, (1 << 32) + 1] {
        rig.event_loop.receive_into(conn, BytesMut::with_capacity(room)).expect("no other is in flight");
        peer.write_all(b"a few").expect("there is room");
        assert_eq!(received_into(&mut rig, conn).expect("bytes arrived"), &b"a few"[..]);
    }
}

fn a_receive_into_a_buffer_fills_its_spare_capacity(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    assert_kind(rig.event_loop.receive_into(conn, BytesMut::new()), io::ErrorKind::InvalidInput);
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(b"head:");
    rig.event_loop.receive_into(conn, buffer).expect("a fresh name");
    let second = rig.event_loop.receive_into(conn, BytesMut::with_capacity(1));
    assert_kind(second, io::ErrorKind::ResourceBusy);
    rig.settle();
    peer.write_all(b"b").expect("there is room");
    let mut buffer = received_into(&mut rig, conn).expect("bytes arrived");
    assert_eq!(&buffer[..], b"head:b");

    // What does not fit waits for the next receive.
    peer.write_all(&pattern(1000)).expect("there is room");
    let mut received = Vec::new();
    while received.len() < 1000 {
        buffer.clear();
        rig.event_loop.receive_into(conn, buffer).expect("an open name");
        buffer = received_into(&mut rig, conn).expect("bytes arrived");
        received.extend_from_slice(&buffer);
    }
    assert!(received == pattern(1000));

    drop(peer);
    buffer.clear();
    rig.event_loop.receive_into(conn, buffer).expect("an open name");
    assert!(received_into(&mut rig, conn).expect("a FIN is no error").is_empty());
    let after_end = rig.event_loop.receive_into(conn, BytesMut::with_capacity(1));
    assert_kind(after_end, io::ErrorKind::NotConnected);
}

fn received_into(rig: &mut Rig, conn: ConnId) -> io::Result<BytesMut> {
    rig.until("a receive into a buffer", |rig| !rig.record(conn).received_into.is_empty());
    let (buffer, result) = rig.record(conn).received_into.remove(0);
    assert!(rig.record(conn).received_into.is_empty(), "it ends once");
    result.map(|_| buffer)
}

fn output_ends_behind_what_was_written(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.write(conn, Bytes::from(pattern(2 << 20)).into()).expect("a fresh name");
    rig.event_loop.shutdown_write(conn).expect("a fresh name");
    assert_kind(rig.event_loop.write_copy(conn, b"late"), io::ErrorKind::NotConnected);
    rig.event_loop.receive(conn).expect("the other direction is open");
    let (read, end) = rig.read_to_end(&mut peer);
    end.expect("a FIN is no error");
    assert!(read == pattern(2 << 20));
    peer.write_all(b"still here").expect("there is room");
    rig.expect_bytes(conn, b"still here");
}
