//! R23 and L03, L04: a panic in each callback, names that come again, and peers that misbehave.

use std::io::Write;
use std::time::Duration;

use kolk::server::{Action, OnPanic};

use crate::support::{Calls, World, everywhere, names, on_real_kernels, pattern, start, telling, until};

everywhere!(
    r23_a_panic_in_any_callback_ends_its_connection_only,
    r23_a_panic_in_a_callback_of_the_loop_is_counted,
    l03_a_slot_that_comes_again_gets_none_of_the_old_bytes,
    l04_one_byte_at_a_time_and_resets_touch_nobody_else,
);

on_real_kernels!(r23_a_server_may_be_told_to_abort);

/// Which callback panics, and what provokes it.
const PLACES: [&str; 9] = ["open", "data", "eof", "message", "timer", "flush", "sent", "close", "writable"];

fn r23_a_panic_in_any_callback_ends_its_connection_only(world: &World) {
    for place in PLACES {
        let (tell, told) = telling();
        let (tell_name, name) = names();
        let server = start(world.server().output_watermarks(10, 1000), move || {
            let (mut calls, tell_name) = (Calls::<bool>::new(&tell), tell_name.clone());
            // The first connection is the one that goes on.
            let mut is_first = true;
            let fail = move |armed: &mut bool| assert!(!std::mem::take(armed), "this test's handler panics");
            calls.open = Box::new(move |conn| {
                tell_name.send(conn.id()).expect("the test waits");
                let mut armed = !std::mem::take(&mut is_first);
                if armed {
                    conn.join("doomed");
                    conn.hook_writes(place == "flush" || place == "sent");
                    conn.set_timer(1, Duration::from_millis(if place == "timer" { 1 } else { 1_000_000 }));
                    if place == "writable" {
                        conn.write(vec![0; 2000]);
                    }
                    if place == "open" {
                        fail(&mut armed);
                    }
                }
                armed
            });
            let at = move |here: &str, armed: &mut bool| {
                if here == place {
                    fail(armed);
                }
            };
            calls.data = Box::new(move |armed, conn, input| {
                at("data", armed);
                conn.write(input.take());
                if place == "close" && *armed { Action::CloseNow } else { Action::Continue }
            });
            calls.eof = Box::new(move |armed, _| {
                at("eof", armed);
                Action::Close
            });
            calls.message = Box::new(move |armed, _, ()| {
                at("message", armed);
                Action::Continue
            });
            calls.timer = Box::new(move |armed, _, _| {
                at("timer", armed);
                Action::Continue
            });
            calls.flush = Box::new(move |armed, _| at("flush", armed));
            calls.sent = Box::new(move |armed, _| {
                at("sent", armed);
                Action::Continue
            });
            calls.writable = Box::new(move |armed, _| {
                at("writable", armed);
                Action::Continue
            });
            calls.close = Box::new(move |armed, _| at("close", armed));
            calls
        });
        let mut other = world.connect(&server);
        name();
        other.send("before");
        other.expect("before");
        let mut doomed = world.connect(&server);
        let conn = name();
        let _ = server.handle().message(conn, ());
        let _ = doomed.write(b"x");
        if place == "eof" {
            doomed.shutdown_write();
        }
        doomed.expect_close();
        until("the panic is counted", || server.stats().panics == 1);
        other.send("after");
        other.expect("after");
        let reason = if place == "close" { "closed by the handler" } else { "the handler panicked" };
        if place != "open" {
            assert_eq!(told.next_of("close"), format!("close: {reason}"), "in on_{place}");
        }
        server.handle().broadcast_to("doomed", "nobody hears").expect("it runs");
        until("it is gone", || server.stats().connections == 1);
        server.stop();
        drop(other);
        server.wait().expect("it stops in order");
    }
}

