//! The ring of receive buffers from which the kernel picks.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buffer::{Block, Lease, Pool};
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
        let mut buffers = Self { pool, entries, mask: count - 1, tail: 0, posted: 0 };
        buffers.refill();
        Ok(buffers)
    }

    /// Offers free blocks until the ring is full.
    #[inline]
    pub(super) fn refill(&mut self) {
        // What came back last is the hottest: it is posted before spares that were never touched.
        self.pool.reclaim();
        // In registers: the two neighbours would be written as one and read apart, which a processor waits for.
        let (mut tail, mut posted) = (self.tail, self.posted);
        while posted <= self.mask
            && let Some(block) = self.pool.acquire()
        {
            self.post(tail, block);
            tail = tail.wrapping_add(1);
            posted += 1;
        }
        if tail != self.tail {
            (self.tail, self.posted) = (tail, posted);
            self.publish();
        }
    }

    /// The kernel has filled the first `len` bytes of the block `index`. They come as a private copy if the
    /// spares cannot fill the ring any more.
    #[inline(always)]
    pub(super) fn lend(&mut self, index: u16, len: usize) -> Lease {
        self.posted -= 1;
        let block = Block::from_index(index);
        if self.pool.has_free(usize::from(self.mask) + 1 - usize::from(self.posted)) {
            self.pool.lend(block, len)
        } else {
            self.copy_out(block, len)
        }
    }

    /// Ends a lease on the loop's thread, see [`Pool::give_back`].
    #[inline(always)]
    pub(super) fn give_back(&mut self, lease: Lease) {
        self.pool.give_back(lease);
    }

    #[cold]
    fn copy_out(&mut self, block: Block, len: usize) -> Lease {
        let mut lease = self.pool.lend(block, len);
        lease.make_private();
        lease
    }

    /// Bytes of one block.
    #[inline]
    pub(super) fn block_size(&self) -> usize {
        self.pool.block_size()
    }

    /// The kernel gave a block back unused.
    pub(super) fn take_back(&mut self, index: u16) {
        self.posted -= 1;
        self.pool.release(Block::from_index(index));
    }

    /// Describes a block in the entry `at`.
    #[inline]
    fn post(&mut self, at: u16, block: Block) {
        let address = self.pool.address(block).as_ptr() as u64;
        let len = self.pool.block_size() as u32;
        let index = usize::from(at & self.mask);
        // SAFETY: `index` is inside the array of `mask + 1` entries, which the kernel reads only up to
        // the published tail, so nobody else looks at this one.
        unsafe {
            let entry = &mut *self.entries.address_as::<BufRingEntry>().add(index);
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(block.index() as u16);
        }
    }

    fn publish(&self) {
        // SAFETY: the tail lies inside the first entry and is an aligned u16 that the kernel only reads.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.address_as()).cast::<AtomicU16>() };
        // Release: the kernel sees the entries before it sees that they are there.
        tail.store(self.tail, Ordering::Release);
    }
}
