//! Reads: one, pooled, exact, until; their order, and the end of the stream.

use kolk::DriverKind;
use kolk::watcher::{Buffer, Operation};

use crate::support::{Rig, buffer, everywhere, pattern};

everywhere!(
    p03_a_read_brings_what_one_receive_brought,
    p03_a_read_appends_to_what_the_buffer_holds,
    p04_a_pooled_read_needs_no_buffer_and_its_lease_may_be_kept,
    p04_a_hoarder_of_leases_starves_nobody,
    p05_an_exact_read_fills_the_buffer,
    p05_an_exact_read_ends_with_the_count_when_the_stream_does,
    p06_a_read_until_ends_at_the_delimiter_and_loses_no_byte,
    p06_a_delimiter_that_does_not_come_is_an_error,
    p07_reads_complete_in_the_order_submitted,
    p07_ten_thousand_reads_and_writes_keep_their_order,
    p18_the_end_of_the_stream_is_zero_and_our_direction_goes_on,
    p26_a_program_sees_whether_its_peer_takes_what_it_wrote,
    p26_nothing_is_read_that_was_not_asked_for,
);

fn p03_a_read_brings_what_one_receive_brought(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.watcher.read(conn, 1, buffer(100)).unwrap();
    rig.peer_writes(&mut peer, b"hello");
    let done = rig.next_of(Operation::Read);
    let count = done.result.unwrap();
    assert!((1..=5).contains(&count), "{driver}: {count}");
    assert_eq!((done.conn, done.context, &*done.buffer), (conn, 1, &b"hello"[..count]));
    for _ in count..5 {
        rig.watcher.read(conn, 2, buffer(1)).unwrap();
        assert_eq!(rig.next_of(Operation::Read).result.unwrap(), 1, "{driver}: a buffer of one byte");
    }
}

fn p03_a_read_appends_to_what_the_buffer_holds(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let mut held = buffer(8);
    held.extend_from_slice(b"abc");
    rig.watcher.read(conn, 1, held).unwrap();
    rig.peer_writes(&mut peer, b"d");
    let done = rig.next_of(Operation::Read);
    assert_eq!((done.result.unwrap(), &*done.buffer), (1, &b"abcd"[..]), "{driver}");
}

fn p04_a_pooled_read_needs_no_buffer_and_its_lease_may_be_kept(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let mut kept = Vec::new();
    for round in 0..50 {
        rig.watcher.read_pooled(conn, round).unwrap();
        rig.peer_writes(&mut peer, &[round as u8]);
        let done = rig.next_of(Operation::ReadPooled);
        assert_eq!((done.result.unwrap(), done.context), (1, round), "{driver}");
        assert!(matches!(done.buffer, Buffer::Lease(_)), "{driver}");
        kept.push(done.buffer);
    }
    for (round, lease) in kept.iter().enumerate() {
        assert_eq!(&**lease, &[round as u8], "{driver}: valid for as long as it is held");
    }
}

fn p04_a_hoarder_of_leases_starves_nobody(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (hoarder, mut far) = rig.pair();
    let (other, mut other_far) = rig.pair();
    let (all, mut kept, mut received) = (pattern(3 << 20), Vec::new(), 0);
    let mut rest = &all[..];
    rig.watcher.read_pooled(hoarder, 0).unwrap();
    while received < all.len() {
        rest = &rest[crate::support::write_some(&mut far, rest)..];
        rig.pump();
        while let Some(done) = rig.done.pop_front() {
            received += done.result.unwrap();
            kept.push(done.buffer);
            rig.watcher.read_pooled(hoarder, 0).unwrap();
        }
    }
    rig.watcher.read_pooled(other, 1).unwrap();
    rig.peer_writes(&mut other_far, b"x");
    assert_eq!(rig.next().context, 1, "{driver}: the other is served");
    let whole: Vec<u8> = kept.iter().flat_map(|lease| lease.iter().copied()).collect();
    assert!(whole == all, "{driver}: what is kept stays as it came");
}

fn p05_an_exact_read_fills_the_buffer(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(10_000);
    let target = buffer(10_000);
    let capacity = target.capacity();
    rig.watcher.read_exact(conn, 1, target).unwrap();
    let sent = pattern(capacity);
    for part in sent.chunks(1234) {
        rig.peer_writes(&mut peer, part);
        rig.pump();
    }
    let done = rig.next_of(Operation::ReadExact);
    assert_eq!((done.result.unwrap(), done.count), (capacity, capacity as u64), "{driver}");
    assert!(done.buffer[..10_000] == bytes[..], "{driver}");
}

