//! Connections that the program makes itself, on the same loops and with the same handler.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kolk_engine::driver::Socket;
use kolk_engine::socket::{Address, SocketOptions};
use kolk_engine::token::{ConnId, Key};
use socket2::{SockRef, Type};

use super::command::Command;
use super::conn::Conn;
use super::context::{Later, LoopContext};
use super::handle::ServerHandle;
use super::handler::Handler;
use crate::address::ListenAddress;
use crate::error::{Error, Result};
use crate::watcher::IntoSocket;

/// A connection to be made: where to, and how.
///
/// It has a name at once. [`Handler::on_open`] is called for it before the connection is there; what is written from
/// then on waits for it. [`Handler::on_connect`] says that it is there, or
/// [`on_close`](Handler::on_close) with [`CloseReason::ConnectFailed`](super::CloseReason::ConnectFailed) that it will
/// never be.
///
/// ```text
///  connect ─► on_open ─┬─► on_connect ─► on_data ... ─► on_close
///                      └─► on_close(connect failed)      refused, unreachable, timed out, no descriptor
/// ```
///
/// # Examples
///
/// Each client gets a connection of its own to another server:
///
/// ```
/// use std::net::SocketAddr;
///
/// use kolk::ConnId;
/// use kolk::server::{Action, Conn, Connect, Handler, Input, Origin};
///
/// struct Forward;
///
/// impl Handler for Forward {
///     type Session = Option<ConnId>; // the other side
///
///     fn on_open(&mut self, conn: &mut Conn<'_>) -> Option<ConnId> {
///         match conn.origin() {
///             Origin::Outbound { opener, .. } => opener,
///             _ => conn.connect(Connect::to(SocketAddr::from(([127, 0, 0, 1], 7000)))).ok(),
///         }
///     }
///
///     fn on_data(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
///         if let Some(other) = *other {
///             conn.context().write(other, input.take());
///         }
///         Action::Continue
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Connect {
    pub(super) address: Address,
    pub(super) tag: u64,
    pub(super) opener: Option<ConnId>,
    pub(super) timeout: Option<Duration>,
    pub(super) from: Option<Address>,
    pub(super) options: Option<SocketOptions>,
}

impl Connect {
    /// A stream connection to this address: a [`SocketAddr`], an [`Address`] or a
    /// [`ListenAddress`], which also looks names up when it is parsed. That blocks, so parse before
    /// the loops run, or on a thread that may wait.
    pub fn to(address: impl Into<Address>) -> Self {
        Self { address: address.into(), tag: 0, opener: None, timeout: None, from: None, options: None }
    }

    /// A number of the program's own, which [`Origin::Outbound`] gives back. Default: 0.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Time for the connection to be made. Default:
    /// [`Builder::connect_timeout`](super::Builder::connect_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Our own address; port 0 lets the kernel choose one. Default: the kernel chooses.
    pub fn from(mut self, address: impl Into<Address>) -> Self {
        self.from = Some(address.into());
        self
    }

    /// Options of the connection. Default:
    /// [`Builder::outbound_options`](super::Builder::outbound_options).
    pub fn options(mut self, options: SocketOptions) -> Self {
        self.options = Some(options);
        self
    }
}

impl From<SocketAddr> for Connect {
    fn from(address: SocketAddr) -> Self {
        Self::to(address)
    }
}

impl From<Address> for Connect {
    fn from(address: Address) -> Self {
        Self::to(address)
    }
}

impl From<ListenAddress> for Connect {
    fn from(address: ListenAddress) -> Self {
        Self::to(address)
    }
}

impl Conn<'_> {
    /// Ends our direction of the stream once what is queued is sent: the peer sees the end of the stream, and may go
    /// on sending. What is written from here on goes nowhere.
    pub fn shutdown_write(&mut self) {
        // A connection that is closing ends both directions.
        let _ = self.event_loop.shutdown_write(self.id);
    }
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A peer connected to an address of the server: counted from zero, as for
    /// [`Conn::listener`](super::Conn::listener).
    Accepted {
        /// Index of the address.
        listener: usize,
    },
    /// The program [connected](Connect) to it.
    Outbound {
        /// What [`Connect::tag`] gave.
        tag: u64,
        /// The connection that asked for it, by [`Conn::connect`](super::Conn::connect).
        opener: Option<ConnId>,
    },
    /// The program brought it, by [`ServerHandle::enroll`].
    Enrolled {
        /// What the program gave with it.
        tag: u64,
    },
}

/// In the place of an address's index: connections that came otherwise.
pub(super) const OUTBOUND: u16 = u16::MAX;
pub(super) const ENROLLED: u16 = u16::MAX - 1;

impl Conn<'_> {
    /// Makes a connection on this loop, whose [origin](Self::origin) names this one as its opener; see [`Connect`].
    /// Its [`on_open`](Handler::on_open) is called once the events of the turn are handled.
    ///
    /// # Errors
    ///
    /// As [`LoopContext::connect`].
    pub fn connect(&mut self, connect: impl Into<Connect>) -> Result<ConnId> {
        let connect = Connect { opener: Some(self.id), ..connect.into() };
        self.context().connect(connect)
    }
}

