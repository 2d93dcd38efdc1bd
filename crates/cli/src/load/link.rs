//! One connection of an echo load: what it sent and what came back.

use std::ops::{Deref, DerefMut};

use kolk_engine::token::ConnId;

use super::pattern::{Pattern, Position};

/// The two ends of a connection's stream.
///
/// ```text
///  ├── returned ──┼─ partial ─┼──── outstanding ────┤ sent
///   messages back   bytes of    messages under way
///                   the next
/// ```
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    /// Cleared when the connection is lost; nothing is counted for it any more.
    pub(crate) alive: bool,
    /// Messages that have become due, in an open loop.
    pub(crate) due: u64,
    /// Messages sent.
    sent: u64,
    /// Messages that came back whole; at most `sent`.
    returned: u64,
    /// Bytes of the message that is coming back; less than the message size.
    partial: usize,
    /// Where the next message is sent from.
    out: Position,
    /// Where the next byte back should be from.
    back: Position,
}

/// What some bytes that arrived amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Number of the first message that they complete.
    pub(crate) first: u64,
    /// Messages that they complete.
    pub(crate) completed: u64,
    /// Bytes that were not what was sent, or that nobody sent.
    pub(crate) mismatched: u64,
    /// Bytes beyond all that was sent.
    pub(crate) surplus: u64,
}

impl Link {
    /// Connection number `number` of the whole load.
    pub(crate) fn new(conn: ConnId, number: u64) -> Self {
        let start = Position::start_of(number);
        Self { conn, alive: true, due: 0, sent: 0, returned: 0, partial: 0, out: start, back: start }
    }

    /// Begins to count messages anew, when none is under way; the bytes go on where they are.
    pub(crate) fn restart(&mut self) {
        debug_assert_eq!((self.outstanding(), self.partial), (0, 0));
        (self.due, self.sent, self.returned) = (0, 0, 0);
    }

    /// Messages sent so far, which is also the number of the next one.
    #[inline]
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that came back whole, which is also the number of the next one.
    #[inline]
    pub(crate) fn returned(&self) -> u64 {
        self.returned
    }

    /// Messages sent that are not back.
    #[inline]
    pub(crate) fn outstanding(&self) -> u64 {
        self.sent - self.returned
    }

    /// The bytes of the next `count` messages of `size` bytes.
    #[inline]
    pub(crate) fn send(&mut self, pattern: Pattern, size: usize, count: usize) -> &'static [u8] {
        self.sent += count as u64;
        pattern.take(&mut self.out, count * size)
    }

    /// Checks bytes that came back and counts the messages of `size` bytes that they complete.
    #[inline]
    pub(crate) fn arrived(&mut self, pattern: Pattern, size: usize, bytes: &[u8]) -> Arrival {
        let missing = self.outstanding() * size as u64 - self.partial as u64;
        let surplus = (bytes.len() as u64).saturating_sub(missing);
        let bytes = &bytes[..bytes.len() - surplus as usize];

        let mismatched = pattern.check(&mut self.back, bytes) + surplus;
        let first = self.returned;
        self.partial += bytes.len();
        if self.partial >= size {
            self.returned += (self.partial / size) as u64;
            self.partial %= size;
        }
        Arrival { first, completed: self.returned - first, mismatched, surplus }
    }
}

/// All connections of one event loop, found by their slot.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    /// The place in `links` for each slot; [`NOBODY`](Self::NOBODY) for one that is not ours.
    by_slot: Vec<u32>,
}

impl Links {
    const NOBODY: u32 = u32::MAX;

    /// Room for so many.
    pub(crate) fn with_capacity(count: u32) -> Self {
        Self { links: Vec::with_capacity(count as usize), by_slot: Vec::new() }
    }

