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

use crate::clock::Timestamp;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

const TICK_SHIFT: u32 = 17;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// 64 - `TICK_SHIFT` bits, and one for rounding up, are 48: eight digits.
const LEVELS: usize = 8;

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

/// A timer, or a vacant place for one: 32 bytes and a `T`, or 24 and a `T` that can spare a value
/// to mean "vacant".
struct Entry<T> {
    deadline: Timestamp,
    /// `None` while vacant.
    payload: Option<T>,
    generation: NonZeroU32,
    previous: u32,
    next: u32,
    list: ListId,
}

/// In `previous`, `next`, `head`, `tail` and `vacant`: no entry.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// One of the lists: a slot at some level (`level * SLOTS + slot`), `DUE` or `LATE`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ListId(u16);

/// Sorted, on its way out in this round.
const DUE: ListId = ListId((LEVELS * SLOTS) as u16);
/// Due already when it was set: waits for the next round.
const LATE: ListId = ListId(DUE.0 + 1);
const LISTS: usize = LATE.0 as usize + 1;

/// A number of ticks since the clock's zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(u64);

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

/// The entries and the lists through them.
impl<T> TimerWheel<T> {
    fn find(&self, id: TimerId) -> Option<u32> {
        let entry = self.entries.get(id.index as usize)?;
        (entry.generation == id.generation && entry.payload.is_some()).then_some(id.index)
    }

    fn id(&self, index: u32) -> TimerId {
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Fills a vacant entry, or a fresh one; it is in no list yet.
    fn occupy(&mut self, deadline: Timestamp, payload: T) -> u32 {
        self.len += 1;
        if let Some(entry) = self.entries.get_mut(self.vacant as usize) {
            let index = self.vacant;
            self.vacant = entry.next;
            (entry.deadline, entry.payload) = (deadline, Some(payload));
            return index;
        }
        let index = self.entries.len() as u32;
        assert!(index < NONE, "at most 2^32 - 1 timers");
        let generation = NonZeroU32::MIN;
        self.entries.push(Entry {
            deadline,
            payload: Some(payload),
            generation,
            previous: NONE,
            next: NONE,
            list: LATE,
        });
        index
    }

    /// Vacates an entry that is in no list.
    fn vacate(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        let payload = entry.payload.take();
        self.len -= 1;
        // After 2^32 - 1 owners the entry is left unused: 40 bytes are cheaper than an id that
        // means another's timer.
        if let Some(generation) = entry.generation.checked_add(1) {
            entry.generation = generation;
            entry.next = self.vacant;
            self.vacant = index;
        }
        payload
    }

    /// Puts an entry into the list where its deadline belongs.
    fn link(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick();
        let list = if tick <= self.horizon { LATE } else { self.cursor.list_for(tick) };
        self.append(list, index);
    }

    fn append(&mut self, list: ListId, index: u32) {
        let tail = std::mem::replace(&mut self.lists[list.at()].tail, index);
        let entry = &mut self.entries[index as usize];
        (entry.list, entry.previous, entry.next) = (list, tail, NONE);
        match self.entries.get_mut(tail as usize) {
            Some(previous) => previous.next = index,
            None => {
                self.lists[list.at()].head = index;
                self.mark(list, true);
            }
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, list, .. } = self.entries[index as usize];
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.next = next,
            None => self.lists[list.at()].head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(entry) => entry.previous = previous,
            None => self.lists[list.at()].tail = previous,
        }
        if self.is_drained(list) {
            self.mark(list, false);
        }
    }

    /// Leaves a list empty and returns its former head, from which `Entry::next` still leads on.
    fn detach(&mut self, list: ListId) -> u32 {
        let List { head, .. } =
            std::mem::replace(&mut self.lists[list.at()], List { head: NONE, tail: NONE });
        self.mark(list, false);
        head
    }

    fn is_drained(&self, list: ListId) -> bool {
        self.lists[list.at()].head == NONE
    }

    /// Notes whether a slot is in use. The two lists beside the levels have no bit.
    fn mark(&mut self, list: ListId, in_use: bool) {
        let bit = 1 << (list.at() % SLOTS);
        match self.occupied.get_mut(list.level()) {
            Some(slots) if in_use => *slots |= bit,
            Some(slots) => *slots &= !bit,
            None => {}
        }
    }
}

impl<T> Entry<T> {
    fn tick(&self) -> Tick {
        Tick::not_before(self.deadline)
    }
}

impl ListId {
    fn slot(level: usize, slot: usize) -> ListId {
        debug_assert!(level < LEVELS && slot < SLOTS);
        ListId((level * SLOTS + slot) as u16)
    }

