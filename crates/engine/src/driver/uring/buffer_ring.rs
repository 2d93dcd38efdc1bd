//! The ring of receive buffers from which the kernel picks.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buffer::{Block, Lease, Pool, Run};
use crate::driver::DriverConfig;
use crate::driver::linux::PageMemory;

/// Group number of the one buffer ring.
pub(super) const BUFFER_GROUP: u16 = 0;

/// Blocks of a [`Pool`] offered to the kernel, `IORING_REGISTER_PBUF_RING`.
///
/// ```text
///  pool: free ──post──► in the ring ──completion──► lent ──last lease dropped──► free
/// ```
///
/// The pool has more blocks than the ring has entries: spares replace what leases hold.
#[derive(Debug)]
pub(super) struct BufferRing {
    pool: Pool,
    /// `entries` descriptions of 16 bytes, read by the kernel. The tail lies in an unused field of
    /// the first.
    entries: PageMemory,
    mask: u16,
    /// Next entry to fill; the kernel sees it when it is published.
    tail: u16,
    /// Blocks that the kernel may pick. 0 <= posted <= mask + 1.
    posted: u16,
    /// The block in each entry of the ring, which the kernel takes in order.
    blocks: Box<[Block]>,
    /// By block: in which entry it was posted last.
    entry_of: Box<[u16]>,
}

impl BufferRing {
    /// # Errors
    ///
    /// `InvalidInput` for a count that is no power of two; what the kernel says otherwise.
    pub(super) fn new(ring: &IoUring, config: &DriverConfig) -> io::Result<Self> {
        let count = config.ring_buffers;
        if !count.is_power_of_two() || count > 1 << 15 {
            let message = format!("ring_buffers is {count}: it must be a power of two up to 32768");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let entries = PageMemory::new(usize::from(count) * size_of::<BufRingEntry>());
        // SAFETY: the memory is page-aligned and outlives the registration: `Uring` drops the ring first.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.address(), count, BUFFER_GROUP, 0) }?;
        let blocks = usize::from(count) + usize::from(config.ring_spare_buffers);
        let pool = Pool::new(config.ring_buffer_size, blocks);
        let mut buffers = Self {
            pool,
            entries,
            mask: count - 1,
            tail: 0,
            posted: 0,
            blocks: vec![Block::from_index(0); usize::from(count)].into(),
            entry_of: vec![0; blocks].into(),
        };
        buffers.refill();
        Ok(buffers)
    }

    /// Blocks that the kernel may pick.
    #[inline]
    pub(super) fn posted(&self) -> u16 {
        self.posted
    }

    /// Offers free blocks until the ring is full.
    #[inline]
    pub(super) fn refill(&mut self) {
        let before = self.tail;
        while self.posted <= self.mask
            && let Some(block) = self.pool.acquire()
        {
            self.post(block);
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// The kernel has filled `len` bytes, from the block `index` on through those posted behind it, each
    /// but the last up to its end. Neighbours in memory come out as one lease.
    #[inline]
    pub(super) fn lend(&mut self, index: u16, len: usize, mut lent: impl FnMut(Lease)) {
        let size = self.pool.block_size();
        let mut entry = self.entry_of[usize::from(index)];
        let mut left = len;
        while left > 0 {
            let mut run = Run::of(self.block_at(entry));
            entry = entry.wrapping_add(1);
            while run.blocks() * size < left && run.extend(self.block_at(entry)) {
                entry = entry.wrapping_add(1);
            }
            let filled = left.min(run.blocks() * size);
            left -= filled;
            self.posted -= run.blocks() as u16;
            lent(self.pool.lend_run(run, filled));
        }
    }

    #[inline]
    fn block_at(&self, entry: u16) -> Block {
        self.blocks[usize::from(entry & self.mask)]
    }

    /// The kernel gave a block back unused.
    pub(super) fn take_back(&mut self, index: u16) {
        self.posted -= 1;
        self.pool.release(Block::from_index(index));
    }

    /// Whether the spares cannot fill the ring any more.
    #[inline]
    pub(super) fn is_short(&mut self) -> bool {
        !self.pool.has_free(usize::from(self.mask) + 1 - usize::from(self.posted))
    }

    fn post(&mut self, block: Block) {
        let address = self.pool.address(block).as_ptr() as u64;
        let len = self.pool.block_size() as u32;
        let index = usize::from(self.tail & self.mask);
        // SAFETY: `index` is inside the array of `mask + 1` entries, which the kernel reads only up to
        // the published tail, so nobody else looks at this one.
        unsafe {
            let entry = &mut *self.entries.address_as::<BufRingEntry>().add(index);
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(block.index() as u16);
        }
        self.blocks[index] = block;
        self.entry_of[block.index()] = self.tail;
        self.tail = self.tail.wrapping_add(1);
        self.posted += 1;
    }

    fn publish(&self) {
        // SAFETY: the tail lies inside the first entry and is an aligned u16 that the kernel only reads.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.address_as()).cast::<AtomicU16>() };
        // Release: the kernel sees the entries before it sees that they are there.
        tail.store(self.tail, Ordering::Release);
    }
}
