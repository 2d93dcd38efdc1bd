//! The server's promises, by number, on each kernel interface.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use kolk::DriverKind;
use kolk::server::{Action, Conn, Handler, Input};
use support::{
    OnData, PATIENCE, Told, connect, connect_unix, echo, exchange, next, next_close, on_each_driver, pattern,
    read_to_end, reset, server, socket_path, telling, until,
};

on_each_driver!(
    r01_tcp_and_unix_addresses_are_served_side_by_side,
    r01_a_bad_address_is_named_and_nothing_stays_bound,
    r01_a_taken_port_is_refused_also_with_many_loops,
    r01_a_file_in_the_way_is_never_deleted,
    r01_a_socket_left_behind_is_replaced_and_a_live_one_is_not,
    r02_each_loop_has_its_own_handler,
    r03_each_loop_accepts_on_its_own_listener,
    r06_open_comes_first_and_close_last_exactly_once,
    r06_the_reason_of_a_close_is_told,
    r07_bytes_that_came_with_the_fin_are_delivered_first,
    r08_close_flushes_although_the_peer_still_sends,
    r09_what_a_handler_leaves_comes_again,
    r09_too_much_left_input_closes_the_connection,
    r25_stop_sends_what_is_queued_and_frees_the_addresses,
    r25_stop_does_not_wait_for_ever,
    r25_dropping_a_server_stops_it,
    r28_a_flood_does_not_starve_the_others,
    r23_a_panic_ends_its_connection_only,
);

fn r01_tcp_and_unix_addresses_are_served_side_by_side(driver: DriverKind) {
    let path = socket_path("side-by-side", driver);
    let (make, told) = telling();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .listen("tcp6://[::1]:0")
        .listen(format!("unix://{}", path.display()))
        .event_loops(1)
        .start(make)
        .expect("three free addresses");
    assert!(!server.addresses()[0].ends_with(":0"), "the kernel's port is shown");
    for listener in 0..2 {
        assert_eq!(exchange(connect(&server, listener), b"hello"), b"hello");
        assert_eq!(next(&told), Told::Open { event_loop: 0, listener });
        assert_eq!(next_close(&told), "closed by the peer");
    }
    assert_eq!(exchange(connect_unix(&path), b"hello"), b"hello");
    assert_eq!(next(&told), Told::Open { event_loop: 0, listener: 2 });
}

fn r01_a_bad_address_is_named_and_nothing_stays_bound(driver: DriverKind) {
    let free =
        TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("loopback has ports");
    let path = socket_path("nothing-stays", driver);
    let bad = "tcp://192.0.2.1:7000"; // TEST-NET-1, RFC 5737: nobody has it
    let error = server(driver)
        .listen(format!("tcp://{free}"))
        .listen(format!("unix://{}", path.display()))
        .listen(bad)
        .start(echo)
        .expect_err("the last address is not local");
    assert!(error.is_address_not_available(), "{error}");
    assert!(error.to_string().contains(bad) && error.to_string().contains("not local"), "{error}");
    TcpListener::bind(free).expect("the port is free again");
    assert!(!path.exists(), "the path is free again");
}

fn r01_a_taken_port_is_refused_also_with_many_loops(driver: DriverKind) {
    let first = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(echo).expect("a free port");
    let address = first.addresses()[0].clone();
    let error = server(driver).listen(&address).event_loops(2).start(echo).expect_err("the port is taken");
    assert!(error.is_address_in_use(), "{error}");
    assert!(
        error.to_string().starts_with(&format!("cannot bind {address}: the address is in use")),
        "{error}"
    );
}

