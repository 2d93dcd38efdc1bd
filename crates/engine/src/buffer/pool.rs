//! The loop's own receive memory: equal blocks, lent out and taken back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use super::Lease;

/// Blocks start on a cache line, so that two of them never share one.
const CACHE_LINE: usize = 64;

/// Number of one block of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(u16);

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
/// A block is *free*, or *acquired*: the loop works with it (it lies in the kernel's ring, or is the arena's
/// current block), or *lent* to any number of leases. Leases may be dropped on any thread; the loop finds out
/// when it looks for free blocks. Untouched blocks cost address space only.
///
/// ```text
///  free ──acquire──► acquired ──lend──► lent ──last lease dropped, reclaim──► free
///    ▲                  │
///    └─────release──────┘     (a block of which parts are lent becomes lent by its release)
/// ```
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
    /// Alive for as long as any block has a hold, and the pool has one on each.
    memory: NonNull<Memory>,
    /// Blocks that only the pool holds. The last one is the hottest.
    free: Vec<Block>,
    /// Blocks that leases may still hold.
    lent: Vec<Block>,
}

// SAFETY: the pool reaches its memory through atomics, and the bytes of a block only while no lease of it
// exists, or beside the ranges that are lent.
unsafe impl Send for Pool {}

/// Parts of one acquired block, lent one by one. The holds for them are taken in advance, so that lending a
/// part writes nothing that other threads look at.
#[derive(Debug)]
pub struct Parts {
    block: Block,
    /// Of the block, alive: the stock keeps it while the pool is gone.
    hold: NonNull<Hold>,
    /// First byte of the block.
    start: NonNull<u8>,
    block_size: usize,
    /// Holds that no lease has yet, and which go with this value.
    stock: u32,
}

// SAFETY: as for the pool.
unsafe impl Send for Parts {}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.stock > 0 {
            // SAFETY: the value owns these holds and ends here.
            unsafe { Hold::sub(self.hold, self.stock) };
        }
    }
}

impl Parts {
    /// Holds taken at one time.
    const STOCK: u32 = 1 << 16;

    #[inline(always)]
    fn hold(&self) -> &Hold {
        // SAFETY: the pool, or the stock, keeps it alive.
        unsafe { self.hold.as_ref() }
    }

    /// Lends `len` filled bytes at `start` of the block.
    ///
    /// # Panics
    ///
    /// If the block ends before them.
    #[inline(always)]
    pub fn lend(&mut self, start: usize, len: usize) -> Lease {
        assert!(start <= self.block_size && len <= self.block_size - start, "a part that leaves its block");
        if self.stock == 0 {
            self.hold().count.fetch_add(Self::STOCK, Ordering::Relaxed);
            self.stock = Self::STOCK;
        }
        self.stock -= 1;
        // SAFETY: one count of the stock passes to the lease; the range is inside the block.
        unsafe { Lease::pooled(self.hold, self.start.add(start), len) }
    }

    /// Ends a lease on the loop's thread, where the count of one of its parts goes back to the stock: cheaper than
    /// to drop it, since nobody else looks.
    #[inline(always)]
    pub fn give_back(&mut self, lease: Lease) {
        if lease.leave_count_of(self.hold).is_ok() {
            self.stock += 1;
        }
    }