fn p05_an_exact_read_ends_with_the_count_when_the_stream_does(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.watcher.read_exact(conn, 1, buffer(100)).unwrap();
    rig.watcher.read_exact(conn, 2, buffer(100)).unwrap();
    rig.peer_writes(&mut peer, b"half");
    peer.shutdown_write();
    let done = rig.next_of(Operation::ReadExact);
    assert!(done.result.unwrap_err().is_unexpected_eof(), "{driver}");
    assert_eq!((done.count, &*done.buffer, done.context), (4, &b"half"[..], 1), "{driver}");
    assert_eq!(rig.next().result.unwrap(), 0, "{driver}: nothing had come of the second");
}

fn p06_a_read_until_ends_at_the_delimiter_and_loses_no_byte(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.watcher.read_until(conn, 1, "\r\n", 100).unwrap();
    rig.watcher.read_until(conn, 2, "\r\n", 100).unwrap();
    rig.watcher.read(conn, 3, buffer(2)).unwrap();
    rig.watcher.read_exact(conn, 4, buffer(5)).unwrap();
    rig.watcher.read_pooled(conn, 5).unwrap();
    for part in ["first", "\r", "\nsecond\r\nre", "st", " and m", "ore"] {
        rig.peer_writes(&mut peer, part.as_bytes());
        rig.pump();
    }
    peer.shutdown_write();
    let mut whole = Vec::new();
    for context in 1..=5 {
        let done = rig.next();
        assert_eq!((done.context, done.result.unwrap()), (context, done.buffer.len()), "{driver}");
        if context < 3 {
            let line = ["first\r\n", "second\r\n"][context as usize - 1];
            assert_eq!(&*done.buffer, line.as_bytes(), "{driver}");
        }
        whole.extend_from_slice(&done.buffer);
    }
    while whole.len() < 28 {
        rig.watcher.read(conn, 6, buffer(100)).unwrap();
        whole.extend_from_slice(&rig.next().buffer);
    }
    assert_eq!(String::from_utf8(whole).unwrap(), "first\r\nsecond\r\nrest and more", "{driver}");
}

fn p06_a_delimiter_that_does_not_come_is_an_error(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.watcher.read_until(conn, 1, "\n", 4).unwrap();
    rig.watcher.read_until(conn, 2, "\n", 100).unwrap();
    rig.peer_writes(&mut peer, b"abcdefg");
    peer.shutdown_write();
    let done = rig.next_of(Operation::ReadUntil);
    assert_eq!(done.result.unwrap_err().kind(), std::io::ErrorKind::InvalidData, "{driver}");
    assert_eq!(&*done.buffer, b"abcd", "{driver}: within the limit");
    let done = rig.next_of(Operation::ReadUntil);
    assert!(done.result.unwrap_err().is_unexpected_eof(), "{driver}");
    assert_eq!(&*done.buffer, b"efg", "{driver}: what came is not lost");
}

fn p07_reads_complete_in_the_order_submitted(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    for n in 0..20 {
        match n % 3 {
            0 => rig.watcher.read(conn, n, buffer(1)).unwrap(),
            1 => rig.watcher.read_exact(conn, n, buffer(1)).unwrap(),
            _ => rig.watcher.read_until(conn, n, [n as u8], 1).unwrap(),
        }
    }
    rig.watcher.write(conn, 100, "the other direction waits for none").unwrap();
    assert_eq!(rig.next_of(Operation::Write).context, 100, "{driver}");
    let bytes: Vec<u8> = (0..20).collect();
    rig.peer_writes(&mut peer, &bytes);
    for n in 0..20 {
        let done = rig.next();
        assert_eq!((done.context, &*done.buffer), (n, &[n as u8][..]), "{driver}");
    }
}