impl LoopContext<'_> {
    /// Makes a connection on this loop; see [`Connect`]. Its [`on_open`](Handler::on_open) is called once
    /// the events of the turn are handled.
    ///
    /// # Errors
    ///
    /// All slots of the loop are taken. All else that may fail is told by
    /// [`on_close`](Handler::on_close).
    pub fn connect(&mut self, connect: impl Into<Connect>) -> Result<ConnId> {
        let key = self.event_loop.slot_numbers().reserve().ok_or_else(all_slots_taken)?;
        self.state.later.push_back(Later::Connect(key, Box::new(connect.into())));
        Ok(ConnId::new(self.number(), key))
    }
}

impl<H: Handler<M>, M> ServerHandle<H, M> {
    /// Makes a connection on one of the loops, each in its turn; see [`Connect`]. Any thread may call it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and when all slots of the loop are taken. All else that may fail is told by
    /// [`on_close`](Handler::on_close).
    pub fn connect(&self, connect: impl Into<Connect>) -> Result<ConnId> {
        self.connect_on(self.next_loop(), connect)
    }

    /// The same on the loop of this number.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`is_invalid_input`](Error::is_invalid_input) for a loop that does not exist.
    pub fn connect_on(&self, event_loop: u16, connect: impl Into<Connect>) -> Result<ConnId> {
        let connect = Box::new(connect.into());
        self.under_new_name(event_loop, |key| Command::Connect(key, connect))
    }

    /// Takes a connected stream socket into the server, on one of the loops, each in its turn:
    /// [`on_open`](Handler::on_open) is called for it, with the [origin](super::Conn::origin)
    /// [`Enrolled`](Origin::Enrolled) and this tag. Any thread may call it; the server owns the socket from here on.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`is_invalid_input`](Error::is_invalid_input) for what is no stream socket:
    /// a listener or a datagram socket belongs to [`Builder::listen_on`](super::Builder::listen_on). The socket is
    /// closed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kolk::server::{Action, Conn, Handler, Input, Server};
    /// # struct Echo;
    /// # impl Handler for Echo {
    /// #     type Session = ();
    /// #     fn on_open(&mut self, _: &mut Conn<'_>) {}
    /// #     fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
    /// #         conn.write(input.take());
    /// #         Action::Continue
    /// #     }
    /// # }
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let server = Server::builder().listen("tcp://127.0.0.1:0").start(|_loop| Echo)?;
    /// let (ours, theirs) = UnixStream::pair()?;
    /// server.handle().enroll(theirs, 0)?;
    /// (&ours).write_all(b"hello")?;
    /// let mut answer = [0; 5];
    /// (&ours).read_exact(&mut answer)?;
    /// assert_eq!(&answer, b"hello");
    /// # Ok::<(), kolk::Error>(())
    /// ```
    pub fn enroll(&self, socket: impl IntoSocket, tag: u64) -> Result<ConnId> {
        self.enroll_on(self.next_loop(), socket, tag)
    }

    /// The same on the loop of this number.
    ///
    /// # Errors
    ///
    /// As [`enroll`](Self::enroll); [`is_invalid_input`](Error::is_invalid_input) for a loop that does not exist.
    pub fn enroll_on(&self, event_loop: u16, socket: impl IntoSocket, tag: u64) -> Result<ConnId> {
        let socket = socket.into_socket();
        check_stream(&socket)?;
        self.under_new_name(event_loop, |key| Command::Enroll(key, socket, tag))
    }

    fn next_loop(&self) -> u16 {
        let turn = self.common.turn.fetch_add(1, Ordering::Relaxed);
        (turn % self.event_loops()) as u16
    }

    fn under_new_name(
        &self,
        event_loop: u16,
        command: impl FnOnce(Key) -> Command<H::Session, M>,
    ) -> Result<ConnId> {
        let end = self.existing_loop(event_loop)?;
        let key = end.numbers.reserve().ok_or_else(all_slots_taken)?;
        end.send(command(key)).inspect_err(|_| {
            end.numbers.release(key);
        })?;
        Ok(ConnId::new(event_loop, key))
    }
}

fn all_slots_taken() -> Error {
    Error::of_kind(io::ErrorKind::ResourceBusy, "all slots of the event loop are taken".into())
}

fn check_stream(socket: &Socket) -> Result<()> {
    let Some(fd) = socket.as_fd() else { return Ok(()) };
    let socket = SockRef::from(&fd);
    let is_stream = socket.r#type().and_then(|kind| Ok(kind == Type::STREAM && !socket.is_listener()?));
    match is_stream {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = "only a connected stream socket can be enrolled: give a listener or a datagram socket to \
                           `Builder::listen_on`";
            Err(Error::invalid(message))
        }
        Err(error) => Err(Error::io("cannot enroll a descriptor", error, "it is no socket")),
    }
}