    fn at(self) -> usize {
        usize::from(self.0)
    }

    /// `LEVELS` for the lists that are beside the levels.
    fn level(self) -> usize {
        self.at() / SLOTS
    }
}

impl Tick {
    /// The last tick that has begun at `now`.
    fn reached_at(now: Timestamp) -> Tick {
        Tick(now.as_nanos() >> TICK_SHIFT)
    }

    /// The first tick that begins at `deadline` or after it; rounding up is what keeps a timer from
    /// firing early.
    fn not_before(deadline: Timestamp) -> Tick {
        Tick(deadline.as_nanos().div_ceil(1 << TICK_SHIFT))
    }

    /// When the tick begins. The one after the last whole tick begins at the end of time.
    fn start(self) -> Timestamp {
        Timestamp::from_nanos(self.0.saturating_mul(1 << TICK_SHIFT))
    }

    /// The slot for a timer of `tick` while the cursor is `self`.
    fn list_for(self, tick: Tick) -> ListId {
        debug_assert!(tick >= self);
        let difference = (self.0 ^ tick.0) | 1;
        let level = difference.ilog2() / DIGIT_BITS;
        let slot = (tick.0 >> (level * DIGIT_BITS)) as usize % SLOTS;
        ListId::slot(level as usize, slot)
    }

