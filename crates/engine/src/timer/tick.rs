//! Ticks, and the list in which a timer of each waits.

use crate::clock::Timestamp;

pub(super) const TICK_SHIFT: u32 = 17;
pub(super) const DIGIT_BITS: u32 = 6;
pub(super) const SLOTS: usize = 1 << DIGIT_BITS;
/// 64 - `TICK_SHIFT` bits, and one for rounding up, are 48: eight digits.
pub(super) const LEVELS: usize = 8;

/// A number of ticks since the clock's zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u64);

/// One of the lists: a slot at some level (`level * SLOTS + slot`), `DUE` or `LATE`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ListId(pub(super) u16);

/// Sorted, on its way out in this round.
pub(super) const DUE: ListId = ListId((LEVELS * SLOTS) as u16);
/// Due already when it was set: waits for the next round.
pub(super) const LATE: ListId = ListId(DUE.0 + 1);
pub(super) const LISTS: usize = LATE.0 as usize + 1;

impl Tick {
    /// The last tick that has begun at `now`.
    pub(super) fn reached_at(now: Timestamp) -> Tick {
        Tick(now.as_nanos() >> TICK_SHIFT)
    }

    /// The first tick that begins at `deadline` or after it; rounding up is what keeps a timer from
    /// firing early.
    pub(super) fn not_before(deadline: Timestamp) -> Tick {
        Tick(deadline.as_nanos().div_ceil(1 << TICK_SHIFT))
    }

    /// When the tick begins. The one after the last whole tick begins at the end of time.
    pub(super) fn start(self) -> Timestamp {
        Timestamp::from_nanos(self.0.saturating_mul(1 << TICK_SHIFT))
    }

    /// The slot for a timer of `tick` while the cursor is `self`.
    pub(super) fn list_for(self, tick: Tick) -> ListId {
        debug_assert!(tick >= self);
        let difference = (self.0 ^ tick.0) | 1;
        let level = difference.ilog2() / DIGIT_BITS;
        let slot = (tick.0 >> (level * DIGIT_BITS)) as usize % SLOTS;
        ListId::slot(level as usize, slot)
    }

    /// The first tick of a slot while the cursor is `self`: its digits above `level`, then `slot`,
    /// then zeros.
    pub(super) fn slot_start(self, level: usize, slot: usize) -> Tick {
        let shift = level as u32 * DIGIT_BITS;
        let above = self.0 >> (shift + DIGIT_BITS) << DIGIT_BITS;
        Tick((above | slot as u64) << shift)
    }
}

impl ListId {
    pub(super) fn slot(level: usize, slot: usize) -> ListId {
        debug_assert!(level < LEVELS && slot < SLOTS);
        ListId((level * SLOTS + slot) as u16)
    }

    pub(super) fn at(self) -> usize {
        usize::from(self.0)
    }

    /// `LEVELS` for the lists that are beside the levels.
    pub(super) fn level(self) -> usize {
        self.at() / SLOTS
    }
}
