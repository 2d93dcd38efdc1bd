//! Timers: a hierarchical timing wheel, where setting, moving and cancelling one costs the same
//! however many there are.
//!
//! There is no system call and no clock in here: the caller says what time it is.
//!
//! # The wheel
//!
//! Time is cut into ticks of 2^17 ns (131 us). Eight levels of 64 slots each hold the timers; a
//! slot of one level spans all 64 of the level below it. A timer lies at the level of the highest
//! base-64 digit in which its tick differs from the *cursor*, the tick up to which the wheel has
//! been turned, in the slot named by its own digit there.
//!
//! ```text
//!                      cursor = .. 0 2 5  (base 64)
//!
//!              0   1   2   3   4   5   6       63
//!            +---+---+---+---+---+---+---+   +---+
//!   level 0  |   |   |   |   |   | ^ | a |...|   |  one slot: 1 tick             a = 0 2 6
//!            +---+---+---+---+---+---+---+   +---+
//!   level 1  |   |   | ^ | b |   |   |   |...|   |  one slot: 64 ticks, 8.4 ms   b = 0 3 0 .. 63
//!            +---+---+---+---+---+---+---+   +---+
//!   level 2  | ^ | c |   |   |   |   |   |...|   |  one slot: 4096 ticks, 0.5 s  c = 1 0..63 0..63
//!            +---+---+---+---+---+---+---+   +---+
//!     ...    (level 3: 34 s, level 4: 37 min, level 5: 39 h, level 6: 104 days, level 7: 18 years)
//! ```
//!
//! Nothing lies behind a `^`, and everything at a level comes before everything at the next one: so
//! the first slot in use of the lowest level in use is the earliest, found with a bitmap for each
//! level. When the cursor enters a slot above level 0, its timers are dealt out to the levels
//! below, in order; a timer moves at most seven times in its life. Eight levels reach further than
//! a [`Timestamp`] does, so no deadline has to be clamped.
//!
//! # What it promises
//!
//! - A timer never fires early, and it fires at the first round whose `now` is a tick or more after
//!   its deadline.
//! - Timers fire in the order of their deadlines; equal ones in the order in which they were set,
//!   or last moved. (Timers of one tick always share a list, first come first; the list is sorted
//!   when its tick is due.)
//! - A stale [`TimerId`] finds nothing.
//! - A timer set while others fire waits for the next round if it is due already, so a round always
//!   ends.
//! - Once the wheel has grown to the number of timers in use and to the busiest tick, nothing is
//!   allocated.
//!
//! # Idle time-outs: push back lazily
//!
//! An idle time-out is pushed back at every message and hardly ever fires. Do not move its timer:
//! note the time of the message, and let the timer fire. Whoever owns it then looks whether the
//! time is really up, and sets it again if it is not. That is one store a message and one firing a
//! time-out.
//!
//! ```
//! use std::time::Duration;
//! use kolk_engine::clock::Timestamp;
//! use kolk_engine::timer::TimerWheel;
//!
//! const IDLE: Duration = Duration::from_secs(30);
//! let second = |n| Timestamp::ZERO + Duration::from_secs(n);
//!
//! let mut wheel = TimerWheel::new(second(0));
//! wheel.insert(second(0) + IDLE, "connection");
//! let last_message = second(20); // no call to the wheel
//!
//! let now = second(31);
//! while let Some((_, owner)) = wheel.pop_expired(now) {
//!     let idle_until = last_message + IDLE;
//!     if now < idle_until {
//!         wheel.insert(idle_until, owner);
//!     } // else: close the connection
//! }
//! assert_eq!(wheel.len(), 1);
//! ```

mod entries;
#[cfg(test)]
mod tests;
mod tick;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use self::entries::{Entry, List, NONE};
use self::tick::{DUE, LATE, LEVELS, LISTS, ListId, TICK_SHIFT, Tick};
use crate::clock::Timestamp;

/// How finely the wheel tells time: a timer fires up to this much after its deadline, never before.
///
/// Fine enough for the shortest time-out that makes sense on a network, coarse enough that timers
/// set in one burst fire in one wake-up.
pub const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

