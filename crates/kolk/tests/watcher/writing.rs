//! Writes: whole, vectored, batched; and how they end early.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kolk::DriverKind;
use kolk::watcher::{Buffer, Operation, Request};

use crate::support::{Rig, everywhere, everywhere_but_in_storms, on_real_kernels, pattern};

everywhere!(
    p08_a_write_completes_once_all_is_written,
    p08_a_write_that_is_cut_by_free_says_how_much_was_written,
    p08_every_form_of_bytes_is_written_and_comes_back,
    p10_a_write_past_its_deadline_ends_and_breaks_later_writes,
    p10_a_write_that_was_not_begun_ends_without_harm,
    p16_a_cancel_of_a_write_ends_it_once,
    p19_an_empty_write_is_refused_at_once,
);

// In a storm a reset takes its time, and until it arrives there is room for everything.
everywhere_but_in_storms!(p08_a_write_that_fails_says_how_much_was_written);

on_real_kernels!(p09_small_writes_leave_together_and_complete_one_by_one);

fn p08_a_write_completes_once_all_is_written(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let size = rig.stuff(conn, 1);
    assert!(rig.done.is_empty(), "{driver}: the peer has not read");
    let read = rig.peer_reads(&mut peer, size);
    assert!(read == pattern(size), "{driver}");
    let done = rig.next_of(Operation::Write);
    assert_eq!((done.result.unwrap(), done.count, done.context), (size, size as u64, 1), "{driver}");
}

fn p08_every_form_of_bytes_is_written_and_comes_back(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let forms: [Buffer; 6] = [
        BytesMut::from(&b"small and owned "[..]).into(),
        BytesMut::from(&pattern(5000)[..]).into(),
        Bytes::from(pattern(6000)).into(),
        "static ".into(),
        vec![7; 700].into(),
        b"bytes ".into(),
    ];
    let mut expected = Vec::new();
    for (context, form) in forms.into_iter().enumerate() {
        expected.extend_from_slice(&form);
        rig.watcher.write(conn, context as u32, form).unwrap();
    }
    let parts = vec!["three ".into(), Bytes::from(pattern(2000)).into(), "parts".into()];
    parts.iter().for_each(|part: &Buffer| expected.extend_from_slice(part));
    rig.watcher.write_vectored(conn, 6, parts).unwrap();
    assert!(rig.peer_reads(&mut peer, expected.len()) == expected, "{driver}");
    let mut back = Vec::new();
    for context in 0..7 {
        let done = rig.next_of(Operation::Write);
        assert_eq!(
            (done.context, done.result.unwrap() as u64),
            (context, done.buffer.byte_count()),
            "{driver}"
        );
        back.extend_from_slice(&done.buffer.into_bytes());
    }
    assert!(back == expected, "{driver}: the buffers come back");
}

fn p08_a_write_that_fails_says_how_much_was_written(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.stuff(conn, 1);
    rig.watcher.write(conn, 2, "behind").unwrap();
    rig.peer_reads(&mut peer, 1000);
    peer.reset();
    let done = rig.next_of(Operation::Write);
    assert!(done.result.unwrap_err().is_connection_lost(), "{driver}");
    assert!(done.count >= 1000 && done.count < done.buffer.byte_count(), "{driver}: {}", done.count);
    let done = rig.next_of(Operation::Write);
    assert_eq!((done.context, done.count, done.result.is_err()), (2, 0, true), "{driver}");
    rig.watcher.write(conn, 3, "later").unwrap();
    assert!(rig.next_of(Operation::Write).result.is_err(), "{driver}");
}

fn p08_a_write_that_is_cut_by_free_says_how_much_was_written(driver: DriverKind) {
    for taken in [0, 1000, 100_000] {
        let mut rig = Rig::new(driver);
        let (conn, mut peer) = rig.pair();
        rig.watcher.write(conn, 1, "whole ").unwrap();
        assert_eq!(rig.next_of(Operation::Write).count, 6, "{driver}");
        let size = rig.stuff(conn, 2);
        rig.watcher.write(conn, 3, "behind").unwrap();
        let mut read = rig.peer_reads(&mut peer, 6 + taken);
        rig.watcher.free(conn);
        let cut = rig.next_of(Operation::Write);
        assert!(cut.result.unwrap_err().is_cancelled(), "{driver}");
        let behind = rig.next_of(Operation::Write);
        assert_eq!((behind.context, behind.count), (3, 0), "{driver}");
        read.extend(rig.peer_reads_to_end(&mut peer));
        assert!(cut.count >= taken as u64 && cut.count < size as u64, "{driver}: {}", cut.count);
        assert_eq!(read.len() as u64, 6 + cut.count, "{driver}: it is what arrived");
    }
}