    /// The first tick of a slot while the cursor is `self`: its digits above `level`, then `slot`,
    /// then zeros.
    fn slot_start(self, level: usize, slot: usize) -> Tick {
        let shift = level as u32 * DIGIT_BITS;
        let above = self.0 >> (shift + DIGIT_BITS) << DIGIT_BITS;
        Tick((above | slot as u64) << shift)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    const TICK_NANOS: u64 = 1 << TICK_SHIFT;

    fn at(ticks: u64) -> Timestamp {
        Timestamp::from_nanos(ticks * TICK_NANOS)
    }

    fn just_after(ticks: u64) -> Timestamp {
        Timestamp::from_nanos(ticks * TICK_NANOS + 1)
    }

    fn wheel() -> TimerWheel<u64> {
        TimerWheel::new(Timestamp::ZERO)
    }

    /// The payloads of one round.
    fn round(wheel: &mut TimerWheel<u64>, now: Timestamp) -> Vec<u64> {
        std::iter::from_fn(|| wheel.pop_expired(now)).map(|(_, payload)| payload).collect()
    }

    #[test]
    fn an_entry_with_eight_bytes_of_payload_is_forty_bytes() {
        assert_eq!(size_of::<Entry<u64>>(), 40);
        assert_eq!(size_of::<Entry<crate::token::Key>>(), 32);
        assert_eq!(size_of::<Option<TimerId>>(), 8);
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        for ticks in [1, 63, 64, 65, 4095, 4096, 1 << 20, 1 << 40] {
            let mut wheel = wheel();
            wheel.insert(at(ticks), 1);
            wheel.insert(just_after(ticks), 2);
            assert_eq!(round(&mut wheel, Timestamp::from_nanos(at(ticks).as_nanos() - 1)), []);
            assert_eq!(round(&mut wheel, at(ticks)), [1]);
            assert_eq!(round(&mut wheel, just_after(ticks)), []);
            assert_eq!(round(&mut wheel, at(ticks + 1)), [2]);
        }
    }

    #[test]
    fn one_tick_fires_by_deadline_and_ties_by_insertion() {
        let mut wheel = wheel();
        for (payload, nanos) in [(4, 900), (1, 300), (5, 900), (2, 300), (3, 500)] {
            wheel.insert(Timestamp::from_nanos(at(9).as_nanos() + nanos), payload);
        }
        assert_eq!(round(&mut wheel, at(10)), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_tie_between_a_far_and_a_near_insertion_keeps_its_order() {
        let mut wheel = wheel();
        wheel.insert(at(5000), 1);
        assert_eq!(round(&mut wheel, at(4990)), []);
        wheel.insert(at(5000), 2);
        assert_eq!(round(&mut wheel, at(6000)), [1, 2]);
    }

    #[test]
    fn a_past_deadline_is_due_in_the_next_round_before_all_others() {
        let mut wheel = wheel();
        wheel.insert(at(101), 3);
        assert_eq!(round(&mut wheel, at(100)), []);
        wheel.insert(at(99), 2);
        wheel.insert(Timestamp::ZERO, 1);
        assert!(wheel.next_deadline() <= Some(at(100)));
        assert_eq!(round(&mut wheel, at(101)), [1, 2, 3]);
    }

    #[test]
    fn what_is_set_during_a_round_and_due_already_waits_for_the_next() {
        let mut wheel = wheel();
        wheel.insert(at(10), 1);
        wheel.insert(at(30), 2);
        let now = at(50);
        assert_eq!(wheel.pop_expired(now).map(|(_, payload)| payload), Some(1));
        wheel.insert(at(20), 3);
        wheel.insert(now, 4);
        wheel.insert(just_after(50), 5);
        assert_eq!(round(&mut wheel, now), [2]);
        assert_eq!(round(&mut wheel, now), [3, 4]);
        assert_eq!(round(&mut wheel, at(51)), [5]);
    }

    #[test]
    fn a_round_that_was_left_goes_on_and_then_takes_up_the_later_now() {
        let mut wheel = wheel();
        for ticks in [10, 11, 20] {
            wheel.insert(at(ticks), ticks);
        }
        assert_eq!(wheel.pop_expired(at(15)).map(|(_, payload)| payload), Some(10));
        wheel.insert(at(12), 12);
        assert_eq!(round(&mut wheel, at(25)), [11, 12, 20]);
    }

    #[test]
    fn a_due_timer_can_still_be_cancelled_or_moved() {
        let mut wheel = wheel();
        let ids: Vec<TimerId> = (0..4).map(|payload| wheel.insert(at(5), payload)).collect();
        assert_eq!(wheel.pop_expired(at(5)), Some((ids[0], 0)));
        assert_eq!(wheel.cancel(ids[1]), Some(1));
        assert!(wheel.reschedule(ids[2], at(70)));
        assert_eq!(round(&mut wheel, at(5)), [3]);
        assert_eq!((wheel.deadline(ids[2]), wheel.len()), (Some(at(70)), 1));
        assert_eq!(round(&mut wheel, at(70)), [2]);
    }

    #[test]
    fn a_stale_id_finds_nothing_even_when_its_entry_is_used_again() {
        let mut wheel = wheel();
        let fired = wheel.insert(at(1), 1);
        assert_eq!(round(&mut wheel, at(1)), [1]);
        let cancelled = wheel.insert(at(2), 2);
        assert_eq!(wheel.cancel(cancelled), Some(2));
        let live = wheel.insert(at(3), 3);
        assert_eq!((fired.index, cancelled.index), (live.index, live.index));
        for stale in [fired, cancelled] {
            assert_eq!((wheel.cancel(stale), wheel.deadline(stale)), (None, None));
            assert!(!wheel.reschedule(stale, at(9)));
        }
        assert_eq!(wheel.deadline(live), Some(at(3)));
    }

    #[test]
    fn an_entry_is_left_unused_when_its_generations_are_used_up() {
        let mut wheel = wheel();
        wheel.insert(at(1), 1);
        wheel.entries[0].generation = NonZeroU32::MAX;
        let last = wheel.id(0);
        assert_eq!(wheel.cancel(last), Some(1));
        assert_ne!(wheel.insert(at(1), 2).index, last.index);
        assert_eq!((wheel.cancel(last), wheel.len()), (None, 1));
    }

    #[test]
    fn sleeping_until_the_next_deadline_reaches_each_timer_in_few_steps() {
        for ticks in [1, 64, 100_000, 12_345_678, 1 << 40] {
            let mut wheel = wheel();
            wheel.insert(at(ticks), 1);
            assert_eq!(wheel.next_deadline(), Some(at(ticks)), "a timer alone is known exactly");
            wheel.insert(at(ticks), 2);
            let mut sleeps = 0;
            let fired = loop {
                let now = wheel.next_deadline().expect("two timers are set");
                assert!(now <= at(ticks));
                sleeps += 1;
                match round(&mut wheel, now) {
                    fired if fired.is_empty() => assert!(sleeps < LEVELS),
                    fired => break fired,
                }
            };
            assert_eq!((fired, wheel.next_deadline()), (vec![1, 2], None));
        }
    }

    #[test]
    fn the_end_of_time_is_never() {
        let mut wheel = wheel();
        wheel.insert(Timestamp::MAX, 1);
        assert_eq!(wheel.next_deadline(), Some(Timestamp::MAX));
        assert_eq!(round(&mut wheel, Timestamp::MAX), []);
        wheel.insert(Timestamp::MAX, 2);
        assert_eq!((round(&mut wheel, Timestamp::MAX), wheel.len()), (vec![], 2));
    }

    #[test]
    fn a_now_from_before_the_last_round_is_harmless() {
        let mut wheel = wheel();
        assert_eq!(round(&mut wheel, at(100)), []);
        wheel.insert(at(120), 1);
        assert_eq!(round(&mut wheel, at(50)), []);
        assert_eq!(round(&mut wheel, at(110)), []);
        assert_eq!(round(&mut wheel, at(120)), [1]);
    }
}
