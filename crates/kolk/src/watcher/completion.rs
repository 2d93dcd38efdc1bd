//! What came of an operation.

use std::collections::VecDeque;
use std::fmt;

use kolk_engine::op::Interest;
use kolk_engine::socket::Address;
use kolk_engine::token::ConnId;

use super::buffer::Buffer;
use super::limits::BATCH;
use crate::error::Result;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// One receive into the program's buffer.
    Read,
    /// One receive into the loop's memory.
    ReadPooled,
    /// Receives until a buffer is full.
    ReadExact,
    /// Receives until a delimiter.
    ReadUntil,
    /// A write, of one buffer or of several.
    Write,
    /// One new connection of a listener.
    Accept,
    /// A connection to somebody else.
    Connect,
    /// A descriptor that became ready.
    Watch,
    /// One datagram that arrived.
    RecvFrom,
    /// One datagram that was sent.
    SendTo,
    /// A timer.
    Timer,
    /// One beat of an interval.
    Interval,
    /// Bytes copied between two connections.
    Relay,
    /// The end of a connection, if it was asked for.
    Closed,
}

/// The name of one operation, to cancel it. `Copy`, good in any thread, harmless when the operation is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId {
    pub(super) conn: ConnId,
    pub(super) number: u64,
}

impl OperationId {
    /// The connection of the operation. A connect is named after its connection to be; a timer, an interval
    /// and a relay have a name of their own.
    pub fn conn(self) -> ConnId {
        self.conn
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.conn, self.number)
    }
}

/// One operation that is done: everything it was given comes back, with what came of it.
///
/// | operation | `Ok` of `result` | `buffer` |
/// |---|---|---|
/// | `Read` | bytes appended; 0 is the end of the stream | the program's |
/// | `ReadPooled` | bytes; 0 is the end of the stream | a [`Lease`](crate::Lease) |
/// | `ReadExact` | bytes appended; 0: the stream ended before the first | the program's |
/// | `ReadUntil` | bytes up to and with the delimiter; 0: the stream ended before the first | those bytes |
/// | `Write`, `SendTo` | bytes sent: all | the program's |
/// | `Accept` | 0; [`accepted`](Self::accepted) | - |
/// | `Connect`, `Timer`, `Closed` | 0 | - |
/// | `Interval` | beats since the last completion: 1, or more if the program was late | - |
/// | `Watch` | 0; [`readiness`](Self::readiness) | - |
/// | `RecvFrom` | bytes; [`peer`](Self::peer) | a [`Lease`](crate::Lease) |
/// | `Relay` | bytes in both directions; [`relayed`](Self::relayed) | - |
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion<C = ()> {
    /// What it was.
    pub operation: Operation,
    /// The connection. That of a timer or an interval names nothing but itself; that of a relay is its first.
    pub conn: ConnId,
    /// What the program gave with it.
    pub context: C,
    /// What came of it; see the table above.
    pub result: Result<usize>,
    /// Bytes that were moved, also by an operation that failed.
    pub count: u64,
    /// The buffer.
    pub buffer: Buffer,
    /// Of its [`OperationId`].
    pub(super) number: u64,
    pub(super) detail: Detail,
}

/// What only some operations report.
#[derive(Debug, Default)]
pub(super) enum Detail {
    #[default]
    None,
    Accepted(ConnId),
    Ready(Interest),
    Datagram(Address),
    /// Of a datagram whose end is lost.
    Truncated(Box<Address>),
    /// The name of the relay, and what it copied from its first connection to its second.
    Relayed(ConnId, u64),
}

/// Completions are moved a few times, and beyond this size no longer in line.
const _: () = assert!(size_of::<Completion<u64>>() <= 128);

impl<C> Completion<C> {
    /// The name of the operation, as it was returned when it was submitted.
    pub fn id(&self) -> OperationId {
        let conn = match self.detail {
            Detail::Relayed(name, _) => name,
            _ => self.conn,
        };
        OperationId { conn, number: self.number }
    }

    /// The new connection of an `Accept`.
    pub fn accepted(&self) -> Option<ConnId> {
        match self.detail {
            Detail::Accepted(conn) => Some(conn),
            _ => None,
        }
    }

    /// In which directions the descriptor of a `Watch` is ready.
    pub fn readiness(&self) -> Option<Interest> {
        match self.detail {
            Detail::Ready(interest) => Some(interest),
            _ => None,
        }
    }

    /// Who sent the datagram of a `RecvFrom`.
    pub fn peer(&self) -> Option<&Address> {
        match &self.detail {
            Detail::Datagram(from) => Some(from),
            Detail::Truncated(from) => Some(from),
            _ => None,
        }
    }

    /// Whether a datagram was longer than the loop's buffer, so that its end is lost.
    pub fn is_truncated(&self) -> bool {
        matches!(self.detail, Detail::Truncated(_))
    }

