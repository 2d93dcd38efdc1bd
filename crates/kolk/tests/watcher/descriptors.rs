//! Datagrams, and descriptors that are only watched.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use kolk::watcher::{Operation, Request};
use kolk::{Address, ConnId, DriverKind, Interest};

use crate::support::{Rig, everywhere, loopback, on_real_kernels};

everywhere!(p21_datagrams_come_with_their_senders_and_go_to_anybody, p21_a_datagram_read_can_be_cancelled);

on_real_kernels!(
    p23_any_descriptor_that_can_be_polled_is_watched,
    p23_what_is_watched_is_the_programs_to_read,
    p27_many_descriptors_are_watched_at_once,
    p27_descriptors_are_watched_all_or_none,
);

fn datagram_socket(rig: &mut Rig) -> (ConnId, Address) {
    let conn = match &rig.net {
        Some(net) => {
            let socket = net.datagram(&loopback().into());
            rig.watcher.adopt(socket).unwrap()
        }
        None => rig.watcher.adopt(UdpSocket::bind(loopback()).unwrap()).unwrap(),
    };
    (conn, rig.watcher.local_address(conn).unwrap())
}

fn p21_datagrams_come_with_their_senders_and_go_to_anybody(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (a, a_address) = datagram_socket(&mut rig);
    let (b, b_address) = datagram_socket(&mut rig);
    for context in 0..16 {
        rig.watcher.recv_from(a, context).unwrap();
    }
    for n in 0..16_u32 {
        rig.watcher.send_to(b, 100 + n, n.to_be_bytes().to_vec(), a_address.clone()).unwrap();
    }
    let (mut sent, mut received) = (0_u32, 0_u32);
    while sent + received < 32 {
        let done = rig.next();
        assert_eq!(done.result.unwrap(), 4, "{driver}");
        if done.operation == Operation::SendTo {
            assert_eq!((done.context, &*done.buffer), (100 + sent, &sent.to_be_bytes()[..]), "{driver}");
            sent += 1;
        } else {
            assert_eq!((done.operation, done.context), (Operation::RecvFrom, received), "{driver}");
            assert_eq!(*done.buffer, received.to_be_bytes(), "{driver}");
            assert_eq!(done.count, 4, "{driver}");
            received += 1;
        }
    }
    // An answer to the sender.
    rig.watcher.recv_from(a, 50).unwrap();
    rig.watcher.recv_from(b, 51).unwrap();
    rig.watcher.send_to(b, 52, "question", a_address.clone()).unwrap();
    rig.until("the answer", |rig| {
        while let Some(done) = rig.done.pop_front() {
            match done.context {
                50 => {
                    assert_eq!(done.peer(), Some(&b_address), "{driver}");
                    assert!(!done.is_truncated(), "{driver}");
                    let peer = done.peer().unwrap().clone();
                    rig.watcher.send_to(a, 53, done.buffer, peer).unwrap();
                }
                51 => {
                    assert_eq!(
                        (done.peer(), &*done.buffer),
                        (Some(&a_address), &b"question"[..]),
                        "{driver}"
                    );
                    return true;
                }
                _ => assert!(done.result.is_ok(), "{driver}"),
            }
        }
        false
    });
}

fn p21_a_datagram_read_can_be_cancelled(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (a, a_address) = datagram_socket(&mut rig);
    let (b, _) = datagram_socket(&mut rig);
    let ids: Vec<_> = (0..4).map(|context| rig.submit(Request::recv_from(a, context))).collect();
    rig.settle();
    rig.watcher.cancel(ids[1]);
    rig.watcher.cancel(ids[3]);
    for context in [1, 3] {
        let done = rig.next_of(Operation::RecvFrom);
        assert_eq!(done.context, context, "{driver}");
        assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
    }
    for text in ["first", "second"] {
        rig.watcher.send_to(b, 9, text, a_address.clone()).unwrap();
    }
    let mut received = Vec::new();
    rig.until("both datagrams", |rig| {
        let mine = rig.done.drain(..).filter(|done| done.operation == Operation::RecvFrom);
        received.extend(mine.map(|done| (done.context, done.buffer.into_bytes())));
        received.len() == 2
    });
    assert_eq!(received, [(0, "first".into()), (2, "second".into())], "{driver}");
}

fn p23_any_descriptor_that_can_be_polled_is_watched(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let watched = OwnedFd::from(reader.try_clone().unwrap());
    let conn = rig.watcher.adopt(watched).unwrap();
    rig.watcher.watch(conn, 1, Interest::READABLE).unwrap();
    assert!(rig.watcher.watch(conn, 2, Interest::READABLE).unwrap_err().is_busy(), "{driver}");
    assert!(rig.watcher.read(conn, 3, crate::support::buffer(8)).unwrap_err().is_invalid_input(), "{driver}");
    rig.nothing_more();
    for round in 0..3_u8 {
        writer.write_all(&[round]).unwrap();
        let done = rig.next_of(Operation::Watch);
        assert_eq!((done.conn, done.context), (conn, 1), "{driver}");
        assert!(done.readiness().is_some_and(|ready| ready.readable), "{driver}");
        let mut byte = [9];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], round, "{driver}");
    }
    rig.settle();
    rig.done.clear();
    rig.submit(Request::free(conn, 4));
    let done = rig.next();
    assert!(done.operation == Operation::Watch && done.result.unwrap_err().is_cancelled(), "{driver}");
    assert_eq!(rig.next_of(Operation::Closed).context, 4, "{driver}");
}

