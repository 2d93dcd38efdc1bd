//! Datagram sockets of a server, as handlers see them.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use bytes::Bytes;
use kolk_engine::Core;
use kolk_engine::buffer::{Chunk, DatagramQueue, Lease};
use kolk_engine::clock::Timestamp;
use kolk_engine::socket::{self, Address};
use kolk_engine::token::ConnId;

use super::command::Command;
use super::context::{LoopContext, LoopState};
use super::handle::ServerHandle;
use super::handler::Handler;
use super::limits::{DATAGRAM_BYTES_QUEUED, DATAGRAM_SIZE_MAX, DATAGRAMS_QUEUED};
use crate::error::{Error, Result};

/// A datagram that arrived, for [`Handler::on_datagram`].
///
/// [`bytes`](Self::bytes) may be kept, and sent on as they are; they then lie where they were received. Keeping them
/// for long is what [`Lease`] speaks of.
#[derive(Debug)]
pub struct Datagram {
    /// Sender. A Unix socket that was never bound is [`Unnamed`](Address::Unnamed), and cannot be answered.
    pub from: Address,
    /// Payload.
    pub bytes: Lease,
    /// Whether the datagram was longer than 65 535 bytes, so that its end is lost. Only Unix sockets send
    /// such.
    pub truncated: bool,
}

/// A datagram socket of a server, for the time of one callback.
///
/// What is sent leaves when the events of the turn are handled, many datagrams with one system call; on UDP the
/// kernel is given those of one receiver and length as one (`UDP_SEGMENT`), and joins those of one
/// sender (`UDP_GRO`), where it can. No datagram is promised to arrive: what the kernel has no room for on a UDP
/// socket is lost, and counted in [`Stats::datagrams_dropped`](super::Stats::datagrams_dropped). A Unix datagram socket
/// waits instead, and its queue grows up to its limit.
///
/// # Examples
///
/// An echo of datagrams:
///
/// ```
/// use kolk::server::{Action, Conn, Datagram, DatagramSocket, Handler, Input};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///
///     fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
///         // What does not fit the queue is lost, as on the way.
///         let _ = socket.send_to(&datagram.from, datagram.bytes);
///     }
///
///     fn on_open(&mut self, _: &mut Conn<'_>) {}
///     fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
///         Action::Close
///     }
/// }
/// ```
pub struct DatagramSocket<'a> {
    pub(super) event_loop: &'a mut Core,
    pub(super) home: &'a mut LoopState,
    /// Index into `home.datagrams`.
    pub(super) index: usize,
}

/// What a loop keeps for one of its datagram sockets.
#[derive(Debug)]
pub(super) struct DatagramState {
    pub(super) id: ConnId,
    /// Index of the address.
    pub(super) address: u16,
    /// What is to leave at the end of the turn.
    pub(super) filling: Box<DatagramQueue>,
    /// The other one; `None` while it is in flight.
    pub(super) idle: Option<Box<DatagramQueue>>,
    /// Receives that failed one after the other.
    pub(super) failures: u32,
}

impl DatagramState {
    pub(super) fn new(id: ConnId, address: u16, joins: bool) -> Self {
        let queue = || {
            let mut queue = Box::new(DatagramQueue::default());
            queue.join_segments(joins);
            queue
        };
        Self { id, address, filling: queue(), idle: Some(queue()), failures: 0 }
    }

    /// Whether nothing is to be sent any more.
    pub(super) fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.idle.is_some()
    }
}

/// Sending.
impl DatagramSocket<'_> {
    /// Sends a datagram: `Bytes`, a vector, static bytes or text, or what a [`Datagram`] brought. It is kept by
    /// reference.
    ///
    /// # Errors
    ///
    /// [`is_invalid_input`](Error::is_invalid_input) for more than 65 507 bytes, which no datagram over IPv4 has, for a
    /// range of a file, and for a receiver without name; [`is_busy`](Error::is_busy) when 4096 datagrams or 8 MiB
    /// wait already. The datagram is dropped and counted then. What the kernel says of it later is counted only.
    pub fn send_to(&mut self, to: &Address, payload: impl Into<Chunk>) -> Result<()> {
        let payload = self.check(payload.into(), Some(to))?;
        self.queue().push(Some(to.clone()), payload);
        Ok(())
    }

    /// Sends a copy of `bytes` as one datagram.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send_copy_to(&mut self, to: &Address, bytes: &[u8]) -> Result<()> {
        self.check_len(bytes.len(), Some(to))?;
        self.queue().push_copy(Some(to.clone()), bytes);
        Ok(())
    }

    /// Sends a datagram to the peer of a socket that was connected before the server had it.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send(&mut self, payload: impl Into<Chunk>) -> Result<()> {
        let payload = self.check(payload.into(), None)?;
        self.queue().push(None, payload);
        Ok(())
    }

    /// Datagrams that wait to be sent, without those of a send that is under way.
    pub fn queued(&self) -> usize {
        self.state().filling.len()
    }

    fn queue(&mut self) -> &mut DatagramQueue {
        &mut self.home.datagrams[self.index].filling
    }

    fn check(&mut self, payload: Chunk, to: Option<&Address>) -> Result<Lease> {
        let payload = match payload {
            Chunk::Shared(bytes) => Lease::from(bytes),
            Chunk::Static(bytes) => Lease::from(Bytes::from_static(bytes)),
            Chunk::Lease(lease) => lease,
            Chunk::File(_) => {
                let message = "a datagram is sent from memory: read the range of the file first";
                return Err(self.dropped(Error::invalid(message)));
            }
        };
        self.check_len(payload.len(), to)?;
        Ok(payload)
    }

    fn check_len(&mut self, len: usize, to: Option<&Address>) -> Result<()> {
        let queue = &self.state().filling;
        let is_full = queue.len() >= DATAGRAMS_QUEUED || queue.bytes() + len > DATAGRAM_BYTES_QUEUED;
        let error = if to == Some(&Address::Unnamed) {
            Error::invalid("the receiver has no name: only a bound socket can be sent to")
        } else if len > DATAGRAM_SIZE_MAX {
            Error::invalid(format!("a datagram of {len} bytes cannot be: at most {DATAGRAM_SIZE_MAX}"))
        } else if is_full {
            Error::of_kind(io::ErrorKind::ResourceBusy, "too many datagrams wait to be sent".into())
        } else {
            return Ok(());
        };
        Err(self.dropped(error))
    }

    fn dropped(&mut self, error: Error) -> Error {
        self.home.stats.datagrams_dropped += 1;
        error
    }
}