fn r01_a_file_in_the_way_is_never_deleted(driver: DriverKind) {
    let path = socket_path("precious", driver);
    fs::write(&path, "precious").expect("a writable directory");
    let address = format!("unix://{}", path.display());
    let error = server(driver).listen(address).start(echo).expect_err("a file is in the way");
    assert!(error.to_string().contains("is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("it is still there"), "precious");
    fs::remove_file(&path).expect("it is still there");
}

fn r01_a_socket_left_behind_is_replaced_and_a_live_one_is_not(driver: DriverKind) {
    let path = socket_path("left-behind", driver);
    let address = format!("unix://{}", path.display());
    drop(UnixListener::bind(&path).expect("a free path")); // leaves its file
    let first = server(driver).listen(&address).event_loops(1).start(echo).expect("nobody answers there");
    assert_eq!(exchange(connect_unix(&path), b"hello"), b"hello");
    let error =
        server(driver).listen(&address).event_loops(1).start(echo).expect_err("somebody answers there");
    assert!(error.is_address_in_use(), "{error}");
    assert_eq!(exchange(connect_unix(&path), b"hello"), b"hello");
    drop(first);
    assert!(!path.exists());
}

fn r02_each_loop_has_its_own_handler(driver: DriverKind) {
    let made = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&made);
    let running = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(3)
        .pin(true)
        .start(move |number| {
            record.lock().expect("no handler panics").push((number, thread::current().id()));
            echo(number)
        })
        .expect("a free port");
    drop(running);
    let made = made.lock().expect("no handler panics");
    assert_eq!(made.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(made.iter().map(|(_, thread)| thread).collect::<HashSet<_>>().len(), 3);
    let error = server(driver).listen("tcp://127.0.0.1:0").event_loops(0).start(echo).expect_err("no loop");
    assert!(error.is_invalid_input(), "{error}");
}

fn r03_each_loop_accepts_on_its_own_listener(driver: DriverKind) {
    let (make, told) = telling();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(make).expect("a free port");
    let streams: Vec<_> = (0..200).map(|_| connect(&server, 0)).collect();
    let mut accepted = [0; 2];
    for _ in &streams {
        let Told::Open { event_loop, .. } = next(&told) else { panic!("nobody sent or closed anything") };
        accepted[usize::from(event_loop)] += 1;
    }
    // The kernel hashes: each loop gets about half, and one of them none with probability 2^-199.
    assert!(accepted.iter().all(|&count| count > 0), "{accepted:?}");
    // A loop publishes its counters at the end of the turn in which its handler told us.
    until("all connections are counted", || server.stats().accepted == 200);
}

fn r06_open_comes_first_and_close_last_exactly_once(driver: DriverKind) {
    const ROUNDS: usize = 300;
    let (make, told) = telling();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    for round in 0..ROUNDS {
        let mut stream = connect(&server, 0);
        match round % 3 {
            0 => drop(exchange(stream, b"hello")),
            1 => stream.write_all(b"hello").expect("the server reads"),
            _ => reset(stream),
        }
    }
    let (mut open, mut closed) = (0, 0);
    while closed < ROUNDS {
        match next(&told) {
            Told::Open { .. } => open += 1,
            Told::Close(_) => closed += 1,
            Told::Data(_) => {}
        }
        assert!(closed <= open, "a close before its open");
    }
    server.stop();
    server.wait().expect("it stops in order");
    assert_eq!((open, closed), (ROUNDS, ROUNDS));
    assert!(told.try_recv().is_err(), "nothing comes after the last close");
}

fn r06_the_reason_of_a_close_is_told(driver: DriverKind) {
    let (make, told) = telling();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    drop(connect(&server, 0));
    assert_eq!(next_close(&told), "closed by the peer");
    let stream = connect(&server, 0);
    exchange(&stream, b"hello");
    reset(stream);
    assert_eq!(next_close(&told), "reset by the peer");
    let stream = connect(&server, 0);
    exchange(&stream, b"hello");
    server.stop();
    assert_eq!(next_close(&told), "the server is stopping");
}

fn r07_bytes_that_came_with_the_fin_are_delivered_first(driver: DriverKind) {
    let path = socket_path("with-the-fin", driver);
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .listen(format!("unix://{}", path.display()))
        .event_loops(1)
        .start(echo)
        .expect("free addresses");
    for _ in 0..100 {
        let mut stream = connect(&server, 0);
        stream.write_all(b"last words").expect("the server reads");
        stream.shutdown(Shutdown::Write).expect("an open socket");
        assert_eq!(read_to_end(stream), b"last words");
        let mut stream = connect_unix(&path);
        stream.write_all(b"last words").expect("the server reads");
        stream.shutdown(Shutdown::Write).expect("an open socket");
        assert_eq!(read_to_end(stream), b"last words");
    }
}

fn r08_close_flushes_although_the_peer_still_sends(driver: DriverKind) {
    let answer = pattern(4 << 20);
    let wanted = answer.clone();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(1)
        .start(move |_| {
            let answer = answer.clone();
            OnData(move |conn: &mut Conn<'_>, input: &mut Input<'_>| {
                input.take();
                conn.write(answer.clone());
                Action::Close
            })
        })
        .expect("a free port");
    for _ in 0..5 {
        let stream = connect(&server, 0);
        let mut sender = stream.try_clone().expect("a descriptor is free");
        sender.write_all(b"go").expect("the server reads");
        // More input than the server ever looks at, which must not turn its answer into a reset.
        let talk = thread::spawn(move || while sender.write_all(&[0; 1024]).is_ok() {});
        let mut got = vec![0; wanted.len()];
        // Slowly, so that most of it is still on its way when the server would rather close.
        for part in got.chunks_mut(64 * 1024) {
            (&stream).read_exact(part).expect("all of the answer arrives");
            thread::yield_now();
        }
        assert!(got == wanted);
        // The server may have reset the connection by now: it read no more of the talk.
        let _ = stream.shutdown(Shutdown::Both);
        talk.join().expect("the talker ends with its stream");
    }
}

/// Frames of one length byte and that many bytes, echoed as they are.
fn framed(_event_loop: usize) -> impl Handler {
    OnData(|conn: &mut Conn<'_>, input: &mut Input<'_>| {
        while let Some(&len) = input.peek().first() {
            match input.take_exact(1 + usize::from(len)) {
                Some(frame) => conn.write(frame),
                None => break,
            }
        }
        Action::Continue
    })
}

fn r09_what_a_handler_leaves_comes_again(driver: DriverKind) {
    let server =
        server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(framed).expect("a free port");
    let frames: Vec<u8> = (1..=200u8).flat_map(|len| std::iter::once(len).chain((0..len).rev())).collect();
    for piece in [1, 2, 7, 100, 1000, frames.len()] {
        let stream = connect(&server, 0);
        stream.set_nodelay(true).expect("an open socket");
        let mut writer = stream.try_clone().expect("a descriptor is free");
        let to_send = frames.clone();
        let sender = thread::spawn(move || {
            for piece in to_send.chunks(piece) {
                writer.write_all(piece).expect("the server reads");
            }
        });
        let mut got = vec![0; frames.len()];
        (&stream).read_exact(&mut got).expect("every frame comes back");
        assert!(got == frames, "in pieces of {piece}");
        sender.join().expect("the sender does not fail");
    }
}

fn r09_too_much_left_input_closes_the_connection(driver: DriverKind) {
    struct Hoarder;
    impl Handler for Hoarder {
        type Session = ();
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Continue
        }
    }
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).input_limit(10_000);
    let server = server.start(|_| Hoarder).expect("a free port");
    let mut stream = connect(&server, 0);
    stream.write_all(&[0; 9_000]).expect("below the limit");
    stream.write_all(&[0; 2_000]).expect("the close comes later");
    assert_eq!(read_to_end(stream), b"");
}

