//! What a driver is asked to do, and what came of it: plain data.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::buffer::{DatagramQueue, Lease, OutQueue};
use crate::driver::Socket;
use crate::socket::Address;
use crate::token::Key;

/// One thing to do with the socket of a slot.
///
/// A socket has at most one receive, one send and one auxiliary operation (accept, connect, watch) in
/// flight. Memory that the kernel may touch moves into the operation and comes back with its final
/// completion.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until cancelled or failed. Many [`Outcome::Accepted`].
    Accept,
    /// Connect to the address. One [`Outcome::Connected`].
    Connect(Address),
    /// Receive into the loop's buffers until end of stream, failure or cancel. Many
    /// [`Outcome::Received`].
    Receive,
    /// Receive once into the loop's buffers. One [`Outcome::Received`].
    ReceiveOnce,
    /// Receive once into the spare capacity of this buffer, which must not be empty. One
    /// [`Outcome::ReceivedInto`].
    ReceiveInto(BytesMut),
    /// Receive this many datagrams into the loop's buffers, or fewer if cancelled or failed; `u32::MAX`
    /// is no limit. An [`Outcome::Datagram`] for each.
    ReceiveFrom(u32),
    /// Send one datagram. One [`Outcome::SentTo`].
    SendTo(Box<OutDatagram>),
    /// Send all of these, many with one system call. One [`Outcome::SentDatagrams`].
    SendDatagrams(Box<DatagramQueue>),
    /// Report each time the descriptor becomes ready, until cancelled. Many [`Outcome::Ready`].
    Watch(Interest),
    /// Cancel what is in flight, wait for it, close the descriptor. One [`Outcome::Closed`], the
    /// slot's last.
    Close,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct OutDatagram {
    /// Receiver; `None` for a connected socket.
    pub to: Option<Address>,
    /// Payload.
    pub bytes: Bytes,
}

/// What came of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The slot.
    pub key: Key,
    /// The result.
    pub outcome: Outcome,
}

/// The two completions that every message has. They take a path of their own: [`Outcome`] has room for
/// everything that can happen, and moving it costs more than what it says here.
#[derive(Debug)]
pub enum Frequent {
    /// [`Outcome::Received`] with bytes.
    Received(Key, Lease),
    /// [`Outcome::Sent`] without error.
    Sent(Key, Box<OutQueue>),
    /// The same for a lease that was sent whole: so many bytes.
    SentLease(Key, u64),
}

/// The result of one operation, or one of the many of an operation that goes on.
///
/// An operation that is cancelled ends with the error for which [`is_cancelled`] is true, or with its
/// own result if that was faster: exactly one final completion.
#[derive(Debug)]
pub enum Outcome {
    /// A new connection; an error is final.
    Accepted(io::Result<Socket>),
    /// The connect ended. Final.
    Connected(io::Result<()>),
    /// Bytes arrived. An empty lease is the end of the stream; it and an error are final, and so is what
    /// [`Op::ReceiveOnce`] brings.
    Received(io::Result<Lease>),
    /// The buffer comes back, with the number of bytes that were appended to it; 0 is the end of the
    /// stream. Final.
    ReceivedInto(BytesMut, io::Result<usize>),
    /// A datagram arrived; an error and the last that was asked for are final.
    Datagram(io::Result<InDatagram>),
    /// The queue comes back: empty when all was sent, otherwise with what was not. Final.
    Sent(Box<OutQueue>, io::Result<()>),
    /// The datagram comes back. Final.
    SentTo(Box<OutDatagram>, io::Result<()>),
    /// The queue comes back with a report: empty, unless it was cancelled. Final.
    SentDatagrams(Box<DatagramQueue>, io::Result<()>),
    /// The watched descriptor is ready; an error is final.
    Ready(io::Result<Interest>),
    /// Nothing of the slot is in flight any more and its descriptor is closed. Final.
    Closed,
}

/// A datagram that arrived.
#[derive(Debug)]
pub struct InDatagram {
    /// Sender.
    pub from: Address,
    /// Payload; of several datagrams of this sender, one behind the other, if the kernel has joined them.
    pub bytes: Lease,
    /// Bytes of each of them but the last, which may be shorter; the length of `bytes` if it is one.
    ///
    /// The kernel joins only where [`join_received`](crate::socket::join_received) allowed it.
    pub segment_size: usize,
    /// Whether the datagram was longer than the loop's buffer, so that its end is lost.
    pub truncated: bool,
}

/// Answer to a submitted operation.
#[derive(Debug)]
#[must_use]
pub enum Submitted {
    /// It is in flight; its completions come from later turns.
    Pending,
    /// It ended at once; no further completion follows.
    Done(Outcome),
}

/// Answer to a lease that was to be sent.
#[derive(Debug)]
#[must_use]
pub enum LeaseSend {
    /// It has left whole.
    Done,
    /// The send is in flight.
    Pending,
    /// One call was made, and this came of it: not everything left, or it failed.
    Unfinished(Lease, io::Result<usize>),
}

/// Directions in which a descriptor is, or should be, ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Reading does not block; also set at end of stream and on error.
    pub readable: bool,
    /// Writing does not block; also set on error.
    pub writable: bool,
}

impl Interest {
    /// Only reading.
    pub const READABLE: Self = Self { readable: true, writable: false };
    /// Only writing.
    pub const WRITABLE: Self = Self { readable: false, writable: true };
}

/// The operations that can be cancelled, each by its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The receive, of whatever kind.
    Receive,
    /// The send, of whatever kind.
    Send,
    /// Accept, connect or watch.
    Auxiliary,
}

/// The error of an operation that was cancelled.
pub fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// Whether an operation ended because it was cancelled.
pub fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

/// What is left of a number of receives after `count` of them; `u32::MAX` stands for no limit.
pub(crate) fn less(left: u32, count: u32) -> u32 {
    if left == u32::MAX { left } else { left.saturating_sub(count) }
}

/// What is left after one.
pub(crate) fn less_one(left: u32) -> u32 {
    less(left, 1)
}
