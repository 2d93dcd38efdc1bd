//! What a server's connections leave behind in memory, in a process of its own.

mod support;

use std::fs;
use std::io::{Read, Write};

use kolk::server::{Action, Conn, Handler, Input, RunningServer};
use kolk::{DriverKind, SocketOptions};
use support::{connect, connect_unix, reset, server, socket_path, until};

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

fn serve(driver: DriverKind, address: impl Into<String>) -> RunningServer<Grouped> {
    let small = SocketOptions::new().send_buffer(BUFFER);
    let server = server(driver).listen(address).event_loops(1).socket_options(small);
    server.start(|_| Grouped).expect("a free address")
}

/// What the kernel keeps of a stream: the rest waits in the server.
const BUFFER: usize = 16 << 10;

/// What was queued for many at a time is given back. On Unix streams: TCP drops what comes to a receive buffer that is
/// small and full, and waits ever longer before it sends it again.
fn bursts_leave_nothing_behind(driver: DriverKind) {
    const CONNECTIONS: usize = 400;
    const QUEUED: usize = 256 << 10;
    /// Those that read when all others have.
    const LATE: usize = 30;
    let path = socket_path("bursts", driver);
    let server = serve(driver, format!("unix://{}", path.display()));
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect_unix(&path)).collect();
    streams.iter_mut().for_each(|stream| talk(stream, b"hello"));
    let mut part = vec![0; QUEUED];
    let before = resident();
    for _ in 0..3 {
        // Small pieces, which are copied: each connection has its own.
        for _ in 0..QUEUED / 512 {
            server.handle().broadcast_to("all", vec![7; 512]).expect("it runs");
        }
        until("all of it is queued", || resident() > before + CONNECTIONS * QUEUED / 2);
        // A fortieth may stay of what nobody needs: what the allocator has in use itself, and stacks of threads that
        // ended.
        let (late, in_time) = streams.split_at_mut(LATE);
        for (streams, waiting) in [(in_time, LATE), (late, 0)] {
            for stream in streams {
                stream.read_exact(&mut part).expect("all of it");
                assert!(part.iter().all(|&byte| byte == 7));
            }
            let most = before + (waiting + CONNECTIONS / 40) * QUEUED;
            until("the memory is back", || resident() < most);
        }
    }
}

fn churn_leaves_nothing_behind(driver: DriverKind) {
    const ROUND: usize = 2000;
    let server = serve(driver, "tcp://127.0.0.1:0");
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
fn talk(stream: &mut (impl Read + Write), text: &[u8]) {
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
