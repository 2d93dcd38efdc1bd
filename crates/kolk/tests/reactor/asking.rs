//! R12 to R14, R29 and L05: what other threads ask of connections, of groups and of all.

use std::sync::mpsc::channel;
use std::thread;

use bytes::Bytes;
use kolk::ConnId;
use kolk::server::{Action, Group};

use crate::support::{
    Calls, PATIENCE, World, everywhere, names, on_real_kernels, pattern, start, telling, until,
};

everywhere!(
    r12_any_thread_writes_closes_and_runs_closures,
    r12_a_write_is_answered_once_it_has_left,
    r12_a_stale_id_is_answered_and_harmless,
    r12_a_request_never_overwrites_unsent_output,
    r13_a_broadcast_reaches_all_or_a_group,
    r13_groups_are_left_at_the_end_of_a_connection,
    r14_messages_are_typed_and_keep_their_order,
    r29_counters_and_names_of_a_loop,
);

on_real_kernels!(
    l05_eight_threads_write_to_one_connection_in_order,
    r13_a_broadcast_costs_one_wake_up_a_loop,
);

fn r12_any_thread_writes_closes_and_runs_closures(world: &World) {
    let (tell, told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<u32>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            tell_name.send(conn.id()).expect("the test waits");
            40
        });
        calls
    });
    let mut peer = world.connect(&server);
    let (conn, handle) = (name(), server.handle().clone());
    thread::spawn(move || {
        handle.write(conn, "one, ").expect("it is open");
        handle.run(conn, |number, conn| conn.write(format!("{}, ", *number + 2).into_bytes())).expect("open");
        handle.write(conn, "three").expect("it is open");
        handle.close(conn).expect("it is open");
    });
    assert_eq!(String::from_utf8_lossy(&peer.rest()), "one, 42, three");
    drop(peer);
    told.expect(&["open", "close: closed by the handler"]);
    let mut peer = world.connect(&server);
    server.handle().close_now(name()).expect("it is open");
    peer.expect_close();
}

fn r12_a_write_is_answered_once_it_has_left(world: &World) {
    let (tell, _told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| tell_name.send(conn.id()).expect("the test waits"));
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    let (tell_done, done) = channel();
    for (number, len) in [(0, 30_000), (1, 10), (2, 70_000)] {
        let tell = tell_done.clone();
        let notice =
            move |result: kolk::Result<()>| tell.send((number, result.is_ok())).expect("the test waits");
        server.handle().write_then(conn, pattern(len), notice).expect("it is open");
    }
    // They may leave in one send, and then the end of it answers all.
    for len in [30_000, 10, 70_000] {
        peer.expect(pattern(len));
    }
    for number in 0..3 {
        assert_eq!(done.recv_timeout(PATIENCE), Ok((number, true)));
    }
    // More than any buffer takes, and a peer that goes. What the kernel takes for a peer that has just gone counts as
    // taken; the real one knows of the reset by then.
    let is_real = world.is_real();
    let notice = move |result: kolk::Result<()>| {
        assert!(!is_real || result.as_ref().is_err_and(kolk::Error::is_not_connected), "{result:?}");
        tell_done.send((3, true)).expect("the test waits");
    };
    server.handle().write_then(conn, vec![0; world.stuck()], notice).expect("it is open");
    // It is under way by now.
    peer.expect([0; 1]);
    peer.reset();
    assert_eq!(done.recv_timeout(PATIENCE), Ok((3, true)));
}

