//! `kolk load` against `kolk serve`, and against servers that lie.

mod common;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::{KOLK, Served, TempPath, echo, kolk, plain_server, run};
use serde_json::Value;

#[track_caller]
fn expect_clean(json: &Value) {
    assert_eq!((&json["errors"], &json["mismatched_bytes"]), (&0.into(), &0.into()), "{json}");
    assert!(json["messages_per_second"].as_f64().expect("a number") > 0.0, "{json}");
}

#[track_caller]
fn load_every_byte(driver: &str) {
    let path = TempPath::new(&format!("{driver}.sock"));
    let server = Served::start(&format!(
        "--driver {driver} --listen tcp://127.0.0.1:0 --listen unix://{}",
        path.display()
    ));
    assert!(server.greeting.contains(driver), "{}", server.greeting);
    for (address, client) in server.addresses.iter().zip(["io_uring", "epoll"]) {
        let json = kolk(&format!(
            "load echo {address} --connections 200 --size 1000 --depth 4 --duration 300ms \
             --driver {client} --json"
        ))
        .expect_status(0)
        .json();
        expect_clean(&json);
        assert_eq!((&json["connections"], &json["driver"]), (&200.into(), &client.into()));
    }
}

#[test]
fn every_byte_comes_back_over_tcp_and_unix_on_io_uring() {
    load_every_byte("io_uring");
}

#[test]
fn every_byte_comes_back_over_tcp_and_unix_on_epoll() {
    load_every_byte("epoll");
}

#[test]
fn messages_larger_than_any_buffer_come_back() {
    let server = Served::start("--listen tcp://127.0.0.1:0");
    let json = kolk(&format!(
        "load echo {} --connections 3 --size 3MiB --threads 2 --duration 300ms --json",
        server.address()
    ));
    expect_clean(&json.expect_status(0).json());
}

#[test]
fn the_json_has_the_promised_keys() {
    let server = Served::start("--listen tcp://127.0.0.1:0");
    let json = kolk(&format!(
        "load echo {} --connections 10 --size 64 --duration 300ms --server-pid {} --json",
        server.address(),
        server.pid()
    ))
    .expect_status(0)
    .json();
    let keys = [
        "/messages_per_second",
        "/megabytes_per_second",
        "/latency_us/p50",
        "/latency_us/p99",
        "/latency_us/p999",
        "/latency_us/max",
        "/errors",
        "/mismatched_bytes",
        "/connections",
        "/server/cpu_us_per_message",
        "/server/user_us_per_message",
        "/server/rss_bytes",
    ];
    for key in keys {
        assert!(json.pointer(key).is_some_and(Value::is_number), "{key} in {json}");
    }
    assert!(json["server"]["cpu_us_per_message"].as_f64() > Some(0.0), "{json}");
    assert!(json["server"]["rss_bytes"].as_u64() > Some(100_000), "{json}");
}