fn r25_stop_sends_what_is_queued_and_frees_the_addresses(driver: DriverKind) {
    let path = socket_path("stop", driver);
    let answer = pattern(1 << 20);
    let wanted = answer.clone();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .listen(format!("unix://{}", path.display()))
        .event_loops(1)
        .stop_timeout(PATIENCE)
        .start(move |_| {
            let answer = answer.clone();
            OnData(move |conn: &mut Conn<'_>, input: &mut Input<'_>| {
                input.take();
                conn.write(answer.clone());
                Action::Continue
            })
        })
        .expect("free addresses");
    let place = server.addresses()[0].trim_start_matches("tcp://").to_owned();
    let mut stream = connect(&server, 0);
    stream.write_all(b"go").expect("the server reads");
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("the answer has begun");
    server.stop();
    assert!(read_to_end(&stream) == wanted[1..], "all that was queued arrives");
    drop(stream);
    server.wait().expect("it stops in order");
    assert!(!path.exists());
    TcpListener::bind(place).expect("the port is free again");
}

fn r25_stop_does_not_wait_for_ever(driver: DriverKind) {
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(1)
        .start(|_| {
            OnData(|conn: &mut Conn<'_>, input: &mut Input<'_>| {
                input.take();
                conn.write(vec![0; 64 << 20]);
                Action::Continue
            })
        })
        .expect("a free port");
    let mut never_reads = connect(&server, 0);
    never_reads.write_all(b"go").expect("the server reads");
    never_reads.read_exact(&mut [0; 1]).expect("the answer has begun");
    let started = Instant::now();
    server.stop();
    server.wait().expect("it stops in order");
    assert!(started.elapsed() < PATIENCE);
}

fn r25_dropping_a_server_stops_it(driver: DriverKind) {
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(echo).expect("a free port");
    let stream = connect(&server, 0);
    exchange(&stream, b"hello");
    drop(server);
    // An end or a reset, but not silence.
    let _ = (&stream).read(&mut [0; 1]);
}

fn r28_a_flood_does_not_starve_the_others(driver: DriverKind) {
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(echo).expect("a free port");
    let flood = connect(&server, 0);
    let mut writer = flood.try_clone().expect("a descriptor is free");
    let mut reader = flood.try_clone().expect("a descriptor is free");
    let flooding = thread::spawn(move || while writer.write_all(&[1; 65536]).is_ok() {});
    let draining = thread::spawn(move || while matches!(reader.read(&mut [0; 65536]), Ok(1..)) {});
    for _ in 0..100 {
        assert_eq!(exchange(connect(&server, 0), b"ping"), b"ping");
    }
    flood.shutdown(Shutdown::Both).expect("an open socket");
    flooding.join().expect("the flood ends with its stream");
    draining.join().expect("the flood ends with its stream");
}

fn r23_a_panic_ends_its_connection_only(driver: DriverKind) {
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(1)
        .start(|_| {
            OnData(|conn: &mut Conn<'_>, input: &mut Input<'_>| {
                let bytes = input.take();
                assert!(!bytes.starts_with(b"panic"), "this test's handler panics");
                conn.write(bytes);
                Action::Continue
            })
        })
        .expect("a free port");
    let other = connect(&server, 0);
    assert_eq!(exchange(&other, b"before"), b"before");
    for round in 1..=3 {
        let mut stream = connect(&server, 0);
        stream.write_all(b"panic").expect("the server reads");
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)), "it is closed");
        assert_eq!(exchange(&other, b"after"), b"after");
        until("the panic is counted", || server.stats().panics == round);
    }
}