fn r12_a_stale_id_is_answered_and_harmless(world: &World) {
    let (tell, told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| tell_name.send(conn.id()).expect("the test waits"));
        calls
    });
    let handle = server.handle().clone();
    let mut peer = world.connect(&server);
    let stale = name();
    peer.shutdown_write();
    peer.expect_end();
    told.next_of("close");
    until("its name is stale", || !handle.is_open(stale));
    // The next has the same slot.
    let mut peer = world.connect(&server);
    let fresh = name();
    assert_eq!((stale.key().index(), stale == fresh), (fresh.key().index(), false));
    let elsewhere = ConnId::new(77, fresh.key());
    for conn in [stale, elsewhere] {
        let answers = [
            handle.write(conn, "x"),
            handle.write_then(conn, "x", |_| panic!("nobody writes")),
            handle.close(conn),
            handle.close_now(conn),
            handle.message(conn, ()),
            handle.run(conn, |(), _| panic!("nobody runs")),
        ];
        for answer in answers {
            let error = answer.expect_err("a stale name");
            assert!(error.is_not_connected() && !error.is_server_stopped(), "{error}");
        }
    }
    // Those that come too late to be answered find nobody either.
    let late = stale;
    handle
        .run(fresh, move |(), conn| {
            conn.context().write(late, "x");
            conn.context().close_now(late);
        })
        .expect("it is open");
    peer.send("unharmed");
    peer.expect("unharmed");
    drop(server);
    let error = handle.broadcast("x").expect_err("nobody is there");
    assert!(error.is_server_stopped(), "{error}");
    assert!(handle.write(fresh, "x").is_err());
}

/// A bug of others: what another thread wrote took the place of what was not sent yet.
fn r12_a_request_never_overwrites_unsent_output(world: &World) {
    let (tell, _told) = telling();
    let (tell_name, name) = names();
    let stuck = world.stuck();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            conn.write(pattern(stuck));
            tell_name.send(conn.id()).expect("the test waits");
        });
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    for number in 0..50 {
        server.handle().write(conn, format!("<{number}>").into_bytes()).expect("it is open");
    }
    peer.expect(pattern(stuck));
    peer.expect((0..50).map(|number| format!("<{number}>")).collect::<String>());
}

fn r13_a_broadcast_reaches_all_or_a_group(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), conn, input| {
            let room = Group::from("red");
            match &*input.take() {
                b"j" => assert!(conn.join("red") && !conn.join(&room)),
                b"l" => assert!(conn.leave(&room) && !conn.leave(&room)),
                // To the others of the loop, from inside.
                _ => conn.context().broadcast_to(&room, "inside "),
            }
            conn.write("ok ");
            Action::Continue
        });
        calls
    });
    let handle = server.handle();
    let mut peers: Vec<_> = (0..3).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    for peer in &mut peers[..2] {
        peer.send("j");
        peer.expect("ok ");
    }
    handle.broadcast_to("red", "to red ").expect("it runs");
    handle.broadcast_to("nobody joined this", "to nobody").expect("an empty group is none");
    handle.broadcast(Bytes::from(pattern(2000))).expect("it runs");
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.expect(if index < 2 { "to red " } else { "" });
        peer.expect(pattern(2000));
    }
    peers[0].send("l");
    peers[0].expect("ok ");
    peers[2].send("b");
    peers[2].expect("ok ");
    peers[1].expect("inside ");
    handle.broadcast_on(0, "end").expect("there is one loop");
    assert!(handle.broadcast_on(1, "end").is_err_and(|error| error.is_invalid_input()));
    peers.iter_mut().for_each(|peer| peer.expect("end"));
}

fn r13_groups_are_left_at_the_end_of_a_connection(world: &World) {
    let (tell, told) = telling();
    let (tell_len, len) = channel();
    let server = start(world.server(), move || {
        let (mut calls, tell_len) = (Calls::<()>::new(&tell), tell_len.clone());
        calls.open = Box::new(|conn| {
            assert!(conn.join("all") && conn.join(format!("{}", conn.id())));
        });
        calls.close = Box::new(move |(), conn| {
            assert!(!conn.join("too late"));
            tell_len.send(conn.context().group_len(&Group::new("all"))).expect("the test waits");
        });
        calls
    });
    let peers: Vec<_> = (0..5).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    let mut left = 5;
    for peer in peers {
        drop(peer);
        left -= 1;
        assert_eq!(len.recv_timeout(PATIENCE), Ok(left));
    }
    server.handle().broadcast_to("all", "nobody hears").expect("it runs");
}