fn p23_what_is_watched_is_the_programs_to_read(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let (near, mut far) = rig.tcp_pair();
    let mut own = near.try_clone().unwrap();
    let conn = rig.watcher.adopt(near).unwrap();
    let watch = rig.submit(Request::watch(conn, 1, Interest::READABLE));
    far.write_all(b"x").unwrap();
    assert_eq!(rig.next_of(Operation::Watch).context, 1, "{driver}");
    assert!(rig.watcher.read_pooled(conn, 2).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.write(conn, 2, "x").unwrap_err().is_invalid_input(), "{driver}");
    own.read_exact(&mut [0]).unwrap();
    rig.watcher.cancel(watch);
    assert!(rig.next_of(Operation::Watch).result.unwrap_err().is_cancelled(), "{driver}");
    far.write_all(b"y").unwrap();
    rig.settle();
    let watch = rig.submit(Request::watch(conn, 3, Interest::READABLE));
    assert_eq!(rig.next_of(Operation::Watch).context, 3, "{driver}: what came meanwhile is reported");
    rig.watcher.cancel(watch);
    assert!(rig.next_of(Operation::Watch).result.unwrap_err().is_cancelled(), "{driver}");
    rig.watcher.watch(conn, 4, Interest::WRITABLE).unwrap();
    let done = rig.next_of(Operation::Watch);
    assert!(done.context == 4 && done.readiness().is_some_and(|ready| ready.writable), "{driver}");
}

fn p27_many_descriptors_are_watched_at_once(driver: DriverKind) {
    const PIPES: u32 = 50;
    let mut rig = Rig::new(driver);
    let mut writers = Vec::new();
    let mut readers = |first: u32| {
        let pipes = (first..first + PIPES).map(|context| (context, std::io::pipe().unwrap()));
        let watched = pipes.map(|(context, (reader, writer))| {
            writers.push(writer);
            (OwnedFd::from(reader), Interest::READABLE, context)
        });
        watched.collect::<Vec<_>>()
    };
    let (here, there) = (readers(0), readers(PIPES));
    let mut conns = rig.watcher.watch_many(here).unwrap();
    let submitter = rig.watcher.submitter();
    conns.extend(submitter.watch_many(there).unwrap());
    rig.nothing_more();
    assert_eq!((conns.len(), rig.watcher.conn_count()), (100, 100), "{driver}");
    let stats = rig.watcher.stats();
    assert!(stats.submissions == 1 && stats.wake_ups <= 1, "{driver}: one wake-up for all: {stats:?}");
    // The last first: each is told by its own name and context.
    for (context, writer) in writers.iter_mut().enumerate().rev() {
        writer.write_all(b"x").unwrap();
        let done = rig.next_of(Operation::Watch);
        assert_eq!((done.conn, done.context), (conns[context], context as u32), "{driver}");
        assert!(done.readiness().is_some_and(|ready| ready.readable), "{driver}");
    }
    let ids = conns.len();
    conns.into_iter().for_each(|conn| rig.watcher.free(conn));
    for _ in 0..ids {
        assert!(rig.next_of(Operation::Watch).result.unwrap_err().is_cancelled(), "{driver}");
    }
    rig.nothing_more();
    assert_eq!(rig.watcher.conn_count(), 0, "{driver}");
}

fn p27_descriptors_are_watched_all_or_none(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let submitter = rig.watcher.submitter();
    let mut writers = Vec::new();
    let mut one_is_a_file = || {
        let mut descriptors = Vec::new();
        for context in 0..3 {
            let (reader, writer) = std::io::pipe().unwrap();
            writers.push(writer);
            descriptors.push((OwnedFd::from(reader), Interest::READABLE, context));
        }
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        descriptors.insert(2, (file.into(), Interest::READABLE, 9));
        descriptors
    };
    assert!(rig.watcher.watch_many(one_is_a_file()).unwrap_err().is_invalid_input(), "{driver}");
    assert!(submitter.watch_many(one_is_a_file()).unwrap_err().is_invalid_input(), "{driver}");
    rig.nothing_more();
    assert_eq!((rig.watcher.conn_count(), rig.watcher.stats().submissions), (0, 0), "{driver}");
    for mut writer in writers {
        assert!(writer.write_all(b"x").is_err(), "{driver}: the other end is closed");
    }
    let none: [(OwnedFd, Interest, u32); 0] = [];
    assert_eq!(submitter.watch_many(none).unwrap(), [], "{driver}");
    // All slots or none, too; what was taken is given back.
    let watcher = kolk::watcher::Watcher::<u32>::builder().slots(3);
    let mut watcher = watcher.driver(crate::support::choice(driver, None)).build().unwrap();
    let submitter = watcher.submitter();
    let pipes =
        |count| (0..count).map(|n| (OwnedFd::from(std::io::pipe().unwrap().0), Interest::READABLE, n));
    assert!(submitter.watch_many(pipes(4)).is_err(), "{driver}");
    assert!(watcher.watch_many(pipes(4)).is_err(), "{driver}");
    let mut completions = kolk::watcher::Completions::default();
    watcher.wait(&mut completions, Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(submitter.watch_many(pipes(3)).unwrap().len(), 3, "{driver}");
}
