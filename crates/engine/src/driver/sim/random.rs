//! The simulated kernel's dice.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix, good enough to roll dice and short
/// enough to be read. The same seed rolls the same numbers on every machine.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0, "there is no number below zero");
        // The bias of the remainder does not matter for dice of this size.
        (self.next() % bound as u64) as usize
    }

    /// True in `per_mille` of 1000 cases. A rate of zero rolls nothing.
    pub(super) fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1000) < usize::from(per_mille)
    }

    /// A span from zero to `longest`, both included.
    pub(super) fn span(&mut self, longest: Duration) -> Duration {
        if longest.is_zero() {
            return longest;
        }
        Duration::from_nanos(self.next() % (longest.as_nanos() as u64 + 1))
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}
