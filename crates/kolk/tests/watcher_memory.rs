//! What the watcher costs in memory, counted by the allocator itself: bytes of an idle connection, and
//! allocations of a message.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use kolk::watcher::{Completion, Completions, Operation, Request, Watcher};
use kolk::{ConnId, DriverChoice, DriverKind};

/// The system's allocator, counting for each thread: a watcher allocates on its own thread only.
struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as isize - layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

macro_rules! on_each_driver {
    ($($test:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::IoUring); })+
        }
        mod epoll {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::Epoll); })+
        }
    };
}

on_each_driver!(
    an_idle_connection_with_a_pooled_read_is_small,
    an_idle_connection_that_has_talked_is_as_small,
    a_pooled_read_and_the_write_of_its_lease_cost_no_allocation,
    a_read_and_the_write_of_its_buffer_cost_no_allocation,
    exact_reads_and_lines_cost_no_allocation,
);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors are the process's: one crowd at a time.
static CROWD: Mutex<()> = Mutex::new(());

fn watcher(driver: DriverKind) -> Watcher<u64> {
    let watcher = Watcher::builder().driver(DriverChoice::Only(driver)).build();
    watcher.unwrap_or_else(|error| panic!("{driver}: {error}"))
}

/// Growth from 1000 to 10 000, so that what a watcher has but once does not count.
fn an_idle_connection_with_a_pooled_read_is_small(driver: DriverKind) {
    let _one = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let (few, many) = (1000, raise_descriptor_limit().saturating_sub(200).min(10_000));
    if many < 2 * few {
        println!("SKIPPED: this process may have no {} descriptors", 2 * few + 200);
        return;
    }
    // Duplicates of one end: each is a stream of its own to the watcher, and none needs a peer's descriptor.
    let (near, _far) = UnixStream::pair().expect("a descriptor is free");
    let mut watcher = watcher(driver);
    let mut completions = Completions::default();
    let mut live = Vec::with_capacity(2);
    for n in 0..many {
        if n == few {
            live.push(LIVE_BYTES.get());
        }
        let stream = near.try_clone().expect("a descriptor is free");
        let conn = watcher.adopt(stream).expect("a slot is free");
        watcher.read_pooled(conn, n as u64).expect("an open stream");
        let ready = watcher.wait(&mut completions, Some(Duration::ZERO)).expect("the watcher goes on");
        assert_eq!(ready, 0, "{driver}: nothing comes");
    }
    live.push(LIVE_BYTES.get());
    let each = (live[1] - live[0]) / (many - few) as isize;
    println!("{driver}: {each} bytes a connection ({} at {few}, {} at {many})", live[0], live[1]);
    assert!(each <= 320, "{driver}: {each} bytes a connection");
}

/// As above, each after an echo: what a message needed is not kept for the next one.
fn an_idle_connection_that_has_talked_is_as_small(driver: DriverKind) {
    let _one = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let (few, many) = (1000, (raise_descriptor_limit().saturating_sub(200) / 2).min(5000));
    if many < 2 * few {
        println!("SKIPPED: this process may have no {} descriptors", 4 * few + 200);
        return;
    }
    let mut peers = Vec::with_capacity(many);
    let mut watcher = watcher(driver);
    let mut completions = Completions::default();
    let mut live = Vec::with_capacity(2);
    for n in 0..many {
        if n == few {
            live.push(LIVE_BYTES.get());
        }
        let (near, mut far) = UnixStream::pair().expect("a descriptor is free");
        let conn = watcher.adopt(near).expect("a slot is free");
        watcher.read_pooled(conn, n as u64).expect("an open stream");
        far.write_all(b"hello").expect("an open stream");
        for _ in 0..2 {
            watcher.wait(&mut completions, Some(PATIENCE)).expect("the watcher goes on");
            let done = completions.pop().expect("one of two");
            assert_eq!(done.result.expect("nothing fails"), 5, "{driver}");
            if done.operation == Operation::ReadPooled {
                watcher.write(conn, 0, done.buffer).expect("an open stream");
            }
        }
        watcher.read_pooled(conn, n as u64).expect("an open stream");
        watcher.wait(&mut completions, Some(Duration::ZERO)).expect("the watcher goes on");
        peers.push(far);
    }
    live.push(LIVE_BYTES.get());
    let each = (live[1] - live[0]) / (many - few) as isize;
    println!("{driver}: {each} bytes a connection that has talked");
    assert!(each <= 320, "{driver}: {each} bytes a connection");
}

fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What it refuses, the answer tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}

fn a_pooled_read_and_the_write_of_its_lease_cost_no_allocation(driver: DriverKind) {
    cost_no_allocation(
        driver,
        |watcher, conn, _| watcher.submit(Request::read_pooled(conn, 0)).map(drop),
        |watcher, done| watcher.read_pooled(done.conn, 0),
    );
}

fn a_read_and_the_write_of_its_buffer_cost_no_allocation(driver: DriverKind) {
    cost_no_allocation(
        driver,
        |watcher, conn, size| watcher.read(conn, 0, BytesMut::with_capacity(size)),
        |watcher, done| watcher.read(done.conn, 0, done.buffer.recycle()),
    );
}

/// A deadline comes with each read, and goes again.
fn exact_reads_and_lines_cost_no_allocation(driver: DriverKind) {
    cost_no_allocation(
        driver,
        |watcher, conn, size| watcher.read_exact(conn, 0, BytesMut::with_capacity(size)),
        |watcher, done| {
            let buffer = done.buffer.recycle();
            watcher.submit(Request::read_exact(done.conn, 0, buffer).timeout(PATIENCE)).map(drop)
        },
    );
    cost_no_allocation(
        driver,
        |watcher, conn, size| watcher.read_until(conn, 0, "\n", size),
        |watcher, done| {
            let limit = done.buffer.len();
            watcher.submit(Request::read_until(done.conn, 0, "\n", limit).timeout(PATIENCE)).map(drop)
        },
    );
}

/// `begin` submits the first read of a connection, `next` that after a write.
fn cost_no_allocation(
    driver: DriverKind,
    begin: impl Fn(&mut Watcher<u64>, ConnId, usize) -> kolk::Result<()>,
    next: impl Fn(&mut Watcher<u64>, Completion<u64>) -> kolk::Result<()>,
) {
    const ROUNDS: u64 = 200;
    // The smaller ones are copied, the larger ones sent from where they lie.
    for size in [64, 1024, 4096] {
        let mut echo = Echo::new(driver);
        for &conn in &echo.conns {
            begin(&mut echo.watcher, conn, size).expect("an open stream");
        }
        let mut message = vec![7; size];
        message[size - 1] = b'\n';
        let mut answer = vec![0; size];
        for _ in 0..ROUNDS / 4 {
            echo.round(&message, &mut answer, &next);
        }
        let before = ALLOCATIONS.get();
        for _ in 0..ROUNDS {
            echo.round(&message, &mut answer, &next);
        }
        let allocations = ALLOCATIONS.get() - before;
        let messages = ROUNDS * CONNECTIONS as u64;
        println!("{driver}: {allocations} allocations for {messages} messages of {size} bytes");
        assert_eq!(allocations, 0, "{driver}: for {messages} messages of {size} bytes");
    }
}

/// Connections that send back what comes, and their peers on the same thread.
struct Echo {
    watcher: Watcher<u64>,
    completions: Completions<u64>,
    conns: Vec<ConnId>,
    peers: Vec<TcpStream>,
}

const CONNECTIONS: usize = 50;

impl Echo {
    fn new(driver: DriverKind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let mut watcher = watcher(driver);
        let (mut conns, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let peer = TcpStream::connect(address).expect("somebody listens");
            peer.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
            peers.push(peer);
            let (near, _) = listener.accept().expect("just connected");
            conns.push(watcher.adopt(near).expect("a slot is free"));
        }
        Self { watcher, completions: Completions::default(), conns, peers }
    }

    /// One message to each connection, and its echo.
    fn round(
        &mut self,
        message: &[u8],
        answer: &mut [u8],
        next: &impl Fn(&mut Watcher<u64>, Completion<u64>) -> kolk::Result<()>,
    ) {
        for peer in &mut self.peers {
            peer.write_all(message).expect("an open stream");
        }
        let mut written = 0;
        while written < CONNECTIONS {
            let ready = self.watcher.wait(&mut self.completions, Some(PATIENCE)).expect("it goes on");
            assert!(ready > 0, "a message never came");
            for done in self.completions.drain() {
                done.result.as_ref().expect("nothing fails");
                if done.operation == Operation::Write {
                    written += 1;
                    next(&mut self.watcher, done).expect("an open stream");
                } else {
                    self.watcher.write(done.conn, 0, done.buffer).expect("an open stream");
                }
            }
        }
        for peer in &mut self.peers {
            peer.read_exact(answer).expect("the echo");
            assert!(answer == message);
        }
    }
}
