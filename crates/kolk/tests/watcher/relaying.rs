//! Copying between two connections.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::watcher::{Operation, Request};

use crate::alone::{alone_on_real_kernels, full_length, resident_bytes};
use crate::support::{Rig, everywhere, pattern, read_some, write_some};

everywhere!(
    p24_a_relay_copies_both_ways_and_passes_the_half_close_on,
    p24_one_way_is_enough_for_some,
    p24_a_relay_ends_when_one_side_does,
    p24_a_relay_can_be_cancelled_and_has_deadlines,
);

alone_on_real_kernels!(p24_a_relay_is_as_slow_as_its_slower_side);

fn p24_a_relay_copies_both_ways_and_passes_the_half_close_on(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let ((a, mut left), (b, mut right)) = (rig.pair(), rig.pair());
    let id = rig.watcher.relay(a, b, 1).unwrap();
    let (there, back) = (pattern(300_000), pattern(200_001));
    let (mut sent, mut returned) = (0, 0);
    let (mut at_right, mut at_left) = (vec![0; there.len()], vec![0; back.len()]);
    let (mut right_has, mut left_has) = (0, 0);
    rig.until("both streams", |_| {
        sent += write_some(&mut left, &there[sent..]);
        returned += write_some(&mut right, &back[returned..]);
        right_has += read_some(&mut right, &mut at_right[right_has..]).unwrap();
        left_has += read_some(&mut left, &mut at_left[left_has..]).unwrap();
        right_has == there.len() && left_has == back.len()
    });
    assert!(at_right == there && at_left == back, "{driver}");
    left.shutdown_write();
    assert_eq!(rig.peer_reads_to_end(&mut right), b"", "{driver}: the half-close passes on");
    rig.nothing_more();
    rig.peer_writes(&mut right, b"the other way goes on");
    assert_eq!(rig.peer_reads(&mut left, 21), b"the other way goes on", "{driver}");
    right.shutdown_write();
    let done = rig.next_of(Operation::Relay);
    assert_eq!((done.id(), done.conn, done.context), (id, a, 1), "{driver}");
    assert_eq!(done.relayed(), Some((300_000, 200_022)), "{driver}");
    assert_eq!(done.result.unwrap(), 500_022, "{driver}");
    assert_eq!(rig.peer_reads_to_end(&mut left), b"", "{driver}");
    assert!(rig.watcher.is_open(a) && rig.watcher.is_open(b), "{driver}: the program frees them");
}

fn p24_one_way_is_enough_for_some(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let ((a, mut left), (b, mut right)) = (rig.pair(), rig.pair());
    rig.submit(Request::relay_one_way(a, b, 1));
    rig.watcher.read_pooled(b, 2).unwrap();
    rig.watcher.write(a, 3, "mine").unwrap();
    rig.peer_writes(&mut left, b"there");
    assert_eq!(rig.peer_reads(&mut right, 5), b"there", "{driver}");
    assert_eq!(rig.peer_reads(&mut left, 4), b"mine", "{driver}");
    rig.peer_writes(&mut right, b"x");
    left.shutdown_write();
    let mut done: Vec<_> = (0..3).map(|_| rig.next()).collect();
    done.sort_by_key(|done| done.context);
    assert_eq!(done[0].relayed(), Some((5, 0)), "{driver}");
    assert_eq!(&*done[1].buffer, b"x", "{driver}: the other way is the program's");
    rig.peer_reads_to_end(&mut right);
}

fn p24_a_relay_ends_when_one_side_does(driver: DriverKind) {
    for freed_first in [true, false] {
        let mut rig = Rig::new(driver);
        let ((a, mut left), (b, right)) = (rig.pair(), rig.pair());
        rig.watcher.relay(a, b, 1).unwrap();
        rig.peer_writes(&mut left, b"12345");
        rig.settle();
        if freed_first {
            rig.watcher.free(a);
        } else {
            right.reset();
        }
        let done = rig.next_of(Operation::Relay);
        assert_eq!(done.relayed().unwrap().0, 5, "{driver}");
        assert_eq!(done.result.unwrap_err().is_cancelled(), freed_first, "{driver}");
        assert!(rig.watcher.is_open(b), "{driver}");
        rig.watcher.free(b);
        rig.watcher.free(a);
        rig.until("the end of both", |rig| rig.watcher.conn_count() == 0);
        rig.nothing_more();
    }
}