    /// Whether no lease of a part is alive.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        // Acquire: what the dropping threads did with the bytes happened before their next use.
        self.hold().count.load(Ordering::Acquire) == 1 + self.stock
    }

    /// The block.
    pub fn block(&self) -> Block {
        self.block
    }
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
        Self { memory, free, lent: Vec::with_capacity(blocks) }
    }

    #[inline]
    fn memory(&self) -> &Memory {
        // SAFETY: the pool has a hold on every block until it is dropped, and the memory lives for as long
        // as there is any hold.
        unsafe { self.memory.as_ref() }
    }

    #[inline]
    fn hold(&self, block: Block) -> &Hold {
        &self.memory().holds[block.index()]
    }

    /// Bytes of one block.
    #[inline]
    pub fn block_size(&self) -> usize {
        self.memory().block_size
    }

    /// Takes a free block; it is the loop's until [`lend`](Self::lend) or [`release`](Self::release).
    #[inline]
    pub fn acquire(&mut self) -> Option<Block> {
        if self.free.is_empty() {
            self.reclaim();
        }
        let block = self.free.pop()?;
        debug_assert!(self.is_unshared(block));
        Some(block)
    }

    /// Lends the first `len` bytes of an acquired block, which the loop or the kernel has filled.
    #[inline(always)]
    pub fn lend(&mut self, block: Block, len: usize) -> Lease {
        debug_assert!(len <= self.block_size() && self.is_unshared(block));
        // Nobody else has a hold, so nobody else changes the count.
        let hold = self.hold(block);
        hold.count.store(2, Ordering::Relaxed);
        // SAFETY: the second count passes to the lease; `len` bytes are inside the block (asserted above, and
        // the kernel never reports more than it was offered).
        let lease = unsafe { Lease::pooled(NonNull::from(hold), self.address(block), len) };
        self.lent.push(block);
        lease
    }

    /// Ends a lease on the loop's thread: cheaper than to drop it if it is the only one of one of these blocks,
    /// since then nobody else counts.
    #[inline(always)]
    pub fn give_back(&mut self, lease: Lease) {
        let Some(hold) = lease.hold() else { return };
        // SAFETY: the lease has a count, so what it counts is alive.
        let block = unsafe { hold.as_ref() };
        // Acquire: what the threads of its clones did with the bytes happened before their next use.
        if block.memory == self.memory && block.count.load(Ordering::Acquire) == 2 {
            // One is the pool's, the other the lease's.
            block.count.store(1, Ordering::Relaxed);
            std::mem::forget(lease);
        }
    }

    /// Gives an acquired block back of which nothing was lent.
    #[inline]
    pub fn release(&mut self, block: Block) {
        debug_assert!(self.is_unshared(block));
        self.free.push(block);
    }

    /// Acquires a block to lend it in parts.
    pub fn acquire_parts(&mut self) -> Option<Parts> {
        let block = self.acquire()?;
        self.hold(block).count.store(1 + Parts::STOCK, Ordering::Relaxed);
        let (hold, start) = (NonNull::from(self.hold(block)), self.address(block));
        Some(Parts { block, hold, start, block_size: self.block_size(), stock: Parts::STOCK })
    }

    /// Gives the block back once its parts are.
    pub fn release_parts(&mut self, parts: Parts) {
        self.lent.push(parts.block);
        drop(parts);
    }

    /// Whether only the pool holds `block`.
    #[inline]
    pub fn is_unshared(&self, block: Block) -> bool {
        // Acquire: as in `is_whole`.
        self.hold(block).count.load(Ordering::Acquire) == 1
    }

    /// The bytes of an acquired block.
    ///
    /// # Panics
    ///
    /// If a lease of the block is alive.
    pub fn block_mut(&mut self, block: Block) -> &mut [u8] {
        assert!(self.is_unshared(block), "block {} is lent out", block.0);
        let (start, size) = (self.address(block), self.block_size());
        // SAFETY: the block lies inside the allocation, which was zeroed; nobody else holds it, and
        // `&mut self` keeps it so.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) }
    }

    /// Address of a block, for the kernel to write to.
    #[inline]
    pub fn address(&self, block: Block) -> NonNull<u8> {
        self.memory().start_of(block)
    }

    /// Blocks that only the pool holds and that are not acquired.
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

    /// Collects the blocks whose last lease was dropped; they are the next that are acquired. Acquiring does it
    /// by itself when nothing is free.
    pub fn reclaim(&mut self) {
        // SAFETY: as in `memory`, which cannot be called while the lists are borrowed.
        let memory = unsafe { self.memory.as_ref() };
        let free = &mut self.free;
        self.lent.retain(|&block| {
            // Acquire: what the dropping threads did with the bytes happened before the block's next use.
            let returned = memory.holds[block.index()].count.load(Ordering::Acquire) == 1;
            if returned {
                free.push(block);
            }
            !returned
        });
    }
}

