//! The ring of provided buffers of `limit-uring`: the io-uring crate registers one but does not
//! manage it.
//!
//! ```text
//!  entries   | id | id | id | .. |      filled by us at `tail`, taken by the kernel at its head
//!              |
//!  memory    [ buffer 0 ][ buffer 1 ] .. [ buffer count-1 ]
//! ```

use std::sync::atomic::{AtomicU16, Ordering};
use std::{io, ptr};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Entries for the kernel to take, and the memory that they name. Never unmapped.
#[derive(Debug)]
pub struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    count: u16,
    size: u32,
    /// The next entry to fill, modulo `count`.
    tail: u16,
    /// 0 <= free <= count.
    free: u32,
}

impl Buffers {
    /// The one buffer group.
    pub const GROUP: u16 = 0;

    /// Maps the memory, registers the ring and gives all buffers to the kernel.
    ///
    /// # Errors
    ///
    /// Out of memory, or a `count` that is no power of two up to 32768.
    pub fn new(submitter: &Submitter<'_>, count: u16, size: u32) -> io::Result<Self> {
        let mut buffers = Self {
            entries: map(usize::from(count) * size_of::<BufRingEntry>())?.cast(),
            memory: map(usize::from(count) * size as usize)?,
            count,
            size,
            tail: 0,
            free: 0,
        };
        // SAFETY: the entries are page-aligned, `count` of them fit, and they are never unmapped.
        unsafe {
            submitter.register_buf_ring_with_flags(
                buffers.entries as u64,
                count,
                Self::GROUP,
                0,
            )?;
        }
        (0..count).for_each(|id| buffers.give_back(Some(id)));
        Ok(buffers)
    }

    /// Bytes of a buffer.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Buffers that the kernel holds, as far as completions have told.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Where a buffer begins.
    pub fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(id < self.count);
        self.memory
            .wrapping_add(usize::from(id) * self.size as usize)
    }

    /// A completion came with a buffer.
    pub fn taken(&mut self) {
        debug_assert!(self.free > 0);
        self.free -= 1;
    }

    /// Fills an entry; the kernel sees it at the next `publish`. A chunk without one has no effect.
    pub fn give_back(&mut self, id: Option<u16>) {
        let Some(id) = id else { return };
        let address = self.address(id) as u64;
        // SAFETY: the index is masked to `count`, so the entry is inside the mapping, and the
        // kernel does not read it before the tail moves past it.
        let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & (self.count - 1))) };
        entry.set_addr(address);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        debug_assert!(self.free <= u32::from(self.count));
    }

    /// Shows the kernel the entries filled so far.
    pub fn publish(&self) {
        // SAFETY: the tail lies inside the first entry of a live ring, is aligned, and is touched
        // by nobody but this thread and the kernel, which reads it with acquire order.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed, page-aligned memory that is never given back.
fn map(length: usize) -> io::Result<*mut u8> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh anonymous mapping touches no memory that anybody has.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(start.cast())
}
