//! Operations that wait or are in flight: where they lie, and in which order.
//!
//! Most connections of a large program wait for a pooled read, so that is what a place in the slab has room
//! for. What an operation needs beyond it, such as a buffer, lies in a box of its own, which a [`Shelf`] keeps
//! for the next one.

use bytes::BytesMut;
use kolk_engine::op::OutDatagram;
use kolk_engine::timer::TimerId;

use super::buffer::Buffer;
use super::completion::Operation;
use super::limits::SPARES;
use super::request::{Again, Until};
use crate::error::Error;

/// One operation that is not done.
pub(super) struct Pending<C> {
    pub(super) owner: Owner<C>,
    pub(super) task: Task<C>,
    /// Of its [`OperationId`](super::OperationId); of a step of a relay, the name of the relay as [`Due`] packs it.
    ///
    /// [`Due`]: super::conn::Due
    pub(super) number: u64,
    /// Its deadline.
    pub(super) timer: Option<TimerId>,
    /// It is to end before it is done.
    pub(super) stop: Option<Stop>,
}

impl<C> Pending<C> {
    /// One without a deadline.
    #[inline]
    pub(super) fn of_program(context: C, task: Task<C>, number: u64) -> Self {
        Self { owner: Owner::Program(context), task, number, timer: None, stop: None }
    }
}

/// Who is told of the end of an operation.
pub(super) enum Owner<C> {
    Program(C),
    /// One way of a relay: 0 from its first connection, 1 from its second.
    Relay(u8),
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
    Read(Box<Fill>),
    ReadPooled,
    ReadExact(Box<Fill>),
    ReadUntil(Box<Search>),
    Write(Box<Outgoing>),
    RecvFrom,
    /// `None` while it is in the kernel.
    SendTo(Option<Box<OutDatagram>>),
    Accept(Again<C>),
    Connect,
    Watch(Again<C>),
    Close,
}

impl<C> Task<C> {
    #[inline]
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Read(_) => Operation::Read,
            Self::ReadPooled => Operation::ReadPooled,
            Self::ReadExact(_) => Operation::ReadExact,
            Self::ReadUntil(_) => Operation::ReadUntil,
            Self::Write(_) => Operation::Write,
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
            Self::Read(fill) | Self::ReadExact(fill) => fill.count() as u64,
            Self::ReadUntil(search) => search.bytes.len() as u64,
            Self::Write(send) => send.sent,
            _ => 0,
        }
    }
}

/// A buffer of the program that bytes come into.
pub(super) struct Fill {
    /// Empty while it is in the kernel.
    pub(super) buffer: BytesMut,
    /// Its length before the first byte came.
    start: usize,
}

impl Fill {
    pub(super) fn new(buffer: BytesMut) -> Self {
        let start = buffer.len();
        Self { buffer, start }
    }

    /// Bytes that have come.
    pub(super) fn count(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() == self.buffer.capacity()
    }
}

/// A delimiter that is waited for.
pub(super) struct Search {
    /// What came so far; the delimiter is not in it.
    pub(super) bytes: BytesMut,
    pub(super) until: Until,
}

/// Bytes to be sent.
pub(super) struct Outgoing {
    pub(super) buffer: Buffer,
    /// `0 <= sent <= buffer.byte_count()`; more than 0 only at the head of the output.
    pub(super) sent: u64,
}

impl Outgoing {
    /// Bytes that are not sent yet.
    #[inline]
    pub(super) fn rest(&self) -> u64 {
        self.buffer.byte_count() - self.sent
    }
}

/// Boxes that were emptied, for the operations to come: where operations come and go, none of them allocates.
pub(super) struct Shelf<T>(Vec<Box<T>>);

impl<T> Shelf<T> {
    pub(super) fn take(&mut self, value: T) -> Box<T> {
        match self.0.pop() {
            Some(mut spare) => {
                *spare = value;
                spare
            }
            None => Box::new(value),
        }
    }

    #[inline]
    pub(super) fn put(&mut self, spare: Box<T>) {
        if self.0.len() < SPARES {
            self.0.push(spare);
        }
    }
}

