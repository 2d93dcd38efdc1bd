//! Blocks of a pool, and the leases that hold them.

use std::collections::HashSet;
use std::mem;
use std::sync::mpsc;
use std::thread;

use bytes::{Buf, Bytes};
use kolk_engine::buffer::{Block, Lease, Parts, Pool};
use proptest::prelude::*;

use crate::{BLOCK_SIZE, BLOCKS, place, portion, stamped};

#[derive(Clone, Debug)]
enum PoolStep {
    /// Acquires this many blocks and fills them.
    Acquire(usize),
    /// Acquires one to lend it in parts.
    AcquireParts,
    /// The loop gives a block back.
    Release(usize),
    /// A block becomes a lease of so many bytes, or a part of it does.
    Lend(usize, usize, usize),
    Split(usize, usize),
    Truncate(usize, usize),
    Advance(usize, usize),
    Clone(usize),
    MakePrivate(usize),
    /// Into `Bytes` and back.
    Wrap(usize),
    Drop(usize),
    /// To the loop itself.
    GiveBack(usize),
    /// Drops so many leases on another thread.
    DropElsewhere(usize),
}

fn pool_step() -> impl Strategy<Value = PoolStep> {
    let any = any::<usize>;
    prop_oneof![
        4 => (1..30usize).prop_map(PoolStep::Acquire),
        4 => Just(PoolStep::AcquireParts),
        2 => any().prop_map(PoolStep::Release),
        12 => (any(), any(), any()).prop_map(|(nth, start, len)| PoolStep::Lend(nth, start, len)),
        4 => (any(), any()).prop_map(|(nth, at)| PoolStep::Split(nth, at)),
        2 => (any(), any()).prop_map(|(nth, len)| PoolStep::Truncate(nth, len)),
        2 => (any(), any()).prop_map(|(nth, count)| PoolStep::Advance(nth, count)),
        3 => any().prop_map(PoolStep::Clone),
        2 => any().prop_map(PoolStep::MakePrivate),
        1 => any().prop_map(PoolStep::Wrap),
        3 => any().prop_map(PoolStep::Drop),
        3 => any().prop_map(PoolStep::GiveBack),
        2 => (1..20usize).prop_map(PoolStep::DropElsewhere),
    ]
}

/// A lease and what it must show.
struct Lent {
    lease: Lease,
    bytes: Vec<u8>,
    /// The block that it holds.
    block: Option<usize>,
}

/// A block that the loop works with.
enum Held {
    Whole(Block),
    Parts(Parts),
}

impl Held {
    fn block(&self) -> Block {
        match self {
            Self::Whole(block) => *block,
            Self::Parts(parts) => parts.block(),
        }
    }

    fn release(self, pool: &mut Pool) {
        match self {
            Self::Whole(block) => pool.release(block),
            Self::Parts(parts) => pool.release_parts(parts),
        }
    }
}

struct PoolModel {
    pool: Pool,
    /// Blocks that the loop holds, with their bytes.
    held: Vec<(Held, Vec<u8>)>,
    lent: Vec<Lent>,
    stamp: usize,
}

impl PoolModel {
    fn new() -> Self {
        Self { pool: Pool::new(BLOCK_SIZE, BLOCKS), held: Vec::new(), lent: Vec::new(), stamp: 0 }
    }

    fn in_use(&self) -> HashSet<usize> {
        let held = self.held.iter().map(|(held, _)| held.block().index());
        held.chain(self.lent.iter().filter_map(|lent| lent.block)).collect()
    }

    fn apply(&mut self, step: PoolStep) {
        match step {
            PoolStep::Acquire(count) => (0..count).for_each(|_| self.acquire()),
            PoolStep::AcquireParts => self.acquire_parts(),
            PoolStep::GiveBack(nth) => self.give_back(nth),
            PoolStep::Release(nth) => {
                if let Some(nth) = place(nth, self.held.len()) {
                    self.held.swap_remove(nth).0.release(&mut self.pool);
                }
            }
            PoolStep::Lend(nth, start, len) => self.lend(nth, start, len),
            PoolStep::DropElsewhere(count) => self.drop_elsewhere(count),
            PoolStep::Split(nth, _)
            | PoolStep::Truncate(nth, _)
            | PoolStep::Advance(nth, _)
            | PoolStep::Clone(nth)
            | PoolStep::MakePrivate(nth)
            | PoolStep::Wrap(nth)
            | PoolStep::Drop(nth) => {
                if let Some(nth) = place(nth, self.lent.len()) {
                    self.change_lease(nth, step);
                }
            }
        }
    }

