//! What these tests share: worlds to run in, peers that wait, and a handler made of closures that tells what
//! happens.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use kolk::server::{
    Action, Builder, CloseReason, Conn, Detached, Handler, Input, LoopContext, RunningServer, Server,
    ServerHandle,
};
use kolk::{Address, ConnId, DriverChoice, DriverKind};
use kolk_engine::driver::{SimConfig, SimNet, SimPeer};

/// Longer than anything here takes, shorter than a developer's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Storms in which a test runs.
const STORMS: u64 = 4;

/// Makes a test of each function for each kernel interface; on the simulated one it runs in storms, too.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(&crate::support::World::real(kolk::DriverKind::IoUring)); })+
        }
        mod epoll {
            $(#[test] fn $test() { super::$test(&crate::support::World::real(kolk::DriverKind::Epoll)); })+
        }
        mod sim {
            $(#[test] fn $test() { crate::support::on_sim(super::$test); })+
        }
    };
}

/// Makes a test of each function that needs sockets, or the time, of the real kernel.
macro_rules! on_real_kernels {
    ($($test:ident),+ $(,)?) => {
        mod io_uring_real {
            $(#[test] fn $test() { super::$test(&crate::support::World::real(kolk::DriverKind::IoUring)); })+
        }
        mod epoll_real {
            $(#[test] fn $test() { super::$test(&crate::support::World::real(kolk::DriverKind::Epoll)); })+
        }
    };
}
pub(crate) use {everywhere, on_real_kernels};

/// A kernel, and what is around it.
#[derive(Clone)]
pub(crate) struct World {
    driver: DriverKind,
    net: Option<SimNet>,
}

/// Runs a test on the simulated kernel: calm, then in storms.
pub(crate) fn on_sim(test: fn(&World)) {
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    if only.is_none() {
        test(&World::simulated(SimConfig::calm(7)));
    }
    for seed in only.map_or(0..STORMS, |seed| seed..seed + 1) {
        println!("in the storm of KOLK_SEED={seed}");
        test(&World::simulated(SimConfig::stormy(seed)));
    }
}

impl World {
    pub(crate) fn real(driver: DriverKind) -> Self {
        Self { driver, net: None }
    }

    pub(crate) fn simulated(config: SimConfig) -> Self {
        Self { driver: DriverKind::Sim, net: Some(SimNet::new(config)) }
    }

    pub(crate) fn is_real(&self) -> bool {
        self.net.is_none()
    }

    pub(crate) fn driver(&self) -> DriverKind {
        self.driver
    }

    /// More bytes than all buffers on the way take for a peer that does not read.
    pub(crate) fn stuck(&self) -> usize {
        if self.is_real() { 16 << 20 } else { 150_000 }
    }

    /// A server with one loop and one address.
    pub(crate) fn server(&self) -> Builder {
        let driver = match &self.net {
            Some(net) => DriverChoice::Sim(net.clone()),
            None => DriverChoice::Only(self.driver),
        };
        let address = if self.is_real() { "tcp://127.0.0.1:0" } else { "tcp://10.0.0.1:80" };
        Server::builder().driver(driver).stop_on_signals(false).listen(address).event_loops(1)
    }

    #[track_caller]
    pub(crate) fn connect<H: Handler<M>, M>(&self, server: &RunningServer<H, M>) -> Peer {
        let place = server.addresses()[0].trim_start_matches("tcp://");
        match &self.net {
            Some(net) => {
                let address = Address::Inet(place.parse().expect("an address of the simulated network"));
                // A storm refuses nobody, but its backlog is short.
                let begin = Instant::now();
                loop {
                    match net.connect(&address) {
                        Ok(peer) => return Peer::Sim(peer),
                        Err(error) => assert!(begin.elapsed() < PATIENCE, "cannot connect: {error}"),
                    }
                    thread::yield_now();
                }
            }
            None => {
                let stream = TcpStream::connect(place).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("positive");
                stream.set_write_timeout(Some(PATIENCE)).expect("positive");
                stream.set_nodelay(true).expect("a TCP socket");
                Peer::Tcp(stream)
            }
        }
    }
}

/// The other end of a connection: reads and writes wait, in vain for a bounded time only.
#[derive(Debug)]
pub(crate) enum Peer {
    Tcp(TcpStream),
    Sim(SimPeer),
}

impl Peer {
    /// Writes all of it, unless a server to which a first part is enough closes: what it answers is the test's to ask.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.write_all(bytes.as_ref()) {
            Err(error) if !matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                panic!("the server reads: {error}");
            }
            _ => {}
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let mut got = vec![0; bytes.len()];
        if let Err(error) = self.read_exact(&mut got) {
            panic!("{error} instead of {} bytes", bytes.len());
        }
        let first = got.iter().zip(bytes).position(|(got, wanted)| got != wanted);
        assert!(first.is_none(), "{:?}... instead of {:?}...", brief(&got, first), brief(bytes, first));
    }

    /// The stream ends here, in order.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.read_to_end(&mut rest).expect("an end in order");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    /// The connection is closed, in whatever way.
    #[track_caller]
    pub(crate) fn expect_close(&mut self) {
        let mut part = [0; 65536];
        while matches!(self.read(&mut part).inspect_err(|error| not_late(error)), Ok(1..)) {}
    }

    /// Everything up to the end of the stream.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.read_to_end(&mut rest).expect("an end in order");
        rest
    }

    pub(crate) fn shutdown_write(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).expect("connected"),
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