fn p09_small_writes_leave_together_and_complete_one_by_one(driver: DriverKind) {
    const WRITES: u32 = 50;
    let mut rig = Rig::new(driver);
    // The kernel tells how many segments with data a peer got. With `TCP_NODELAY` and nothing under way, each
    // send makes one at once: this is how many system calls the bytes came in.
    let (mut near, mut far) = rig.tcp_pair();
    for _ in 0..WRITES {
        near.write_all(b"ten bytes.").unwrap();
    }
    far.read_exact(&mut [0; 10 * WRITES as usize]).unwrap();
    let alone = data_segments_received(&far);
    assert!(alone > WRITES / 10, "the kernel tells the sends of a plain program apart: {alone}");

    let conn = rig.watcher.adopt(near).unwrap();
    for context in 0..WRITES {
        rig.watcher.write(conn, context, "ten bytes.").unwrap();
    }
    rig.until("all fifty", |rig| rig.done.len() == WRITES as usize);
    for (context, done) in rig.done.drain(..).enumerate() {
        assert_eq!((done.context, done.result.unwrap()), (context as u32, 10), "{driver}");
    }
    let mut bytes = [0; 10 * WRITES as usize];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..], b"ten bytes.".repeat(WRITES as usize), "{driver}");
    assert_eq!(data_segments_received(&far) - alone, 1, "{driver}: they left in one call");
}

/// `tcpi_data_segs_in` of tcp(7).
fn data_segments_received(socket: &TcpStream) -> u32 {
    const PLACE: usize = 152;
    let mut info = [0_u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: `info` is writable, and `len` says how long it is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert!(result == 0 && len as usize >= PLACE + 4, "Linux counts segments since 4.6");
    u32::from_ne_bytes(info[PLACE..PLACE + 4].try_into().unwrap())
}

fn p10_a_write_past_its_deadline_ends_and_breaks_later_writes(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(16 << 20);
    rig.submit(Request::write(conn, 1, bytes.clone()).timeout(Duration::from_millis(20)));
    rig.watcher.write(conn, 2, "behind").unwrap();
    rig.watcher.read(conn, 3, crate::support::buffer(10)).unwrap();
    let done = rig.next_of(Operation::Write);
    assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
    assert!(done.count > 0 && done.count < bytes.len() as u64, "{driver}: {}", done.count);
    let behind = rig.next_of(Operation::Write);
    assert!(behind.result.unwrap_err().is_connection_lost(), "{driver}: the stream was cut");
    let read = rig.peer_reads(&mut peer, done.count as usize);
    assert!(read == bytes[..done.count as usize], "{driver}: the count is what the peer gets");
    rig.peer_writes(&mut peer, b"x");
    assert_eq!(rig.next_of(Operation::Read).context, 3, "{driver}: reads go on");
}

fn p10_a_write_that_was_not_begun_ends_without_harm(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let size = rig.stuff(conn, 1);
    rig.submit(Request::write(conn, 2, "never sent").timeout(Duration::from_millis(10)));
    rig.watcher.write(conn, 3, "the end").unwrap();
    let done = rig.next_of(Operation::Write);
    assert_eq!((done.context, done.count), (2, 0), "{driver}");
    assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
    let read = rig.peer_reads(&mut peer, size + 7);
    assert!(read[size..] == *b"the end" && read[..size] == pattern(size), "{driver}");
    assert_eq!((rig.next().context, rig.next().context), (1, 3), "{driver}");
}

fn p16_a_cancel_of_a_write_ends_it_once(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    // Three that go to the engine together; the peer reads none of them.
    let first = rig.submit(Request::write(conn, 1, pattern(1000)));
    let second = rig.submit(Request::write(conn, 2, pattern(1 << 24)));
    let third = rig.submit(Request::write(conn, 3, "third"));
    rig.settle();
    rig.watcher.cancel(third);
    rig.watcher.cancel(third);
    let mut ended = Vec::new();
    rig.until("the end of the third", |rig| {
        ended.extend(rig.done.drain(..).map(|done| (done.context, done.result.is_ok())));
        ended.contains(&(3, false))
    });
    rig.watcher.cancel(second);
    rig.until("the end of the second", |rig| {
        ended.extend(rig.done.drain(..).map(|done| (done.context, done.result.is_ok())));
        ended.len() == 3
    });
    rig.watcher.cancel(first);
    rig.watcher.cancel(second);
    rig.nothing_more();
    ended.sort_unstable();
    assert_eq!(ended.iter().map(|&(context, _)| context).collect::<Vec<_>>(), [1, 2, 3], "{driver}");
    assert!(!ended[1].1, "{driver}: the second was cut");
    rig.watcher.write(conn, 4, "later").unwrap();
    assert!(rig.next_of(Operation::Write).result.is_err(), "{driver}");
    drop(rig.peer_reads(&mut peer, 1000));
}

fn p19_an_empty_write_is_refused_at_once(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let submitter = rig.watcher.submitter();
    assert!(rig.watcher.write(conn, 1, "").unwrap_err().is_invalid_input(), "{driver}");
    assert!(submitter.write(conn, 1, BytesMut::new()).unwrap_err().is_invalid_input(), "{driver}");
    let nothing = vec![Buffer::Empty, "".into()];
    assert!(rig.watcher.write_vectored(conn, 1, nothing).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.read(conn, 1, BytesMut::new()).unwrap_err().is_invalid_input(), "{driver}");
    assert!(submitter.read_exact(conn, 1, BytesMut::new()).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.read_until(conn, 1, "", 9).unwrap_err().is_invalid_input(), "{driver}");
    rig.nothing_more();
    rig.watcher.write(conn, 2, "fine").unwrap();
    assert_eq!(rig.peer_reads(&mut peer, 4), b"fine", "{driver}");
}