    /// Takes a new connection, number `number` of the whole load, and gives its place.
    pub(crate) fn add(&mut self, conn: ConnId, number: u64) -> usize {
        let (slot, place) = (conn.key().index() as usize, self.links.len());
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, Self::NOBODY);
        }
        self.by_slot[slot] = place as u32;
        self.links.push(Link::new(conn, number));
        place
    }

    /// The place of a connection that is ours and alive.
    #[inline]
    pub(crate) fn find(&self, conn: ConnId) -> Option<usize> {
        let place = *self.by_slot.get(conn.key().index() as usize)? as usize;
        let link = self.links.get(place)?;
        (link.alive && link.conn == conn).then_some(place)
    }
}

impl Deref for Links {
    type Target = [Link];

    #[inline]
    fn deref(&self) -> &[Link] {
        &self.links
    }
}

impl DerefMut for Links {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Link] {
        &mut self.links
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kolk_engine::token::{Generation, Key};

    const SIZE: usize = 10;

    fn conn(slot: u32, generation: Generation) -> ConnId {
        ConnId::new(0, Key::new(slot, generation))
    }

    fn link() -> (Link, Pattern) {
        (Link::new(conn(0, Generation::FIRST), 7), Pattern::new(SIZE))
    }

    #[test]
    fn connections_are_found_by_slot_until_they_are_lost() {
        let mut links = Links::default();
        let (first, second) = (conn(5, Generation::FIRST), conn(2, Generation::FIRST));
        assert_eq!((links.add(first, 0), links.add(second, 1)), (0, 1));
        assert_eq!((links.find(first), links.find(second)), (Some(0), Some(1)));
        for stranger in [conn(3, Generation::FIRST), conn(9, Generation::FIRST), conn(5, Generation::LAST)] {
            assert_eq!(links.find(stranger), None);
        }
        links[0].alive = false;
        assert_eq!(links.find(first), None);
    }

    #[test]
    fn messages_complete_however_they_are_cut() {
        let (mut link, pattern) = link();
        let sent = [link.send(pattern, SIZE, 2), link.send(pattern, SIZE, 1)].concat();
        assert_eq!(link.outstanding(), 3);

        let arrival = link.arrived(pattern, SIZE, &sent[..9]);
        assert_eq!(arrival, Arrival { first: 0, ..Arrival::default() });
        let arrival = link.arrived(pattern, SIZE, &sent[9..25]);
        assert_eq!(arrival, Arrival { first: 0, completed: 2, ..Arrival::default() });
        let arrival = link.arrived(pattern, SIZE, &sent[25..]);
        assert_eq!(arrival, Arrival { first: 2, completed: 1, ..Arrival::default() });
        assert_eq!((link.outstanding(), link.sent(), link.returned()), (0, 3, 3));
    }

    #[test]
    fn a_restart_counts_anew_and_the_bytes_go_on() {
        let (mut link, pattern) = link();
        let first = link.send(pattern, SIZE, 1);
        link.arrived(pattern, SIZE, first);
        link.restart();
        assert_eq!((link.sent(), link.returned()), (0, 0));
        let second = link.send(pattern, SIZE, 1);
        assert_ne!(first, second);
        let arrival = link.arrived(pattern, SIZE, second);
        assert_eq!(arrival, Arrival { completed: 1, ..Arrival::default() });
    }

    #[test]
    fn a_changed_byte_is_counted_and_the_stream_goes_on() {
        let (mut link, pattern) = link();
        let mut echo = link.send(pattern, SIZE, 2).to_vec();
        echo[3] ^= 1;
        let arrival = link.arrived(pattern, SIZE, &echo);
        assert_eq!(arrival, Arrival { completed: 2, mismatched: 1, ..Arrival::default() });
    }

    #[test]
    fn bytes_that_nobody_sent_are_surplus() {
        let (mut link, pattern) = link();
        let mut echo = link.send(pattern, SIZE, 1).to_vec();
        echo.extend_from_slice(b"more");
        let arrival = link.arrived(pattern, SIZE, &echo);
        assert_eq!(arrival, Arrival { completed: 1, mismatched: 4, surplus: 4, ..Arrival::default() });
        assert_eq!(link.arrived(pattern, SIZE, b"x").surplus, 1);
    }
}
