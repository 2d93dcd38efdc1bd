//! The loop's own receive memory: equal blocks, lent out and taken back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Lease;

/// Blocks start on a cache line, so that two of them never share one.
const CACHE_LINE: usize = 64;

/// Number of one block of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(u16);

/// Neighbouring blocks that are lent and given back as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    first: Block,
    /// At least one.
    blocks: u16,
}

impl Run {
    /// The run of one block.
    #[inline]
    pub fn of(block: Block) -> Self {
        Self { first: block, blocks: 1 }
    }

    /// Takes the block into the run if it is the next neighbour, and answers whether it is.
    #[inline]
    pub fn extend(&mut self, block: Block) -> bool {
        let is_next = self.first.index() + usize::from(self.blocks) == block.index();
        self.blocks += u16::from(is_next);
        is_next
    }

    /// Number of blocks.
    #[inline]
    pub fn blocks(self) -> usize {
        self.blocks.into()
    }

    fn indices(self) -> std::ops::Range<usize> {
        self.first.index()..self.first.index() + self.blocks()
    }
}

impl Block {
    /// The block with this number, as the kernel names it in a completion.
    pub fn from_index(index: u16) -> Self {
        Self(index)
    }

    /// The number, counted from zero.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A fixed set of equal blocks in one allocation, owned by one loop and lent out as [`Lease`]s.
///
/// A block is *free*, or it is *held*: by the loop itself (it lies in the kernel's ring, or is the
/// arena's current block) and by any number of leases. Leases may be dropped on any thread; a block
/// whose last hold is gone raises its bit in a bitmap, from which the loop reclaims it. Untouched
/// blocks cost address space only.
///
/// All methods belong to the loop's thread.
///
/// # Examples
///
/// ```
/// use kolk_engine::buffer::Pool;
///
/// let mut pool = Pool::new(4096, 2);
/// let block = pool.acquire().unwrap();
/// pool.block_mut(block)[..5].copy_from_slice(b"hello");
/// let lease = pool.lend(block, 5);
/// assert_eq!(&*lease, b"hello");
///
/// assert_eq!(pool.free_blocks(), 1);
/// drop(lease);
/// assert_eq!(pool.free_blocks(), 2);
/// ```
#[derive(Debug)]
pub struct Pool {
    memory: Arc<Memory>,
    /// Blocks without any hold that were reclaimed. The last one is the hottest.
    free: Vec<Block>,
}

impl Pool {
    /// A pool of `blocks` blocks of `block_size` bytes.
    ///
    /// # Panics
    ///
    /// If either is zero, there are more than 65 535 blocks, or the product exceeds the address space.
    pub fn new(block_size: usize, blocks: usize) -> Self {
        let memory = Memory::allocate(block_size, blocks);
        // Lowest numbers on top: memory is touched from the start of the allocation.
        let free = (0..blocks as u16).rev().map(Block).collect();
        Self { memory: Arc::new(memory), free }
    }

    /// Bytes of one block.
    pub fn block_size(&self) -> usize {
        self.memory.block_size
    }

    /// Takes a free block; the loop holds it until [`lend`](Self::lend) or [`release`](Self::release).
    #[inline]
    pub fn acquire(&mut self) -> Option<Block> {
        if self.free.is_empty() {
            self.reclaim();
        }
        let block = self.free.pop()?;
        debug_assert_eq!(self.memory.holds[block.index()].load(Ordering::Relaxed), 0);
        self.memory.holds[block.index()].store(1, Ordering::Relaxed);
        Some(block)
    }

    /// Turns the loop's own hold on `block` into a lease of its first `len` bytes, which the loop or
    /// the kernel has filled.
    #[inline]
    pub fn lend(&self, block: Block, len: usize) -> Lease {
        debug_assert!(len <= self.memory.block_size);
        // SAFETY: the caller's hold on `block` passes to the lease; `len` bytes are inside the block
        // (asserted above, and the kernel never reports more than it was offered).
        unsafe { Lease::pooled(Arc::clone(&self.memory), Run::of(block), 0, len) }
    }

    /// Turns the loop's own holds on a run of neighbouring blocks into one lease of its first `len`
    /// bytes. The run is given back as a whole.
    #[inline]
    pub fn lend_run(&self, run: Run, len: usize) -> Lease {
        debug_assert!(len <= self.memory.block_size * usize::from(run.blocks));
        // The hold on the first block counts for all of them from here on.
        for follower in run.indices().skip(1) {
            self.memory.holds[follower].store(0, Ordering::Relaxed);
        }
        // SAFETY: the caller's holds pass to the lease; the blocks are neighbours, so `len` bytes lie
        // inside them.
        unsafe { Lease::pooled(Arc::clone(&self.memory), run, 0, len) }
    }

    /// Leases `len` filled bytes at `start` of `block`, beside the loop's own hold, which stays.
    #[inline]
    pub fn lend_part(&self, block: Block, start: usize, len: usize) -> Lease {
        debug_assert!(start + len <= self.memory.block_size);
        let run = Run::of(block);
        self.memory.add_hold(run);
        // SAFETY: a hold of its own was added for the lease; the range is inside the block.
        unsafe { Lease::pooled(Arc::clone(&self.memory), run, start, len) }
    }