fn r23_a_panic_in_a_callback_of_the_loop_is_counted(world: &World) {
    let (tell, told) = telling();
    let error = world
        .server()
        .start({
            let tell = tell.clone();
            move |_| {
                let mut calls = Calls::<()>::new(&tell);
                calls.start = Box::new(|_| panic!("this test's handler panics"));
                calls
            }
        })
        .expect_err("its only loop does not begin");
    assert!(error.to_string().contains("panicked"), "{error}");

    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        let mut beats = 0;
        calls.tick = Box::new(move |_| {
            beats += 1;
            assert!(beats < 2, "this test's handler panics");
            Some(Duration::from_millis(1))
        });
        calls.data = Box::new(|(), conn, input| match &*input.take() {
            b"d" => Action::Detach,
            _ => {
                conn.write_then("x", |_| panic!("this test's notice panics"));
                Action::Continue
            }
        });
        calls.detach = Box::new(|_| panic!("this test's handler panics"));
        calls.stop = Box::new(|_| panic!("this test's handler panics"));
        calls
    });
    until("the tick has panicked", || server.stats().panics == 1);
    let mut peer = world.connect(&server);
    peer.send("d");
    peer.expect_close();
    assert_eq!(told.next_of("close"), "close: the handler panicked");
    let mut peer = world.connect(&server);
    peer.send("n");
    assert_eq!(told.next_of("close"), "close: the handler panicked");
    peer.expect_close();
    until("all are counted", || server.stats().panics == 3 && server.stats().connections == 0);
    server.stop();
    server.wait().expect("it stops in order");
}

/// In a process of its own, which ends.
fn r23_a_server_may_be_told_to_abort(world: &World) {
    const CHILD: &str = "KOLK_TEST_ABORT";
    let test = format!(
        "faults::{}_real::r23_a_server_may_be_told_to_abort",
        if format!("{:?}", world.driver()) == "Epoll" { "epoll" } else { "io_uring" }
    );
    if std::env::var(CHILD).is_err() {
        let own = std::env::current_exe().expect("a test has a path");
        let mut child = std::process::Command::new(own);
        child.args([&test, "--exact"]).env(CHILD, "1");
        let output = child.output().expect("it starts");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(libc::SIGABRT), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let (tell, _told) = telling();
    let server = start(world.server().on_panic(OnPanic::Abort), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), _, _| panic!("this test's handler panics"));
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("x");
    peer.expect_close();
    panic!("the process goes on");
}

/// A bug of others: a descriptor's number was used again between its close and the callback, and the new connection
/// got what was meant for the old one.
fn l03_a_slot_that_comes_again_gets_none_of_the_old_bytes(world: &World) {
    let (tell, _told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<Vec<u8>>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            tell_name.send(conn.id()).expect("the test waits");
            Vec::new()
        });
        // Everything of one connection has one tag.
        calls.data = Box::new(|tag, conn, input| {
            let bytes = input.take();
            tag.push(bytes[0]);
            assert!(bytes.iter().chain(tag.iter()).all(|&byte| byte == tag[0]), "a stranger's bytes");
            conn.write(bytes);
            Action::Continue
        });
        calls
    });
    let rounds = if world.is_real() { 300 } else { 30 };
    let mut stale = Vec::new();
    for round in 0..rounds {
        let tag = b'a' + (round % 26) as u8;
        let mut peer = world.connect(&server);
        let conn = name();
        peer.send([tag; 100]);
        // Whoever had the slot before is asked for something meanwhile, by another thread.
        for &old in &stale {
            let _ = server.handle().write(old, "a stranger's");
            let _ = server.handle().close_now(old);
        }
        peer.expect([tag; 100]);
        match round % 3 {
            0 => drop(peer),
            1 => peer.reset(),
            _ => {
                server.handle().close(conn).expect("it is open");
                peer.expect_end();
            }
        }
        stale.push(conn);
        stale = stale.split_off(stale.len().saturating_sub(10));
    }
    assert_eq!(server.stats().panics, 0);
}

fn l04_one_byte_at_a_time_and_resets_touch_nobody_else(world: &World) {
    let (tell, _told) = telling();
    let server = start(world.server(), move || Calls::<()>::new(&tell));
    let len = if world.is_real() { 2000 } else { 100 };
    let bytes = pattern(len);
    let mut steady = world.connect(&server);
    let mut trickle = world.connect(&server);
    for (index, byte) in bytes.iter().enumerate() {
        trickle.send([*byte]);
        if index % 20 == 0 {
            let mut rude = world.connect(&server);
            let _ = rude.write(&[1; 500]);
            match index % 3 {
                0 => rude.reset(),
                1 => drop(rude),
                // Never reads, and stays for a while.
                _ => rude.shutdown_write(),
            }
            steady.send(format!("{index};"));
            steady.expect(format!("{index};"));
        }
    }
    trickle.shutdown_write();
    assert!(trickle.rest() == bytes);
}
