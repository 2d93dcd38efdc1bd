//! `kolk serve`: what it prints, how it stops, what it refuses.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{KOLK, Served, TempPath, kolk, run};

/// Connects to a server and has one message echoed.
#[track_caller]
fn exchange(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address.trim_start_matches("tcp://")).expect("it listens");
    stream.write_all(b"hello").expect("sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"hello");
    stream
}

#[test]
fn the_greeting_tells_address_driver_limits_and_what_to_do_next() {
    let server = Served::start("--listen tcp://127.0.0.1:0 --loops 1 --driver epoll");
    assert!(!server.address().ends_with(":0"), "the real port: {}", server.greeting);
    exchange(server.address());
    let next = format!("kolk load echo {}", server.address());
    for word in ["epoll", "descriptors", "backlog", &next, &format!("--server-pid {}", server.pid())] {
        assert!(server.greeting.contains(word), "no {word:?} in {}", server.greeting);
    }
}

#[track_caller]
fn interrupt_under_load(api: &str, driver: &str) {
    let path = TempPath::new(&format!("interrupt-{api}-{driver}.sock"));
    let mut server = Served::start(&format!(
        "--api {api} --driver {driver} --listen tcp://127.0.0.1:0 --listen unix://{}",
        path.display()
    ));
    assert!(path.exists());
    let mut load = Command::new(KOLK)
        .args([
            "load",
            "echo",
            server.address(),
            "--connections",
            "100",
            "--size",
            "1KiB",
            "--duration",
            "60s",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    // The server echoes to us too while the load runs; once it has, it is in the midst of it.
    let mut stream = exchange(server.address());
    await_load(server.pid());

    let (status, took) = server.interrupt();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!path.exists(), "the path is removed");
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "our connection is closed");
    assert_eq!(load.wait().expect("it ends").code(), Some(1), "its connections were closed");
}

/// Waits until a process has used a tenth of a second of processor time.
fn await_load(pid: u32) {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    while used() < 10 {
        std::thread::yield_now();
    }
}

#[test]
fn ctrl_c_under_load_ends_io_uring_within_a_second() {
    interrupt_under_load("server", "io_uring");
    interrupt_under_load("watcher", "io_uring");
}

#[test]
fn ctrl_c_under_load_ends_epoll_within_a_second() {
    interrupt_under_load("server", "epoll");
    interrupt_under_load("watcher", "epoll");
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_server() {
    let mut server = Served::start("--listen tcp://127.0.0.1:0");
    server.stop_reading();
    exchange(server.address());
    assert_eq!(server.interrupt().0.code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_early_makes_nothing_panic() {
    for arguments in ["doctor", "doctor --json", "--help", "load echo --help"] {
        let command = format!("{KOLK} {arguments} | head -c 1 >/dev/null");
        let finished = run(Command::new("sh").args(["-c", &command])).expect_status(0);
        assert!(!finished.stderr.contains("panicked"), "{arguments}: {}", finished.stderr);
    }
}

// ---- the proactor -------------------------------------------------------------------------------

#[test]
fn watchers_share_tcp_and_unix_addresses() {
    let path = TempPath::new("watchers.sock");
    for driver in ["io_uring", "epoll"] {
        let mut server = Served::start(&format!(
            "--api watcher --loops 3 --pin --driver {driver} --listen tcp://127.0.0.1:0 --listen unix://{}",
            path.display()
        ));
        assert!(server.greeting.contains(driver), "{}", server.greeting);
        let _open: Vec<_> = (0..20).map(|_| exchange(server.address())).collect();
        for address in &server.addresses {
            let load =
                kolk(&format!("load echo {address} --connections 50 --size 5000 --duration 300ms --json"));
            let figures = load.expect_status(0).json();
            assert_eq!(
                (&figures["errors"], &figures["mismatched_bytes"]),
                (&0.into(), &0.into()),
                "{driver}"
            );
        }
        assert_eq!(server.interrupt().0.code(), Some(0), "{driver}");
        assert!(!path.exists(), "{driver}: the path is removed");
    }
}

#[test]
fn a_watcher_answers_all_that_came_before_the_end_of_the_stream() {
    for driver in ["io_uring", "epoll"] {
        let server =
            Served::start(&format!("--api watcher --loops 1 --driver {driver} --listen tcp://127.0.0.1:0"));
        let address = server.address().trim_start_matches("tcp://");
        // Several at once, so that their ends stand in one batch with what they have still to get.
        std::thread::scope(|scope| {
            for seed in 0..8u8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).expect("it listens");
                    let sent: Vec<u8> = (0..1 << 20).map(|place: u32| (place / 251) as u8 ^ seed).collect();
                    let mut writer = stream.try_clone().expect("a second handle");
                    let copy = sent.clone();
                    let writing = std::thread::spawn(move || {
                        writer.write_all(&copy).expect("sent");
                        writer.shutdown(std::net::Shutdown::Write).expect("half-closed");
                    });
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).expect("all of it");
                    assert!(answer == sent, "{driver}: {} of {} bytes came back", answer.len(), sent.len());
                    writing.join().expect("no assertion failed");
                });
            }
        });
        exchange(server.address());
    }
}