    /// Gives up the loop's own hold on `block`.
    #[inline]
    pub fn release(&self, block: Block) {
        self.memory.drop_hold(Run::of(block));
    }

    /// Whether the loop is the only one that holds `block`.
    #[inline]
    pub fn is_unshared(&self, block: Block) -> bool {
        self.memory.holds[block.index()].load(Ordering::Acquire) == 1
    }

    /// The bytes of a block that only the loop holds.
    ///
    /// # Panics
    ///
    /// If a lease of the block is alive.
    pub fn block_mut(&mut self, block: Block) -> &mut [u8] {
        assert!(self.is_unshared(block), "block {} is lent out", block.0);
        let start = self.memory.start_of(block);
        // SAFETY: the block lies inside the allocation, which was zeroed; nobody else holds it, and
        // `&mut self` keeps it so.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.memory.block_size) }
    }

    /// Address of a block, for the kernel to write to.
    #[inline]
    pub fn address(&self, block: Block) -> NonNull<u8> {
        self.memory.start_of(block)
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&mut self) -> usize {
        self.reclaim();
        self.free.len()
    }

    /// Whether at least `count` blocks are free.
    #[inline]
    pub fn has_free(&mut self, count: usize) -> bool {
        if self.free.len() < count {
            self.reclaim();
        }
        self.free.len() >= count
    }

    /// Whether not one block is free.
    #[inline]
    pub fn is_exhausted(&mut self) -> bool {
        !self.has_free(1)
    }

    /// Collects the blocks whose last lease was dropped since the last call. The lowest end on top, so
    /// that neighbours are taken one after the other again.
    fn reclaim(&mut self) {
        for (word_index, word) in self.memory.returned.iter().enumerate().rev() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Acquire: what the dropping threads did with the bytes happened before the block's next use.
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                let bit = 63 - bits.leading_zeros();
                bits &= !(1 << bit);
                self.free.push(Block(word_index as u16 * 64 + bit as u16));
            }
        }
    }
}

/// What a [`Pool`] and its leases share; freed with the last of them.
#[derive(Debug)]
pub(super) struct Memory {
    allocation: NonNull<u8>,
    layout: Layout,
    /// First block: `allocation` rounded up to a cache line.
    base: NonNull<u8>,
    block_size: usize,
    /// For each block: the loop's own hold (0 or 1) and one for each lease. In a run that is lent, the
    /// first block counts for all.
    holds: Box<[AtomicU32]>,
    /// One bit for each block: no hold is left, the loop may reclaim it.
    returned: Box<[AtomicU64]>,
}

// SAFETY: the bytes behind `base` are only reached through leases (read-only ranges, each protected by
// its hold) and through the pool's `&mut self`, which checks that no lease exists.
unsafe impl Send for Memory {}
// SAFETY: as above; the counters are atomic.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(block_size: usize, blocks: usize) -> Self {
        assert!(block_size > 0 && blocks > 0, "a pool needs at least one block of one byte");
        assert!(blocks <= usize::from(u16::MAX), "a pool has at most 65535 blocks, not {blocks}");
        let size = block_size.checked_mul(blocks).expect("the pool exceeds the address space");
        // Asking for more than malloc's own alignment would make zeroing touch every page; rounding
        // up by hand leaves the untouched blocks to the kernel.
        let layout =
            Layout::from_size_align(size + CACHE_LINE, 16).expect("the pool exceeds the address space");
        // SAFETY: the layout's size is not zero.
        let Some(allocation) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let padding = allocation.align_offset(CACHE_LINE);
        Self {
            allocation,
            layout,
            // SAFETY: `padding` < CACHE_LINE, and that many bytes were allocated beyond the blocks.
            base: unsafe { allocation.add(padding) },
            block_size,
            holds: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            returned: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    pub(super) fn start_of(&self, block: Block) -> NonNull<u8> {
        assert!(block.index() < self.holds.len());
        // SAFETY: the block's number was checked, so its start lies inside the allocation.
        unsafe { self.base.add(block.index() * self.block_size) }
    }

    #[inline]
    pub(super) fn start_of_run(&self, run: Run) -> NonNull<u8> {
        self.start_of(run.first)
    }

    #[inline]
    pub(super) fn add_hold(&self, run: Run) {
        // Relaxed, as in `Arc::clone`: the caller already has a hold through which it sees the bytes.
        let before = self.holds[run.first.index()].fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a block without a hold cannot be lent");
    }

    #[inline]
    pub(super) fn drop_hold(&self, run: Run) {
        let holds = &self.holds[run.first.index()];
        // The only holder needs no locked instruction: nobody can add a hold beside it.
        let last = if holds.load(Ordering::Acquire) == 1 {
            holds.store(0, Ordering::Relaxed);
            true
        } else {
            holds.fetch_sub(1, Ordering::AcqRel) == 1
        };
        if last {
            self.give_back(run);
        }
    }

    /// Raises the bits of a run, one word of the bitmap after the other.
    #[inline]
    fn give_back(&self, run: Run) {
        let mut blocks = run.indices();
        while !blocks.is_empty() {
            let bit = blocks.start % 64;
            let count = blocks.len().min(64 - bit);
            let bits = (u64::MAX >> (64 - count)) << bit;
            self.returned[blocks.start / 64].fetch_or(bits, Ordering::Release);
            blocks.start += count;
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; no lease and no pool is left, since each owns the Arc.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}
