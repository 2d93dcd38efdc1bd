//! Operations that wait or are in flight: where they lie, and in which order.

use bytes::BytesMut;
use kolk_engine::op::OutDatagram;
use kolk_engine::timer::TimerId;
use kolk_engine::token::Key;

use super::buffer::Buffer;
use super::completion::Operation;
use super::request::{Again, Until};
use crate::error::Error;

/// One operation that is not done.
pub(super) struct Pending<C> {
    pub(super) owner: Owner<C>,
    pub(super) task: Task<C>,
    /// Of its [`OperationId`](super::OperationId).
    pub(super) number: u64,
    /// Its deadline.
    pub(super) timer: Option<TimerId>,
    /// It is to end before it is done.
    pub(super) stop: Option<Stop>,
}

/// Who is told of the end of an operation.
pub(super) enum Owner<C> {
    Program(C),
    /// One way of a relay: 0 from its first connection, 1 from its second.
    Relay(Key, u8),
    Nobody,
}

/// Why an operation ends before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    TimedOut,
    Cancelled,
}

impl Stop {
    pub(super) fn error(self) -> Error {
        match self {
            Self::TimedOut => Error::timed_out(),
            Self::Cancelled => Error::cancelled(),
        }
    }
}

/// What is to be done, with what has been done of it.
pub(super) enum Task<C> {
    /// Empty while the buffer is in the kernel.
    Read(BytesMut),
    ReadPooled,
    /// `buffer.len() - start` bytes have come.
    ReadExact {
        buffer: BytesMut,
        start: usize,
    },
    /// What came of it so far, without a delimiter.
    ReadUntil {
        bytes: BytesMut,
        until: Until,
    },
    /// `0 <= sent <= buffer.byte_count()`; more than 0 only at the head of the output.
    Write {
        buffer: Buffer,
        sent: u64,
    },
    RecvFrom,
    /// `None` while it is in the kernel.
    SendTo(Option<Box<OutDatagram>>),
    Accept(Again<C>),
    Connect,
    Watch(Again<C>),
    Close,
}

impl<C> Task<C> {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Read(_) => Operation::Read,
            Self::ReadPooled => Operation::ReadPooled,
            Self::ReadExact { .. } => Operation::ReadExact,
            Self::ReadUntil { .. } => Operation::ReadUntil,
            Self::Write { .. } => Operation::Write,
            Self::RecvFrom => Operation::RecvFrom,
            Self::SendTo(_) => Operation::SendTo,
            Self::Accept(_) => Operation::Accept,
            Self::Connect => Operation::Connect,
            Self::Watch(_) => Operation::Watch,
            Self::Close => Operation::Closed,
        }
    }

    /// Bytes that were moved so far.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::ReadExact { buffer, start } => buffer.len().saturating_sub(*start) as u64,
            Self::ReadUntil { bytes, .. } => bytes.len() as u64,
            Self::Write { sent, .. } => *sent,
            _ => 0,
        }
    }
}

/// Index of an operation in its [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    fn get(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// Pending operations of all connections. A vacated place is the next to be used.
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    vacant: Link,
}

/// `next` leads on in the lane or, without a value, in the list of vacant places.
struct Place<T> {
    value: Option<T>,
    next: Link,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), vacant: Link::NONE }
    }

    fn insert(&mut self, value: T) -> Link {
        let Some(vacant) = self.vacant.get() else {
            self.places.push(Place { value: Some(value), next: Link::NONE });
            return Link(self.places.len() as u32 - 1);
        };
        let place = &mut self.places[vacant.0 as usize];
        self.vacant = place.next;
        *place = Place { value: Some(value), next: Link::NONE };
        vacant
    }

    fn remove(&mut self, link: Link) -> Option<T> {
        let place = &mut self.places[link.0 as usize];
        place.next = self.vacant;
        self.vacant = link;
        place.value.take()
    }

    pub(super) fn get_mut(&mut self, link: Link) -> Option<&mut T> {
        self.places[link.0 as usize].value.as_mut()
    }

    /// What follows in its lane.
    pub(super) fn after(&self, link: Link) -> Option<Link> {
        self.next(link).get()
    }

    fn next(&self, link: Link) -> Link {
        self.places[link.0 as usize].next
    }
}

