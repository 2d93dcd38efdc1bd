//! Copying between two connections.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::watcher::{Operation, Request};

use crate::support::{Rig, everywhere, on_real_kernels, pattern, read_some, write_some};

everywhere!(
    p24_a_relay_copies_both_ways_and_passes_the_half_close_on,
    p24_one_way_is_enough_for_some,
    p24_a_relay_ends_when_one_side_does,
    p24_a_relay_can_be_cancelled_and_has_deadlines,
);

on_real_kernels!(p24_a_relay_is_as_slow_as_its_slower_side);

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
    assert_eq!((done.id, done.conn, done.context), (id, a, 1), "{driver}");
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
    let seconds = if cfg!(debug_assertions) { 1 } else { 10 };
    let mut rig = Rig::<u32>::new(driver);
    let ((near_left, mut left), (near_right, right)) = (rig.tcp_pair(), rig.tcp_pair());
    for socket in [&near_left, &near_right, &left, &right] {
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
    }
    let (a, b) = (rig.watcher.adopt(near_left).unwrap(), rig.watcher.adopt(near_right).unwrap());
    rig.watcher.relay(a, b, 1).unwrap();
    let begin = Instant::now();
    let sender = std::thread::spawn(move || {
        let (block, mut sent) = (pattern(64 << 10), 0_u64);
        while begin.elapsed() < Duration::from_secs(seconds) {
            left.write_all(&block).unwrap();
            sent += block.len() as u64;
        }
        sent
    });
    let receiver = std::thread::spawn(move || {
        let (mut right, mut buffer, mut read) = (right, vec![0; 10_000], 0_u64);
        loop {
            let allowed = begin.elapsed().as_micros() as u64;
            if read > allowed && begin.elapsed() < Duration::from_secs(seconds) {
                std::thread::sleep(Duration::from_micros(read - allowed));
            }
            match right.read(&mut buffer).unwrap() {
                0 => {
                    right.shutdown(std::net::Shutdown::Write).unwrap();
                    return read;
                }
                count => read += count as u64,
            }
        }
    });
    let mut resident = Vec::new();
    rig.until("the end of the relay", |rig| {
        resident.push(resident_bytes());
        !rig.done.is_empty()
    });
    let (sent, read) = (sender.join().unwrap(), receiver.join().unwrap());
    let done = rig.next_of(Operation::Relay);
    assert_eq!((done.relayed(), read), (Some((sent, 0)), sent), "{driver}");
    assert_eq!(done.result.unwrap() as u64, sent, "{driver}");
    assert!(sent < (seconds << 20) + (4 << 20), "{driver}: the sender is held back: {sent}");
    // The first turns touch the loop's memory; other tests of the process may run beside this one.
    let settled = resident[resident.len() / 10];
    let grown = resident.last().unwrap().saturating_sub(settled);
    assert!(grown < 64 << 20, "{driver}: {grown} bytes more after {sent} were relayed");
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap();
    pages * 4096
}