fn p07_ten_thousand_reads_and_writes_keep_their_order(driver: DriverKind) {
    const COUNT: u32 = 10_000;
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    for n in 0..COUNT {
        rig.watcher.read_exact(conn, n, buffer(4)).unwrap();
        rig.watcher.write(conn, COUNT + n, n.to_be_bytes().to_vec()).unwrap();
    }
    let (mut reads, mut writes, mut back) = (0, 0, Vec::new());
    let mut bytes = vec![0; 4 * COUNT as usize];
    let mut read = 0;
    rig.until("all of them", |rig| {
        if read < bytes.len() {
            read += crate::support::read_some(&mut peer, &mut bytes[read..]).unwrap();
            back.clear();
            back.extend_from_slice(&bytes[..read]);
        } else {
            let rest = &back[..];
            let written = crate::support::write_some(&mut peer, rest);
            back.drain(..written);
        }
        for done in rig.done.drain(..) {
            if done.operation == Operation::Write {
                assert_eq!((done.context, done.result.unwrap()), (COUNT + writes, 4), "{driver}");
                writes += 1;
            } else {
                assert_eq!((done.context, done.result.unwrap()), (reads, 4), "{driver}");
                assert_eq!(*done.buffer, reads.to_be_bytes(), "{driver}");
                reads += 1;
            }
        }
        reads == COUNT && writes == COUNT
    });
}

fn p18_the_end_of_the_stream_is_zero_and_our_direction_goes_on(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.peer_writes(&mut peer, b"last");
    peer.shutdown_write();
    rig.watcher.read_exact(conn, 0, buffer(4)).unwrap();
    rig.watcher.read_pooled(conn, 1).unwrap();
    rig.watcher.read(conn, 2, buffer(10)).unwrap();
    assert_eq!(&*rig.next().buffer, b"last", "{driver}");
    for context in 1..=2 {
        let done = rig.next();
        assert_eq!((done.context, done.result.unwrap()), (context, 0), "{driver}");
    }
    rig.watcher.read_until(conn, 3, "\n", 10).unwrap();
    assert_eq!(rig.next().result.unwrap(), 0, "{driver}: each time that it is asked");
    rig.watcher.write(conn, 4, "still here").unwrap();
    rig.watcher.shutdown_write(conn).unwrap();
    assert_eq!(rig.next_of(Operation::Write).result.unwrap(), 10, "{driver}");
    assert_eq!(rig.peer_reads_to_end(&mut peer), b"still here", "{driver}: after queued writes");
    rig.watcher.write(conn, 5, "too late").unwrap();
    let done = rig.next_of(Operation::Write);
    assert!(done.result.unwrap_err().is_connection_lost(), "{driver}");
    assert_eq!(&*done.buffer, b"too late", "{driver}: the buffer comes back");
}

fn p26_a_program_sees_whether_its_peer_takes_what_it_wrote(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    assert!(!rig.watcher.is_reading(conn) && !rig.watcher.is_writing(conn), "{driver}");
    rig.watcher.read_pooled(conn, 0).unwrap();
    rig.watcher.write(conn, 0, vec![7; 16 << 20]).unwrap();
    for _ in 0..20 {
        rig.pump();
    }
    assert!(rig.watcher.is_reading(conn) && rig.watcher.is_writing(conn), "{driver}: nobody reads");
    let mut taken = 0;
    rig.until("a written message", |rig| {
        taken += crate::support::read_some(&mut peer, &mut vec![0; 1 << 20]).unwrap();
        !rig.watcher.is_writing(conn)
    });
    assert!(taken > 0 && rig.watcher.is_reading(conn), "{driver}");
    rig.watcher.free(conn);
    assert!(!rig.watcher.is_reading(conn), "{driver}: a freed connection");
}

fn p26_nothing_is_read_that_was_not_asked_for(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let bytes = pattern(64 << 20);
    let mut written = 0;
    rig.until("a peer that finds no more room", |_| {
        let more = crate::support::write_some(&mut peer, &bytes[written..]);
        written += more;
        more == 0 && written > 0
    });
    for _ in 0..20 {
        rig.pump();
        written += crate::support::write_some(&mut peer, &bytes[written..]);
    }
    assert!(written < bytes.len(), "{driver}: the window closes");
    assert_eq!(rig.watcher.stats().bytes_received, 0, "{driver}");
    rig.watcher.read(conn, 0, buffer(10)).unwrap();
    assert!(rig.next().result.unwrap() <= 10, "{driver}");
    rig.settle();
    assert!(rig.watcher.stats().bytes_received <= 10, "{driver}");
}
