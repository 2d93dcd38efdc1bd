//! R17 and R18: timers, deadlines and the idle time-out.

use std::time::{Duration, Instant};

use kolk::server::Action;

use crate::support::{Calls, PATIENCE, World, everywhere, on_real_kernels, start, telling, until};

everywhere!(
    r17_an_idle_connection_is_closed,
    r17_a_connection_may_have_its_own_idle_time_out,
    r17_a_read_deadline_closes_unless_it_is_cleared,
    r17_a_write_deadline_ends_a_peer_that_does_not_read,
    r18_timers_of_a_connection_are_set_moved_and_cancelled,
    r18_tasks_run_on_the_loop_and_can_be_cancelled,
    r18_the_tick_chooses_its_own_delay,
);

on_real_kernels!(
    r17_a_message_costs_no_timer_operation,
    r17_idle_is_measured_for_each_direction,
    r17_many_idle_connections_close_in_time,
);

const IDLE: Duration = Duration::from_millis(200);

fn r17_an_idle_connection_is_closed(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().idle_timeout(IDLE), move || Calls::<()>::new(&tell));
    let mut peer = world.connect(&server);
    peer.send("hello");
    peer.expect("hello");
    let begin = Instant::now();
    peer.expect_end();
    let took = begin.elapsed();
    drop(peer); // the server waits for it
    assert_eq!(told.next_of("close"), "close: idle for too long");
    if world.is_real() {
        assert!(took >= IDLE * 9 / 10 && took < PATIENCE / 3, "{took:?}");
    }
}

fn r17_a_connection_may_have_its_own_idle_time_out(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().idle_timeout(Duration::from_secs(1000)), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(|(), conn, input| {
            conn.set_idle_timeout(if &*input.take() == b"s" { Some(IDLE) } else { None });
            Action::Continue
        });
        calls
    });
    let mut never = world.connect(&server);
    never.send("n");
    told.expect(&["open", "data"]);
    let mut soon = world.connect(&server);
    soon.send("s");
    soon.expect_end();
    drop(soon); // the server waits for it
    told.expect(&["open", "data", "close: idle for too long"]);
    until("one is left", || server.stats().connections == 1);
}

fn r17_a_read_deadline_closes_unless_it_is_cleared(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(|conn| conn.set_read_deadline(Some(IDLE)));
        calls.data = Box::new(|(), conn, input| {
            // Only a whole request clears it.
            if input.take().contains(&b'.') {
                conn.set_read_deadline(None);
                conn.set_timer(1, 2 * IDLE);
            }
            Action::Continue
        });
        calls
    });
    let mut slow = world.connect(&server);
    slow.send("no end");
    slow.expect_end();
    drop(slow); // the server waits for it
    assert_eq!(told.next_of("close"), "close: nothing arrived in time");
    let mut whole = world.connect(&server);
    whole.send(".");
    assert_eq!(told.next_of("timer"), "timer 1");
    until("the deadline is long past", || server.stats().connections == 1);
}

fn r17_a_write_deadline_ends_a_peer_that_does_not_read(world: &World) {
    let (tell, told) = telling();
    let stuck = world.stuck();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(move |conn| {
            conn.write(vec![1; stuck]);
            conn.set_write_deadline(Some(IDLE));
        });
        calls
    });
    // Virtual time runs while the peer's thread works.
    let reads = world.is_real().then(|| {
        let mut reads = world.connect(&server);
        reads.expect(vec![1; stuck]);
        reads
    });
    let mut does_not = world.connect(&server);
    assert_eq!(told.next_of("close"), "close: not sent in time");
    does_not.expect_close();
    let left = u64::from(reads.is_some());
    until("who reads is left", || server.stats().connections == left);
}

