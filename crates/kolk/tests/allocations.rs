//! No heap allocation for a message in steady state, and little for a connection, counted by the allocator itself.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kolk::DriverKind;
use support::{connect, echo, on_each_driver, server};

/// The system's allocator, counting on the loops' threads: a test's own threads allocate as they like.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Bytes that the loops have allocated and not given back.
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static COUNTED: bool = std::thread::current().name().is_some_and(|name| name.starts_with("kolk-loop"));
}

/// Counts a call that allocates, if any, and the bytes that are more for it, or less.
fn count(allocations: u64, bytes: i64) {
    // A thread that is starting or ending has no name to ask for.
    if COUNTED.try_with(|counted| *counted).unwrap_or(false) {
        ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

on_each_driver!(
    a_message_costs_no_allocation,
    a_datagram_costs_no_allocation,
    a_broadcast_costs_no_allocation_for_each_receiver,
    a_member_of_a_group_costs_little,
);

/// One at a time: the counter is the process's.
static ONE: Mutex<()> = Mutex::new(());

fn a_message_costs_no_allocation(driver: DriverKind) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    const CONNECTIONS: usize = 50;
    const ROUNDS: usize = 200;
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(echo).expect("a free port");
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server, 0)).collect();
    // Small messages are copied, larger ones sent from where they were received. None is so large that a send
    // buffer takes it only in part: what a peer does not read moves to the heap, which is not steady state.
    for size in [64, 1024, 4096] {
        let message = vec![7; size];
        let mut answer = vec![0; size];
        for _ in 0..ROUNDS / 4 {
            round(&mut streams, &message, &mut answer);
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..ROUNDS {
            round(&mut streams, &message, &mut answer);
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // Batches differ in size by chance. The largest yet makes up to one out-queue a connection, each of
        // three allocations, once; a message costs nothing, however many there are.
        let messages = CONNECTIONS * ROUNDS;
        let once = 3 * CONNECTIONS as u64;
        assert!(allocations <= once, "{allocations} allocations for {messages} messages of {size} bytes");
    }
}

fn round(streams: &mut [TcpStream], message: &[u8], answer: &mut [u8]) {
    for stream in streams.iter_mut() {
        stream.write_all(message).expect("the server reads");
    }
    for stream in streams.iter_mut() {
        stream.read_exact(answer).expect("the server answers");
        assert!(answer == message);
    }
}

fn a_datagram_costs_no_allocation(driver: DriverKind) {
    use kolk::server::{Action, Conn, Datagram, DatagramSocket, Handler, Input};

    struct Echo;
    impl Handler for Echo {
        type Session = ();
        fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
            // Half of them by copy, half from where they were received.
            let sent = match datagram.bytes.first() {
                Some(0) => socket.send_copy_to(&datagram.from, &datagram.bytes),
                _ => socket.send_to(&datagram.from, datagram.bytes),
            };
            sent.expect("the queue has room");
        }
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    const ROUNDS: usize = 300;
    let server =
        server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(|_| Echo).expect("a free port");
    let address = server.addresses()[0].trim_start_matches("udp://").to_owned();
    let peers: Vec<_> = (0..40u8)
        .map(|number| {
            let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
            peer.connect(&address).expect("an address");
            peer.set_read_timeout(Some(support::PATIENCE)).expect("positive");
            (peer, [number % 2; 512])
        })
        .collect();
    let round = || {
        for (peer, message) in &peers {
            peer.send(message).expect("it leaves");
        }
        for (peer, message) in &peers {
            let mut answer = [0; 513];
            assert_eq!(peer.recv(&mut answer).expect("an answer"), 512);
            assert_eq!(&answer[..512], message);
        }
    };
    (0..ROUNDS / 4).for_each(|_| round());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..ROUNDS).for_each(|_| round());
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The largest batch yet lets the queues grow, a few times.
    assert!(allocations <= 40, "{allocations} allocations for {} datagrams", ROUNDS * peers.len());
}

fn a_broadcast_costs_no_allocation_for_each_receiver(driver: DriverKind) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    const CONNECTIONS: usize = 1000; // several turns' worth
    const ROUNDS: u64 = 50;
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(echo).expect("a free port");
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server, 0)).collect();
    support::until("all are accepted", || server.stats().connections == CONNECTIONS as u64);
    // The one is copied, the other shared.
    for size in [512, 2000] {
        let mut answer = vec![0; size];
        let mut push = || {
            server.handle().broadcast(vec![7; size]).expect("it runs");
            for stream in &mut streams {
                stream.read_exact(&mut answer).expect("the message comes");
            }
        };
        (0..5).for_each(|_| push());
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..ROUNDS).for_each(|_| push());
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // The first time that the loop shares bytes it counts their owners: one. The rest is chance, see above.
        assert!(
            allocations <= 4 * ROUNDS,
            "{allocations} allocations for {ROUNDS} messages of {size} bytes to all"
        );
    }
}

/// Beyond what a connection costs that is in none: its own list, and its place in the group's.
fn a_member_of_a_group_costs_little(driver: DriverKind) {
    use kolk::server::{Action, Conn, Handler, Input};

    /// Joins what its first byte says: nothing, or a group.
    struct Joining;
    impl Handler for Joining {
        type Session = ();

        fn on_open(&mut self, _: &mut Conn<'_>) {}

        fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
            if &*input.take() == b"join" {
                conn.join("a room with a name");
            }
            conn.write("done");
            Action::Continue
        }
    }

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // A little less than the group's table has room for.
    const MEMBERS: usize = 800;
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(|_| Joining);
    let server = server.expect("a free port");
    let mut streams: Vec<_> = (0..MEMBERS).map(|_| connect(&server, 0)).collect();
    let mut ask = |what: &[u8; 4]| {
        for stream in &mut streams {
            stream.write_all(what).expect("the server reads");
            stream.read_exact(&mut [0; 4]).expect("the server answers");
        }
        HELD.load(Ordering::Relaxed)
    };
    let before = ask(b"none");
    let each = (ask(b"join") - before) / MEMBERS as i64;
    assert!((16..200).contains(&each), "{each} bytes for each member");
}
