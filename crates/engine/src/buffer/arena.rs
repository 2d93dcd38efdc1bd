//! Hot receive memory of readiness kernels: receives packed one behind the other.

use super::{Lease, Parts, Pool};

/// A few large blocks of which one is *current*; each receive is offered the rest of it and takes only
/// what arrived.
///
/// ```text
/// current block  ├─ a's 64 B ─┼─ b's 1 KiB ─┼─ c's 80 B ─┼──────── offered next ────────┤
///                                                        ▲ filled
/// ```
///
/// So messages lie packed, and the same few cache lines serve all of them: whenever no lease pins the block
/// it is used from its start again. A pinned block is replaced when it is full; when no other is free, what
/// is received comes as a private copy, so that the current block is never pinned for good.
///
/// All methods belong to the loop's thread.
#[derive(Debug)]
pub struct Arena {
    pool: Pool,
    current: Parts,
    /// Bytes of `current` given out. 0 <= filled <= block size.
    filled: usize,
    /// An offer was refused in this turn: the rest of `current` is too short for somebody.
    refused: bool,
}

impl Arena {
    /// An arena of `blocks` blocks of `block_size` bytes.
    ///
    /// # Panics
    ///
    /// If either is zero.
    pub fn new(block_size: usize, blocks: usize) -> Self {
        let mut pool = Pool::new(block_size, blocks);
        let current = pool.acquire_parts().expect("a pool has at least one block");
        Self { pool, current, filled: 0, refused: false }
    }

    /// Replaces the current block if it is pinned, another is free, and this one is half full or was too
    /// short for somebody.
    pub fn begin_turn(&mut self) {
        let refused = std::mem::take(&mut self.refused);
        self.rewind();
        if self.filled > 0
            && (refused || self.room() < self.pool.block_size() / 2)
            && let Some(next) = self.pool.acquire_parts()
        {
            let pinned = std::mem::replace(&mut self.current, next);
            self.pool.release_parts(pinned);
            self.filled = 0;
        }
    }

    /// The free rest of the current block, if at least `min` bytes are left, or a whole block if none
    /// is that long.
    ///
    /// `None` ends the turn's receiving: dispatch what came, then begin another turn.
    #[inline(always)]
    pub fn offer(&mut self, min: usize) -> Option<&mut [u8]> {
        self.rewind();
        let room = self.room();
        if room < min.min(self.pool.block_size()) {
            self.refused = true;
            return None;
        }
        // SAFETY: the range behind `filled` lies inside the block, was zeroed at allocation, and no
        // lease covers it, since leases are cut from `.. filled` only.
        Some(unsafe {
            let start = self.pool.address(self.current.block()).add(self.filled);
            std::slice::from_raw_parts_mut(start.as_ptr(), room)
        })
    }

    /// Leases the first `len` bytes of what [`offer`](Self::offer) gave; a private copy of them if no other
    /// block is free.
    #[inline(always)]
    pub fn lend(&mut self, len: usize) -> Lease {
        debug_assert!(len <= self.room());
        if len == 0 {
            return Lease::default();
        }
        if !self.pool.has_free(1) {
            return self.copy_out(len);
        }
        let start = self.filled;
        self.filled += len;
        self.current.lend(start, len)
    }

    /// Ends a lease on the loop's thread, see [`Parts::give_back`].
    #[inline(always)]
    pub fn give_back(&mut self, lease: Lease) {
        self.current.give_back(lease);
    }

    #[cold]
    fn copy_out(&mut self, len: usize) -> Lease {
        let mut lease = self.current.lend(self.filled, len);
        lease.make_private();
        lease
    }

    /// Uses the current block from its start again if nobody pins it.
    #[inline]
    fn rewind(&mut self) {
        if self.filled > 0 && self.current.is_whole() {
            self.filled = 0;
        }
    }

    #[inline]
    fn room(&self) -> usize {
        self.pool.block_size() - self.filled
    }
}
