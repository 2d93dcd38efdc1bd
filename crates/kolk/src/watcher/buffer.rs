//! Bytes on their way in or out, in whichever form the program has them.

use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};
use kolk_engine::EventLoop;
use kolk_engine::buffer::{Chunk, FileRange, Lease};
use kolk_engine::limits::COPY_SIZE;
use kolk_engine::token::ConnId;

use super::limits::RECYCLED_CAPACITY;
use crate::error::Result;

/// Bytes that were received or are to be sent. What an operation was given comes back in its completion.
///
/// It dereferences to its bytes; those of a file range or of several parts lie nowhere together, so there
/// the slice is empty.
///
/// # Examples
///
/// ```
/// use kolk::watcher::Buffer;
///
/// let buffer = Buffer::from("hello");
/// assert_eq!(&*buffer, b"hello");
/// assert_eq!(buffer.byte_count(), 5);
/// ```
#[derive(Debug, Default)]
pub enum Buffer {
    /// No bytes.
    #[default]
    Empty,
    /// A buffer of the program.
    Owned(BytesMut),
    /// Bytes that others may hold too; sent from where they lie.
    Shared(Bytes),
    /// Bytes that live as long as the program.
    Static(&'static [u8]),
    /// Received bytes in the loop's own memory, given back on drop.
    Lease(Lease),
    /// A range of a file, sent by the kernel.
    File(FileRange),
    /// Several parts, sent one after the other.
    Vectored(Vec<Buffer>),
}

impl Buffer {
    /// Number of bytes, those of a file or of several parts included.
    #[inline]
    pub fn byte_count(&self) -> u64 {
        match self {
            Self::File(range) => range.len,
            Self::Vectored(parts) => total(parts),
            _ => self.len() as u64,
        }
    }

    /// An empty buffer to read into, with the memory of this one where nobody else holds it.
    ///
    /// What a write was given as [`BytesMut`] keeps its memory from one message to the next this way. Other
    /// forms are dropped, and a fresh buffer of 4 KiB or more takes their place.
    pub fn recycle(self) -> BytesMut {
        match self {
            Self::Owned(mut bytes) => {
                bytes.clear();
                bytes
            }
            Self::Shared(bytes) => match bytes.try_into_mut() {
                Ok(mut bytes) => {
                    bytes.clear();
                    bytes
                }
                Err(shared) => fresh(shared.len()),
            },
            other => fresh(other.len()),
        }
    }

    /// The bytes in shared form: a copy only where they are not shared yet. Those of a file are not read.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty | Self::File(_) => Bytes::new(),
            Self::Owned(bytes) => bytes.freeze(),
            Self::Shared(bytes) => bytes,
            Self::Static(bytes) => Bytes::from_static(bytes),
            Self::Lease(lease) => lease.into(),
            Self::Vectored(parts) => {
                let mut whole = BytesMut::new();
                parts.into_iter().for_each(|part| whole.extend_from_slice(&part.into_bytes()));
                whole.freeze()
            }
        }
    }

    /// Whether some of the bytes are not in memory.
    pub(super) fn has_file(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Vectored(parts) => parts.iter().any(Self::has_file),
            _ => false,
        }
    }

    /// The form in which an engine can send it while it stays here: a longer owned buffer becomes a shared one.
    #[inline]
    pub(super) fn sendable(self) -> Self {
        match self {
            Self::Owned(_) | Self::Vectored(_) => self.into_sendable(),
            other => other,
        }
    }

    fn into_sendable(self) -> Self {
        match self {
            Self::Owned(bytes) if bytes.len() > COPY_SIZE => Self::Shared(freeze(bytes)),
            Self::Vectored(parts) => Self::Vectored(parts.into_iter().map(Self::sendable).collect()),
            other => other,
        }
    }

    /// Queues what comes after the first `sent` bytes, and answers how many those are.
    #[inline(always)]
    pub(super) fn queue<M>(
        &self,
        event_loop: &mut EventLoop<M>,
        conn: ConnId,
        sent: u64,
    ) -> std::io::Result<u64> {
        let bytes: &[u8] = self;
        if sent == 0 && !bytes.is_empty() && bytes.len() <= COPY_SIZE {
            event_loop.write_copy(conn, bytes)?;
            return Ok(bytes.len() as u64);
        }
        self.queue_rest(event_loop, conn, sent)?;
        Ok(self.byte_count() - sent)
    }

    /// The same for what is not all copied.
    fn queue_rest<M>(&self, event_loop: &mut EventLoop<M>, conn: ConnId, sent: u64) -> std::io::Result<()> {
        let skip = sent.min(self.byte_count()) as usize;
        let chunk = match self {
            Self::Vectored(parts) => {
                let mut skip = sent;
                for part in parts {
                    let skipped = skip.min(part.byte_count());
                    part.queue_rest(event_loop, conn, skipped)?;
                    skip -= skipped;
                }
                return Ok(());
            }
            Self::File(range) => {
                let file = std::sync::Arc::clone(&range.file);
                Chunk::File(FileRange { file, offset: range.offset + sent, len: range.len - skip as u64 })
            }
            Self::Shared(bytes) if bytes.len() - skip > COPY_SIZE => Chunk::Shared(bytes.slice(skip..)),
            Self::Static(bytes) => Chunk::Static(&bytes[skip..]),
            Self::Lease(lease) if lease.len() - skip > COPY_SIZE => {
                let mut rest = lease.clone();
                rest.advance(skip);
                Chunk::Lease(rest)
            }
            _ => return event_loop.write_copy(conn, &self[skip..]).map(drop),
        };
        event_loop.write(conn, chunk).map(drop)
    }

    /// Whether there is no byte in it.
    #[inline]
    pub(super) fn is_nothing(&self) -> bool {
        self.is_empty() && self.byte_count() == 0
    }

    /// Refuses what has no byte.
    pub(super) fn check_not_empty(&self) -> Result<()> {
        if self.is_nothing() {
            return Err(crate::Error::invalid("there is nothing to write: the buffer is empty"));
        }
        Ok(())
    }
}