/// The name of a timer. When the timer has fired or been cancelled the name is stale, and harmless
/// for ever.
///
/// Plain data: any thread may hold it; only the wheel that gave it understands it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId {
    index: u32,
    generation: NonZeroU32,
}

/// Timers, each with a `T` that tells its owner what it is for. See the [module](self) for how it
/// works.
///
/// It has no lock: it belongs to the thread that owns it, in the engine the loop's.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kolk_engine::clock::Timestamp;
/// use kolk_engine::timer::TimerWheel;
///
/// let start = Timestamp::from_nanos(0);
/// let mut wheel = TimerWheel::new(start);
/// let late = wheel.insert(start + Duration::from_secs(3), "late");
/// let soon = wheel.insert(start + Duration::from_secs(1), "soon");
/// wheel.insert(start + Duration::from_secs(2), "next");
///
/// assert_eq!(wheel.cancel(late), Some("late"));
/// assert!(wheel.reschedule(soon, start + Duration::from_secs(4)));
///
/// let now = start + Duration::from_secs(10);
/// assert_eq!(wheel.pop_expired(now).map(|(_, what)| what), Some("next"));
/// assert_eq!(wheel.pop_expired(now), Some((soon, "soon")));
/// assert_eq!(wheel.pop_expired(now), None);
/// ```
pub struct TimerWheel<T> {
    entries: Vec<Entry<T>>,
    /// The first vacant entry; `Entry::next` leads to the others.
    vacant: u32,
    len: usize,
    lists: Box<[List; LISTS]>,
    /// Invariant: bit `s` of word `l` is set if and only if the list of slot `s` at level `l` has
    /// an entry.
    occupied: [u64; LEVELS],
    /// Everything up to this tick has left the levels. Invariant: cursor <= horizon.
    cursor: Tick,
    /// The tick up to which the present round goes, or the last one went; nothing up to it enters
    /// the levels any more.
    horizon: Tick,
    /// Whether `pop_expired` has to answer `None` before it takes up what came in late.
    round_open: bool,
    /// Where the timers of one tick are sorted. Kept for its memory; empty between calls.
    batch: Vec<Expiring>,
}

/// A timer of the tick that expires. The order of the fields is the order of firing.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Expiring {
    deadline: Timestamp,
    position: u32,
    index: u32,
}

impl<T> TimerWheel<T> {
    /// An empty wheel that stands at `now`.
    pub fn new(now: Timestamp) -> TimerWheel<T> {
        TimerWheel {
            entries: Vec::new(),
            vacant: NONE,
            len: 0,
            lists: Box::new([List { head: NONE, tail: NONE }; LISTS]),
            occupied: [0; LEVELS],
            cursor: Tick::reached_at(now),
            horizon: Tick::reached_at(now),
            round_open: false,
            batch: Vec::new(),
        }
    }

    /// Sets a timer.
    ///
    /// A deadline that has passed is due in the next round: if one is under way, not in that one.
    ///
    /// # Panics
    ///
    /// At 2^32 - 1 timers, or when memory runs out, which is earlier.
    pub fn insert(&mut self, deadline: Timestamp, payload: T) -> TimerId {
        let index = self.occupy(deadline, payload);
        self.link(index);
        self.id(index)
    }

