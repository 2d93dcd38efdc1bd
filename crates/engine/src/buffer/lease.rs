//! Received bytes that still lie in the loop's own memory.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use bytes::{Buf, Bytes};

use super::pool::Hold;

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
pub struct Lease {
    /// First byte; dangling when there is none.
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// Who keeps the bytes of a lease where they are, in one word: nobody (null), a [`Hold`] on a block of the
/// loop's memory, or, marked by the lowest bit, a box with the `Bytes` that the lease shows a part of.
///
/// A plain enum would be read and matched at each step of a message's way; this is looked at when a lease
/// ends.
#[derive(Clone, Copy)]
struct Owner(*const ());

/// What an [`Owner`] is.
enum Kind {
    Nobody,
    Pool(NonNull<Hold>),
    Private(NonNull<Bytes>),
}

impl Owner {
    const NOBODY: Self = Self(std::ptr::null());
    const PRIVATE: usize = 1;

    fn private(bytes: Bytes) -> Self {
        let bytes: *const Bytes = Box::into_raw(Box::new(bytes));
        Self(bytes.cast::<()>().map_addr(|address| address | Self::PRIVATE))
    }

    #[inline(always)]
    fn kind(self) -> Kind {
        let Some(pointer) = NonNull::new(self.0.cast_mut()) else { return Kind::Nobody };
        match NonNull::new(pointer.as_ptr().map_addr(|address| address & !Self::PRIVATE)) {
            Some(bytes) if bytes != pointer => Kind::Private(bytes.cast()),
            _ => Kind::Pool(pointer.cast()),
        }
    }
}

// SAFETY: a lease only reads its range, which nobody writes to while its owner keeps it; the hold of a pooled
// one is an atomic counter, and `Bytes` may change threads.
unsafe impl Send for Lease {}
// SAFETY: as above; `&Lease` gives out `&[u8]` only, and clones, which count atomically.
unsafe impl Sync for Lease {}

impl Lease {
    /// A lease of `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The range is initialised and lies inside the block of `hold`, and the caller passes on one count of it.
    #[inline(always)]
    pub(super) unsafe fn pooled(hold: NonNull<Hold>, start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, owner: Owner(hold.as_ptr().cast_const().cast()) }
    }

    /// The lease ends without giving up its count of `hold`, if that is what it counts in; else it comes back.
    #[inline(always)]
    pub(super) fn leave_count_of(self, hold: NonNull<Hold>) -> Result<(), Self> {
        if self.owner.0 != hold.as_ptr().cast_const().cast() {
            return Err(self);
        }
        std::mem::forget(self);
        Ok(())
    }

    /// What the lease counts in, unless it has nothing or a private copy.
    #[inline(always)]
    pub(super) fn hold(&self) -> Option<NonNull<Hold>> {
        match self.owner.kind() {
            Kind::Pool(hold) => Some(hold),
            Kind::Nobody | Kind::Private(_) => None,
        }
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the bytes lie in the loop's memory; `false` for a private copy.
    #[inline]
    pub fn is_pooled(&self) -> bool {
        matches!(self.owner.kind(), Kind::Pool(_))
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
        self.len = self.len.min(len);
    }

    /// Moves the bytes out of the loop's memory into a private copy, and gives the block back.
    pub fn make_private(&mut self) {
        if self.is_pooled() {
            *self = Self::from(Bytes::copy_from_slice(self));
        }
    }
}

impl From<Bytes> for Lease {
    fn from(bytes: Bytes) -> Self {
        let (start, len) = (NonNull::from(&*bytes).cast(), bytes.len());
        if len == 0 { Self::default() } else { Self { start, len, owner: Owner::private(bytes) } }
    }
}

/// Keeps the lease inside the `Bytes`: one small allocation, no copy of the bytes.
impl From<Lease> for Bytes {
    fn from(lease: Lease) -> Self {
        match lease.owner.kind() {
            Kind::Nobody => Self::new(),
            Kind::Pool(_) => Self::from_owner(lease),
            Kind::Private(bytes) => {
                let lease = ManuallyDrop::new(lease);
                // SAFETY: made by `Owner::private`, owned by the lease, which ends here without being dropped.
                let mut bytes = *unsafe { Box::from_raw(bytes.as_ptr()) };
                bytes.advance(lease.start.as_ptr().addr() - bytes.as_ptr().addr());
                bytes.truncate(lease.len);
                bytes
            }
        }
    }
}

/// The empty lease, which holds nothing.
impl Default for Lease {
    #[inline(always)]
    fn default() -> Self {
        Self { start: NonNull::dangling(), len: 0, owner: Owner::NOBODY }
    }
}

impl Clone for Lease {
    #[inline]
    fn clone(&self) -> Self {
        let owner = match self.owner.kind() {
            Kind::Nobody => Owner::NOBODY,
            Kind::Pool(hold) => {
                // SAFETY: this lease has a count, so what it counts is alive.
                unsafe { hold.as_ref() }.add();
                self.owner
            }
            // SAFETY: the box is owned by this lease.
            Kind::Private(bytes) => Owner::private(unsafe { bytes.as_ref() }.clone()),
        };
        Self { start: self.start, len: self.len, owner }
    }
}

impl Drop for Lease {
    #[inline(always)]
    fn drop(&mut self) {
        match self.owner.kind() {
            Kind::Nobody => {}
            // SAFETY: the lease owns one count and ends here.
            Kind::Pool(hold) => unsafe { Hold::sub(hold, 1) },
            // SAFETY: made by `Owner::private`, owned by the lease, which ends here.
            Kind::Private(bytes) => unsafe { drop_private(bytes) },
        }
    }
}

/// # Safety
///
/// `bytes` is a box that the caller owns.
#[cold]
unsafe fn drop_private(bytes: NonNull<Bytes>) {
    // SAFETY: the caller's.
    drop(unsafe { Box::from_raw(bytes.as_ptr()) });
}

impl Deref for Lease {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: the owner keeps the range where it is, and nobody writes to it; without an owner it is empty.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
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
        // SAFETY: `count` <= `len`, so the start stays inside the range or at its end.
        self.start = unsafe { self.start.add(count) };
        self.len -= count;
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len()).field("pooled", &self.is_pooled()).finish()
    }
}