fn brief(bytes: &[u8], from: Option<usize>) -> String {
    String::from_utf8_lossy(&bytes[from.unwrap_or(0)..].iter().copied().take(40).collect::<Vec<_>>())
        .into_owned()
}

#[track_caller]
fn not_late(error: &io::Error) {
    let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    assert!(!is_late, "nothing happens any more");
}

/// Repeats what would block.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_micros(100));
            }
            result => return result,
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Sim(peer) => patiently(|| peer.read(buffer)),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Sim(peer) => patiently(|| peer.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type With<S, R> = Box<dyn FnMut(&mut S, &mut Conn<'_>) -> R + Send>;
type WithMore<S, T> = Box<dyn FnMut(&mut S, &mut Conn<'_>, T) -> Action + Send>;
type WithInput<S> = Box<dyn FnMut(&mut S, &mut Conn<'_>, &mut Input<'_>) -> Action + Send>;
type OfLoop<R> = Box<dyn FnMut(&mut LoopContext<'_>) -> R + Send>;

/// A handler made of closures, which are an echo to begin with. It tells each callback.
pub(crate) struct Calls<S: 'static = (), M: 'static = ()> {
    told: Sender<String>,
    pub(crate) open: Box<dyn FnMut(&mut Conn<'_>) -> S + Send>,
    pub(crate) data: WithInput<S>,
    pub(crate) eof: With<S, Action>,
    pub(crate) writable: With<S, Action>,
    pub(crate) message: WithMore<S, M>,
    pub(crate) timer: WithMore<S, u64>,
    pub(crate) flush: With<S, ()>,
    pub(crate) sent: With<S, Action>,
    pub(crate) start: OfLoop<()>,
    pub(crate) tick: OfLoop<Option<Duration>>,
    pub(crate) detach: Box<dyn FnMut(Detached) + Send>,
    pub(crate) close: With<S, ()>,
    pub(crate) stop: OfLoop<()>,
}

impl<S: Default + 'static, M: 'static> Calls<S, M> {
    pub(crate) fn new(told: &Sender<String>) -> Self {
        Self {
            told: told.clone(),
            open: Box::new(|_| S::default()),
            data: Box::new(|_, conn, input| {
                conn.write(input.take());
                Action::Continue
            }),
            eof: Box::new(|_, _| Action::Close),
            writable: Box::new(|_, _| Action::Continue),
            message: Box::new(|_, _, _| Action::Continue),
            timer: Box::new(|_, _, _| Action::Continue),
            flush: Box::new(|_, _| ()),
            sent: Box::new(|_, _| Action::Continue),
            start: Box::new(|_| ()),
            tick: Box::new(|_| None),
            detach: Box::new(drop),
            close: Box::new(|_, _| ()),
            stop: Box::new(|_| ()),
        }
    }

    fn tell(&self, text: impl Into<String>) {
        // A test may have heard enough.
        let _ = self.told.send(text.into());
    }
}

impl<S: Default + 'static, M: 'static> Handler<M> for Calls<S, M> {
    type Session = S;

    fn on_start(&mut self, _: &ServerHandle<Self, M>, context: &mut LoopContext<'_>) {
        (self.start)(context);
    }

    fn on_open(&mut self, conn: &mut Conn<'_>) -> S {
        self.tell("open");
        (self.open)(conn)
    }

    fn on_data(&mut self, session: &mut S, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        self.tell("data");
        (self.data)(session, conn, input)
    }

    fn on_writable(&mut self, session: &mut S, conn: &mut Conn<'_>) -> Action {
        self.tell("writable");
        (self.writable)(session, conn)
    }

    fn on_eof(&mut self, session: &mut S, conn: &mut Conn<'_>) -> Action {
        self.tell("eof");
        (self.eof)(session, conn)
    }

    fn on_message(&mut self, session: &mut S, conn: &mut Conn<'_>, message: M) -> Action {
        self.tell("message");
        (self.message)(session, conn, message)
    }

    fn on_timer(&mut self, session: &mut S, conn: &mut Conn<'_>, tag: u64) -> Action {
        self.tell(format!("timer {tag}"));
        (self.timer)(session, conn, tag)
    }

    fn on_flush(&mut self, session: &mut S, conn: &mut Conn<'_>) {
        self.tell("flush");
        (self.flush)(session, conn);
    }

    fn on_sent(&mut self, session: &mut S, conn: &mut Conn<'_>, count: u64) -> Action {
        self.tell(format!("sent {count}"));
        (self.sent)(session, conn)
    }

    fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
        (self.tick)(context)
    }

    fn on_detach(&mut self, _: &mut S, _: &mut Conn<'_>, detached: Detached) {
        self.tell("detach");
        (self.detach)(detached);
    }

    fn on_close(&mut self, mut session: S, conn: &mut Conn<'_>, reason: CloseReason) {
        self.tell(format!("close: {reason}"));
        (self.close)(&mut session, conn);
    }

    fn on_stop(&mut self, context: &mut LoopContext<'_>) {
        self.tell("stop");
        (self.stop)(context);
    }
}

/// What a handler tells.
pub(crate) struct Told(pub(crate) Receiver<String>);

pub(crate) fn telling() -> (Sender<String>, Told) {
    let (sender, receiver) = channel();
    (sender, Told(receiver))
}

impl Told {
    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("something is told in time")
    }

    /// The next that begins so; what comes before it is passed over.
    #[track_caller]
    pub(crate) fn next_of(&self, beginning: &str) -> String {
        loop {
            let text = self.next();
            if text.starts_with(beginning) {
                return text;
            }
        }
    }

    /// Exactly these come next.
    #[track_caller]
    pub(crate) fn expect(&self, texts: &[&str]) {
        for text in texts {
            assert_eq!(self.next(), *text);
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.try_iter().collect()
    }
}

/// Starts a server whose only handler is made by this closure, once.
#[track_caller]
pub(crate) fn start<S, M>(
    builder: Builder,
    make: impl Fn() -> Calls<S, M> + Send + Sync + 'static,
) -> RunningServer<Calls<S, M>, M>
where
    S: Default + 'static,
    M: Send + 'static,
{
    builder.start(move |_| make()).expect("a free address")
}

/// The names of connections, in the order in which they were opened.
pub(crate) fn names() -> (Sender<ConnId>, impl Fn() -> ConnId) {
    let (sender, receiver) = channel::<ConnId>();
    (sender, move || receiver.recv_timeout(PATIENCE).expect("a connection is opened in time"))
}

/// Bytes that tell when one is lost, doubled or out of place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8 ^ (index >> 8) as u8).collect()
}

/// Waits until a condition holds, in vain for a bounded time only.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_micros(200));
    }
}
