//! R25: what is there comes to an end before the server does.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kolk::server::Action;

use crate::support::{Calls, PATIENCE, World, everywhere, on_real_kernels, pattern, start, telling, until};

everywhere!(r25_handlers_are_told_and_queued_output_is_flushed);

/// Virtual time runs while the peers' thread works.
const LONG: Duration = Duration::from_secs(1000);

on_real_kernels!(r25_connections_are_served_while_the_server_drains, r25_a_drain_has_an_end);

fn r25_handlers_are_told_and_queued_output_is_flushed(world: &World) {
    let (tell, told) = telling();
    let len = if world.is_real() { 4 << 20 } else { 5000 };
    let builder = world.server().stop_timeout(LONG).close_timeout(LONG);
    let server = start(builder, move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(move |conn| {
            conn.join("all");
            conn.write(pattern(len));
        });
        calls.stop = Box::new(|context| {
            assert!(context.is_stopping());
            context.broadcast_to("all", "the server is going");
        });
        calls
    });
    let mut peers: Vec<_> = (0..3).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    server.stop();
    for peer in &mut peers {
        peer.expect(pattern(len));
        assert_eq!(String::from_utf8_lossy(&peer.rest()), "the server is going");
    }
    drop(peers);
    server.wait().expect("it stops in order");
    let all = told.all();
    let told_first = all.iter().find(|text| *text == "stop" || text.starts_with("close"));
    assert_eq!(told_first.map(String::as_str), Some("stop"));
    assert_eq!(all.iter().filter(|text| *text == "close: the server is stopping").count(), 3, "{all:?}");
}

fn r25_connections_are_served_while_the_server_drains(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().drain_timeout(PATIENCE), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), conn, input| {
            conn.write(input.take());
            // One more answer, and then the end.
            if conn.context().is_stopping() { Action::Close } else { Action::Continue }
        });
        calls
    });
    let mut busy = world.connect(&server);
    let mut done = world.connect(&server);
    busy.send("before");
    busy.expect("before");
    told.next_of("open");
    let place = server.addresses()[0].trim_start_matches("tcp://").to_owned();
    server.stop();
    told.next_of("stop");
    until("nobody is accepted any more", || {
        TcpStream::connect(&place).map_or(true, |mut stream| stream.write_all(b"x").is_err())
    });
    done.shutdown_write();
    done.expect_end();
    busy.send("after");
    busy.expect("after");
    busy.expect_end();
    drop((busy, done));
    let begin = Instant::now();
    server.wait().expect("it stops in order");
    assert!(begin.elapsed() < PATIENCE / 3, "it does not wait for the drain's end when all are gone");
}

fn r25_a_drain_has_an_end(world: &World) {
    const DRAIN: Duration = Duration::from_millis(300);
    let (tell, told) = telling();
    let server = start(world.server().drain_timeout(DRAIN), move || Calls::<()>::new(&tell));
    let mut peer = world.connect(&server);
    peer.send("x");
    peer.expect("x");
    let begin = Instant::now();
    server.stop();
    peer.expect_end();
    assert!(begin.elapsed() >= DRAIN * 9 / 10, "{:?}", begin.elapsed());
    drop(peer);
    assert_eq!(told.next_of("close"), "close: the server is stopping");
    server.wait().expect("it stops in order");
}
