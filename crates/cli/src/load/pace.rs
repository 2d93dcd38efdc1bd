//! When messages are sent, and from when their latency counts.
//!
//! A *closed* loop keeps `depth` messages under way on each connection: the next one leaves when one
//! comes back, and its latency counts from when it left. A server that stalls is not sent anything
//! meanwhile, so a closed loop measures throughput well and stalls badly.
//!
//! An *open* loop follows a plan that is fixed before the first message: message n of a thread is due at
//! `origin + n / rate`, on connection `n mod connections`. Latency counts from there, whether or not
//! the message could leave then, so a stall is seen in every message that it held up (no coordinated
//! omission). No time stamp is stored: the plan gives it back.

use std::time::Duration;

use kolk_engine::clock::Timestamp;

use super::link::Link;

/// How a thread decides when to send.
#[derive(Debug)]
pub(crate) enum Pace {
    Closed(Stamps),
    Open(Schedule),
}

impl Pace {
    /// Messages that a connection may send at once, with at most `depth` under way.
    #[inline]
    pub(crate) fn allowance(&self, link: &Link, depth: u32) -> u64 {
        let room = u64::from(depth) - link.outstanding();
        match self {
            Self::Closed(_) => room,
            Self::Open(_) => room.min(link.due - link.sent()),
        }
    }

    /// Notes that the messages `first..first + count` of a connection leave at `now`.
    #[inline]
    pub(crate) fn sending(&mut self, connection: usize, first: u64, count: u64, now: Timestamp) {
        if let Self::Closed(stamps) = self {
            stamps.set(connection, first, count, now);
        }
    }

    /// From when the latency of a message counts that is under way.
    #[inline]
    pub(crate) fn start_of(&self, connection: usize, message: u64) -> Timestamp {
        match self {
            Self::Closed(stamps) => stamps.get(connection, message),
            Self::Open(schedule) => schedule.due_time(connection, message),
        }
    }
}

/// When each message under way was sent: a ring of `depth` stamps for each connection, in one
/// allocation made before the first message.
#[derive(Debug)]
pub(crate) struct Stamps {
    depth: usize,
    stamps: Vec<Timestamp>,
}

impl Stamps {
    pub(crate) fn new(connections: u32, depth: u32) -> Self {
        let depth = depth as usize;
        Self { depth, stamps: vec![Timestamp::ZERO; connections as usize * depth] }
    }

    #[inline]
    fn set(&mut self, connection: usize, first: u64, count: u64, now: Timestamp) {
        for message in first..first + count {
            let place = self.place(connection, message);
            self.stamps[place] = now;
        }
    }

    #[inline]
    fn get(&self, connection: usize, message: u64) -> Timestamp {
        self.stamps[self.place(connection, message)]
    }

    #[inline]
    fn place(&self, connection: usize, message: u64) -> usize {
        // A depth of one is the common case, and spares the division.
        let place = if self.depth == 1 { 0 } else { message as usize % self.depth };
        connection * self.depth + place
    }
}

/// The plan of an open loop.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    origin: Timestamp,
    /// Nanoseconds between two messages of this thread.
    interval: f64,
    connections: usize,
    /// Messages that have become due.
    due: u64,
}

impl Schedule {
    /// `rate` messages a second over `connections` in turn; none is due before [`begin`](Self::begin).
    pub(crate) fn new(rate: f64, connections: u32) -> Self {
        Self { origin: Timestamp::MAX, interval: 1e9 / rate, connections: connections as usize, due: 0 }
    }

    /// Fixes the plan: the first message is due at `origin`.
    pub(crate) fn begin(&mut self, origin: Timestamp) {
        self.origin = origin;
    }

    /// The connection whose turn it is, if a message is due by `now`.
    #[inline]
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<usize> {
        if self.next_due() > now {
            return None;
        }
        let connection = self.due % self.connections as u64;
        self.due += 1;
        Some(connection as usize)
    }

    /// When the next message is due.
    #[inline]
    pub(crate) fn next_due(&self) -> Timestamp {
        self.time_of(self.due)
    }

    /// When message number `message` of `connection` was or will be due.
    #[inline]
    fn due_time(&self, connection: usize, message: u64) -> Timestamp {
        self.time_of(message * self.connections as u64 + connection as u64)
    }

    #[inline]
    fn time_of(&self, n: u64) -> Timestamp {
        self.origin + Duration::from_nanos((n as f64 * self.interval) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kolk_engine::token::{ConnId, Generation, Key};

    use crate::load::pattern::Pattern;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn link() -> Link {
        Link::new(ConnId::new(0, Key::new(0, Generation::FIRST)), 0)
    }

    fn schedule(origin: Timestamp) -> Schedule {
        let mut schedule = Schedule::new(1000.0, 3);
        schedule.begin(origin);
        schedule
    }

    #[test]
    fn messages_are_due_at_their_rate_and_in_turn() {
        let mut schedule = schedule(at(10));
        assert_eq!(schedule.take_due(at(9)), None);
        let connections: Vec<usize> = std::iter::from_fn(|| schedule.take_due(at(14))).collect();
        assert_eq!(connections, [0, 1, 2, 0, 1]);
        assert_eq!(schedule.next_due(), at(15));
    }

    #[test]
    fn nothing_is_due_before_the_beginning() {
        assert_eq!(Schedule::new(1e6, 1).take_due(at(1_000_000)), None);
    }

    #[test]
    fn the_plan_gives_each_messages_time_back() {
        let pace = Pace::Open(schedule(at(0)));
        assert_eq!(pace.start_of(0, 0), at(0));
        assert_eq!(pace.start_of(2, 0), at(2));
        assert_eq!(pace.start_of(1, 2), at(7));
    }

    #[test]
    fn a_closed_loop_remembers_what_is_under_way() {
        let mut pace = Pace::Closed(Stamps::new(2, 3));
        pace.sending(1, 0, 2, at(5));
        pace.sending(0, 0, 1, at(6));
        pace.sending(1, 2, 1, at(7));
        pace.sending(1, 3, 1, at(8));
        assert_eq!([1, 2, 3].map(|message| pace.start_of(1, message)), [at(5), at(7), at(8)]);
        assert_eq!(pace.start_of(0, 0), at(6));
    }

    #[test]
    fn a_closed_loop_fills_the_depth_and_an_open_one_what_is_due() {
        let mut link = link();
        let closed = Pace::Closed(Stamps::new(1, 4));
        let open = Pace::Open(schedule(at(0)));
        assert_eq!((closed.allowance(&link, 4), open.allowance(&link, 4)), (4, 0));
        link.due = 9;
        assert_eq!(open.allowance(&link, 4), 4);
        link.send(Pattern::new(8), 8, 3);
        assert_eq!((closed.allowance(&link, 4), open.allowance(&link, 4)), (1, 1));
        link.due = 3;
        assert_eq!(open.allowance(&link, 4), 0);
    }
}