#[test]
fn the_text_shows_the_same_figures() {
    let server = Served::start("--listen tcp://127.0.0.1:0");
    let text = kolk(&format!(
        "load echo {} --connections 10 --size 64 --duration 200ms --server-pid {}",
        server.address(),
        server.pid()
    ))
    .expect_status(0)
    .stdout;
    for word in
        ["messages/s", "MB/s", "p50", "p99.9", "0 errors, 0 mismatched bytes", "us CPU a message", "resident"]
    {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let server = Served::start("--listen tcp://127.0.0.1:0 --loops 1");
    let json = kolk(&format!(
        "load echo {} --connections 20 --size 64 --depth 64 --rate 2000 --duration 1s --json",
        server.address()
    ))
    .expect_status(0)
    .json();
    expect_clean(&json);
    let rate = json["messages_per_second"].as_f64().expect("a number");
    assert!((1500.0..=2500.0).contains(&rate), "{json}");
}

#[test]
fn an_open_loop_sees_the_stall_that_a_closed_one_hides() {
    let stall = Duration::from_millis(200);
    // Answers at once but for one piece in the middle, and in order, so all that is due meanwhile waits too.
    let address = plain_server(move |stream, _| {
        let mut pieces = 0;
        echo(stream, |_| {
            pieces += 1;
            if pieces == 500 {
                std::thread::sleep(stall);
            }
        });
    });
    let load = format!("load echo {address} --connections 1 --size 64 --duration 1s --json");
    let open = kolk(&format!("{load} --rate 1000")).expect_status(0).json();
    assert!(open["latency_us"]["max"].as_f64() >= Some(190_000.0), "{open}");
    assert!(open["latency_us"]["p99"].as_f64() >= Some(100_000.0), "a fifth of the messages waited: {open}");
}

#[test]
fn idle_connections_are_held_and_their_memory_is_told() {
    let server = Served::start("--listen tcp://127.0.0.1:0");
    let load = format!(
        "load idle {} --connections 2200 --hold 100ms --server-pid {}",
        server.address(),
        server.pid()
    );
    let json = kolk(&format!("{load} --json")).expect_status(0).json();
    assert_eq!(
        (&json["connections"], &json["errors"], &json["counted_from"]),
        (&2200.into(), &0.into(), &1000.into())
    );
    for key in [
        "/server/bytes_per_connection",
        "/server/one_time_bytes",
        "/kernel/bytes_per_connection",
        "/kernel/held_bytes_per_connection",
    ] {
        assert!(json.pointer(key).is_some_and(Value::is_number), "{key} in {json}");
    }
    let text = kolk(&load).expect_status(0).stdout;
    assert!(text.contains("2 200 idle connections") && text.contains("one-time part"), "{text}");
}

// ---- servers that lie ---------------------------------------------------------------------------

#[test]
fn a_changed_byte_is_a_mismatch_and_status_1() {
    let address = plain_server(|stream, number| {
        let mut pieces = 0;
        echo(stream, |piece| {
            pieces += 1;
            if number == 1 && pieces == 3 {
                piece[5] ^= 1;
            }
        });
    });
    let finished = kolk(&format!("load echo {address} --connections 4 --size 64 --duration 300ms --json"));
    let json = finished.expect_status(1).json();
    assert_eq!((&json["mismatched_bytes"], &json["errors"]), (&1.into(), &0.into()), "{json}");
    assert!(json["first_error"].as_str().expect("told").contains("came back wrong"), "{json}");
}

#[test]
fn bytes_given_to_the_wrong_connection_are_mismatches() {
    // Whatever is sent, the answer is the first message of whoever was first.
    let first = Arc::new(OnceLock::new());
    let address = plain_server(move |stream, _| {
        let first = Arc::clone(&first);
        echo(stream, |piece| piece.clone_from(first.get_or_init(|| piece.clone())));
    });
    let finished = kolk(&format!("load echo {address} --connections 2 --size 64 --duration 200ms --json"));
    assert!(finished.expect_status(1).json()["mismatched_bytes"].as_u64() > Some(32));
}

#[test]
fn a_dropped_connection_is_an_error_and_status_1() {
    let address = plain_server(|stream, number| {
        if number > 0 {
            echo(stream, |_| ());
        }
    });
    let json = kolk(&format!("load echo {address} --connections 4 --size 64 --duration 300ms --json"))
        .expect_status(1)
        .json();
    assert_eq!((&json["errors"], &json["mismatched_bytes"]), (&1.into(), &0.into()), "{json}");
    assert!(json["messages"].as_u64() > Some(0), "the others go on: {json}");
}

#[test]
fn bytes_that_nobody_sent_are_an_error_and_status_1() {
    let address = plain_server(|stream, _| echo(stream, |piece| piece.extend_from_slice(b"!")));
    let json = kolk(&format!("load echo {address} --connections 1 --size 64 --duration 200ms --json"))
        .expect_status(1)
        .json();
    assert_eq!(
        (&json["error_kinds"]["unexpected_bytes"], &json["mismatched_bytes"]),
        (&1.into(), &1.into()),
        "{json}"
    );
}

#[test]
fn a_lost_message_is_an_error_and_status_1() {
    let address = plain_server(|stream, _| {
        let mut pieces = 0;
        echo(stream, |piece| {
            pieces += 1;
            if pieces == 10 {
                piece.clear();
            }
        });
    });
    let json = kolk(&format!("load echo {address} --connections 2 --size 64 --duration 100ms --json"))
        .expect_status(1)
        .json();
    assert_eq!(json["error_kinds"]["unanswered_messages"], 2, "{json}");
}

#[test]
fn an_idle_connection_that_the_server_closes_is_an_error() {
    let address = plain_server(|stream, number| {
        let mut left = if number == 3 { 1 } else { usize::MAX };
        echo(stream.try_clone().expect("a descriptor"), |_| {
            left -= 1;
            if left == 0 {
                let _ = stream.shutdown(std::net::Shutdown::Read);
            }
        });
    });
    let json =
        kolk(&format!("load idle {address} --connections 5 --hold 300ms --json")).expect_status(1).json();
    assert_eq!((&json["errors"], &json["connections"]), (&1.into(), &4.into()), "{json}");
}

// ---- wrong use ----------------------------------------------------------------------------------

#[test]
fn nobody_listening_is_told_with_what_to_do() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("tcp://{}", listener.local_addr().expect("bound"))
    };
    let finished = kolk(&format!("load echo {address} --connections 1 --size 64")).expect_status(1);
    assert!(finished.stderr.contains(&format!("kolk serve echo --listen {address}")), "{}", finished.stderr);
    let finished = kolk("load idle unix:///tmp/kolk-no-such.sock --connections 1").expect_status(1);
    assert!(finished.stderr.contains("no server listens there"), "{}", finished.stderr);
}

