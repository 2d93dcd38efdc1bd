//! Received bytes that still lie in the loop's own memory.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use bytes::{Buf, Bytes};

use super::pool::{Block, Memory};

/// Received bytes, read-only, lying in the loop's own memory and given back when dropped.
///
/// A lease may be kept, split, sent to another thread and dropped there, and it outlives the loop. It
/// holds a whole block of the loop's [`Pool`](super::Pool), however few bytes it shows: what is kept
/// for long is better copied ([`Bytes::copy_from_slice`]). Keeping many starves nobody: when the loop
/// runs out of spare blocks it hands out leases of private copies instead, see
/// [`is_pooled`](Self::is_pooled).
///
/// # Examples
///
/// ```
/// use kolk_engine::buffer::Lease;
///
/// let mut line = Lease::from(bytes::Bytes::from_static(b"GET key\r\nGET"));
/// let request = line.split_to(9);
/// assert_eq!(&*request, b"GET key\r\n");
/// assert_eq!(&*line, b"GET");
/// ```
///
/// The default is the empty lease, which holds nothing.
#[derive(Clone, Default)]
pub struct Lease(Repr);

#[derive(Clone, Default)]
enum Repr {
    /// An empty `Bytes` would do, but dropping one is an indirect call.
    #[default]
    Empty,
    Pooled(Pooled),
    Private(Bytes),
}

/// A range of one block.
///
/// Invariant: `start .. start + len` lies inside `block` of `memory`, and this value owns one of the block's
/// holds, so the memory lives and nobody writes to the range while this value does.
struct Pooled {
    memory: NonNull<Memory>,
    start: NonNull<u8>,
    len: u32,
    block: Block,
}

// SAFETY: a lease only reads its range, which nobody writes to while its hold exists; the hold itself is
// an atomic counter.
unsafe impl Send for Pooled {}
// SAFETY: as above; `&Pooled` gives out `&[u8]` only.
unsafe impl Sync for Pooled {}

impl Lease {
    /// A lease of `len` bytes at `start` of `block`.
    ///
    /// # Safety
    ///
    /// The range lies inside the block and is initialised, and the caller passes on one hold on it.
    #[inline]
    pub(super) unsafe fn pooled(memory: NonNull<Memory>, block: Block, start: usize, len: usize) -> Self {
        // SAFETY: the hold keeps the memory alive, and the caller guarantees that `start` is inside the block.
        let start = unsafe { memory.as_ref().start_of(block).add(start) };
        Self(Repr::Pooled(Pooled { memory, start, len: len as u32, block }))
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Empty => 0,
            Repr::Pooled(pooled) => pooled.len as usize,
            Repr::Private(bytes) => bytes.len(),
        }
    }

    /// Whether no byte is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes lie in the loop's memory; `false` for a private copy.
    #[inline]
    pub fn is_pooled(&self) -> bool {
        matches!(self.0, Repr::Pooled(_))
    }

    /// Takes the first `count` bytes off into a lease of their own. No byte is copied.
    ///
    /// # Panics
    ///
    /// If `count` exceeds [`len`](Self::len).
    #[inline]
    pub fn split_to(&mut self, count: usize) -> Self {
        assert!(count <= self.len(), "cannot split {count} bytes off a lease of {}", self.len());
        if count == self.len() {
            return std::mem::take(self);
        }
        let mut front = self.clone();
        front.truncate(count);
        self.advance(count);
        front
    }

    /// Keeps the first `len` bytes and forgets the rest; no effect if there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Repr::Empty => {}
            Repr::Pooled(pooled) => pooled.len = len.min(pooled.len as usize) as u32,
            Repr::Private(bytes) => bytes.truncate(len),
        }
    }

    /// Moves the bytes out of the loop's memory into a private copy, and gives the block back.
    pub fn make_private(&mut self) {
        if self.is_pooled() {
            self.0 = Repr::Private(Bytes::copy_from_slice(self));
        }
    }
}

impl From<Bytes> for Lease {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Private(bytes))
    }
}

/// Keeps the lease inside the `Bytes`: one small allocation, no copy of the bytes.
impl From<Lease> for Bytes {
    fn from(lease: Lease) -> Self {
        match lease.0 {
            Repr::Empty => Bytes::new(),
            Repr::Private(bytes) => bytes,
            Repr::Pooled(pooled) => Bytes::from_owner(pooled),
        }
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Empty => &[],
            Repr::Pooled(pooled) => pooled.as_ref(),
            Repr::Private(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Buf for Lease {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance {count} bytes in a lease of {}", self.len());
        match &mut self.0 {
            Repr::Empty => {}
            Repr::Pooled(pooled) => {
                // SAFETY: `count` <= `len`, so the start stays inside the range or at its end.
                pooled.start = unsafe { pooled.start.add(count) };
                pooled.len -= count as u32;
            }
            Repr::Private(bytes) => bytes.advance(count),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len()).field("pooled", &self.is_pooled()).finish()
    }
}

impl Clone for Pooled {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: the invariant of the struct keeps the memory alive.
        unsafe { self.memory.as_ref() }.add_hold(self.block);
        Self { ..*self }
    }
}

impl AsRef<[u8]> for Pooled {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the invariant of the struct.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Drop for Pooled {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the value owns the hold and ends here.
        unsafe { Memory::drop_holds(self.memory, self.block, 1) };
    }
}
