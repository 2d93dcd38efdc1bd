//! Receives packed one behind the other.

use std::collections::HashSet;

use kolk_engine::buffer::{Arena, Lease};
use proptest::prelude::*;

use crate::{place, portion, stamped};

const ARENA_BLOCK: usize = 256;

#[derive(Clone, Debug)]
enum ArenaStep {
    /// Wants room for the first number of bytes, receives some of them by the second.
    Receive(usize, usize),
    BeginTurn,
    Drop(usize),
    GiveBack(usize),
    DropAll,
}

fn arena_step() -> impl Strategy<Value = ArenaStep> {
    prop_oneof![
        8 => (1..2 * ARENA_BLOCK, any::<usize>()).prop_map(|(min, len)| ArenaStep::Receive(min, len)),
        3 => Just(ArenaStep::BeginTurn),
        2 => any::<usize>().prop_map(ArenaStep::Drop),
        2 => any::<usize>().prop_map(ArenaStep::GiveBack),
        1 => Just(ArenaStep::DropAll),
    ]
}

struct ArenaModel {
    arena: Arena,
    blocks: usize,
    /// Address of the first block.
    base: usize,
    /// Number of the block that receives go to.
    current: usize,
    filled: usize,
    lent: Vec<(Lease, Vec<u8>)>,
    stamp: usize,
}

impl ArenaModel {
    fn new(blocks: usize) -> Self {
        let mut arena = Arena::new(ARENA_BLOCK, blocks);
        let base = arena.offer(0).expect("an empty block has room").as_ptr().addr();
        Self { arena, blocks, base, current: 0, filled: 0, lent: Vec::new(), stamp: 0 }
    }

    fn block_at(&self, address: usize) -> usize {
        (address - self.base) / ARENA_BLOCK
    }

    fn pinned(&self) -> HashSet<usize> {
        let pooled = self.lent.iter().filter(|(lease, _)| lease.is_pooled());
        pooled.map(|(lease, _)| self.block_at(lease.as_ptr().addr())).collect()
    }

    fn free(&self) -> usize {
        let mut in_use = self.pinned();
        in_use.insert(self.current);
        self.blocks - in_use.len()
    }

    fn apply(&mut self, step: ArenaStep) {
        match step {
            ArenaStep::Receive(min, len) => {
                // Whoever finds no room may try again in the next turn, and finds some if any is free.
                if !self.receive(min, len) {
                    let room_is_due = self.free() > 0 || !self.pinned().contains(&self.current);
                    self.begin_turn();
                    assert_eq!(self.receive(min, len), room_is_due, "room after a new turn");
                }
            }
            ArenaStep::BeginTurn => self.begin_turn(),
            ArenaStep::Drop(nth) => {
                if let Some(nth) = place(nth, self.lent.len()) {
                    self.lent.swap_remove(nth);
                }
            }
            ArenaStep::GiveBack(nth) => {
                if let Some(nth) = place(nth, self.lent.len()) {
                    let (lease, _) = self.lent.swap_remove(nth);
                    self.arena.give_back(lease);
                }
            }
            ArenaStep::DropAll => self.lent.clear(),
        }
    }

    fn receive(&mut self, min: usize, len: usize) -> bool {
        if !self.pinned().contains(&self.current) {
            self.filled = 0;
        }
        let room = ARENA_BLOCK - self.filled;
        let Some(offered) = self.arena.offer(min) else {
            assert!(room < min.min(ARENA_BLOCK), "refused {min} bytes with {room} left");
            return false;
        };
        assert_eq!(offered.len(), room);
        self.stamp += 1;
        // A kernel may have touched all of it, whatever it reports.
        offered.fill(0xEE);
        let bytes = stamped(self.stamp, 1 + portion(len, room.max(1) - 1));
        offered[..bytes.len()].copy_from_slice(&bytes);
        let free = self.free();
        let lease = self.arena.lend(bytes.len());
        assert_eq!(lease.is_pooled(), free > 0, "private when no other block is free");
        if lease.is_pooled() {
            assert_eq!(self.block_at(lease.as_ptr().addr()), self.current);
            self.filled += bytes.len();
        }
        self.lent.push((lease, bytes));
        true
    }

    fn begin_turn(&mut self) {
        let (free, pinned) = (self.free(), self.pinned());
        self.arena.begin_turn();
        // A full block's rest lies at its end, which is the start of the next: ask only for real room.
        if let Some(room) = self.arena.offer(1) {
            let (address, len) = (room.as_ptr().addr(), room.len());
            self.current = self.block_at(address);
            self.filled = ARENA_BLOCK - len;
        }
        if !pinned.contains(&self.current) {
            assert_eq!(self.filled, 0, "nobody pins the block");
        }
        assert!(
            free == 0 || ARENA_BLOCK - self.filled >= ARENA_BLOCK / 2,
            "a turn begins with {} bytes filled, although {free} blocks are free",
            self.filled
        );
    }

    fn check(&mut self) {
        for (lease, bytes) in &self.lent {
            assert_eq!(**lease, bytes[..], "a live lease was overwritten");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_arena_overwrites_no_lease_and_finds_room(
        blocks in 1..5usize,
        steps in prop::collection::vec(arena_step(), 1..200),
    ) {
        let mut model = ArenaModel::new(blocks);
        for step in steps {
            model.apply(step);
            model.check();
        }
    }
}
