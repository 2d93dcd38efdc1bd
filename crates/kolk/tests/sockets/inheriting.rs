//! Listeners that somebody else has bound.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;

use kolk::{DriverKind, inherit};

use crate::support::{
    PATIENCE, Told, connect, connect_unix, echo, exchange, next, on_each_driver, server, socket_path, telling,
};

on_each_driver!(
    r26_a_server_serves_on_sockets_of_the_program,
    r26_a_successor_has_the_listeners_and_who_waits_there,
    r26_a_stopping_server_has_nothing_to_hand_over,
    r26_what_cannot_be_served_on_is_refused,
);

fn r26_a_server_serves_on_sockets_of_the_program(driver: DriverKind) {
    let (make, told) = telling();
    let own = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = own.local_addr().expect("bound");
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = server(driver)
        .listen(format!("tcp://{address}?backlog=5"))
        .listen_on(other)
        .listen_on(own)
        .event_loops(2)
        .start(make)
        .expect("nothing is bound twice");
    assert_eq!(server.addresses().len(), 2);
    assert_eq!(server.addresses()[0], format!("tcp://{address}"));
    for listener in [0, 1] {
        assert_eq!(exchange(connect(&server, listener), b"hello"), b"hello");
        assert!(matches!(next(&told), Told::Open { listener: index, .. } if index == listener));
        assert!(matches!((next(&told), next(&told)), (Told::Data(_), Told::Close(_))));
    }
}

fn r26_a_successor_has_the_listeners_and_who_waits_there(driver: DriverKind) {
    let path = socket_path("successor", driver);
    for acceptors in [0, 1] {
        let old = server(driver)
            .listen("tcp://127.0.0.1:0")
            .listen(format!("unix://{}", path.display()))
            .event_loops(3)
            .acceptors(acceptors)
            .drain_timeout(PATIENCE)
            .start(echo)
            .expect("free addresses");
        let addresses = old.addresses().to_vec();
        let old_stream = connect(&old, 0);
        assert_eq!(exchange(&old_stream, b"old"), b"old");

        let (here, there) = UnixStream::pair().expect("a pair");
        old.handle().hand_over(&here).expect("the other end is there");
        let passed = inherit::receive(&there).expect("all are there");
        assert_eq!(passed.len(), if acceptors == 0 { 6 } else { 2 });

        // Another number of loops, and nobody accepts yet.
        let (make, told) = telling();
        let new = server(driver).inherit(passed).event_loops(2).start(make).expect("nothing is to be bound");
        let mut sorted = new.addresses().to_vec();
        sorted.sort();
        assert_eq!(sorted, addresses);
        old.stop();
        assert_eq!(exchange(&old_stream, b"goes on"), b"goes on");
        drop(old_stream);
        old.wait().expect("it stops once everybody has gone");
        assert!(path.exists(), "the successor has it");

        for _ in 0..20 {
            assert_eq!(exchange(connect(&new, 0), b"new"), b"new");
            assert_eq!(exchange(connect_unix(&path), b"new"), b"new");
        }
        assert!(matches!(next(&told), Told::Open { .. }));
        drop(new);
        assert!(!path.exists(), "who has it last removes it");
    }
}

fn r26_a_stopping_server_has_nothing_to_hand_over(driver: DriverKind) {
    let old = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(echo).expect("a free port");
    let handle = old.handle().clone();
    old.stop();
    old.wait().expect("it stops");
    let (here, _there) = UnixStream::pair().expect("a pair");
    assert!(handle.hand_over(&here).expect_err("it is gone").is_server_stopped());
}

fn r26_what_cannot_be_served_on_is_refused(driver: DriverKind) {
    let (connected, _other) = UnixStream::pair().expect("a pair");
    let error = server(driver).listen_on(connected).start(echo).expect_err("it does not listen");
    assert!(error.to_string().contains("neither listens nor takes datagrams"), "{error}");
    let server = server(driver).listen("tcp://127.0.0.1:0").start(echo).expect("a free port");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let error = server.handle().enroll(socket, 0).expect_err("no stream");
    assert!(error.is_invalid_input() && error.to_string().contains("listen_on"), "{error}");
}