    fn acquire(&mut self) {
        let in_use = self.in_use();
        let Some(block) = self.pool.acquire() else {
            return assert_eq!(in_use.len(), BLOCKS, "refused although a block is free");
        };
        assert!(!in_use.contains(&block.index()), "{block:?} was given out while in use");
        self.stamp += 1;
        let bytes = stamped(self.stamp, BLOCK_SIZE);
        self.pool.block_mut(block).copy_from_slice(&bytes);
        self.held.push((Held::Whole(block), bytes));
    }

    fn acquire_parts(&mut self) {
        let in_use = self.in_use();
        let Some(mut parts) = self.pool.acquire_parts() else {
            return assert_eq!(in_use.len(), BLOCKS, "refused although a block is free");
        };
        let block = parts.block();
        assert!(!in_use.contains(&block.index()), "{block:?} was given out while in use");
        // Whoever used the block before has left its bytes there.
        let bytes = parts.lend(0, BLOCK_SIZE).to_vec();
        self.held.push((Held::Parts(parts), bytes));
    }

    fn lend(&mut self, nth: usize, start: usize, len: usize) {
        let Some(nth) = place(nth, self.held.len()) else { return };
        if let (Held::Parts(parts), bytes) = &mut self.held[nth] {
            let start = portion(start, BLOCK_SIZE);
            let len = portion(len, BLOCK_SIZE - start);
            let lease = parts.lend(start, len);
            let (bytes, block) = (bytes[start..start + len].to_vec(), Some(parts.block().index()));
            return self.lent.push(Lent { lease, bytes, block });
        }
        let (held, mut bytes) = self.held.swap_remove(nth);
        let block = held.block();
        bytes.truncate(portion(len, BLOCK_SIZE));
        let lease = self.pool.lend(block, bytes.len());
        self.lent.push(Lent { lease, bytes, block: Some(block.index()) });
    }

    fn change_lease(&mut self, nth: usize, step: PoolStep) {
        let Lent { lease, bytes, block } = &mut self.lent[nth];
        match step {
            PoolStep::Split(_, at) => {
                let at = portion(at, bytes.len());
                let front = lease.split_to(at);
                let rest = bytes.split_off(at);
                let front_bytes = mem::replace(bytes, rest);
                // Who takes everything takes the hold as well.
                let front_block = if bytes.is_empty() { block.take() } else { *block };
                self.lent.push(Lent { lease: front, bytes: front_bytes, block: front_block });
            }
            PoolStep::Truncate(_, len) => {
                // Half of them beyond what 32 bits can say, which has no effect.
                let len = if len % 2 == 0 { len & !0xFFFF_FFFF } else { portion(len, bytes.len()) };
                lease.truncate(len);
                bytes.truncate(len);
            }
            PoolStep::Advance(_, count) => {
                let count = portion(count, bytes.len());
                lease.advance(count);
                bytes.drain(..count);
            }
            PoolStep::Clone(_) => {
                let copy = Lent { lease: lease.clone(), bytes: bytes.clone(), block: *block };
                self.lent.push(copy);
            }
            PoolStep::MakePrivate(_) => {
                // A lease wrapped into `Bytes` no longer knows where its bytes lie.
                if lease.is_pooled() {
                    *block = None;
                }
                lease.make_private();
                assert!(!lease.is_pooled());
            }
            PoolStep::Wrap(_) => {
                *lease = Lease::from(Bytes::from(mem::take(lease)));
                // No bytes need no memory.
                if lease.is_empty() {
                    *block = None;
                }
            }
            PoolStep::Drop(_) => drop(self.lent.swap_remove(nth)),
            other => unreachable!("{other:?} changes no lease"),
        }
    }

