//! What the tests of the server share: handlers that tell what happens, and ways to reach them.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kolk::server::{Action, Builder, CloseReason, Conn, Handler, Input, RunningServer, Server};
use kolk::{DriverChoice, DriverKind};

/// Longer than anything here takes, shorter than a developer's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Instantiates generic tests for both kernel interfaces of this machine.
#[allow(unused_macros, reason = "as above")]
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
#[allow(unused_imports, reason = "as above")]
pub(crate) use on_each_driver;

/// A server on this driver that signals to the test process do not stop.
pub(crate) fn server(driver: DriverKind) -> Builder {
    Server::builder().driver(DriverChoice::Only(driver)).stop_on_signals(false)
}

/// A path of this test's own for a Unix socket.
pub(crate) fn socket_path(name: &str, driver: DriverKind) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kolk-{}-{name}-{driver}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[track_caller]
pub(crate) fn connect<H: Handler<M>, M>(server: &RunningServer<H, M>, index: usize) -> TcpStream {
    let address = &server.addresses()[index];
    let place = address.split_once("://").expect("addresses have schemes").1;
    let stream =
        TcpStream::connect(place).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
    stream
}

#[track_caller]
pub(crate) fn connect_unix(path: &std::path::Path) -> UnixStream {
    let stream =
        UnixStream::connect(path).unwrap_or_else(|error| panic!("cannot connect to {path:?}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
    stream
}

/// Sends `bytes` and reads as many back.
#[track_caller]
pub(crate) fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).expect("the server reads");
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).expect("the server answers");
    answer
}

/// Everything up to the end of the stream.
#[track_caller]
pub(crate) fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the stream ends in order");
    bytes
}

/// Makes the drop of a stream reset the connection.
pub(crate) fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
}

/// Bytes that tell when one is lost, doubled or out of place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8 ^ (index >> 8) as u8).collect()
}

/// Takes all descriptors that the process may still open, but so many.
pub(crate) fn take_all_but(few: usize) -> Vec<File> {
    let any = File::open("/dev/null").expect("every system has it");
    let mut taken: Vec<_> = std::iter::from_fn(|| any.try_clone().ok()).collect();
    taken.push(any);
    taken.truncate(taken.len() - few);
    taken
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Open { event_loop: u16, listener: usize },
    Data(Vec<u8>),
    Close(String),
}

/// An echo that tells what happens.
pub(crate) struct Telling(Sender<Told>);

impl Handler for Telling {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>) {
        let _ = self.0.send(Told::Open { event_loop: conn.id().event_loop(), listener: conn.listener() });
    }

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        let bytes = input.take();
        let _ = self.0.send(Told::Data(bytes.to_vec()));
        conn.write(bytes);
        Action::Continue
    }

    fn on_close(&mut self, _: (), _: &mut Conn<'_>, reason: CloseReason) {
        let _ = self.0.send(Told::Close(reason.to_string()));
    }
}

/// A maker of telling handlers, and where to listen to all of them.
pub(crate) fn telling() -> (impl Fn(usize) -> Telling + Send + Sync + 'static, Receiver<Told>) {
    let (sender, receiver) = channel();
    (move |_| Telling(sender.clone()), receiver)
}

/// Bytes in, an action out: a handler without a session.
pub(crate) struct OnData<F>(pub(crate) F);

impl<F: FnMut(&mut Conn<'_>, &mut Input<'_>) -> Action> Handler for OnData<F> {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        (self.0)(conn, input)
    }
}

/// The plain echo.
pub(crate) fn echo(_event_loop: usize) -> impl Handler {
    OnData(|conn: &mut Conn<'_>, input: &mut Input<'_>| {
        conn.write(input.take());
        Action::Continue
    })
}

/// What is told next.
#[track_caller]
pub(crate) fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(PATIENCE).expect("something is told in time")
}

/// The next reason of a close; whatever comes before it is passed over.
#[track_caller]
pub(crate) fn next_close(told: &Receiver<Told>) -> String {
    loop {
        if let Told::Close(reason) = next(told) {
            return reason;
        }
    }
}

/// Waits until a condition holds, in vain for a bounded time only.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
