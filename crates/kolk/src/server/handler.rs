//! What a program supplies.

use std::fmt;
use std::io;
use std::time::Duration;

use super::{Conn, Datagram, DatagramSocket, Detached, Input, LoopContext, ServerHandle};

/// What to do with the connections of one event loop.
///
/// There is one value for each loop, made by the closure given to [`Builder::run`](super::Builder::run); its
/// methods are called on that loop's thread only, so it needs no lock. A method that blocks stops all
/// connections of its loop: see [`Conn::offload`] for slow work.
///
/// Only [`on_open`](Self::on_open) and [`on_data`](Self::on_data) have to be written. `M` is what other
/// threads, and other loops, send to a connection by [`ServerHandle::message`]; a program that sends nothing leaves
/// it out.
///
/// # Examples
///
/// One greeting, then an echo that counts:
///
/// ```
/// use kolk::server::{Action, CloseReason, Conn, Handler, Input};
///
/// struct Counting;
///
/// impl Handler for Counting {
///     type Session = u64; // bytes echoed on this connection
///
///     fn on_open(&mut self, conn: &mut Conn<'_>) -> u64 {
///         conn.write("hello\n");
///         0
///     }
///
///     fn on_data(&mut self, echoed: &mut u64, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
///         *echoed += input.len() as u64;
///         conn.write(input.take());
///         Action::Continue
///     }
///
///     fn on_close(&mut self, echoed: u64, conn: &mut Conn<'_>, reason: CloseReason) {
///         println!("{}: {echoed} bytes, {reason}", conn.id());
///     }
/// }
/// ```
pub trait Handler<M = ()>: Sized {
    /// What one connection remembers between callbacks.
    type Session;

    /// The loop is about to serve. The first callback of all; `handle` reaches the whole server from any thread,
    /// and a clone of it may be kept.
    fn on_start(&mut self, handle: &ServerHandle<Self, M>, context: &mut LoopContext<'_>) {
        let _ = (handle, context);
    }

    /// A connection was accepted or enrolled, or begins to be made: [`Conn::origin`] says which. Writes are sent
    /// once this returns, or once the connection is there; [`Conn::close`] closes it at once.
    fn on_open(&mut self, conn: &mut Conn<'_>) -> Self::Session;

    /// An [outbound](super::Connect) connection is there. Default: nothing.
    fn on_connect(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>) -> Action {
        let _ = (session, conn);
        Action::Continue
    }

    /// Bytes arrived, or arrived behind bytes that were left before. What stays in `input` comes again with the
    /// next bytes.
    fn on_data(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action;

    /// What is queued has fallen to the low watermark, after it had been above the high one. Default: nothing.
    fn on_writable(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>) -> Action {
        let _ = (session, conn);
        Action::Continue
    }

    /// The peer ended its stream, and [`on_data`](Self::on_data) has had all that it sent. Default: close, once
    /// what is queued is sent. With [`Action::Continue`] the connection stays half-open, and may be written to.
    fn on_eof(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>) -> Action {
        let _ = (session, conn);
        Action::Close
    }

    /// Somebody sent this to the connection with [`ServerHandle::message`]. Default: it is dropped.
    fn on_message(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, message: M) -> Action {
        let _ = (session, conn, message);
        Action::Continue
    }

    /// A datagram arrived at a `udp` or `unixgram` address. Default: it is dropped.
    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        let _ = (socket, datagram);
    }

    /// A timer set with [`Conn::set_timer`] is due; `tag` is what was given to it. Default: nothing.
    fn on_timer(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, tag: u64) -> Action {
        let _ = (session, conn, tag);
        Action::Continue
    }

    /// What was written to the connection in this turn is about to leave; what is written here leaves with it.
    /// Only for connections with [`Conn::hook_writes`]. Default: nothing.
    fn on_flush(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>) {
        let _ = (session, conn);
    }

    /// The kernel has taken `count` more bytes. Only for connections with [`Conn::hook_writes`]. Default:
    /// nothing.
    fn on_sent(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, count: u64) -> Action {
        let _ = (session, conn, count);
        Action::Continue
    }

    /// Called when the loop starts, and again after the time that it answers; `None` is the last. Default:
    /// `None`.
    fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
        let _ = context;
        None
    }