fn p24_a_relay_can_be_cancelled_and_has_deadlines(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let ((a, mut left), (b, mut right)) = (rig.pair(), rig.pair());
    rig.submit(Request::relay(a, b, 1).timeout(Duration::from_millis(20)));
    assert!(rig.next_of(Operation::Relay).result.unwrap_err().is_timed_out(), "{driver}");
    let id = rig.watcher.relay(a, b, 2).unwrap();
    rig.peer_writes(&mut left, b"abc");
    assert_eq!(rig.peer_reads(&mut right, 3), b"abc", "{driver}: both go on after a time-out");
    rig.watcher.cancel(id);
    let done = rig.next_of(Operation::Relay);
    assert_eq!(done.relayed(), Some((3, 0)), "{driver}");
    assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
    rig.nothing_more();
    rig.watcher.write(a, 3, "usable").unwrap();
    assert_eq!(rig.peer_reads(&mut left, 6), b"usable", "{driver}");
}

/// A fast sender, a receiver that takes 1 MB/s: what is between them stays small.
fn p24_a_relay_is_as_slow_as_its_slower_side(driver: DriverKind) {
    let lasting = Duration::from_secs(if full_length() { 10 } else { 2 });
    let mut rig = Rig::<u32>::new(driver);
    let ((near_left, mut left), (near_right, right)) = (rig.tcp_pair(), rig.tcp_pair());
    for socket in [&near_left, &near_right, &left, &right] {
        // What the kernel keeps is not the relay's; little of it, so that it is full soon.
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
    }
    let (a, b) = (rig.watcher.adopt(near_left).unwrap(), rig.watcher.adopt(near_right).unwrap());
    rig.watcher.relay(a, b, 1).unwrap();
    let begin = Instant::now();
    let sender = std::thread::spawn(move || {
        let (block, mut sent) = (pattern(64 << 10), 0_u64);
        while begin.elapsed() < lasting {
            left.write_all(&block).unwrap();
            sent += block.len() as u64;
        }
        left.shutdown(std::net::Shutdown::Write).unwrap();
        // The other half goes on.
        let mut answer = Vec::new();
        left.read_to_end(&mut answer).unwrap();
        (sent, answer)
    });
    let receiver = std::thread::spawn(move || {
        let (mut right, mut buffer, mut read) = (right, vec![0; 10_000], 0_u64);
        loop {
            let (due, now) = (Duration::from_micros(read), begin.elapsed());
            if now < lasting {
                std::thread::sleep(due.saturating_sub(now));
            }
            match right.read(&mut buffer).unwrap() {
                0 => break,
                count => read += count as u64,
            }
        }
        right.write_all(b"that was all").unwrap();
        right.shutdown(std::net::Shutdown::Write).unwrap();
        read
    });
    // All threads have begun, and the buffers of the kernel are full.
    while begin.elapsed() < lasting / 10 {
        rig.pump();
    }
    let (before, mut most) = (resident_bytes(), 0);
    let mut next = Duration::ZERO;
    while begin.elapsed() < lasting {
        rig.pump();
        if begin.elapsed() > next {
            most = most.max(resident_bytes());
            next = begin.elapsed() + lasting / 50;
        }
    }
    assert!(rig.done.is_empty(), "{driver}: it goes on");
    let done = rig.next_of(Operation::Relay);
    let ((sent, answer), read) = (sender.join().unwrap(), receiver.join().unwrap());
    assert_eq!(answer, b"that was all", "{driver}: after the half-close");
    assert_eq!((done.relayed(), read), (Some((sent, 12)), sent), "{driver}");
    assert_eq!(done.result.unwrap() as u64, sent + 12, "{driver}");
    let allowed = lasting.as_micros() as u64 + (2 << 20);
    assert!(sent < allowed, "{driver}: the sender is held back: {sent}");
    let grown = most.saturating_sub(before);
    println!("{driver}: {sent} bytes relayed in {lasting:?}, {grown} bytes of memory more");
    assert!(grown < 1 << 20, "{driver}: {grown} bytes more while {sent} were relayed");
}