#[test]
fn watchers_refuse_what_a_server_refuses() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", taken.local_addr().expect("bound"));
    kolk(&format!("serve echo --api watcher --loops 2 --listen {address}"))
        .expect_refused(&[&address, "in use"]);
    let path = TempPath::new("kept.txt");
    std::fs::write(&*path, "kept").expect("written");
    let address = format!("unix://{}", path.display());
    let free = "tcp://127.0.0.1:0";
    kolk(&format!("serve echo --api watcher --listen {free} --listen {address}"))
        .expect_refused(&[&address, "not a socket"]);
    assert_eq!(std::fs::read_to_string(&*path).expect("still there"), "kept");
    kolk("serve echo --api reactor").expect_refused(&["reactor", "server", "watcher"]);
}

// ---- wrong use ----------------------------------------------------------------------------------

#[test]
fn an_unknown_scheme_is_refused() {
    kolk("serve echo --listen sctp://127.0.0.1:0").expect_refused(&["sctp://127.0.0.1:0", "scheme", "tcp"]);
}

#[test]
fn a_port_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", taken.local_addr().expect("bound"));
    kolk(&format!("serve echo --listen {address}")).expect_refused(&[&address, "in use"]);
}

#[test]
fn an_address_that_is_not_local_is_refused() {
    kolk("serve echo --listen tcp://192.0.2.1:7000").expect_refused(&["tcp://192.0.2.1:7000", "address"]);
}

#[test]
fn a_unix_path_that_is_too_long_is_refused() {
    let address = format!("unix:///tmp/{}", "x".repeat(120));
    kolk(&format!("serve echo --listen {address}")).expect_refused(&[&address, "107"]);
}

#[test]
fn a_file_at_the_unix_path_is_refused_and_never_deleted() {
    let path = TempPath::new("precious.txt");
    std::fs::write(&*path, "precious").expect("written");
    let address = format!("unix://{}", path.display());
    kolk(&format!("serve echo --listen {address}")).expect_refused(&[&address, "not a socket"]);
    assert_eq!(std::fs::read_to_string(&*path).expect("still there"), "precious");
}

#[test]
fn a_unix_path_where_a_server_listens_is_refused_and_left_to_it() {
    let path = TempPath::new("busy.sock");
    let address = format!("unix://{}", path.display());
    let _server = Served::start(&format!("--listen {address}"));
    kolk(&format!("serve echo --listen {address}")).expect_refused(&[&address, "in use"]);
    assert!(path.exists());
}

#[test]
fn a_port_below_1024_without_rights_is_refused() {
    let first_free: u32 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .map_or(1024, |text| text.trim().parse().expect("a number"));
    if first_free <= 80 {
        eprintln!("skipped: on this machine anyone may listen on port 80");
        return;
    }
    // A copy where the user nobody can reach it.
    let copy = TempPath::new("copy");
    std::fs::copy(KOLK, &*copy).expect("copied");
    let mut command = Command::new(&*copy);
    command.args(["serve", "echo", "--listen", "tcp://127.0.0.1:80"]);
    if rustix::process::getuid().is_root() {
        command.uid(65534).gid(65534);
    }
    run(&mut command).expect_refused(&["tcp://127.0.0.1:80", "ermission denied", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn wrong_options_are_refused() {
    kolk("serve echo --driver kqueue").expect_refused(&["kqueue", "io_uring", "epoll"]);
    kolk("serve echo --loops 0").expect_refused(&["--loops"]);
    kolk("serve").expect_refused(&["echo"]);
    kolk("").expect_refused(&["Usage"]);
}