    /// Bytes that a `Relay` copied: from its first connection to its second, and back.
    pub fn relayed(&self) -> Option<(u64, u64)> {
        match self.detail {
            Detail::Relayed(_, there) => Some((there, self.count - there)),
            _ => None,
        }
    }
}

/// Completions that the program was not given yet, in the order in which they came about.
pub(super) struct Ready<C> {
    /// For which there was no room.
    kept: VecDeque<Completion<C>>,
    /// Behind those.
    recent: Vec<Completion<C>>,
}

impl<C> Ready<C> {
    pub(super) const fn new() -> Self {
        Self { kept: VecDeque::new(), recent: Vec::new() }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.recent.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what `make` makes, where it stays: room is made before, so it is not put together aside and copied.
    #[inline(always)]
    pub(super) fn push(&mut self, make: impl FnOnce() -> Completion<C>) {
        self.recent.extend(std::iter::once_with(make));
    }

    /// Gives as many as there is room for, and answers how many. Nearly always that is all.
    pub(super) fn hand_over(&mut self, completions: &mut Completions<C>) -> usize {
        let count = self.len().min(completions.room());
        if completions.is_empty() && self.kept.is_empty() && count == self.recent.len() {
            let emptied = Vec::from(std::mem::take(&mut completions.batch));
            completions.batch = std::mem::replace(&mut self.recent, emptied).into();
        } else {
            self.kept.extend(self.recent.drain(..));
            completions.batch.extend(self.kept.drain(..count));
        }
        count
    }
}

/// A batch of completions, filled by [`Watcher::wait`](super::Watcher::wait) and emptied by the program. Its
/// memory is used again and again.
#[derive(Debug)]
pub struct Completions<C = ()> {
    /// Invariant: `batch.len() <= capacity`, but for completions that came of one event.
    pub(super) batch: VecDeque<Completion<C>>,
    capacity: usize,
}

impl<C> Completions<C> {
    /// Room for `capacity` completions, at least one: the most that one wait brings.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { batch: VecDeque::with_capacity(capacity), capacity }
    }

    /// Most completions that one wait brings.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Completions that were not taken yet.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Takes all, in the order in which they came about.
    pub fn drain(&mut self) -> impl Iterator<Item = Completion<C>> {
        self.batch.drain(..)
    }

    /// Takes the first.
    pub fn pop(&mut self) -> Option<Completion<C>> {
        self.batch.pop_front()
    }

    /// Room that is left.
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.batch.len())
    }
}

/// Room for 256.
impl<C> Default for Completions<C> {
    fn default() -> Self {
        Self::with_capacity(BATCH)
    }
}

#[cfg(test)]
mod tests {
    use kolk_engine::token::{Generation, Key};

    use super::*;

    fn numbered(number: u64) -> Completion {
        Completion {
            operation: Operation::Timer,
            conn: ConnId::new(0, Key::new(0, Generation::FIRST)),
            context: (),
            result: Ok(0),
            count: 0,
            buffer: Buffer::Empty,
            number,
            detail: Detail::None,
        }
    }

    #[test]
    fn completions_keep_their_order_however_much_room_there_is() {
        for (capacity, taken) in [(1, 1), (2, 1), (3, 2), (4, 4), (5, 3), (100, 100)] {
            let (mut ready, mut completions) = (Ready::new(), Completions::with_capacity(capacity));
            let (mut pushed, mut seen) = (0, Vec::new());
            while seen.len() < 40 {
                for _ in 0..(40 - pushed).min(4) {
                    ready.push(|| numbered(pushed));
                    pushed += 1;
                }
                let (waiting, room) = (ready.len(), completions.room());
                let count = ready.hand_over(&mut completions);
                assert_eq!((count, ready.len()), (waiting.min(room), waiting - count), "room for {room}");
                seen.extend((0..taken).map_while(|_| completions.pop()).map(|done| done.number));
            }
            assert_eq!(seen, (0..40).collect::<Vec<_>>(), "room for {capacity}, {taken} taken at a time");
            assert!(ready.is_empty() && completions.is_empty());
        }
    }

    #[test]
    fn the_memory_of_a_batch_goes_round() {
        let (mut ready, mut completions) = (Ready::new(), Completions::with_capacity(8));
        let mut places = std::collections::HashSet::new();
        for round in 0..10 {
            (0..8).for_each(|number| ready.push(|| numbered(number)));
            assert_eq!(ready.hand_over(&mut completions), 8);
            places.insert(std::ptr::from_ref(&completions.batch[0]).addr());
            assert_eq!(completions.drain().count(), 8, "round {round}");
        }
        assert_eq!(places.len(), 2, "one is filled while the other is emptied");
    }
}