/// Freezes without giving up the means to thaw: from then on the buffer changes between the two forms without
/// an allocation. `freeze` alone makes a fresh header each time.
fn freeze(mut bytes: BytesMut) -> Bytes {
    drop(bytes.split_off(bytes.len()));
    bytes.freeze()
}

fn fresh(len: usize) -> BytesMut {
    BytesMut::with_capacity(len.max(RECYCLED_CAPACITY))
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Empty | Self::File(_) | Self::Vectored(_) => &[],
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Static(bytes) => bytes,
            Self::Lease(lease) => lease,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<BytesMut> for Buffer {
    fn from(bytes: BytesMut) -> Self {
        Self::Owned(bytes)
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Shared(bytes.into())
    }
}

impl From<Lease> for Buffer {
    fn from(lease: Lease) -> Self {
        Self::Lease(lease)
    }
}

impl From<FileRange> for Buffer {
    fn from(range: FileRange) -> Self {
        Self::File(range)
    }
}

impl From<&'static [u8]> for Buffer {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl<const N: usize> From<&'static [u8; N]> for Buffer {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Buffer {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

/// Number of bytes of all parts.
fn total(parts: &[Buffer]) -> u64 {
    parts.iter().map(Buffer::byte_count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_buffer_keeps_its_memory_through_both_forms() {
        let mut bytes = BytesMut::with_capacity(8192);
        bytes.extend_from_slice(&[7; 5000]);
        let place = bytes.as_ptr();
        for _ in 0..3 {
            let shared = Buffer::from(bytes).sendable();
            assert!(matches!(shared, Buffer::Shared(_)));
            bytes = shared.recycle();
            assert_eq!((bytes.as_ptr(), bytes.len(), bytes.capacity()), (place, 0, 8192));
            bytes.extend_from_slice(&[8; 5000]);
        }
    }

    #[test]
    fn bytes_that_others_hold_are_not_recycled() {
        let shared = Bytes::from(vec![1; 9000]);
        let recycled = Buffer::from(shared.clone()).recycle();
        assert!(recycled.is_empty() && recycled.capacity() >= 9000);
        assert_eq!(shared.len(), 9000);
    }

    #[test]
    fn parts_count_together() {
        let inner = Buffer::Vectored(vec![vec![1, 2].into(), vec![3].into()]);
        let parts = Buffer::Vectored(vec!["ab".into(), Buffer::Empty, inner]);
        assert_eq!((parts.byte_count(), parts.len()), (5, 0));
        assert_eq!(&parts.into_bytes()[..], b"ab\x01\x02\x03");
    }
}
