//! One operation as a value: what to do, with an optional deadline.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use kolk_engine::driver::Socket;
use kolk_engine::op::Interest;
use kolk_engine::socket::Address;
use kolk_engine::token::ConnId;

use super::adopt::Kind;
use super::buffer::Buffer;
use super::completion::{Completion, Detail, Operation, OperationId};
use super::limits::DELIMITER_MAX;
use crate::error::{Error, Result};

/// One operation, to be submitted: the long form of the verbs of [`Watcher`](super::Watcher) and
/// [`Submitter`](super::Submitter), for those that want a deadline, the name of the operation, or a batch.
///
/// # Examples
///
/// A read that ends after a second, whatever comes:
///
/// ```
/// use std::time::Duration;
/// use kolk::watcher::{Completions, Request, Watcher};
/// # use std::os::unix::net::UnixStream;
///
/// # let (near, _far) = UnixStream::pair()?;
/// let mut watcher = Watcher::new()?;
/// let conn = watcher.adopt(near)?;
/// watcher.submit(Request::read_pooled(conn, "greeting").timeout(Duration::from_millis(20)))?;
///
/// let mut completions = Completions::default();
/// watcher.wait(&mut completions, None)?;
/// let done = completions.pop().expect("`wait` waits for one");
/// assert_eq!(done.context, "greeting");
/// assert!(done.result.is_err_and(|error| error.is_timed_out()));
/// # Ok::<(), kolk::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a request does nothing until it is submitted"]
pub struct Request<C = ()> {
    /// `None`: its connection, or its name, is still to be made.
    pub(super) conn: Option<ConnId>,
    pub(super) context: Option<C>,
    pub(super) verb: Verb<C>,
    pub(super) deadline: Deadline,
    /// 0 until it is submitted.
    pub(super) number: u64,
}

/// When an operation has to be done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Deadline {
    #[default]
    Never,
    At(Instant),
    After(Duration),
}

/// What to do.
#[derive(Debug)]
pub(super) enum Verb<C> {
    Read(BytesMut),
    ReadPooled,
    ReadExact(BytesMut),
    ReadUntil(Until),
    Write(Buffer),
    RecvFrom,
    SendTo(Buffer, Option<Address>),
    Accept(Again<C>),
    Connect(Address),
    Watch(Interest, Again<C>),
    Timer(Duration),
    Interval(Duration, Again<C>),
    Relay(Ends),
    ShutdownWrite,
    /// With a context: complete it when the connection is closed.
    Free,
    Cancel(u64),
    Adopt(Socket, Kind),
    /// Adopts each, and watches it.
    WatchMany(Vec<Watched<C>>, Again<C>),
}

/// A descriptor to be adopted under a name that is reserved, and to be watched.
#[derive(Debug)]
pub(super) struct Watched<C> {
    pub(super) conn: ConnId,
    pub(super) number: u64,
    pub(super) socket: Socket,
    pub(super) kind: Kind,
    pub(super) interest: Interest,
    pub(super) context: C,
}

/// Makes another context, for an operation that completes many times.
pub(super) type Again<C> = fn(&C) -> C;

/// Between whom a relay copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) from: ConnId,
    pub(super) to: ConnId,
    /// Or only there.
    pub(super) both_ways: bool,
}

/// Where a [`Request::read_until`] ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until {
    /// 1 <= len <= DELIMITER_MAX
    len: u8,
    delimiter: [u8; DELIMITER_MAX],
    /// Most bytes, the delimiter included.
    pub(super) limit: u32,
}

impl Until {
    pub(super) fn delimiter(&self) -> &[u8] {
        &self.delimiter[..usize::from(self.len)]
    }
}

impl<C> Request<C> {
    fn new(conn: impl Into<Option<ConnId>>, context: impl Into<Option<C>>, verb: Verb<C>) -> Self {
        let (conn, context) = (conn.into(), context.into());
        Self { conn, context, verb, deadline: Deadline::Never, number: 0 }
    }

    /// One receive into the spare capacity of `buffer`: 1 byte or more, or 0 at the end of the stream.
    pub fn read(conn: ConnId, context: C, buffer: BytesMut) -> Self {
        Self::new(conn, context, Verb::Read(buffer))
    }

