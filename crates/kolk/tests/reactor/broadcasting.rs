//! R13 for so many receivers that one turn does not write to all.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use kolk::server::{Action, Group};

use crate::support::{Calls, PATIENCE, World, everywhere, names, on_real_kernels, start, telling};

everywhere!(r13_a_broadcast_of_several_turns_keeps_the_order_of_who_asked);

on_real_kernels!(r13_who_leaves_while_a_broadcast_is_under_way_does_not_get_it);

fn r13_a_broadcast_of_several_turns_keeps_the_order_of_who_asked(world: &World) {
    // More than one turn writes to; the storms take their time.
    let crowd = if world.is_real() { 600 } else { 280 };
    let (tell, told) = telling();
    let (tell_name, name) = names();
    let server = start(world.server(), move || {
        let (mut calls, tell_name) = (Calls::<()>::new(&tell), tell_name.clone());
        calls.open = Box::new(move |conn| {
            conn.join("crowd");
            tell_name.send(conn.id()).expect("the test waits");
        });
        calls.data = Box::new(|(), conn, input| {
            input.take();
            let own = conn.id();
            let mut context = conn.context();
            context.broadcast("4");
            context.write(own, "own");
            context.broadcast_to("crowd", "5");
            Action::Continue
        });
        calls
    });
    let mut peers: Vec<_> = (0..crowd).map(|_| world.connect(&server)).collect();
    let conns: Vec<_> = peers.iter().map(|_| name()).collect();
    told.next_of("open");
    let handle = server.handle();
    handle.broadcast("1").expect("it runs");
    for conn in &conns {
        handle.write(*conn, "2").expect("it is open");
    }
    handle.broadcast_to("crowd", "3").expect("it runs");
    peers.iter_mut().for_each(|peer| peer.expect("123"));
    peers[crowd / 2].send("x"); // a single byte: one call
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.expect(if number == crowd / 2 { "4own5" } else { "45" });
    }
    handle.broadcast("6").expect("it runs");
    handle.close(conns[crowd - 1]).expect("it is open");
    for peer in &mut peers {
        peer.expect("6");
    }
    peers[crowd - 1].expect_end();
}

fn r13_who_leaves_while_a_broadcast_is_under_way_does_not_get_it(world: &World) {
    // Enough turns for a loop whose kernel interface reports many sends before one receive.
    const CROWD: usize = 1500;
    let (tell, told) = telling();
    let (tell_sent, sent) = channel();
    let (tell_go_on, go_on) = channel();
    let server = start(world.server(), {
        let go_on = Mutex::new(Some(go_on));
        move || {
            let (mut calls, tell_sent) = (Calls::<()>::new(&tell), tell_sent.clone());
            let mut go_on = go_on.lock().expect("no test panics here").take();
            let mut count = 0;
            calls.open = Box::new(move |conn| {
                conn.join("crowd");
                conn.hook_writes(count == 0);
                count += 1;
            });
            // The first has its message, most do not: the loop stands until the last has said that it leaves.
            calls.sent = Box::new(move |(), _| {
                tell_sent.send(()).expect("the test waits");
                if let Some(go_on) = go_on.take() {
                    go_on.recv_timeout(PATIENCE).expect("the test goes on");
                }
                Action::Continue
            });
            calls.data = Box::new(|(), conn, input| {
                input.take();
                assert!(conn.leave(&Group::new("crowd")));
                conn.write("left");
                Action::Continue
            });
            calls
        }
    });
    let mut peers: Vec<_> = (0..CROWD).map(|_| world.connect(&server)).collect();
    for _ in &peers {
        told.next_of("open");
    }
    server.handle().broadcast_to("crowd", "to those who stay").expect("it runs");
    sent.recv_timeout(PATIENCE).expect("the first gets its message");
    peers[CROWD - 1].send("l");
    tell_go_on.send(()).expect("the loop stands");
    peers[CROWD - 1].expect("left");
    peers[..CROWD - 1].iter_mut().for_each(|peer| peer.expect("to those who stay"));
    server.handle().broadcast("end").expect("it runs");
    peers[CROWD - 1].expect("end");
    drop(tell_go_on);
}