    /// The connection leaves the server, as [`Action::Detach`] asked for: here is its socket. Default: the
    /// socket is dropped, which closes it. [`on_close`](Self::on_close) follows.
    fn on_detach(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, detached: Detached) {
        let _ = (session, conn, detached);
    }

    /// The connection is closed. Called exactly once for each [`on_open`](Self::on_open), as the last
    /// callback of the connection; what is written here goes nowhere.
    fn on_close(&mut self, session: Self::Session, conn: &mut Conn<'_>, reason: CloseReason) {
        let _ = (session, conn, reason);
    }

    /// The server is stopping gracefully: nobody is accepted any more. What is there goes on for
    /// [`Builder::drain_timeout`](super::Builder::drain_timeout), then it is flushed and closed. To say
    /// farewell to many, give them some of that time. Default: nothing.
    fn on_stop(&mut self, context: &mut LoopContext<'_>) {
        let _ = context;
    }
}

/// What becomes of a connection after a callback.
///
/// | action | bytes that are queued | bytes not yet received | the peer sees |
/// |---|---|---|---|
/// | `Continue` | are sent | are received | nothing |
/// | `Close` | are sent, within [`Builder::close_timeout`](super::Builder::close_timeout) | are discarded | all of them, then the end of the stream |
/// | `CloseNow` | are discarded | are discarded | a reset |
/// | `Shutdown` | are sent | are received, see [`Builder::drain_timeout`](super::Builder::drain_timeout) | as at the end of the server |
/// | `Detach` | are sent first | stay in the socket | nothing |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// It goes on.
    Continue,
    /// It sends what is queued and closes.
    Close,
    /// It is reset; what is queued is discarded.
    CloseNow,
    /// It goes on, and the whole server stops gracefully, as with
    /// [`ServerHandle::stop`](super::ServerHandle::stop).
    Shutdown,
    /// It leaves the server: once what is queued is sent, [`Handler::on_detach`] has its socket.
    Detach,
}

/// Why a connection was closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream.
    PeerClosed,
    /// The peer reset the connection, or went away while we were sending.
    Reset,
    /// The kernel reported another failure.
    Failed(io::Error),
    /// The [outbound](super::Connect) connection was never made.
    ConnectFailed(io::Error),
    /// The handler, or a [`ServerHandle`], asked for it.
    ByHandler,
    /// More input was left unconsumed than the limit allows.
    InputLimit,
    /// More output was queued than the limit allows.
    OutputLimit,
    /// Nothing was heard, or nothing could be sent, for as long as the idle time-out allows.
    Idle,
    /// What was waited for did not arrive before the read deadline.
    ReadDeadline,
    /// What was queued could not be sent before the write deadline.
    WriteDeadline,
    /// A callback, or an offloaded job, panicked.
    Panicked,
    /// [`Handler::on_detach`] has taken the socket.
    Detached,
    /// The server is stopping.
    ServerStopping,
}

impl CloseReason {
    /// The reason that a failed receive or send gives.
    pub(super) fn from_error(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Failed(error),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed(error) => return write!(f, "failed: {error}"),
            Self::ConnectFailed(error) => return write!(f, "cannot connect: {error}"),
            Self::PeerClosed => "closed by the peer",
            Self::Reset => "reset by the peer",
            Self::ByHandler => "closed by the handler",
            Self::InputLimit => "too much input left unconsumed",
            Self::OutputLimit => "too much output queued",
            Self::Idle => "idle for too long",
            Self::ReadDeadline => "nothing arrived in time",
            Self::WriteDeadline => "not sent in time",
            Self::Panicked => "the handler panicked",
            Self::Detached => "detached from the server",
            Self::ServerStopping => "the server is stopping",
        })
    }
}
