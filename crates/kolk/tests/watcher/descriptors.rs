//! Datagrams, and descriptors that are only watched.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use kolk::watcher::{Operation, Request};
use kolk::{Address, ConnId, DriverKind, Interest};

use crate::support::{Rig, everywhere, loopback, on_real_kernels};

everywhere!(p21_datagrams_come_with_their_senders_and_go_to_anybody, p21_a_datagram_read_can_be_cancelled);

on_real_kernels!(p23_any_descriptor_that_can_be_polled_is_watched);

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
