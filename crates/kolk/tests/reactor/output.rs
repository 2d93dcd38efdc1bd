//! R11, R15 and R31: the ways to write, the limits of what is queued, and the hooks around a send.

use std::io::{Seek, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use kolk::FileRange;
use kolk::server::{Action, Overflow};

use crate::support::{Calls, World, everywhere, names, on_real_kernels, pattern, start, telling, until};

everywhere!(
    r11_every_way_to_write_keeps_the_order,
    r11_writes_of_one_turn_leave_together,
    r15_a_handler_hears_when_it_may_write_again,
    r15_past_the_cap_the_connection_is_reset,
    r15_past_the_cap_new_messages_are_dropped,
    r15_past_the_cap_old_messages_are_dropped,
    r15_past_the_cap_only_the_latest_is_kept,
    r31_hooks_run_before_and_after_a_send,
);

on_real_kernels!(r11_a_flush_does_not_wait_for_the_end_of_the_turn);

fn r11_every_way_to_write_keeps_the_order(world: &World) {
    let long = pattern(3000);
    let mut file = tempfile();
    file.write_all(b"....from a file....").expect("a file system with room");
    file.rewind().expect("a file");
    let file = Arc::new(file);
    let is_real = world.is_real();
    let expected = [
        &b"static, copied, shared: "[..],
        &long,
        b", one, two, three, 42 filled, ",
        if is_real { b"from a file" } else { b"" },
    ]
    .concat();
    let (tell, _told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        let (long, file) = (Bytes::from(long.clone()), Arc::clone(&file));
        calls.data = Box::new(move |(), conn, input| {
            input.take();
            conn.write("static, ");
            conn.write_copy(b"copied, ");
            conn.write("");
            conn.write(b"shared: ".to_vec());
            conn.write(long.clone());
            conn.write_vectored([", one".into(), ", two".into(), Bytes::from_static(b", three").into()]);
            conn.write_with(100, |fill| {
                fill.put_slice(b", ");
                write!(fill, "{} filled, ", 42).expect("memory does not fail");
            });
            conn.write_with(1000, |_| {});
            if is_real {
                conn.write(FileRange { file: Arc::clone(&file), offset: 4, len: 11 });
            }
            Action::Close
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("go");
    peer.expect(&expected);
    peer.expect_end();
}

fn tempfile() -> std::fs::File {
    let path = std::env::temp_dir().join(format!(
        "kolk-output-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("a writable directory");
    std::fs::remove_file(path).expect("just made");
    file
}

/// A send takes all that one turn wrote: it is reported as one.
fn r11_writes_of_one_turn_leave_together(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(|conn| {
            conn.hook_writes(true);
            (0..100).for_each(|_| conn.write("0123456789"));
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.expect("0123456789".repeat(100));
    told.expect(&["open", "flush", "sent 1000"]);
}

fn r11_a_flush_does_not_wait_for_the_end_of_the_turn(world: &World) {
    let (tell, _told) = telling();
    let (blocked, unblock) = std::sync::mpsc::channel::<()>();
    let unblock = Arc::new(std::sync::Mutex::new(unblock));
    let server = start(world.server(), move || {
        let (mut calls, unblock) = (Calls::<()>::new(&tell), Arc::clone(&unblock));
        calls.data = Box::new(move |(), conn, input| {
            conn.write(input.take());
            conn.flush();
            let unblock = unblock.lock().expect("nobody panics");
            unblock.recv_timeout(crate::support::PATIENCE).expect("the peer has its answer");
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("at once");
    peer.expect("at once"); // while the callback still runs
    blocked.send(()).expect("the handler waits");
}

fn r15_a_handler_hears_when_it_may_write_again(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().output_watermarks(1000, 100_000), move || {
        let mut calls = Calls::<u32>::new(&tell);
        calls.data = Box::new(|rounds, conn, input| {
            input.take();
            assert!(conn.is_writable());
            conn.write(pattern(90_000));
            assert!(conn.is_writable());
            conn.write(pattern(90_000));
            assert!(!conn.is_writable() && conn.queued() == 180_000);
            *rounds += 1;
            Action::Continue
        });
        calls.writable = Box::new(|rounds, conn| {
            assert!(conn.is_writable() && conn.queued() <= 1000);
            *rounds += 1;
            if *rounds < 5 {
                conn.write(pattern(180_000));
                assert!(!conn.is_writable());
                Action::Continue
            } else {
                Action::Close
            }
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("go");
    peer.expect(pattern(90_000));
    peer.expect(pattern(90_000));
    for _ in 0..3 {
        peer.expect(pattern(180_000));
    }
    peer.expect_end();
    drop(peer); // the server waits for it
    told.expect(&[
        "open",
        "data",
        "writable",
        "writable",
        "writable",
        "writable",
        "close: closed by the handler",
    ]);
}

/// A connection with more on its way than its peer takes without reading, and a cap right above.
macro_rules! stuck {
    ($world:expr, $overflow:expr, $server:ident, $peer:ident, $conn:ident, $told:ident) => {
        let (tell, $told) = telling();
        let (tell_name, name) = names();
        let stuck = $world.stuck();
        let $server = start($world.server().output_cap(stuck as u64 + 1000, $overflow), move || {
            let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
            calls.open = Box::new(move |conn| {
                conn.write(pattern(stuck));
                tell_name.send(conn.id()).expect("the test waits");
            });
            calls
        });
        #[allow(unused_mut, reason = "not every test reads from it")]
        let mut $peer = $world.connect(&$server);
        let $conn = name();
        // In a turn of its own, so that the long message is in flight.
        for _ in 0..3 {
            let (ask, answer) = std::sync::mpsc::channel();
            $server.handle().run($conn, move |(), _| ask.send(()).expect("waits")).expect("open");
            answer.recv_timeout(crate::support::PATIENCE).expect("it runs");
        }
    };
}

fn r15_past_the_cap_the_connection_is_reset(world: &World) {
    stuck!(world, Overflow::Close, server, peer, conn, told);
    server.handle().write(conn, vec![1; 600]).expect("it is open");
    server.handle().write(conn, vec![2; 600]).expect("it may be open");
    assert_eq!(told.next_of("close"), "close: too much output queued");
    peer.expect_close();
    until("it is gone", || server.handle().write(conn, "x").is_err_and(|error| error.is_not_connected()));
}

fn r15_past_the_cap_new_messages_are_dropped(world: &World) {
    stuck!(world, Overflow::DropNew, server, peer, conn, _told);
    for number in 1..=5_u8 {
        server.handle().write(conn, vec![number; 300]).expect("it is open");
    }
    until("two are dropped", || server.stats().messages_dropped == 2);
    peer.expect(pattern(world.stuck()));
    peer.expect([[1; 300], [2; 300], [3; 300]].concat());
    server.handle().write(conn, "then").expect("it is open");
    peer.expect("then");
}

fn r15_past_the_cap_old_messages_are_dropped(world: &World) {
    stuck!(world, Overflow::DropOld, server, peer, conn, _told);
    for number in 1..=9_u8 {
        server.handle().write(conn, vec![number; 300]).expect("it is open");
    }
    until("six are dropped", || server.stats().messages_dropped == 6);
    peer.expect(pattern(world.stuck()));
    peer.expect([[7; 300], [8; 300], [9; 300]].concat());
    server.handle().write(conn, "then").expect("it is open");
    peer.expect("then");
}

fn r15_past_the_cap_only_the_latest_is_kept(world: &World) {
    stuck!(world, Overflow::KeepLatest, server, peer, conn, _told);
    for number in 1..=8_u8 {
        server.handle().write(conn, vec![number; 600]).expect("it is open");
    }
    until("all but the last are dropped", || server.stats().messages_dropped == 7);
    peer.expect(pattern(world.stuck()));
    peer.expect([8; 600]);
    server.handle().write(conn, "then").expect("it is open");
    peer.expect("then");
}

fn r31_hooks_run_before_and_after_a_send(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<u32>::new(&tell);
        calls.open = Box::new(|conn| {
            conn.hook_writes(true);
            0
        });
        calls.data = Box::new(|count, conn, input| {
            *count += input.take().len() as u32;
            if *count == 3 {
                // Much would otherwise leave as soon as this returns.
                conn.write(pattern(100_000));
                conn.write("b");
            }
            Action::Continue
        });
        // A frame around all that the turn wrote: its end is written here.
        calls.flush = Box::new(|_, conn| conn.write("|"));
        calls.sent = Box::new(|_, conn| {
            conn.hook_writes(false);
            conn.write("c");
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("xyz");
    peer.expect(pattern(100_000));
    peer.expect("b|c");
    std::thread::sleep(Duration::from_millis(5));
    let all: Vec<String> = told.all().into_iter().filter(|text| text != "data").collect();
    assert_eq!(all, ["open", "flush", "sent 100002"]);
}
