//! What a connection has still to send.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes};

use super::Lease;
use crate::limits::{COPY_SIZE, SPARE_CHUNK_CAPACITY, SPARE_COPY_CAPACITY};

/// One piece of an [`OutQueue`].
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
    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Static(bytes) => Some(bytes),
            Self::Lease(lease) => Some(lease),
            Self::File(_) => None,
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Shared(bytes.into())
    }
}

impl From<Lease> for Chunk {
    fn from(lease: Lease) -> Self {
        Self::Lease(lease)
    }
}

impl From<&'static [u8]> for Chunk {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Chunk {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl From<FileRange> for Chunk {
    fn from(range: FileRange) -> Self {
        Self::File(range)
    }
}

/// Chunks in the order in which they leave, sent with as few system calls as possible.
///
/// A queue has two lives. First it is *filled* by the front end; then it is moved into a send operation
/// and *drained* by the driver, front to back, until it is empty. Nothing is appended while it drains
/// (later writes fill another queue), so the addresses given to the kernel stay valid.
///
/// ```text
///  copied:  ├ "HTTP/1.1 200 OK\r\n" ┼ "ping" ┤          small writes, packed by copy
///            └───── lead: 17 ─────┘   │
///  chunks:  [ Shared(1 MiB) ][ Copied(4) ][ Lease(4 KiB) ]
///             ▲ head, sent up to `head_sent`
/// ```
///
/// A queue of small writes alone is one cache line and the bytes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct OutQueue {
    /// Bytes of the small writes. The first `lead` go before all chunks, so that a queue of nothing else
    /// has no chunk; `Piece::Copied` are consecutive ranges of the others.
    copied: Vec<u8>,
    /// 0 <= lead_sent <= lead <= copied.len()
    lead: usize,
    lead_sent: usize,
    /// Bytes not yet sent, in all pieces.
    len: u64,
    /// Bytes sent since the queue was last cleared.
    sent: u64,
    /// What follows the lead; kept when it is empty.
    tail: Option<Box<Tail>>,
}

#[derive(Debug, Default)]
struct Tail {
    /// `chunks[..head]` are sent and hold nothing.
    chunks: Vec<Piece>,
    head: usize,
    /// Bytes of `chunks[head]` that are sent.
    head_sent: u64,
    /// Lengths of whole messages, for [`OutQueue::drop_oldest`]. Together they are the queue, or there are none.
    messages: VecDeque<u64>,
}

/// Where [`OutQueue::push_with`] writes to: appends only.
#[derive(Debug)]
pub struct Fill<'a>(&'a mut Vec<u8>);

// SAFETY: every method is that of `Vec<u8>`, which keeps the contract.
unsafe impl BufMut for Fill<'_> {
    fn remaining_mut(&self) -> usize {
        self.0.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller's guarantee is passed on.
        unsafe { self.0.advance_mut(count) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.0.chunk_mut()
    }
}

/// For `write!`.
impl io::Write for Fill<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what belongs to the queue, and nothing more when the one who fills it panics.
struct Room<'a> {
    copied: &'a mut Vec<u8>,
    end: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.copied.truncate(self.end);
    }
}

impl Tail {
    const EMPTY: &'static Self =
        &Self { chunks: Vec::new(), head: 0, head_sent: 0, messages: VecDeque::new() };

    fn unsent(&self) -> &[Piece] {
        &self.chunks[self.head..]
    }
}

#[derive(Debug)]
enum Piece {
    Copied { start: usize, len: usize },
    Kept(Chunk),
}

impl OutQueue {
    /// Bytes not yet sent.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes sent since the queue was last cleared.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Room for copied bytes and for chunks together: a measure of what the queue keeps, for tests.
    pub fn capacity(&self) -> usize {
        self.copied.capacity() + self.tail().chunks.capacity()
    }