    /// One receive into the loop's own memory: while it waits, no buffer is bound. The bytes come as a
    /// [`Lease`](crate::Lease), which may be kept and sent elsewhere.
    pub fn read_pooled(conn: ConnId, context: C) -> Self {
        Self::new(conn, context, Verb::ReadPooled)
    }

    /// Receives until the spare capacity of `buffer` is full.
    pub fn read_exact(conn: ConnId, context: C, buffer: BytesMut) -> Self {
        Self::new(conn, context, Verb::ReadExact(buffer))
    }

    /// Receives until `delimiter` (1 to 7 bytes) has come, at most `limit` bytes with it. What came after the
    /// delimiter is kept for the next read.
    pub fn read_until(conn: ConnId, context: C, delimiter: impl AsRef<[u8]>, limit: usize) -> Self {
        let given = delimiter.as_ref();
        // What does not fit is refused when it is submitted.
        let len = if given.len() > DELIMITER_MAX { 0 } else { given.len() };
        let mut delimiter = [0; DELIMITER_MAX];
        delimiter[..len].copy_from_slice(&given[..len]);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        Self::new(conn, context, Verb::ReadUntil(Until { len: len as u8, delimiter, limit }))
    }

    /// Sends all of `buffer`. On a datagram socket that is connected: one datagram.
    pub fn write(conn: ConnId, context: C, buffer: impl Into<Buffer>) -> Self {
        Self::new(conn, context, Verb::Write(buffer.into()))
    }

    /// Sends all of several buffers, one after the other, as one operation.
    pub fn write_vectored(conn: ConnId, context: C, buffers: Vec<Buffer>) -> Self {
        Self::new(conn, context, Verb::Write(Buffer::Vectored(buffers)))
    }

    /// Receives one datagram. Several may be queued: a wait brings as many as have arrived.
    pub fn recv_from(conn: ConnId, context: C) -> Self {
        Self::new(conn, context, Verb::RecvFrom)
    }

    /// Sends one datagram.
    pub fn send_to(conn: ConnId, context: C, buffer: impl Into<Buffer>, to: impl Into<Address>) -> Self {
        Self::new(conn, context, Verb::SendTo(buffer.into(), Some(to.into())))
    }

    /// Makes a stream socket and connects it; its name is that of the operation,
    /// [`OperationId::conn`]. Other operations may be submitted at once: they wait for the connection. One
    /// that fails is freed.
    pub fn connect(address: impl Into<Address>, context: C) -> Self {
        Self::new(None, context, Verb::Connect(address.into()))
    }

    /// Completes once, when `after` has passed.
    pub fn timer(after: Duration, context: C) -> Self {
        Self::new(None, context, Verb::Timer(after))
    }

    /// Copies both ways between two connections until both their streams have ended, each way at the speed of
    /// its slower side and with the memory of one receive. Reads of theirs that are pending come first.
    pub fn relay(a: ConnId, b: ConnId, context: C) -> Self {
        Self::relay_ways(a, b, context, true)
    }

    /// As [`relay`](Self::relay), from `a` to `b` only, until the stream of `a` ends.
    pub fn relay_one_way(a: ConnId, b: ConnId, context: C) -> Self {
        Self::relay_ways(a, b, context, false)
    }

    fn relay_ways(a: ConnId, b: ConnId, context: C, both_ways: bool) -> Self {
        Self::new(None, context, Verb::Relay(Ends { from: a, to: b, both_ways }))
    }

    /// Closes a connection, and completes as its last operation when that has come about.
    pub fn free(conn: ConnId, context: C) -> Self {
        Self::new(conn, context, Verb::Free)
    }

    /// Ends the operation with [`is_timed_out`](Error::is_timed_out) if it is not done at this instant. One
    /// that has passed already ends it before it begins.
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Deadline::At(at);
        self
    }

    /// Ends the operation with [`is_timed_out`](Error::is_timed_out) if it is not done this long after the
    /// watcher has taken it up.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.deadline = Deadline::After(after);
        self
    }
}

/// Operations that complete many times need a context each time.
impl<C: Clone> Request<C> {
    /// Accepts connections on a listener until that is cancelled or it is freed, one completion each.
    pub fn accept(listener: ConnId, context: C) -> Self {
        Self::new(listener, context, Verb::Accept(C::clone))
    }

    /// Reports each time that a descriptor becomes ready, until that is cancelled or it is freed.
    pub fn watch(conn: ConnId, context: C, interest: Interest) -> Self {
        Self::new(conn, context, Verb::Watch(interest, C::clone))
    }

