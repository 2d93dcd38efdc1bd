//! What a server's connections leave behind in memory, in a process of its own.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use kolk::DriverKind;
use kolk::server::{Action, Conn, Handler, Input, RunningServer};
use support::{connect, reset, server, until};

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

/// The memory that counts is what the system sees. The C library keeps what is freed, in pieces, unless it is told to
/// map larger ones (mallopt(3)), so the test runs in a process where it is.
#[test]
fn l02_bursts_and_churn_leave_no_memory_behind() {
    const MAPPED: &str = "MALLOC_MMAP_THRESHOLD_";
    if std::env::var(MAPPED).is_err() {
        let own = std::env::current_exe().expect("a test has a path");
        let output = Command::new(own).env(MAPPED, "32768").arg("--nocapture").output().expect("it starts");
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success());
        return;
    }
    for driver in [DriverKind::IoUring, DriverKind::Epoll] {
        bursts_leave_nothing_behind(driver);
        churn_leaves_nothing_behind(driver);
    }
}

fn serve(driver: DriverKind) -> RunningServer<Grouped> {
    server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(|_| Grouped).expect("a free port")
}

/// What was queued for many at a time is given back.
fn bursts_leave_nothing_behind(driver: DriverKind) {
    const CONNECTIONS: usize = 400;
    const QUEUED: usize = 256 << 10;
    let server = serve(driver);
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server, 0)).collect();
    streams.iter_mut().for_each(|stream| talk(stream, b"hello"));
    let before = resident();
    for _ in 0..3 {
        // Small pieces, which are copied: each connection has its own.
        for _ in 0..QUEUED / 512 {
            server.handle().broadcast_to("all", vec![7; 512]).expect("it runs");
        }
        let mut part = vec![0; QUEUED];
        for stream in &mut streams {
            stream.read_exact(&mut part).expect("all of it");
            assert!(part.iter().all(|&byte| byte == 7));
        }
    }
    let grown = resident().saturating_sub(before);
    println!("{driver}: {grown} bytes are left of {} that were queued", CONNECTIONS * QUEUED);
    assert!(grown < CONNECTIONS * QUEUED / 10, "{grown} bytes are left");
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

/// Bytes of anonymous memory that this process has.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux shows it");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}