/// Leases may outlive the pool: the memory goes with the last hold.
impl Drop for Pool {
    fn drop(&mut self) {
        for index in 0..self.memory().holds.len() {
            let hold = NonNull::from(self.hold(Block(index as u16)));
            // SAFETY: the pool's own count of each block, given up once. Before the last of them the memory
            // is alive, since that one still counts.
            unsafe { Hold::sub(hold, 1) };
        }
    }
}

/// What a [`Pool`] and its leases share.
#[derive(Debug)]
pub(super) struct Memory {
    allocation: NonNull<u8>,
    layout: Layout,
    /// First block: `allocation` rounded up to a cache line.
    base: NonNull<u8>,
    block_size: usize,
    /// By block.
    holds: Box<[Hold]>,
    /// Blocks with any hold.
    held_blocks: AtomicUsize,
}

/// Who holds one block.
#[derive(Debug)]
pub(super) struct Hold {
    /// One for the pool while it lives, one for each lease, and the unused stock of its parts.
    count: AtomicU32,
    /// Where the block lies; alive while the count is not zero.
    memory: NonNull<Memory>,
}

// SAFETY: the bytes behind `base` are only reached through leases (read-only ranges, each protected by
// its hold) and through the pool, which writes to no range that is lent.
unsafe impl Send for Memory {}
// SAFETY: as above; the counters are atomic.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(block_size: usize, blocks: usize) -> NonNull<Self> {
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
        let memory = NonNull::from(Box::leak(Box::new(Self {
            allocation,
            layout,
            // SAFETY: `padding` < CACHE_LINE, and that many bytes were allocated beyond the blocks.
            base: unsafe { allocation.add(padding) },
            block_size,
            holds: Box::default(),
            held_blocks: AtomicUsize::new(blocks),
        })));
        let holds = (0..blocks).map(|_| Hold { count: AtomicU32::new(1), memory }).collect();
        // SAFETY: it was just made, and nobody else knows of it.
        unsafe { (*memory.as_ptr()).holds = holds };
        memory
    }

    #[inline]
    pub(super) fn start_of(&self, block: Block) -> NonNull<u8> {
        assert!(block.index() < self.holds.len());
        // SAFETY: the block's number was checked, so its start lies inside the allocation.
        unsafe { self.base.add(block.index() * self.block_size) }
    }

    /// A block without holds, which there is only once the pool is gone.
    ///
    /// # Safety
    ///
    /// Called once for each block, after its last hold.
    #[cold]
    unsafe fn drop_block(this: NonNull<Self>) {
        // Acquire, here and below: whoever frees the memory has seen all that was done with it.
        fence(Ordering::Acquire);
        // SAFETY: this block counts until the next line, so the memory is alive.
        if unsafe { this.as_ref() }.held_blocks.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: made by `Box::leak` in `Pool::new`; no hold is left, so nobody refers to it.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
    }
}

impl Hold {
    #[inline]
    pub(super) fn add(&self) {
        // Relaxed, as in `Arc::clone`: the caller already has a count through which it sees the bytes.
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a block without a hold cannot be lent");
    }

    /// Gives up counts; the last of all blocks frees the memory.
    ///
    /// # Safety
    ///
    /// The caller owns so many, at least one, and uses them no more.
    #[inline(always)]
    pub(super) unsafe fn sub(this: NonNull<Self>, count: u32) {
        // SAFETY: the caller's counts keep the memory alive until they are given up.
        let counter = unsafe { &this.as_ref().count };
        // Release: what this thread did with the bytes happened before their next use.
        if counter.fetch_sub(count, Ordering::Release) == count {
            // SAFETY: it was the block's last, and blocks are never held again.
            unsafe { Self::end(this) };
        }
    }

    /// # Safety
    ///
    /// Called once for each block, after its last count.
    #[cold]
    unsafe fn end(this: NonNull<Self>) {
        // SAFETY: the block counts in `held_blocks` until the next line, so the memory is alive.
        unsafe { Memory::drop_block(this.as_ref().memory) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; no lease and no pool is left.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}
