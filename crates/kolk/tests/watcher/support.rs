//! What the tests of the watcher share: a watcher with a record of what completed, and peers on the same thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kolk::watcher::{Completion, Completions, Operation, Request, Watcher};
use kolk::{ConnId, DriverChoice, DriverKind};
use kolk_engine::driver::{SimConfig, SimNet, SimPeer};

/// Longer than anything here takes, shorter than a developer's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A wait with nothing to do waits this long for the peers, who are on the same thread.
const MOMENT: Duration = Duration::from_millis(1);

/// Makes a test of each function for each kernel interface; on the simulated one it runs in storms, too.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::IoUring); })+
        }
        mod epoll {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::Epoll); })+
        }
        mod sim {
            $(#[test] fn $test() { crate::support::on_sim(super::$test); })+
        }
    };
}

/// As [`everywhere`], without storms.
macro_rules! everywhere_but_in_storms {
    ($($test:ident),+ $(,)?) => {
        mod io_uring_calm {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::IoUring); })+
        }
        mod epoll_calm {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::Epoll); })+
        }
        mod sim_calm {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::Sim); })+
        }
    };
}

/// Makes a test of each function that needs sockets of the real kernel.
macro_rules! on_real_kernels {
    ($($test:ident),+ $(,)?) => {
        mod io_uring_real {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::IoUring); })+
        }
        mod epoll_real {
            $(#[test] fn $test() { super::$test(kolk::DriverKind::Epoll); })+
        }
    };
}
pub(crate) use {everywhere, everywhere_but_in_storms, on_real_kernels};

/// Storms in which a test runs; `KOLK_SEED` names a single one.
const STORMS: u64 = 12;

thread_local! {
    /// How the simulated kernel behaves towards the test on this thread.
    static WEATHER: RefCell<SimConfig> = RefCell::new(SimConfig::calm(7));
}

/// Runs a test on the simulated kernel: calm, then with random schedules.
pub(crate) fn on_sim(test: fn(DriverKind)) {
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    if only.is_none() {
        test(DriverKind::Sim);
    }
    for seed in only.map_or(0..STORMS, |seed| seed..seed + 1) {
        println!("in the storm of KOLK_SEED={seed}");
        WEATHER.set(SimConfig::stormy(seed));
        test(DriverKind::Sim);
    }
}

/// A simulated kernel in the weather of this test, if it is to run on one.
pub(crate) fn sim_net(driver: DriverKind) -> Option<SimNet> {
    (driver == DriverKind::Sim).then(|| SimNet::new(WEATHER.with_borrow(SimConfig::clone)))
}

/// The other end of a stream: non-blocking.
#[derive(Debug)]
pub(crate) enum Peer {
    Tcp(TcpStream),
    Sim(SimPeer),
}

impl Peer {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Self::Tcp(stream)
    }

    pub(crate) fn shutdown_write(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write).expect("a connected stream"),
            Self::Sim(peer) => peer.shutdown_write(),
        }
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        match self {
            Self::Tcp(stream) => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open socket");
            }
            Self::Sim(peer) => peer.reset(),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Sim(peer) => peer.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Sim(peer) => peer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A watcher, what it completed and nobody asked for yet, and a way to make streams.
pub(crate) struct Rig<C = u32> {
    pub(crate) watcher: Watcher<C>,
    pub(crate) done: VecDeque<Completion<C>>,
    pub(crate) net: Option<SimNet>,
    completions: Completions<C>,
    listener: Option<TcpListener>,
}

impl<C: Debug> Rig<C> {
    pub(crate) fn new(driver: DriverKind) -> Self {
        Self::make(driver, sim_net(driver))
    }

    pub(crate) fn on_net(net: SimNet) -> Self {
        Self::make(DriverKind::Sim, Some(net))
    }

    fn make(driver: DriverKind, net: Option<SimNet>) -> Self {
        let watcher = Watcher::builder().driver(choice(driver, net.as_ref())).build();
        Self {
            watcher: watcher.unwrap_or_else(|error| panic!("{driver}: {error}")),
            done: VecDeque::new(),
            completions: Completions::default(),
            listener: net.is_none().then(|| TcpListener::bind(loopback()).expect("loopback has ports")),
            net,
        }
    }

    /// An adopted stream and its other end.
    #[track_caller]
    pub(crate) fn pair(&mut self) -> (ConnId, Peer) {
        if let Some(net) = &self.net {
            let (near, far) = net.pair();
            return (self.watcher.adopt(near).expect("a slot is free"), Peer::Sim(far));
        }
        let (near, far) = self.tcp_pair();
        (self.watcher.adopt(near).expect("a slot is free"), Peer::tcp(far))
    }

    pub(crate) fn tcp_pair(&self) -> (TcpStream, TcpStream) {
        let listener = self.listener.as_ref().expect("no TCP on the simulated kernel");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        let far = listener.accept().expect("just connected").0;
        for end in [&near, &far] {
            end.set_nodelay(true).expect("a TCP socket");
        }
        (near, far)
    }