    /// Whether everything is sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn push_copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.copied.len();
        self.copied.extend_from_slice(bytes);
        self.count_copied(start);
    }

    /// Appends what `fill` writes, straight into the queue. Room for `reserve` bytes is made first; more may be
    /// written. Answers how many were.
    pub fn push_with(&mut self, reserve: usize, fill: impl FnOnce(&mut Fill<'_>)) -> u64 {
        let start = self.copied.len();
        self.copied.reserve(reserve);
        let mut room = Room { copied: &mut self.copied, end: start };
        fill(&mut Fill(room.copied));
        room.end = room.copied.len();
        drop(room);
        if self.copied.len() > start {
            self.count_copied(start);
        }
        (self.copied.len() - start) as u64
    }

    /// What was copied from `start` on belongs to the queue.
    #[inline]
    fn count_copied(&mut self, start: usize) {
        let count = self.copied.len() - start;
        self.len += count as u64;
        let chunks = self.tail.as_mut().map(|tail| &mut tail.chunks).filter(|chunks| !chunks.is_empty());
        match chunks {
            None => self.lead = self.copied.len(),
            Some(chunks) => match chunks.last_mut() {
                Some(Piece::Copied { len, .. }) => *len += count,
                _ => chunks.push(Piece::Copied { start, len: count }),
            },
        }
    }

    /// Appends a chunk: a small one by copy, a longer one by reference.
    #[inline]
    pub fn push(&mut self, chunk: Chunk) {
        match chunk.as_bytes() {
            Some(bytes) if bytes.len() <= COPY_SIZE => self.push_copy(bytes),
            _ => self.push_kept(chunk),
        }
    }

    fn push_kept(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.tail.get_or_insert_default().chunks.push(Piece::Kept(chunk));
        }
    }

    /// Says that the last `len` bytes are one whole message, which is dropped as a whole or not at all.
    pub fn end_message(&mut self, len: u64) {
        let tail = self.tail.get_or_insert_default();
        tail.messages.push_back(len);
        debug_assert_eq!(tail.messages.iter().sum::<u64>(), self.len, "every message of a queue is ended");
    }

    /// Drops the oldest messages until `excess` bytes are gone, but never the newest. For a queue that is being
    /// filled, and whose messages were all [ended](Self::end_message). Answers how many messages and bytes went.
    pub fn drop_oldest(&mut self, excess: u64) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        let Some(tail) = &mut self.tail else { return (0, 0) };
        while bytes < excess && tail.messages.len() > 1 {
            bytes += tail.messages.pop_front().unwrap_or_default();
            count += 1;
        }
        self.len -= bytes;
        self.pass(bytes);
        self.compact();
        (count, bytes)
    }

    /// Fills `slices` with the bytes to send next, up to the first file range, and says how many of
    /// them were filled.
    #[inline]
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = self.tail();
        let mut skip = tail.head_sent as usize;
        let mut filled = 0;
        let mut slices = slices.iter_mut();
        if !self.lead().is_empty()
            && let Some(slice) = slices.next()
        {
            *slice = IoSlice::new(self.lead());
            filled += 1;
        }
        for (piece, slice) in tail.unsent().iter().zip(slices) {
            let Some(bytes) = self.bytes_of(piece) else { break };
            *slice = IoSlice::new(&bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// The bytes to send next if they all lie in one piece.
    #[inline]
    pub fn single_slice(&self) -> Option<&[u8]> {
        let tail = self.tail();
        match tail.unsent() {
            [] => Some(self.lead()),
            [piece] if self.lead().is_empty() => Some(&self.bytes_of(piece)?[tail.head_sent as usize..]),
            _ => None,
        }
    }

    /// The file range to send next, if the queue's front is one.
    pub fn front_file(&self) -> Option<FileRange> {
        if !self.lead().is_empty() {
            return None;
        }
        let tail = self.tail();
        let Piece::Kept(Chunk::File(range)) = tail.unsent().first()? else { return None };
        let sent = tail.head_sent;
        Some(FileRange { file: Arc::clone(&range.file), offset: range.offset + sent, len: range.len - sent })
    }

    /// Marks the next `count` bytes as sent and lets go of the chunks that are done.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline]
    pub fn advance(&mut self, count: u64) {
        assert!(count <= self.len, "{count} bytes sent of {}", self.len);
        self.len -= count;
        self.sent += count;
        if self.len == 0 {
            return self.release();
        }
        self.pass(count);
    }

    /// Moves the front on by `count` bytes.
    #[inline]
    fn pass(&mut self, count: u64) {
        let of_lead = self.lead().len().min(usize::try_from(count).unwrap_or(usize::MAX));
        self.lead_sent += of_lead;
        if let Some(tail) = &mut self.tail {
            tail.head_sent += count - of_lead as u64;
            tail.drop_sent();
        }
    }

    /// Gives back the memory in front of what is still to be sent, once it is half of all: a queue whose oldest
    /// messages are dropped again and again must not grow, and moves each byte at most once more.
    fn compact(&mut self) {
        let tail = self.tail.get_or_insert_default();
        if tail.head * 2 >= tail.chunks.len() {
            tail.chunks.drain(..tail.head);
            tail.head = 0;
        }
        let first_copied = tail.unsent().iter().find_map(|piece| match piece {
            Piece::Copied { start, .. } => Some(*start),
            Piece::Kept(_) => None,
        });
        let dead = if self.lead_sent < self.lead {
            self.lead_sent
        } else {
            first_copied.unwrap_or(self.copied.len())
        };
        if dead * 2 < self.copied.len() {
            return;
        }
        self.copied.drain(..dead);
        self.lead = self.lead.saturating_sub(dead);
        self.lead_sent = 0;
        for piece in &mut tail.chunks[tail.head..] {
            if let Piece::Copied { start, .. } = piece {
                *start -= dead;
            }
        }
    }

    /// Moves what leases hold out of the loop's memory: a peer that does not read must not pin it.
    pub fn make_private(&mut self) {
        let Some(tail) = &mut self.tail else { return };
        for piece in &mut tail.chunks[tail.head..] {
            if let Piece::Kept(Chunk::Lease(lease)) = piece {
                lease.make_private();
            }
        }
    }

    /// Forgets everything, and memory beyond what a spare queue may keep.
    #[inline]
    pub fn clear(&mut self) {
        self.sent = 0;
        if !self.is_empty() {
            self.release();
        }
    }

    #[inline]
    fn release(&mut self) {
        self.copied.clear();
        self.lead = 0;
        self.lead_sent = 0;
        self.len = 0;
        if self.copied.capacity() > SPARE_COPY_CAPACITY {
            self.copied = Vec::new();
        }
        if let Some(tail) = &mut self.tail {
            tail.chunks.clear();
            tail.head = 0;
            tail.head_sent = 0;
            tail.messages.clear();
            if tail.chunks.capacity() > SPARE_CHUNK_CAPACITY {
                self.tail = None;
            }
        }
    }

    #[inline]
    fn tail(&self) -> &Tail {
        self.tail.as_deref().unwrap_or(Tail::EMPTY)
    }

    /// What is still to be sent before the chunks.
    #[inline]
    fn lead(&self) -> &[u8] {
        &self.copied[self.lead_sent..self.lead]
    }

    #[inline]
    fn bytes_of<'a>(&'a self, piece: &'a Piece) -> Option<&'a [u8]> {
        match piece {
            Piece::Copied { start, len } => Some(&self.copied[*start..*start + *len]),
            Piece::Kept(chunk) => chunk.as_bytes(),
        }
    }
}

impl Tail {
    fn drop_sent(&mut self) {
        while let Some(piece) = self.chunks.get_mut(self.head) {
            let len = match piece {
                Piece::Copied { len, .. } => *len as u64,
                Piece::Kept(chunk) => chunk.len(),
            };
            if self.head_sent < len {
                return;
            }
            // The memory goes back at once, not when the whole queue is sent.
            *piece = Piece::Copied { start: 0, len: 0 };
            self.head_sent -= len;
            self.head += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: [u8; COPY_SIZE + 1] = [7; COPY_SIZE + 1];

    fn filled(copies: usize, chunks: usize) -> OutQueue {
        let mut queue = OutQueue::default();
        (0..copies).for_each(|_| queue.push_copy(&LONG));
        (0..chunks).for_each(|_| queue.push(Bytes::from_static(&LONG).into()));
        queue
    }

    #[test]
    fn an_emptied_queue_keeps_little_memory_whatever_it_held() {
        for (copies, chunks) in [(1, 1), (3, 15), (4, 16), (5, 17), (100, 1000)] {
            for end in [OutQueue::clear, |queue: &mut OutQueue| queue.advance(queue.len())] {
                let mut queue = filled(copies, chunks);
                end(&mut queue);
                assert!(queue.is_empty());
                assert!(queue.copied.capacity() <= SPARE_COPY_CAPACITY);
                assert!(queue.tail().chunks.capacity() <= SPARE_CHUNK_CAPACITY);
            }
        }
    }

    #[test]
    fn a_small_queue_keeps_its_memory_for_the_next_use() {
        let mut queue = filled(1, 10);
        let before = (queue.copied.capacity(), queue.tail().chunks.capacity());
        queue.clear();
        assert_eq!((queue.copied.capacity(), queue.tail().chunks.capacity()), before);
    }
}