    /// Takes a timer back before it fires, and returns its payload; `None` if the id is stale.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let index = self.find(id)?;
        self.unlink(index);
        self.vacate(index)
    }

    /// Moves a timer to another deadline, earlier or later; it keeps its id. Returns false if the
    /// id is stale.
    ///
    /// Among timers with the same deadline it then counts as the last one set.
    pub fn reschedule(&mut self, id: TimerId, deadline: Timestamp) -> bool {
        let Some(index) = self.find(id) else {
            return false;
        };
        self.unlink(index);
        self.entries[index as usize].deadline = deadline;
        self.link(index);
        true
    }

    /// When the timer is meant to fire; `None` if the id is stale.
    pub fn deadline(&self, id: TimerId) -> Option<Timestamp> {
        let index = self.find(id)?;
        Some(self.entries[index as usize].deadline)
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes out the next timer that is due at `now`, with its id, which is stale from here on.
    ///
    /// The calls from one `None` to the next are a *round*: call until `None`, once a turn. Between
    /// the calls timers may be set, moved and cancelled at will. What becomes due by that, with a
    /// deadline at or before `now`, fires in the next round, however soon that comes; so a timer
    /// that sets itself again for "at once" cannot hold the caller for ever.
    ///
    /// A round may also be left before its `None`, to bound the work of a turn. The next call goes
    /// on with it, then with a new one for its own, later `now`.
    ///
    /// Give a `now` that never decreases. With one from before the last round nothing new is found
    /// due.
    pub fn pop_expired(&mut self, now: Timestamp) -> Option<(TimerId, T)> {
        let now = Tick::reached_at(now);
        if !self.round_open {
            self.open_round(now);
        }
        if !self.turn_to_due() && now > self.horizon {
            self.open_round(now);
            self.turn_to_due();
        }
        let index = self.lists[DUE.at()].head;
        if index == NONE {
            self.round_open = false;
            return None;
        }
        let id = self.id(index);
        self.unlink(index);
        Some((id, self.vacate(index)?))
    }

    /// Until when the caller can sleep; `None` if no timer is set.
    ///
    /// Not later than the first timer may fire, and sometimes earlier: for the far future only the
    /// start of a slot is known. A round at the instant returned always gets somewhere: either a
    /// timer fires, or the first slot is dealt out to the levels below, which can happen at most
    /// seven times before a timer does fire. (A timer that is alone in the first slot is waited for
    /// in one sleep.) If timers are due already, the instant returned has passed.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.is_drained(DUE) || !self.is_drained(LATE) {
            return Some(self.horizon.start());
        }
        let (list, start) = self.first_slot()?;
        let List { head, tail } = self.lists[list.at()];
        if head == tail {
            return Some(self.entries[head as usize].tick().start());
        }
        Some(start.start())
    }

    fn open_round(&mut self, now: Tick) {
        self.round_open = true;
        self.horizon = self.horizon.max(now);
        // What is late has deadlines up to the old horizon, hence before all that lies in the
        // levels.
        self.expire(LATE);
    }

    /// Turns the wheel to the first tick within the horizon at which a timer is due; false if there
    /// is none.
    fn turn_to_due(&mut self) -> bool {
        // Each pass takes a slot in use and empties it downwards: at most LEVELS passes for each
        // timer there is.
        while self.is_drained(DUE) {
            match self.first_slot() {
                Some((list, start)) if start <= self.horizon => {
                    self.cursor = start;
                    self.empty(list);
                }
                _ => {
                    self.cursor = self.horizon;
                    return false;
                }
            }
        }
        true
    }

    /// The earliest slot in use, and the tick at which it starts.
    fn first_slot(&self) -> Option<(ListId, Tick)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        Some((ListId::slot(level, slot), self.cursor.slot_start(level, slot)))
    }

    /// Empties the slot that the cursor has entered: from level 0 its timers are due, from the
    /// others they go further down.
    fn empty(&mut self, list: ListId) {
        match list.level() {
            0 => self.expire(list),
            _ => self.deal_out(list),
        }
    }

    fn deal_out(&mut self, list: ListId) {
        let mut index = self.detach(list);
        while index != NONE {
            let entry = &self.entries[index as usize];
            let (next, lower) = (entry.next, self.cursor.list_for(entry.tick()));
            debug_assert!(lower.level() < list.level());
            self.append(lower, index);
            index = next;
        }
    }

    /// Moves the timers of a list to the end of `DUE`, sorted.
    fn expire(&mut self, list: ListId) {
        // A stable sort would allocate; the position in the list makes an unstable one stable.
        let mut batch = std::mem::take(&mut self.batch);
        let mut index = self.detach(list);
        while index != NONE {
            let Entry { deadline, next, .. } = self.entries[index as usize];
            batch.push(Expiring { deadline, position: batch.len() as u32, index });
            index = next;
        }
        batch.sort_unstable();
        for expiring in batch.drain(..) {
            self.append(DUE, expiring.index);
        }
        self.batch = batch;
    }
}

impl<T> fmt::Debug for TimerWheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerWheel")
            .field("len", &self.len)
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}
