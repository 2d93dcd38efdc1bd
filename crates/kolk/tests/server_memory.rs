//! What a server's connections leave behind in memory, in a process of its own.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use kolk::server::{Action, Conn, Handler, Input, RunningServer};
use kolk::{DriverKind, SocketOptions};
use socket2::{Domain, Socket, Type};
use support::{PATIENCE, connect, reset, server, until};

/// An echo whose connections are all in one group.
struct Grouped;

impl Handler for Grouped {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>) {
        conn.join("all");
    }

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

/// The memory that counts is what the system sees, not what the allocator has given out.
#[test]
fn l02_bursts_and_churn_leave_no_memory_behind() {
    for driver in [DriverKind::IoUring, DriverKind::Epoll] {
        bursts_leave_nothing_behind(driver);
        churn_leaves_nothing_behind(driver);
    }
}

fn serve(driver: DriverKind) -> RunningServer<Grouped> {
    let small = SocketOptions::new().send_buffer(BUFFER);
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).socket_options(small);
    server.start(|_| Grouped).expect("a free port")
}

/// What the kernel keeps of a stream, at each end: the rest waits in the server.
const BUFFER: usize = 16 << 10;

/// What was queued for many at a time is given back.
fn bursts_leave_nothing_behind(driver: DriverKind) {
    const CONNECTIONS: usize = 400;
    const QUEUED: usize = 256 << 10;
    let server = serve(driver);
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect_small(&server)).collect();
    streams.iter_mut().for_each(|stream| talk(stream, b"hello"));
    let mut part = vec![0; QUEUED];
    let before = resident();
    for _ in 0..3 {
        // Small pieces, which are copied: each connection has its own.
        for _ in 0..QUEUED / 512 {
            server.handle().broadcast_to("all", vec![7; 512]).expect("it runs");
        }
        until("all of it is queued", || resident() > before + CONNECTIONS * QUEUED / 2);
        for stream in &mut streams {
            stream.read_exact(&mut part).expect("all of it");
            assert!(part.iter().all(|&byte| byte == 7));
        }
        // A fortieth of it may stay: what the allocator has in use itself, and stacks of threads that ended.
        until("the memory is back", || resident() < before + CONNECTIONS * QUEUED / 40);
    }
}

/// A client for which the kernel keeps little.
fn connect_small(server: &RunningServer<Grouped>) -> TcpStream {
    let address: SocketAddr = server.addresses()[0].trim_start_matches("tcp://").parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(BUFFER).expect("it may be small");
    socket.connect(&address.into()).expect("the server listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
    socket.into()
}

fn churn_leaves_nothing_behind(driver: DriverKind) {
    const ROUND: usize = 2000;
    let server = serve(driver);
    let mut after_second = 0;
    for round in 1..=6 {
        for number in 0..ROUND {
            let mut stream = connect(&server, 0);
            if number % 2 == 0 {
                talk(&mut stream, b"hello");
            }
            // A port that waits for its last segments would be missing soon.
            reset(stream);
        }
        until("all are closed", || server.stats().connections == 0);
        if round == 2 {
            after_second = resident();
        }
    }
    let grown = resident().saturating_sub(after_second);
    assert!(grown < after_second / 20, "{grown} bytes more than the {after_second} after round 2");
}

#[track_caller]
fn talk(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("the server reads");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("the server answers");
}

/// Bytes of anonymous memory that this process has, counted page by page.
fn resident() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux shows it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}