/// Who it is, and what it receives.
impl DatagramSocket<'_> {
    /// The name of the socket, for [`ServerHandle::send_datagram`].
    pub fn id(&self) -> ConnId {
        self.state().id
    }

    /// Which address it has: counted from zero, as for [`Conn::listener`](super::Conn::listener).
    pub fn listener(&self) -> usize {
        usize::from(self.state().address)
    }

    /// Our own address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.event_loop.socket(self.id())?.local_address().ok()?.as_inet()
    }

    /// The descriptor, to ask for or to set options that are not here; `None` on the simulated kernel.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.event_loop.socket(self.id())?.as_fd()
    }

    /// Receives what is sent to a multicast group as well, on the network interface of this number; 0 leaves the
    /// choice to the kernel. An address with `?join=` does so from the start.
    ///
    /// Of several sockets on one port each member receives everything, so an address without `?join=` has members
    /// on as many loops as have joined.
    ///
    /// # Errors
    ///
    /// [`is_invalid_input`](Error::is_invalid_input) for an address that is no group; what the kernel says, such as that
    /// no interface has multicast.
    pub fn join_multicast(&mut self, group: IpAddr, interface: u32) -> Result<()> {
        self.membership("join", group, |fd| socket::join_multicast(fd, group, interface))
    }

    /// Receives what is sent to the group no more.
    ///
    /// # Errors
    ///
    /// As [`join_multicast`](Self::join_multicast), and if it was not joined there.
    pub fn leave_multicast(&mut self, group: IpAddr, interface: u32) -> Result<()> {
        self.membership("leave", group, |fd| socket::leave_multicast(fd, group, interface))
    }

    fn membership(
        &mut self,
        what: &str,
        group: IpAddr,
        change: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<()> {
        let fd = self.descriptor().ok_or_else(Error::not_connected)?;
        change(fd).map_err(|error| Error::io(format!("cannot {what} the group {group}"), error, ""))
    }

    /// The loop that the socket lives on.
    pub fn context(&mut self) -> LoopContext<'_> {
        LoopContext { event_loop: self.event_loop, state: self.home }
    }

    fn state(&self) -> &DatagramState {
        &self.home.datagrams[self.index]
    }
}

impl fmt::Debug for DatagramSocket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket").field("state", self.state()).finish_non_exhaustive()
    }
}

/// Datagram sockets of the loop.
impl LoopContext<'_> {
    /// This loop's datagram socket of the address with this index, if it has one: of a Unix datagram address and
    /// of one with `?join=` only one loop has it. From [`on_start`](Handler::on_start) on.
    pub fn datagram_socket(&mut self, listener: usize) -> Option<DatagramSocket<'_>> {
        let of_listener = |each: &DatagramState| usize::from(each.address) == listener;
        let index = self.state.datagrams.iter().position(of_listener)?;
        Some(DatagramSocket { event_loop: self.event_loop, home: self.state, index })
    }

    /// The time of this turn, on a clock that only goes forward; the clock is read once a turn.
    pub fn now(&self) -> Timestamp {
        self.event_loop.now()
    }
}

impl<H: Handler<M>, M> ServerHandle<H, M> {
    /// Sends a datagram from one of the server's sockets, whose name is [`DatagramSocket::id`]. Any thread may call
    /// it; what one thread sends from one socket leaves in that order.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write). What [`DatagramSocket::send_to`] refuses is counted as dropped.
    pub fn send_datagram(&self, socket: ConnId, to: &Address, payload: impl Into<Chunk>) -> Result<()> {
        let (to, payload) = (to.clone(), payload.into());
        self.send(socket, |key| Command::SendDatagram(key, to, payload))
    }
}