    /// An adopted Unix stream and its other end: cheaper than TCP where there are thousands.
    pub(crate) fn unix_pair(&mut self) -> (ConnId, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a descriptor is free");
        (self.watcher.adopt(near).expect("a slot is free"), far)
    }

    /// One wait that does not last.
    #[track_caller]
    pub(crate) fn pump(&mut self) {
        self.watcher.wait(&mut self.completions, Some(MOMENT)).expect("the watcher goes on");
        self.done.extend(self.completions.drain());
    }

    /// One wait that does not wait at all.
    #[track_caller]
    pub(crate) fn poll(&mut self) {
        self.watcher.wait(&mut self.completions, Some(Duration::ZERO)).expect("the watcher goes on");
        self.done.extend(self.completions.drain());
    }

    /// Waits until nothing more can come by itself.
    pub(crate) fn settle(&mut self) {
        for _ in 0..5 {
            self.pump();
        }
    }

    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            let driver = self.watcher.driver();
            assert!(begin.elapsed() < PATIENCE, "{driver}: never came: {what}; {:?}", self.watcher);
            self.pump();
        }
    }

    /// The next completion.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Completion<C> {
        self.until("a completion", |rig| !rig.done.is_empty());
        self.done.pop_front().expect("`until` has ended")
    }

    /// The next completion, which is of this operation.
    #[track_caller]
    pub(crate) fn next_of(&mut self, operation: Operation) -> Completion<C> {
        let done = self.next();
        assert_eq!(done.operation, operation, "{}: {done:?}", self.watcher.driver());
        done
    }

    /// The next completion of this operation; those before it are passed over.
    #[track_caller]
    pub(crate) fn until_of(&mut self, operation: Operation) -> Completion<C> {
        loop {
            let done = self.next();
            if done.operation == operation {
                return done;
            }
        }
    }

    #[track_caller]
    pub(crate) fn nothing_more(&mut self) {
        self.settle();
        assert!(self.done.is_empty(), "{}: {:?}", self.watcher.driver(), self.done);
    }

    /// Writes all of it from the other end.
    #[track_caller]
    pub(crate) fn peer_writes(&mut self, peer: &mut Peer, bytes: &[u8]) {
        let mut rest = bytes;
        self.until("room for the peer's bytes", |_| {
            rest = &rest[write_some(peer, rest)..];
            rest.is_empty()
        });
    }

    /// Reads so many bytes at the other end.
    #[track_caller]
    pub(crate) fn peer_reads(&mut self, peer: &mut Peer, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut read = 0;
        self.until("bytes for the peer", |_| {
            read += read_some(peer, &mut bytes[read..]).expect("the stream goes on");
            read == count
        });
        bytes
    }

    /// Reads to the end of the stream at the other end.
    #[track_caller]
    pub(crate) fn peer_reads_to_end(&mut self, peer: &mut Peer) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        self.until("the end of the stream at the peer", |_| {
            loop {
                match peer.read(&mut buffer) {
                    Ok(0) => return true,
                    Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("the stream does not end in order: {error}"),
                }
            }
        });
        bytes
    }

    /// Writes of this connection until no more goes into the kernel; the peer does not read. Bytes given.
    #[track_caller]
    pub(crate) fn stuff(&mut self, conn: ConnId, context: C) -> usize {
        let size = if self.net.is_some() { 1 << 20 } else { 16 << 20 };
        self.watcher.write(conn, context, pattern(size)).expect("an open stream");
        self.settle();
        size
    }
}

impl<C> Rig<C> {
    #[track_caller]
    pub(crate) fn submit(&mut self, request: Request<C>) -> kolk::watcher::OperationId {
        self.watcher.submit(request).unwrap_or_else(|error| panic!("{}: {error}", self.watcher.driver()))
    }
}

pub(crate) fn choice(driver: DriverKind, net: Option<&SimNet>) -> DriverChoice {
    net.map_or(DriverChoice::Only(driver), |net| DriverChoice::Sim(net.clone()))
}

/// Writes what there is room for.
#[track_caller]
pub(crate) fn write_some(peer: &mut Peer, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match peer.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("the peer cannot write: {error}"),
        }
    }
    written
}

/// Reads what is there, up to the size of the buffer; an end of stream is an error.
pub(crate) fn read_some(peer: &mut Peer, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match peer.read(&mut buffer[read..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Appends what has arrived; says whether the stream has ended.
pub(crate) fn read_available(peer: &mut Peer, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

pub(crate) fn buffer(capacity: usize) -> BytesMut {
    BytesMut::with_capacity(capacity)
}

/// Bytes that tell when one is lost, doubled or out of place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place ^ (place >> 8) ^ (place >> 15)) as u8).collect()
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