/// What is sent to a connection.
#[derive(Debug)]
enum Letter {
    Text(&'static str),
    Number(Box<u64>),
}

fn r14_messages_are_typed_and_keep_their_order(world: &World) {
    let (tell, _told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<Vec<String>, Letter>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            tell_name.send(conn.id()).expect("the test waits");
            Vec::new()
        });
        calls.message = Box::new(|seen, conn, letter| {
            match letter {
                Letter::Text(text) => seen.push(text.to_owned()),
                Letter::Number(number) => seen.push(number.to_string()),
            }
            if seen.len() < 3 {
                return Action::Continue;
            }
            conn.write(seen.join(" ").into_bytes());
            Action::Close
        });
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    for letter in [Letter::Text("one"), Letter::Number(Box::new(2)), Letter::Text("three")] {
        server.handle().message(conn, letter).expect("it is open");
    }
    assert_eq!(String::from_utf8_lossy(&peer.rest()), "one 2 three");
}

fn r29_counters_and_names_of_a_loop(world: &World) {
    let (tell, told) = telling();
    let (tell_names, conns) = channel();
    let server = start(world.server(), move || {
        let (mut calls, tell_names) = (Calls::<()>::new(&tell), tell_names.clone());
        calls.data = Box::new(move |(), conn, input| {
            conn.write(input.take());
            let me = conn.id();
            let context = conn.context();
            let all: Vec<ConnId> = context.conns().collect();
            assert!(all.contains(&me) && all.len() as u64 == context.connections());
            tell_names.send(all).expect("the test waits");
            Action::Continue
        });
        calls
    });
    let mut peers: Vec<_> = (0..3).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    peers[1].send("x");
    peers[1].expect("x");
    assert_eq!(conns.recv_timeout(PATIENCE).expect("told").len(), 3);
    until("it is counted", || server.stats().bytes_sent == 1);
    let stats = server.stats();
    assert_eq!((stats.connections, stats.accepted, stats.refused), (3, 3, 0));
    assert_eq!((stats.messages, stats.bytes_received, stats.panics), (1, 1, 0));
    assert!(stats.turns > 0);
    assert_eq!(server.handle().loop_stats().len(), 1);
    server.handle().for_each(|(), conn| conn.write("each")).expect("it runs");
    peers.iter_mut().for_each(|peer| peer.expect("each"));
    until("the requests are counted", || server.stats().requests >= 1);
}

/// A bug of others: a deadlock, or another order, when many threads write to one connection.
fn l05_eight_threads_write_to_one_connection_in_order(world: &World) {
    const THREADS: usize = 8;
    const LINES: usize = 2000;
    let (tell, _told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| tell_name.send(conn.id()).expect("the test waits"));
        calls
    });
    let mut peer = world.connect(&server);
    let conn = name();
    let mut text = vec![0; THREADS * LINES * 8];
    thread::scope(|scope| {
        for number in 0..THREADS {
            let handle = server.handle();
            scope.spawn(move || {
                for line in 0..LINES {
                    handle.write(conn, format!("{number} {line:05}\n").into_bytes()).expect("it is open");
                }
            });
        }
        std::io::Read::read_exact(&mut peer, &mut text).expect("all lines");
    });
    let mut next = [0; THREADS];
    for line in String::from_utf8(text).expect("text").lines() {
        let (thread, number) = line.split_once(' ').expect("whole lines");
        let thread: usize = thread.parse().expect("a number");
        assert_eq!(number.parse(), Ok(next[thread]), "{line}");
        next[thread] += 1;
    }
    assert_eq!(next, [LINES; THREADS]);
}

fn r13_a_broadcast_costs_one_wake_up_a_loop(world: &World) {
    const CONNECTIONS: usize = 50;
    const ROUNDS: u64 = 20;
    let (tell, told) = telling();
    let server = start(world.server(), move || Calls::<()>::new(&tell));
    let mut peers: Vec<_> = (0..CONNECTIONS).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    let before = server.stats();
    for _ in 0..ROUNDS {
        server.handle().broadcast(vec![7; 1000]).expect("it runs");
        peers.iter_mut().for_each(|peer| peer.expect([7; 1000]));
    }
    let after = server.stats();
    assert_eq!(after.requests - before.requests, ROUNDS);
    assert!(after.wake_ups - before.wake_ups <= ROUNDS);
}