    /// To the parts that it is one of, or to the pool.
    fn give_back(&mut self, nth: usize) {
        let Some(nth) = place(nth, self.lent.len()) else { return };
        let Lent { lease, block, .. } = self.lent.swap_remove(nth);
        let of_parts = self.held.iter_mut().find_map(|(held, _)| match held {
            Held::Parts(parts) if block == Some(parts.block().index()) => Some(parts),
            _ => None,
        });
        match of_parts {
            Some(parts) => parts.give_back(lease),
            None => self.pool.give_back(lease),
        }
    }

    fn drop_elsewhere(&mut self, count: usize) {
        let kept = self.lent.len().saturating_sub(count);
        let dropped: Vec<Lease> = self.lent.drain(kept..).map(|lent| lent.lease).collect();
        thread::spawn(move || drop(dropped)).join().expect("dropping a lease does not panic");
    }

    fn check(&mut self) {
        for Lent { lease, bytes, block } in &self.lent {
            assert_eq!(**lease, bytes[..], "a live lease changed");
            assert_eq!((lease.len(), lease.remaining()), (bytes.len(), bytes.len()));
            assert!(block.is_some() || !lease.is_pooled());
        }
        let free = BLOCKS - self.in_use().len();
        assert!(self.pool.has_free(free) && !self.pool.has_free(free + 1));
        assert_eq!(self.pool.free_blocks(), free);
        for (held, _) in &self.held {
            let shared = self.lent.iter().any(|lent| lent.block == Some(held.block().index()));
            match held {
                Held::Whole(block) => assert!(self.pool.is_unshared(*block) && !shared),
                Held::Parts(parts) => assert_eq!(parts.is_whole(), !shared),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_block_is_free_only_when_nobody_holds_it(steps in prop::collection::vec(pool_step(), 1..120)) {
        let mut model = PoolModel::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.lent.clear();
        model.held.drain(..).for_each(|(held, _)| held.release(&mut model.pool));
        model.check();
        prop_assert_eq!(model.pool.free_blocks(), BLOCKS);
    }

    #[test]
    fn leases_outlive_their_pool(steps in prop::collection::vec(pool_step(), 1..60)) {
        let mut model = PoolModel::new();
        steps.into_iter().for_each(|step| model.apply(step));
        let PoolModel { pool, lent, .. } = model;
        drop(pool);
        for Lent { lease, bytes, .. } in lent {
            prop_assert_eq!(&*lease, bytes);
        }
    }
}

#[test]
fn blocks_come_back_from_many_threads_and_no_live_lease_changes() {
    const ROUNDS: usize = 20_000;
    let mut pool = Pool::new(BLOCK_SIZE, BLOCKS);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = mpsc::sync_channel::<(Lease, usize)>(16);
                scope.spawn(move || {
                    for (lease, stamp) in receiver {
                        assert_eq!(*lease, *stamped(stamp, BLOCK_SIZE), "a live lease changed");
                    }
                });
                sender
            })
            .collect();
        for stamp in 0..ROUNDS {
            let Some(block) = pool.acquire() else {
                thread::yield_now();
                continue;
            };
            pool.block_mut(block).copy_from_slice(&stamped(stamp, BLOCK_SIZE));
            let lease = pool.lend(block, BLOCK_SIZE);
            for reader in &readers[..1 + stamp % 3] {
                reader.send((lease.clone(), stamp)).expect("the reader lives");
            }
        }
    });
    assert_eq!(pool.free_blocks(), BLOCKS);
}

#[test]
fn a_lease_that_is_given_back_beside_its_clone_holds_the_block_no_longer_than_that() {
    let mut pool = Pool::new(BLOCK_SIZE, 1);
    let block = pool.acquire().expect("none is in use");
    let lease = pool.lend(block, BLOCK_SIZE);
    let clone = lease.clone();
    pool.give_back(lease);
    assert!(!pool.has_free(1));
    thread::spawn(move || drop(clone)).join().expect("dropping a lease does not panic");
    assert!(pool.has_free(1));
    let mut other = Pool::new(BLOCK_SIZE, 1);
    let block = other.acquire().expect("none is in use");
    // To a pool that it is not of, it is dropped.
    pool.give_back(other.lend(block, 1));
    assert!(other.has_free(1) && pool.has_free(1));
}