/// One direction of one connection: operations in the order in which they were submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    /// Both `NONE`, or neither.
    head: Link,
    tail: Link,
}

impl Lane {
    pub(super) const EMPTY: Self = Self { head: Link::NONE, tail: Link::NONE };

    pub(super) fn is_empty(self) -> bool {
        self.head == Link::NONE
    }

    pub(super) fn head(self) -> Option<Link> {
        self.head.get()
    }

    pub(super) fn push<T>(&mut self, slab: &mut Slab<T>, value: T) {
        let link = slab.insert(value);
        match self.tail.get() {
            Some(tail) => slab.places[tail.0 as usize].next = link,
            None => self.head = link,
        }
        self.tail = link;
    }

    pub(super) fn pop<T>(&mut self, slab: &mut Slab<T>) -> Option<T> {
        let head = self.head.get()?;
        self.head = slab.next(head);
        if self.head == Link::NONE {
            self.tail = Link::NONE;
        }
        slab.remove(head)
    }

    /// Takes the operation at `position` out, counted from the head.
    pub(super) fn remove<T>(&mut self, slab: &mut Slab<T>, position: usize) -> Option<T> {
        if position == 0 {
            return self.pop(slab);
        }
        let before = self.links(slab).nth(position - 1)?;
        let link = slab.next(before).get()?;
        let after = slab.next(link);
        slab.places[before.0 as usize].next = after;
        if after == Link::NONE {
            self.tail = before;
        }
        slab.remove(link)
    }

    /// The operations in order.
    pub(super) fn links<T>(self, slab: &Slab<T>) -> impl Iterator<Item = Link> {
        std::iter::successors(self.head.get(), |&link| slab.next(link).get())
    }

    /// How many operations from the head on are such as `wanted` wants.
    pub(super) fn run<T>(self, slab: &Slab<T>, wanted: impl Fn(&T) -> bool) -> u32 {
        let is_wanted = |link: &Link| slab.places[link.0 as usize].value.as_ref().is_some_and(&wanted);
        self.links(slab).take_while(is_wanted).count() as u32
    }

    /// Position of the first operation that `wanted` wants.
    pub(super) fn position<T>(self, slab: &Slab<T>, wanted: impl Fn(&T) -> bool) -> Option<usize> {
        self.links(slab).position(|link| slab.places[link.0 as usize].value.as_ref().is_some_and(&wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lane: &mut Lane, slab: &mut Slab<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lane.pop(slab)).collect()
    }

    #[test]
    fn lanes_of_one_slab_keep_their_orders_apart() {
        let (mut slab, mut a, mut b) = (Slab::new(), Lane::EMPTY, Lane::EMPTY);
        for n in 0..10 {
            if n % 2 == 0 { a.push(&mut slab, n) } else { b.push(&mut slab, n) }
        }
        assert_eq!(drain(&mut a, &mut slab), [0, 2, 4, 6, 8]);
        assert_eq!(drain(&mut b, &mut slab), [1, 3, 5, 7, 9]);
        assert!(a.is_empty() && b.is_empty());
    }

    #[test]
    fn any_place_of_a_lane_can_be_vacated() {
        for position in 0..4 {
            let (mut slab, mut lane) = (Slab::new(), Lane::EMPTY);
            (0..4).for_each(|n| lane.push(&mut slab, n));
            assert_eq!(lane.position(&slab, |&n| n == position as u32), Some(position));
            assert_eq!(lane.remove(&mut slab, position), Some(position as u32));
            lane.push(&mut slab, 9);
            let expected: Vec<_> = (0..4).filter(|&n| n != position as u32).chain([9]).collect();
            assert_eq!(drain(&mut lane, &mut slab), expected);
            assert_eq!(slab.places.len(), 4, "the vacated place was used again");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let (mut slab, mut lane) = (Slab::<u32>::new(), Lane::EMPTY);
        assert_eq!(lane.pop(&mut slab), None);
        lane.push(&mut slab, 1);
        assert_eq!(lane.remove(&mut slab, 1), None);
        assert_eq!(lane.position(&slab, |&n| n == 2), None);
    }

    #[test]
    fn a_pending_read_is_small() {
        assert!(size_of::<Place<Pending<()>>>() <= 96, "{}", size_of::<Place<Pending<()>>>());
    }
}
