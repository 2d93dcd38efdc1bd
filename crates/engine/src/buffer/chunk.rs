//! What a write hands over.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::Lease;

/// One piece of an [`OutQueue`](super::OutQueue).
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Shared bytes, sent from where they lie.
    Shared(Bytes),
    /// Bytes that live as long as the program.
    Static(&'static [u8]),
    /// Received bytes, sent on from the loop's memory.
    Lease(Lease),
    /// A range of a file, sent by the kernel without passing through the program.
    File(FileRange),
}

/// A range of an open file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file; it must stay as long as the range says until the bytes are sent.
    pub file: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Chunk {
    /// Number of bytes to send.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        match self {
            Self::Shared(bytes) => bytes.len() as u64,
            Self::Static(bytes) => bytes.len() as u64,
            Self::Lease(lease) => lease.len() as u64,
            Self::File(range) => range.len,
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, unless they lie in a file.
    #[inline(always)]
    pub(super) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Static(bytes) => Some(bytes),
            Self::Lease(lease) => Some(lease),
            Self::File(_) => None,
        }
    }
}

impl From<Bytes> for Chunk {
    #[inline(always)]
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl From<Vec<u8>> for Chunk {
    #[inline(always)]
    fn from(bytes: Vec<u8>) -> Self {
        Self::Shared(bytes.into())
    }
}

impl From<Lease> for Chunk {
    #[inline(always)]
    fn from(lease: Lease) -> Self {
        Self::Lease(lease)
    }
}

impl From<&'static [u8]> for Chunk {
    #[inline(always)]
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Chunk {
    #[inline(always)]
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl From<FileRange> for Chunk {
    #[inline(always)]
    fn from(range: FileRange) -> Self {
        Self::File(range)
    }
}
