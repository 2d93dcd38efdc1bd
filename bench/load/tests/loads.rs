//! Each load against a small server of the standard library, and against one that changes a byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server does to each piece that it passes on.
type Change = fn(&mut [u8]);

fn nothing(_: &mut [u8]) {}

fn flip(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}

/// Serves each connection on a thread of its own, for as long as the test lives.
fn serve(each: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = Arc::clone(&each);
            // A client that goes away ends its own connection only.
            thread::spawn(move || each(stream));
        }
    });
    address
}

fn copy(mut from: TcpStream, mut to: TcpStream, change: Change) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        change(&mut buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

fn echo(change: Change) -> SocketAddr {
    serve(move |stream| copy(stream.try_clone()?, stream, change))
}

fn load(words: &str) -> Output {
    let words = words.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_load"))
        .args(words)
        .output()
        .expect("the program runs")
}

#[track_caller]
fn expect_figures(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON object");
    assert!(report["messages"].as_u64() > Some(0), "{report}");
    assert!(report["client"]["running_percent"].is_number(), "{report}");
}

#[track_caller]
fn expect_failure(output: &Output, words: &str) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && complaint.contains(words),
        "{complaint}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn churn_counts_visits_and_refuses_a_changed_byte() {
    let words = "--connections 4 --duration 300ms";
    expect_figures(&load(&format!("churn {} {words}", echo(nothing))));
    expect_failure(
        &load(&format!("churn {} {words}", echo(flip))),
        "other bytes",
    );
}

#[test]
fn nobody_to_connect_to_is_named() {
    let free = TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");
    expect_failure(
        &load(&format!("hold {free} --connections 1")),
        &free.to_string(),
    );
}

fn udp_echo(change: Change) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (count, peer) = socket.recv_from(&mut buffer)?;
            change(&mut buffer[..count]);
            socket.send_to(&buffer[..count], peer)?;
        }
    });
    address
}

#[test]
fn datagrams_of_many_peers_come_back_to_each() {
    let words = "--connections 300 --bytes 64 --window 32 --duration 300ms";
    expect_figures(&load(&format!("udp {} {words}", udp_echo(nothing))));
    expect_failure(
        &load(&format!("udp {} {words}", udp_echo(flip))),
        "other bytes",
    );
}

#[test]
fn a_bulk_flow_of_datagrams_is_compared_too() {
    let words = "--connections 1 --bytes 1200 --window 16 --duration 300ms";
    expect_figures(&load(&format!("udp {} {words}", udp_echo(nothing))));
    expect_failure(
        &load(&format!("udp {} {words}", udp_echo(flip))),
        "other bytes",
    );
}

/// A relay to an address that is told later, when the load has it.
fn relay(to: SocketAddr, change: Change) -> SocketAddr {
    serve(move |source| {
        let sink = TcpStream::connect(to)?;
        let (back, forth) = (sink.try_clone()?, source.try_clone()?);
        let way_back = thread::spawn(move || copy(back, forth, nothing));
        copy(source, sink, change)?;
        way_back.join().expect("no panic")
    })
}

#[test]
fn streams_arrive_whole_with_their_ends() {
    for (change, failure) in [(nothing as Change, None), (flip, Some("other bytes"))] {
        let sink = TcpListener::bind("127.0.0.1:0")
            .expect("a free port")
            .local_addr()
            .expect("bound");
        let relay = relay(sink, change);
        let output = load(&format!(
            "relay {relay} --to {sink} --connections 3 --duration 300ms"
        ));
        match failure {
            None => expect_figures(&output),
            Some(words) => expect_failure(&output, words),
        }
    }
}

/// The first byte says what a connection is; what a publisher sends goes to all receivers.
fn hall(change: Change) -> SocketAddr {
    let receivers = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
    serve(move |mut stream| {
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        if kind == *b"R" {
            receivers.lock().expect("no panic").push(stream);
            return Ok(());
        }
        let mut message = [0; 512];
        loop {
            stream.read_exact(&mut message)?;
            change(&mut message);
            for receiver in receivers.lock().expect("no panic").iter_mut() {
                receiver.write_all(&message)?;
            }
        }
    })
}

#[test]
fn a_broadcast_reaches_every_receiver() {
    let words = "--connections 20 --bytes 512 --duration 300ms";
    expect_figures(&load(&format!("broadcast {} {words}", hall(nothing))));
    expect_failure(
        &load(&format!("broadcast {} {words}", hall(flip))),
        "other bytes",
    );
}
