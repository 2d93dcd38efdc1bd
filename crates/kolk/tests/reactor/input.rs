//! R09 and R16: what is left comes again, once there is enough of it, and reading pauses.

use std::io::Write;
use std::time::Duration;

use kolk::server::Action;

use crate::support::{
    Calls, PATIENCE, World, everywhere, names, on_real_kernels, pattern, start, telling, until,
};

everywhere!(
    r09_a_handler_says_how_many_bytes_it_needs,
    r09_the_rest_comes_although_it_is_less_than_was_needed,
    r09_a_need_above_the_input_limit_closes,
    r09_a_need_that_is_met_is_over,
    r16_a_paused_connection_is_not_read_and_loses_nothing,
    r16_a_pause_holds_back_the_end_of_the_stream_too,
    r16_reading_pauses_above_the_high_watermark,
    r16_reading_goes_on_above_the_high_watermark_if_told_to,
);

on_real_kernels!(r16_a_paused_connection_closes_the_peers_window);

fn r09_a_handler_says_how_many_bytes_it_needs(world: &World) {
    const LEN: usize = 3000;
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), conn, input| {
            match input.take_exact(LEN) {
                Some(frame) => conn.write(frame),
                None => input.need(LEN),
            }
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    let frame = pattern(LEN);
    for piece in [7, 500, LEN] {
        for part in frame.chunks(piece) {
            peer.send(part);
        }
        peer.expect(&frame);
    }
    peer.shutdown_write();
    peer.expect_end();
    told.next_of("close");
    let calls = server.stats().messages;
    assert!((3..=6).contains(&calls), "{calls} calls for 3 frames in many pieces");
}