fn r18_timers_of_a_connection_are_set_moved_and_cancelled(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.open = Box::new(|conn| {
            conn.set_timer(1, Duration::from_millis(30));
            conn.set_timer(2, Duration::from_millis(60));
            conn.set_timer(3, Duration::from_millis(40));
            conn.set_timer(2, Duration::from_millis(10)); // moved
            assert!(conn.cancel_timer(3) && !conn.cancel_timer(3) && !conn.cancel_timer(4));
            conn.set_timer(u64::MAX, Duration::from_secs(1000)); // ends with the connection
        });
        calls.timer = Box::new(|(), conn, tag| match tag {
            1 => Action::Close,
            _ => {
                assert!(!conn.cancel_timer(tag), "it has fired");
                Action::Continue
            }
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.expect_end();
    drop(peer);
    told.expect(&["open", "timer 2", "timer 1", "close: closed by the handler"]);
}

fn r18_tasks_run_on_the_loop_and_can_be_cancelled(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        let tell = tell.clone();
        calls.start = Box::new(move |context| {
            let say = |text: &'static str| {
                let tell = tell.clone();
                move |_: &mut kolk::server::LoopContext<'_>| {
                    let _ = tell.send(text.into());
                }
            };
            context.run_after(Duration::from_millis(25), say("once"));
            let never = context.run_after(Duration::from_millis(15), say("never"));
            assert!(context.cancel(never) && !context.cancel(never));
            let mut beats = 0;
            let beat = say("beat");
            context.run_every(Duration::from_millis(10), move |context| {
                beats += 1;
                beat(context);
                assert!(beats < 5, "a task that panics runs no more, and the loop goes on");
            });
        });
        calls
    });
    until("the task has panicked", || server.stats().panics == 1);
    let mut peer = world.connect(&server);
    peer.send("still there");
    peer.expect("still there");
    let all = told.all();
    let count = |text: &str| all.iter().filter(|each| *each == text).count();
    assert_eq!((count("beat"), count("once"), count("never")), (5, 1, 0), "{all:?}");
}

fn r18_the_tick_chooses_its_own_delay(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        let (mut delays, tell) = ([3, 1, 20].into_iter(), tell.clone());
        calls.tick = Box::new(move |_| {
            let _ = tell.send("tick".into());
            delays.next().map(Duration::from_millis)
        });
        calls
    });
    told.expect(&["tick"; 4]);
    let mut peer = world.connect(&server);
    peer.send("x");
    peer.expect("x");
    assert_eq!(told.all().iter().filter(|text| *text == "tick").count(), 0, "`None` was the last");
}

fn r17_a_message_costs_no_timer_operation(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().idle_timeout(Duration::from_secs(60)), move || Calls::<()>::new(&tell));
    let mut peer = world.connect(&server);
    peer.send("first");
    peer.expect("first");
    told.next_of("data");
    until("the first is counted", || server.stats().messages == 1);
    let before = server.stats().timer_operations;
    assert!(before >= 1, "the time-out is set");
    for _ in 0..1000 {
        peer.send("message");
        peer.expect("message");
    }
    until("all are counted", || server.stats().messages >= 1001);
    assert_eq!(server.stats().timer_operations, before);
}

fn r17_idle_is_measured_for_each_direction(world: &World) {
    for (reads, builder) in
        [(true, world.server().read_idle_timeout(IDLE)), (false, world.server().write_idle_timeout(IDLE))]
    {
        let (tell, told) = telling();
        let server = start(builder, move || {
            let mut calls = Calls::<()>::new(&tell);
            calls.start = Box::new(move |context| {
                if reads {
                    // What is written does not count.
                    context.run_every(IDLE / 10, |context| context.broadcast("x"));
                }
            });
            calls.data = Box::new(|(), _, input| {
                input.take();
                Action::Continue
            });
            calls
        });
        let crate::support::Peer::Tcp(mut peer) = world.connect(&server) else {
            unreachable!("a real kernel")
        };
        let begin = Instant::now();
        // What is received counts on the other side only: this keeps up the reading of both.
        while begin.elapsed() < if reads { Duration::ZERO } else { 3 * IDLE } {
            if std::io::Write::write_all(&mut peer, b"y").is_err() {
                break;
            }
            std::thread::sleep(IDLE / 10);
        }
        // Its own end is in order, or a reset where it has not read what it was sent.
        let _ = std::io::copy(&mut peer, &mut std::io::sink());
        let took = begin.elapsed();
        drop(peer); // the server waits for it
        assert_eq!(told.next_of("close"), "close: idle for too long");
        assert!(took >= IDLE * 9 / 10, "{took:?}");
    }
}

fn r17_many_idle_connections_close_in_time(world: &World) {
    const CONNECTIONS: u64 = 500;
    let timeout = Duration::from_secs(2);
    let (tell, _told) = telling();
    let server = start(world.server().idle_timeout(timeout), move || Calls::<()>::new(&tell));
    let peers: Vec<_> = (0..CONNECTIONS).map(|_| world.connect(&server)).collect();
    until("all are open", || server.stats().connections == CONNECTIONS);
    let begin = Instant::now();
    std::thread::sleep(timeout / 2);
    assert_eq!(server.stats().connections, CONNECTIONS);
    // The server waits for the peers' own ends after its own.
    let ends = std::thread::spawn(move || peers.into_iter().for_each(|mut peer| peer.expect_end()));
    until("all are closed", || server.stats().connections == 0);
    let took = begin.elapsed();
    assert!(took < timeout * 3 / 2, "{took:?}");
    ends.join().expect("each ends in order");
}