    /// Completes each time that `every` has passed, until it is cancelled.
    pub fn interval(every: Duration, context: C) -> Self {
        Self::new(None, context, Verb::Interval(every, C::clone))
    }
}

impl<C> Request<C> {
    pub(super) fn shutdown_write(conn: ConnId) -> Self {
        Self::new(conn, None, Verb::ShutdownWrite)
    }

    pub(super) fn free_quietly(conn: ConnId) -> Self {
        Self::new(conn, None, Verb::Free)
    }

    pub(super) fn cancel(id: OperationId) -> Self {
        Self::new(id.conn, None, Verb::Cancel(id.number))
    }

    pub(super) fn adopt(conn: ConnId, socket: Socket, kind: Kind) -> Self {
        Self::new(conn, None, Verb::Adopt(socket, kind))
    }

    /// A watch that was submitted under this number.
    pub(super) fn watch_named(
        conn: ConnId,
        number: u64,
        context: C,
        interest: Interest,
        again: Again<C>,
    ) -> Self {
        Self { number, ..Self::new(conn, context, Verb::Watch(interest, again)) }
    }

    pub(super) fn watch_many(descriptors: Vec<Watched<C>>, again: Again<C>) -> Self {
        let conn = descriptors.first().map(|first| first.conn);
        Self::new(conn, None, Verb::WatchMany(descriptors, again))
    }

    /// Whether it needs a name of its own before it is submitted.
    pub(super) fn needs_name(&self) -> bool {
        matches!(self.verb, Verb::Connect(_) | Verb::Timer(_) | Verb::Interval(..) | Verb::Relay(..))
    }

    /// Refuses what cannot be, whatever the state of the connection.
    pub(super) fn check(&self) -> Result<()> {
        match &self.verb {
            Verb::Read(buffer) | Verb::ReadExact(buffer) if buffer.capacity() == buffer.len() => {
                Err(Error::invalid("there is no room to read into: give a buffer with spare capacity"))
            }
            Verb::ReadUntil(until) if until.len == 0 || u32::from(until.len) > until.limit => {
                Err(Error::invalid("a delimiter has 1 to 7 bytes, and the limit is no less"))
            }
            Verb::Write(buffer) => buffer.check_not_empty(),
            Verb::Interval(every, _) if every.is_zero() => {
                Err(Error::invalid("an interval of no time would never end: use a positive one"))
            }
            _ => Ok(()),
        }
    }

    /// What the program is told of it; `None` for what never completes.
    pub(super) fn operation(&self) -> Option<Operation> {
        Some(match self.verb {
            Verb::Read(_) => Operation::Read,
            Verb::ReadPooled => Operation::ReadPooled,
            Verb::ReadExact(_) => Operation::ReadExact,
            Verb::ReadUntil(_) => Operation::ReadUntil,
            Verb::Write(_) => Operation::Write,
            Verb::RecvFrom => Operation::RecvFrom,
            Verb::SendTo(..) => Operation::SendTo,
            Verb::Accept(_) => Operation::Accept,
            Verb::Connect(_) => Operation::Connect,
            Verb::Watch(..) => Operation::Watch,
            Verb::Timer(_) => Operation::Timer,
            Verb::Interval(..) => Operation::Interval,
            Verb::Relay(..) => Operation::Relay,
            Verb::Free => Operation::Closed,
            Verb::ShutdownWrite | Verb::Cancel(_) | Verb::Adopt(..) | Verb::WatchMany(..) => return None,
        })
    }

    /// The completion of a request that never began.
    pub(super) fn refused(self, error: Error) -> Option<Completion<C>> {
        let (operation, name) = (self.operation()?, self.conn?);
        let (conn, detail) = match &self.verb {
            Verb::Relay(ends) => (ends.from, Detail::Relayed(name, 0)),
            _ => (name, Detail::None),
        };
        let buffer = match self.verb {
            Verb::Read(buffer) | Verb::ReadExact(buffer) => Buffer::Owned(buffer),
            Verb::Write(buffer) | Verb::SendTo(buffer, _) => buffer,
            _ => Buffer::Empty,
        };
        Some(Completion {
            operation,
            conn,
            context: self.context?,
            result: Err(error),
            count: 0,
            buffer,
            number: self.number,
            detail,
        })
    }
}