fn r09_the_rest_comes_although_it_is_less_than_was_needed(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<Vec<u8>>::new(&tell);
        calls.data = Box::new(|rest, _, input| {
            *rest = input.contiguous().to_vec();
            input.need(100);
            Action::Continue
        });
        calls.eof = Box::new(|rest, conn| {
            conn.write(std::mem::take(rest));
            Action::Close
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("too");
    told.next_of("data");
    peer.send(" short");
    peer.shutdown_write();
    assert_eq!(String::from_utf8_lossy(&peer.rest()), "too short");
    told.expect(&["data", "eof", "close: closed by the peer"]);
}

fn r09_a_need_above_the_input_limit_closes(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().input_limit(1000), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), _, input| {
            input.need(1001);
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("x");
    peer.expect_close();
    drop(peer); // the server waits for it
    assert_eq!(told.next_of("close"), "close: too much input left unconsumed");
}

fn r16_a_paused_connection_is_not_read_and_loses_nothing(world: &World) {
    let (tell, told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| tell_name.send(conn.id()).expect("the test waits"));
        calls.data = Box::new(|(), conn, input| {
            conn.write(input.take());
            conn.pause_reading();
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    let bytes = pattern(5000);
    peer.send(&bytes[..1]);
    peer.expect(&bytes[..1]);
    std::thread::scope(|scope| {
        // It may take no more before it reads.
        scope.spawn(|| peer.send(&bytes[1..]));
        while server.stats().bytes_sent < bytes.len() as u64 {
            // Each resume brings what is there, and pauses again.
            let before = server.stats().messages;
            server.handle().run(conn, |(), conn| conn.resume_reading()).expect("it is open");
            until("it is read", || server.stats().messages > before);
        }
    });
    peer.expect(&bytes[1..]);
    // Twice at once is once.
    let again = |(): &mut (), conn: &mut kolk::server::Conn<'_>| {
        conn.pause_reading();
        conn.resume_reading();
        conn.resume_reading();
    };
    server.handle().run(conn, again).expect("it is open");
    server.handle().run(conn, again).expect("it is open");
    peer.send("m");
    peer.expect("m");
    drop(peer);
    drop(told);
}

fn r16_a_pause_holds_back_the_end_of_the_stream_too(world: &World) {
    let (tell, told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            conn.pause_reading();
            tell_name.send(conn.id()).expect("the test waits");
        });
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    peer.send("last words");
    peer.shutdown_write();
    // It is asked for something twice, and says nothing of the end.
    for _ in 0..2 {
        let (ask, answer) = std::sync::mpsc::channel();
        server.handle().run(conn, move |(), _| ask.send(()).expect("the test waits")).expect("it is open");
        answer.recv().expect("it runs");
    }
    told.expect(&["open"]);
    assert_eq!(told.all(), [""; 0]);
    server.handle().run(conn, |(), conn| conn.resume_reading()).expect("it is open");
    assert_eq!(String::from_utf8_lossy(&peer.rest()), "last words");
    assert_eq!(told.next(), "data");
    assert_eq!(told.next_of("close"), "close: closed by the peer");
}

/// A pause that comes after a need was met: what arrives then, however little, is handed over.
fn r09_a_need_that_is_met_is_over(world: &World) {
    for needs_more in [true, false] {
        let (tell, told) = telling();
        let (tell_name, name) = names();
        let server = start(world.server(), move || {
            let (mut calls, tell_name) = (Calls::<bool>::new(&tell), tell_name.clone());
            calls.open = Box::new(move |conn| {
                tell_name.send(conn.id()).expect("the test waits");
                false
            });
            calls.data = Box::new(|has_frame, conn, input| {
                match input.take_exact(if *has_frame { 1 } else { 10 }) {
                    Some(part) => conn.write(part),
                    None => input.need(10),
                }
                *has_frame |= input.is_empty();
                Action::Continue
            });
            calls.message = Box::new(|_, conn, ()| {
                conn.pause_reading();
                conn.resume_reading();
                Action::Continue
            });
            calls
        });
        let mut peer = world.connect(&server);
        let conn = name();
        if needs_more {
            peer.send("0123");
            told.next_of("data");
            peer.send("456789");
        } else {
            peer.send("0123456789");
        }
        peer.expect("0123456789");
        server.handle().message(conn, ()).expect("it is open");
        told.next_of("message");
        peer.send("x");
        peer.expect("x");
    }
}

/// With a peer that does not read.
fn r16_reading_goes_on_above_the_high_watermark_if_told_to(world: &World) {
    let (tell, told) = telling();
    let stuck = world.stuck();
    let builder = world.server().output_watermarks(1000, 10_000).pause_reading_when_full(false);
    let server = start(builder, move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(move |(), conn, input| {
            let is_first = conn.is_writable();
            assert_eq!(&*input.take(), if is_first { b"1" } else { b"2" });
            conn.write(if is_first { pattern(stuck) } else { b"and this".to_vec() });
            assert!(!conn.is_writable(), "it tells as much, and goes on");
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("1");
    told.expect(&["open", "data"]);
    peer.send("2");
    told.expect(&["data"]);
    peer.expect(pattern(stuck));
    peer.expect("and this");
    told.next_of("writable");
    assert_eq!(server.stats().panics, 0);
}

/// An echo to a peer that writes everything before it reads anything: memory stays bounded, and no byte is lost.
fn r16_reading_pauses_above_the_high_watermark(world: &World) {
    const LEN: usize = 600_000;
    let (tell, _told) = telling();
    let (full, is_full) = std::sync::mpsc::channel();
    let server = start(world.server().output_watermarks(1000, 10_000), move || {
        let mut calls = Calls::<()>::new(&tell);
        let full = full.clone();
        calls.data = Box::new(move |(), conn, input| {
            let len = input.len() as u64;
            conn.write(input.take());
            assert!(conn.queued() <= 10_000 + len, "{} queued", conn.queued());
            if !conn.is_writable() {
                // Only the first is waited for.
                let _ = full.send(());
            }
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    let bytes = pattern(LEN);
    std::thread::scope(|scope| {
        let mut reader = match &peer {
            crate::support::Peer::Tcp(stream) => Some(stream.try_clone().expect("a descriptor")),
            crate::support::Peer::Sim(_) => None,
        };
        if let Some(reader) = &mut reader {
            let mut reader = crate::support::Peer::Tcp(reader.try_clone().expect("a descriptor"));
            let bytes = &bytes;
            scope.spawn(move || {
                is_full.recv_timeout(PATIENCE).expect("reading pauses");
                reader.expect(bytes);
            });
            peer.send(bytes);
        } else {
            // The simulated peer is one thread: it writes more than fits, and reads as much.
            for part in bytes[..60_000].chunks(600) {
                peer.write_all(part).expect("the server reads");
                peer.expect(part);
            }
        }
    });
    assert_eq!(server.stats().panics, 0);
}

fn r16_a_paused_connection_closes_the_peers_window(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(|conn| {
            conn.pause_reading();
        });
        calls
    });
    let peer = world.connect(&server);
    told.next_of("open");
    let crate::support::Peer::Tcp(mut stream) = peer else { unreachable!("a real kernel") };
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("positive");
    let part = vec![1; 1 << 20];
    let taken = (0..64).take_while(|_| stream.write_all(&part).is_ok()).count();
    assert!(taken < 64, "64 MiB went to a server that does not read");
    assert_eq!(server.stats().messages, 0);
    // What was under way when the pause began, at most: the ring's and the arena's share.
    assert!(server.stats().bytes_received <= 2 << 20, "{:?}", server.stats());
}