#[test]
fn wrong_addresses_are_refused() {
    let load = |address: &str| kolk(&format!("load echo {address} --connections 1 --size 64"));
    load("sctp://127.0.0.1:7000").expect_refused(&["scheme \"sctp\"", "use tcp"]);
    load("127.0.0.1:7000").expect_refused(&["write tcp://127.0.0.1:7000"]);
    load(&format!("unix:///{}", "x".repeat(120))).expect_refused(&["121 bytes", "at most 107", "shorter"]);
}

#[test]
fn wrong_arguments_are_refused() {
    kolk("load echo tcp://127.0.0.1:1 --size 64").expect_refused(&["--connections"]);
    kolk("load echo tcp://127.0.0.1:1 --connections 1 --size 64 --duration 5").expect_refused(&["write 5s"]);
    kolk("load idle tcp://127.0.0.1:1 --connections 0").expect_refused(&["0 is not in 1.."]);
    kolk("load echo tcp://127.0.0.1:1 --connections 1 --size 64 --server-pid 4294967295")
        .expect_refused(&["--server-pid 4294967295"]);
}

#[test]
fn more_connections_than_descriptors_are_refused() {
    let command =
        format!("ulimit -n 100; exec {KOLK} load echo tcp://127.0.0.1:1 --connections 200 --size 64");
    run(std::process::Command::new("sh").args(["-c", &command])).expect_refused(&[
        "cannot open 200 connections",
        "may have 100 descriptors",
        "ulimit -Hn",
    ]);
}

#[test]
fn the_soft_limit_on_descriptors_is_raised() {
    let server = Served::start("--listen tcp://127.0.0.1:0");
    let command = format!(
        "ulimit -Sn 100; exec {KOLK} load echo {} --connections 200 --size 64 --duration 100ms \
         --json",
        server.address()
    );
    expect_clean(&run(std::process::Command::new("sh").args(["-c", &command])).expect_status(0).json());
}
