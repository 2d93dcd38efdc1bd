//! R24: slow work on a pool.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kolk::server::Action;

use crate::support::{Calls, PATIENCE, World, everywhere, on_real_kernels, start, telling, until};

everywhere!(
    r24_results_come_back_in_the_order_of_the_jobs,
    r24_a_full_pool_says_so,
    r24_a_result_for_a_closed_connection_is_dropped,
    r24_a_job_that_panics_closes_its_connection,
    r24_a_session_of_another_type_is_refused,
);

on_real_kernels!(r24_loops_never_stall_while_the_pool_works);

fn r24_results_come_back_in_the_order_of_the_jobs(world: &World) {
    let (tell, _told) = telling();
    let server = start(world.server().offload_pool(4, 100), move || {
        let mut calls = Calls::<u32>::new(&tell);
        calls.data = Box::new(|_, conn, input| {
            for number in input.take().iter().copied() {
                // The earlier ones take longer.
                let job = move || {
                    std::thread::sleep(Duration::from_millis(u64::from(b'z' - number)));
                    number
                };
                let offloaded = conn.offload(job, |done: &mut u32, conn, number| {
                    *done += 1;
                    conn.write(format!("{}{} ", char::from(number), *done).into_bytes());
                });
                offloaded.expect("there is room");
            }
            Action::Continue
        });
        calls
    });
    let mut peers = [world.connect(&server), world.connect(&server)];
    for peer in &mut peers {
        peer.send("pqrstuvwxyz");
    }
    for peer in &mut peers {
        peer.expect("p1 q2 r3 s4 t5 u6 v7 w8 x9 y10 z11 ");
    }
    assert_eq!(server.stats().jobs, 22);
}

/// A job that waits until the test lets it go.
fn gate() -> (std::sync::mpsc::Sender<()>, Arc<Mutex<Receiver<()>>>) {
    let (open, gate) = channel();
    (open, Arc::new(Mutex::new(gate)))
}

fn pass(gate: &Mutex<Receiver<()>>) {
    let _ = gate.lock().expect("nobody panics here").recv_timeout(PATIENCE);
}

fn r24_a_full_pool_says_so(world: &World) {
    let (tell, _told) = telling();
    let (open, gate) = gate();
    let (begun, has_begun) = channel();
    let server = start(world.server().offload_pool(1, 2), move || {
        let (mut calls, gate, begun) = (Calls::<()>::new(&tell), Arc::clone(&gate), begun.clone());
        calls.data = Box::new(move |(), conn, input| {
            for _ in 0..input.take().len() {
                let (gate, begun) = (Arc::clone(&gate), begun.clone());
                let job = move || {
                    // Only the first is waited for.
                    let _ = begun.send(());
                    pass(&gate);
                };
                let offloaded = conn.offload(job, |(): &mut (), conn, ()| conn.write("done "));
                if let Err(error) = offloaded {
                    assert!(error.is_busy(), "{error}");
                    conn.write("busy ");
                }
            }
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    let mut other = world.connect(&server);
    peer.send("x");
    has_begun.recv_timeout(PATIENCE).expect("the job begins");
    // One runs, two wait, and there is no room for more; also not for another connection.
    peer.send("xxxxx");
    peer.expect("busy busy busy ");
    other.send("x");
    other.expect("busy ");
    (0..3).for_each(|_| open.send(()).expect("somebody waits"));
    peer.expect("done done done ");
    other.send("x");
    open.send(()).expect("somebody waits");
    other.expect("done ");
}

fn r24_a_result_for_a_closed_connection_is_dropped(world: &World) {
    let (tell, told) = telling();
    let (open, gate) = gate();
    let server = start(world.server().offload_pool(1, 10), move || {
        let (mut calls, gate) = (Calls::<()>::new(&tell), Arc::clone(&gate));
        calls.data = Box::new(move |(), conn, input| {
            input.take();
            let gate = Arc::clone(&gate);
            conn.offload(move || pass(&gate), |(): &mut (), _, ()| panic!("nobody is there")).expect("room");
            Action::Close
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("x");
    peer.expect_end();
    drop(peer);
    told.next_of("close");
    open.send(()).expect("the job waits");
    let mut next = world.connect(&server);
    told.next_of("open");
    next.shutdown_write();
    next.expect_end();
    assert_eq!(server.stats().panics, 0);
}

fn r24_a_job_that_panics_closes_its_connection(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(move |(), conn, input| {
            input.take();
            let job = || assert!(std::hint::black_box(false), "this test's job panics");
            conn.offload(job, |(): &mut (), conn, ()| conn.write("never")).expect("there is room");
            Action::Continue
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("x");
    assert_eq!(told.next_of("close"), "close: the handler panicked");
    peer.expect_close();
    until("it is counted", || server.stats().panics == 1);
}

fn r24_a_session_of_another_type_is_refused(world: &World) {
    let (tell, _told) = telling();
    let server = start(world.server(), move || {
        let mut calls = Calls::<u32>::new(&tell);
        calls.data = Box::new(move |_, conn, input| {
            input.take();
            let error = conn.offload(|| (), |_: &mut String, _, ()| ()).expect_err("another type");
            assert!(error.is_invalid_input());
            conn.write(error.to_string().into_bytes());
            Action::Close
        });
        calls
    });
    let mut peer = world.connect(&server);
    peer.send("x");
    let text = String::from_utf8(peer.rest()).expect("text");
    assert!(text.contains("String") && text.contains("u32"), "{text}");
}

/// Jobs of 8 ms on a pool of 4, from many connections: what they cannot take is refused, and no turn takes long.
fn r24_loops_never_stall_while_the_pool_works(world: &World) {
    const CONNECTIONS: usize = 200;
    let (tell, told) = telling();
    drop(told);
    let server = start(world.server().offload_pool(4, 64), move || {
        let mut calls = Calls::<()>::new(&tell);
        calls.data = Box::new(move |(), conn, input| {
            for byte in input.take().iter().copied() {
                let job = move || {
                    std::thread::sleep(Duration::from_millis(8));
                    byte
                };
                if conn.offload(job, |(): &mut (), conn, byte| conn.write_copy(&[byte])).is_err() {
                    conn.write("-");
                }
            }
            Action::Continue
        });
        calls
    });
    let mut peers: Vec<_> = (0..CONNECTIONS).map(|_| world.connect(&server)).collect();
    let mut refused = 0;
    for _ in 0..2 {
        peers.iter_mut().for_each(|peer| peer.send("ab"));
        for peer in &mut peers {
            let mut answer = [0; 2];
            std::io::Read::read_exact(peer, &mut answer).expect("an answer to each");
            let done: Vec<u8> = answer.into_iter().filter(|&byte| byte != b'-').collect();
            assert!(done.is_sorted(), "in order: {answer:?}");
            refused += 2 - done.len();
        }
    }
    let stats = server.stats();
    assert_eq!(stats.jobs as usize + refused, 4 * CONNECTIONS);
    assert!(refused > 0, "200 jobs do not fit into a queue of 64");
    // The jobs that were done take 8 ms each; a loop that did one of them would have been deaf for as long. The
    // machine's other work may hold it up for a moment, though, so the bound is that of one job done twice.
    assert!(stats.longest_turn < Duration::from_millis(16 + 8 * 8), "{:?}", stats.longest_turn);
}
