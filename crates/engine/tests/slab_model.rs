//! `SlotNumbers` and `Table` against a hash map: whatever is done in whatever order, both tell the
//! same.

use kolk_engine::slab::{PAGE_ENTRIES, SlotNumbers, Table};
use kolk_engine::token::Key;
use proptest::prelude::*;
use std::collections::HashMap;

/// Two pages and a bit, so that growth, page edges and the limit are all met.
const LIMIT: u32 = 2 * PAGE_ENTRIES as u32 + 10;

#[derive(Clone, Debug)]
enum Step {
    /// Reserves this many numbers and fills their entries.
    Open(usize),
    /// Removes this many of the live entries, and releases their numbers.
    Close(usize),
    /// Changes the entry of one of all keys ever given out, live or stale.
    Touch(usize),
    /// Tries to remove one of all keys ever given out, without releasing it, and puts it back.
    Swap(usize),
    /// Frees the empty pages.
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..800usize).prop_map(Step::Open),
        4 => (1..800usize).prop_map(Step::Close),
        8 => any::<usize>().prop_map(Step::Touch),
        8 => any::<usize>().prop_map(Step::Swap),
        1 => Just(Step::Shrink),
    ]
}

struct Pair {
    numbers: SlotNumbers,
    table: Table<u64>,
    model: HashMap<Key, u64>,
    /// Every key ever given out, in that order.
    history: Vec<Key>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            numbers: SlotNumbers::new(LIMIT),
            table: Table::new(),
            model: HashMap::new(),
            history: Vec::new(),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Open(count) => (0..count).for_each(|_| self.open()),
            Step::Close(count) => self.close(count),
            Step::Touch(nth) => self.touch(nth),
            Step::Swap(nth) => self.swap(nth),
            Step::Shrink => self.table.shrink(),
        }
    }

    fn open(&mut self) {
        let Some(key) = self.numbers.reserve() else {
            return assert_eq!(self.model.len(), LIMIT as usize, "refused below the limit");
        };
        let value = self.history.len() as u64;
        self.table.insert(key, value);
        assert_eq!(self.model.insert(key, value), None, "{key:?} was given out twice");
        self.history.push(key);
    }

    fn close(&mut self, count: usize) {
        let live: Vec<Key> =
            self.history.iter().copied().filter(|key| self.model.contains_key(key)).take(count).collect();
        for key in live {
            assert_eq!(self.table.remove(key), self.model.remove(&key));
            assert!(self.numbers.release(key));
            assert!(!self.numbers.release(key));
        }
    }

    fn any_key(&self, nth: usize) -> Option<Key> {
        let nth = nth.checked_rem(self.history.len())?;
        Some(self.history[nth])
    }

    fn touch(&mut self, nth: usize) {
        let Some(key) = self.any_key(nth) else { return };
        let (ours, theirs) = (self.table.get_mut(key), self.model.get_mut(&key));
        assert_eq!(ours, theirs);
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            *ours += 1_000_000;
            *theirs += 1_000_000;
        }
    }

    fn swap(&mut self, nth: usize) {
        let Some(key) = self.any_key(nth) else { return };
        let value = self.table.remove(key);
        assert_eq!(value, self.model.get(&key).copied());
        if let Some(value) = value {
            self.table.insert(key, value);
        }
    }

    fn check(&self) {
        assert_eq!(self.numbers.in_use() as usize, self.model.len());
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.table.is_empty(), self.model.is_empty());
        for key in &self.history {
            assert_eq!(self.table.get(*key), self.model.get(key));
            assert_eq!(self.table.contains(*key), self.model.contains_key(key));
        }
        let mut sorted: Vec<(Key, u64)> = self.model.iter().map(|(key, value)| (*key, *value)).collect();
        sorted.sort_unstable_by_key(|(key, _)| key.index());
        assert_eq!(self.table.iter().map(|(key, value)| (key, *value)).collect::<Vec<_>>(), sorted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_behaves_like_a_hash_map(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.apply(step);
            pair.check();
        }
    }
}
