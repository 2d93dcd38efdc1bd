//! What a program supplies.

use std::fmt;
use std::io;

use super::{Conn, Input};

/// What to do with the connections of one event loop.
///
/// There is one value for each loop, made by the closure given to [`Builder::run`](super::Builder::run); its
/// methods are called on that loop's thread only, so it needs no lock. A method that blocks stops all
/// connections of its loop.
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
pub trait Handler {
    /// What one connection remembers between callbacks.
    type Session;

    /// A connection was accepted. Writes are sent once this returns.
    fn on_open(&mut self, conn: &mut Conn<'_>) -> Self::Session;

    /// Bytes arrived, or arrived in front of which bytes were left before. What stays in `input` comes again
    /// with the next bytes.
    fn on_data(&mut self, session: &mut Self::Session, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action;

    /// The connection is closed. Called exactly once for each [`on_open`](Self::on_open), as the last
    /// callback of the connection; what is written here goes nowhere.
    fn on_close(&mut self, session: Self::Session, conn: &mut Conn<'_>, reason: CloseReason) {
        let _ = (session, conn, reason);
    }
}

/// What becomes of a connection after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// It goes on.
    Continue,
    /// It sends what is queued and closes.
    Close,
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
    /// The handler asked for it.
    ByHandler,
    /// More input was left unconsumed than the limit allows.
    InputLimit,
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
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Reset => f.write_str("reset by the peer"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::ByHandler => f.write_str("closed by the handler"),
            Self::InputLimit => f.write_str("too much input left unconsumed"),
            Self::ServerStopping => f.write_str("the server is stopping"),
        }
    }
}