impl Shelf<Outgoing> {
    /// A box for bytes of which none is sent yet.
    #[inline]
    pub(super) fn take_for(&mut self, buffer: Buffer) -> Box<Outgoing> {
        let Some(mut spare) = self.0.pop() else { return Box::new(Outgoing { buffer, sent: 0 }) };
        debug_assert!(matches!(spare.buffer, Buffer::Empty), "it was emptied");
        // Nothing is there to be dropped, so the buffer is not put aside while that would be done.
        std::mem::forget(std::mem::replace(&mut spare.buffer, buffer));
        spare.sent = 0;
        spare
    }
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A shelf for each kind of box.
#[derive(Default)]
pub(super) struct Shelves {
    pub(super) fills: Shelf<Fill>,
    pub(super) searches: Shelf<Search>,
    pub(super) outgoing: Shelf<Outgoing>,
    pub(super) datagrams: Shelf<OutDatagram>,
}

impl Shelves {
    /// Takes back what an operation that has ended leaves; its buffer was taken out of it.
    #[inline]
    pub(super) fn put<C>(&mut self, task: Task<C>) {
        match task {
            Task::Read(fill) | Task::ReadExact(fill) => self.fills.put(fill),
            Task::ReadUntil(search) => self.searches.put(search),
            Task::Write(send) => self.outgoing.put(send),
            Task::SendTo(Some(datagram)) => self.datagrams.put(datagram),
            _ => {}
        }
    }
}

/// Index of an operation in its [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    #[inline]
    fn get(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// Pending operations of all connections, in pages, so that memory follows use. A vacated place is the next to
/// be used.
pub(super) struct Slab<T> {
    pages: Vec<Page<T>>,
    vacant: Link,
}

/// Places of a page: small beside what so many operations need elsewhere.
const PAGE_PLACES: usize = 256;

/// An array, and not a slice: its length is known, so an offset in it needs no check.
type Page<T> = Box<[Place<T>; PAGE_PLACES]>;

/// `next` leads on in the lane or, without a value, in the list of vacant places.
struct Place<T> {
    value: Option<T>,
    next: Link,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { pages: Vec::new(), vacant: Link::NONE }
    }

    #[inline(always)]
    fn insert(&mut self, value: T) -> Link {
        let link = self.vacant.get().unwrap_or_else(|| self.grow());
        let place = self.place_mut(link);
        let next = std::mem::replace(&mut place.next, Link::NONE);
        debug_assert!(place.value.is_none(), "a vacant place has a value");
        // Nothing is there to be dropped, so the value is not put aside while that would be done.
        std::mem::forget(place.value.replace(value));
        self.vacant = next;
        link
    }

    /// Makes a page, and answers its first place.
    #[cold]
    fn grow(&mut self) -> Link {
        let first = (self.pages.len() * PAGE_PLACES) as u32;
        let end = first + PAGE_PLACES as u32;
        let following = (first + 1..end).map(Link).chain([Link::NONE]);
        let places: Box<[_]> = following.map(|next| Place { value: None, next }).collect();
        self.pages.push(places.try_into().unwrap_or_else(|_| unreachable!("it has PAGE_PLACES places")));
        Link(first)
    }

    #[inline(always)]
    fn remove(&mut self, link: Link) -> Option<T> {
        let vacant = std::mem::replace(&mut self.vacant, link);
        let place = self.place_mut(link);
        place.next = vacant;
        place.value.take()
    }

    #[inline(always)]
    pub(super) fn get(&self, link: Link) -> Option<&T> {
        self.place(link).value.as_ref()
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, link: Link) -> Option<&mut T> {
        self.place_mut(link).value.as_mut()
    }

    /// What follows in its lane.
    #[inline(always)]
    pub(super) fn after(&self, link: Link) -> Option<Link> {
        self.next(link).get()
    }

    #[inline(always)]
    fn next(&self, link: Link) -> Link {
        self.place(link).next
    }

    #[inline(always)]
    fn place(&self, link: Link) -> &Place<T> {
        &self.pages[link.0 as usize / PAGE_PLACES][link.0 as usize % PAGE_PLACES]
    }

    #[inline(always)]
    fn place_mut(&mut self, link: Link) -> &mut Place<T> {
        &mut self.pages[link.0 as usize / PAGE_PLACES][link.0 as usize % PAGE_PLACES]
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

    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.head == Link::NONE
    }

    #[inline(always)]
    pub(super) fn head(self) -> Option<Link> {
        self.head.get()
    }

    #[inline(always)]
    pub(super) fn push<T>(&mut self, slab: &mut Slab<T>, value: T) {
        let link = slab.insert(value);
        match self.tail.get() {
            Some(tail) => slab.place_mut(tail).next = link,
            None => self.head = link,
        }
        self.tail = link;
    }

    #[inline(always)]
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
        slab.place_mut(before).next = after;
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
        let is_wanted = |link: &Link| slab.get(*link).is_some_and(&wanted);
        self.links(slab).take_while(is_wanted).count() as u32
    }

    /// Position of the first operation that `wanted` wants.
    pub(super) fn position<T>(self, slab: &Slab<T>, wanted: impl Fn(&T) -> bool) -> Option<usize> {
        self.links(slab).position(|link| slab.get(link).is_some_and(&wanted))
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
            assert_eq!(slab.vacant, Link(4), "the vacated place was used again");
            let expected: Vec<_> = (0..4).filter(|&n| n != position as u32).chain([9]).collect();
            assert_eq!(drain(&mut lane, &mut slab), expected);
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
    fn a_slab_grows_page_by_page_and_moves_nothing() {
        let (mut slab, mut lane) = (Slab::new(), Lane::EMPTY);
        let count = 3 * PAGE_PLACES as u32;
        (0..count).for_each(|n| lane.push(&mut slab, n));
        assert_eq!((slab.pages.len(), slab.vacant), (3, Link::NONE));
        assert_eq!(drain(&mut lane, &mut slab), (0..count).collect::<Vec<_>>());
        (0..count).for_each(|n| lane.push(&mut slab, n));
        assert_eq!(slab.pages.len(), 3, "the vacated places were used again");
    }

    #[test]
    fn a_box_is_used_again() {
        let mut shelf = Shelf::default();
        let first = shelf.take(1);
        let place = std::ptr::from_ref(&*first);
        shelf.put(first);
        let second = shelf.take(2);
        assert_eq!((*second, std::ptr::from_ref(&*second)), (2, place));
    }

    #[test]
    fn a_pending_read_is_small() {
        assert_eq!(size_of::<Place<Pending<()>>>(), 48);
        assert_eq!(size_of::<Place<Pending<u64>>>(), 64);
    }
}
