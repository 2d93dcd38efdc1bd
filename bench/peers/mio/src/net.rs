//! The loop around the stream scenarios, and what a readiness event says.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use peer_common::{Address, Result, announce, listen};

/// Both directions, for as long as the socket lives.
pub(crate) const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Full buffers that one connection may move in a turn before the others get theirs.
pub(crate) const READS_A_TURN: usize = 16;

/// Events of one turn.
pub(crate) const EVENTS: usize = 1024;

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(usize::MAX);

/// What a scenario does with connections.
pub(crate) trait Handler {
    /// A connection was accepted. An error is that of this connection.
    fn open(&mut self, registry: &Registry, stream: Stream) -> io::Result<()>;

    /// Something can be done on the socket of this number, if it is still there.
    fn ready(&mut self, registry: &Registry, number: usize, ready: Ready);
}

/// What an event says.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The end of the stream, or an error: no further edge will tell it.
    pub(crate) hang_up: bool,
}

impl From<&Event> for Ready {
    fn from(event: &Event) -> Self {
        let hang_up = event.is_read_closed() || event.is_write_closed() || event.is_error();
        Self {
            readable: event.is_readable() || hang_up,
            writable: event.is_writable() || hang_up,
            hang_up,
        }
    }
}

/// Listens and serves for ever.
pub(crate) fn run(address: &Address, mut handler: impl Handler) -> Result {
    let mut poll = Poll::new()?;
    let mut listener = Listener::from(listen(address)?);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut accepts_again = None;
    announce()?;
    loop {
        match poll.poll(&mut events, accepts_again) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        // The edge was used up by the accept that failed.
        if accepts_again.take().is_some() {
            accepts_again = accept(&listener, poll.registry(), &mut handler);
        }
        for event in &events {
            match event.token() {
                LISTENER => accepts_again = accept(&listener, poll.registry(), &mut handler),
                Token(number) => handler.ready(poll.registry(), number, event.into()),
            }
        }
    }
}

/// Accepts all that wait; the time after which to try again if descriptors ran out.
fn accept(
    listener: &Listener,
    registry: &Registry,
    handler: &mut impl Handler,
) -> Option<Duration> {
    loop {
        match listener.accept() {
            // A connection that cannot be served is closed.
            Ok(stream) => drop(handler.open(registry, stream)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return None,
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                _ => return Some(ACCEPT_PAUSE),
            },
        }
    }
}

/// A listener of either kind.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0),
        })
    }
}

impl From<peer_common::Listener> for Listener {
    fn from(listener: peer_common::Listener) -> Self {
        match listener {
            peer_common::Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)),
            peer_common::Listener::Unix(listener) => Self::Unix(UnixListener::from_std(listener)),
        }
    }
}

/// A connection of either kind.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Begins to connect; the first writable event tells that it is there.
    pub(crate) fn connect(to: &Address) -> io::Result<Self> {
        let socket = peer_common::connect(to)?;
        Ok(match to {
            Address::Inet(_) => Self::Tcp(TcpStream::from_std(socket.into())),
            Address::Unix(_) => Self::Unix(UnixStream::from_std(socket.into())),
        })
    }

    /// Ends our direction of the stream.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Receives once, `None` if nothing is there.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        attempt(|| match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        })
    }

    /// Sends once; 0 if there is no room.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = attempt(|| match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        });
        sent.map(Option::unwrap_or_default)
    }

    /// The same for several pieces.
    pub(crate) fn send_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = attempt(|| match self {
            Self::Tcp(stream) => stream.write_vectored(pieces),
            Self::Unix(stream) => stream.write_vectored(pieces),
        });
        sent.map(Option::unwrap_or_default)
    }
}

/// A system call that does not wait; a signal does not count as an answer.
fn attempt(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// mio's `Source` for an enum of sources.
macro_rules! source {
    ($type:ident: $($variant:ident),+) => {
        impl Source for $type {
            fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
                match self { $(Self::$variant(source) => source.register(registry, token, interest)),+ }
            }

            fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
                match self { $(Self::$variant(source) => source.reregister(registry, token, interest)),+ }
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                match self { $(Self::$variant(source) => source.deregister(registry)),+ }
            }
        }
    };
}

source!(Listener: Tcp, Unix);
source!(Stream: Tcp, Unix);
