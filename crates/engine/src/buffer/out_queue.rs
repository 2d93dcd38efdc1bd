//! What a connection has still to send.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::BufMut;
use bytes::buf::UninitSlice;

use super::chunk::{Chunk, FileRange};
use super::lease::Lease;
use super::pieces::Pieces;
use crate::limits::{COPY_SIZE, LEAD_SIZE, SPARE_CHUNK_CAPACITY, SPARE_COPY_CAPACITY};

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
/// It is two cache lines; small writes alone touch the first, and the bytes. One piece behind them lies in the
/// second.
#[derive(Debug, Default)]
#[repr(C, align(64))] // in this order: the second line is for the pieces
pub struct OutQueue {
    /// Bytes of the small writes. The first `lead` go before all chunks, so that a queue of little else
    /// has no chunk; `Piece::Copied` are consecutive ranges of the others.
    copied: Vec<u8>,
    /// 0 <= lead_sent <= lead <= copied.len()
    lead: u32,
    lead_sent: u32,
    /// Bytes not yet sent, in all pieces.
    len: u64,
    /// Bytes sent since the queue was last cleared.
    sent: u64,
    /// `pieces[..head]` are sent and hold nothing, `waiting` follow. The pieces are not looked at while both are 0.
    head: u32,
    waiting: u32,
    /// Lengths of whole messages, for [`OutQueue::drop_oldest`]. Together they are the queue, or there are none.
    #[expect(clippy::box_collection, reason = "few connections ever have any, and all have room for it")]
    messages: Option<Box<VecDeque<u64>>>,
    /// What follows the lead.
    pieces: Pieces<Piece>,
    /// Bytes of `pieces[head]` that are sent.
    head_sent: u64,
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

/// What a message touches lies on two cache lines, adjacent ones.
const _: () = assert!(size_of::<OutQueue>() == 128);

#[derive(Debug)]
enum Piece {
    Copied { start: usize, len: usize },
    Kept(Chunk),
}

impl OutQueue {
    /// A queue of one lease, by reference however short it is.
    pub(crate) fn of(lease: Lease) -> Self {
        let mut queue = Self::default();
        queue.push_kept(lease.into());
        queue
    }

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
        self.copied.capacity() + self.pieces.capacity()
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
        if self.waiting == 0 && self.copied.len() <= LEAD_SIZE {
            self.lead = self.copied.len() as u32;
        } else if let Some(Piece::Copied { len, .. }) = self.pieces.last_mut() {
            *len += count;
        } else {
            self.push_piece(Piece::Copied { start, len: count });
        }
    }

    /// Appends a chunk: a small one by copy, a longer one by reference.
    #[inline(always)]
    pub fn push(&mut self, chunk: Chunk) {
        match chunk.as_bytes() {
            Some(bytes) if bytes.len() <= COPY_SIZE => self.push_copy(bytes),
            _ => self.push_kept(chunk),
        }
    }

    /// Appends a chunk by reference; an empty one is dropped.
    #[inline(always)]
    pub(crate) fn push_kept(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.push_piece(Piece::Kept(chunk));
        }
    }

    #[inline(always)]
    fn push_piece(&mut self, piece: Piece) {
        self.pieces.push(piece);
        self.waiting += 1;
    }

    /// Says that the last `len` bytes are one whole message, which is dropped as a whole or not at all.
    pub fn end_message(&mut self, len: u64) {
        let messages = self.messages.get_or_insert_default();
        messages.push_back(len);
        debug_assert_eq!(messages.iter().sum::<u64>(), self.len, "every message of a queue is ended");
    }

    /// Drops the oldest messages until `excess` bytes are gone, but never the newest. For a queue that is being
    /// filled, and whose messages were all [ended](Self::end_message). Answers how many messages and bytes went.
    pub fn drop_oldest(&mut self, excess: u64) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        let Some(messages) = &mut self.messages else { return (0, 0) };
        while bytes < excess && messages.len() > 1 {
            bytes += messages.pop_front().unwrap_or_default();
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
        let mut skip = self.head_sent as usize;
        let mut filled = 0;
        let mut slices = slices.iter_mut();
        if !self.lead().is_empty()
            && let Some(slice) = slices.next()
        {
            *slice = IoSlice::new(self.lead());
            filled += 1;
        }
        for (piece, slice) in self.unsent().zip(slices) {
            let Some(bytes) = self.bytes_of(piece) else { break };
            *slice = IoSlice::new(&bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// The bytes to send next if they all lie in one piece.
    #[inline(always)]
    pub fn single_slice(&self) -> Option<&[u8]> {
        match self.waiting {
            0 => Some(self.lead()),
            1 if self.lead_sent == self.lead => {
                let piece = self.pieces.get(self.head as usize)?;
                Some(&self.bytes_of(piece)?[self.head_sent as usize..])
            }
            _ => None,
        }
    }

    /// Whether what is to be sent next is a file range.
    #[inline(always)]
    pub fn begins_with_file(&self) -> bool {
        self.waiting > 0
            && self.lead_sent == self.lead
            && matches!(self.pieces.get(self.head as usize), Some(Piece::Kept(Chunk::File(_))))
    }

    /// The file range to send next, if the queue's front is one.
    pub fn front_file(&self) -> Option<FileRange> {
        if !self.lead().is_empty() {
            return None;
        }
        let Piece::Kept(Chunk::File(range)) = self.unsent().next()? else { return None };
        let sent = self.head_sent;
        Some(FileRange { file: Arc::clone(&range.file), offset: range.offset + sent, len: range.len - sent })
    }

    /// Marks the next `count` bytes as sent and lets go of the chunks that are done.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline(always)]
    pub fn advance(&mut self, count: u64) {
        assert!(count <= self.len, "{count} bytes sent of {}", self.len);
        self.len -= count;
        self.sent += count;
        if self.len == 0 {
            return self.release();
        }
        self.pass(count);
    }

    /// Marks everything as sent. A lease that was the only chunk comes back: whoever lent it ends it cheaper.
    #[inline(always)]
    pub fn finish(&mut self) -> Option<Lease> {
        self.sent += self.len;
        let only = if self.waiting == 1 { self.pieces.take_only() } else { None };
        let lease = match only {
            Some(Piece::Kept(Chunk::Lease(lease))) => Some(lease),
            _ => None,
        };
        self.release();
        lease
    }

    /// Moves the front on by `count` bytes.
    #[inline(never)]
    fn pass(&mut self, count: u64) {
        let of_lead = self.lead().len().min(usize::try_from(count).unwrap_or(usize::MAX));
        self.lead_sent += of_lead as u32;
        self.head_sent += count - of_lead as u64;
        self.drop_sent();
    }

    fn drop_sent(&mut self) {
        while self.waiting > 0 {
            let Some(piece) = self.pieces.get_mut(self.head as usize) else { return };
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
            self.waiting -= 1;
        }
    }

    /// Gives back the memory in front of what is still to be sent, once it is half of all: a queue whose oldest
    /// messages are dropped again and again must not grow, and moves each byte at most once more.
    fn compact(&mut self) {
        if self.head as usize * 2 >= self.pieces.len() {
            self.pieces.drop_front(self.head as usize);
            self.head = 0;
        }
        let first_copied = self.unsent().find_map(|piece| match piece {
            Piece::Copied { start, .. } => Some(*start),
            Piece::Kept(_) => None,
        });
        let dead = if self.lead_sent < self.lead {
            self.lead_sent as usize
        } else {
            first_copied.unwrap_or(self.copied.len())
        };
        if dead * 2 < self.copied.len() {
            return;
        }
        self.copied.drain(..dead);
        self.lead = self.lead.saturating_sub(dead as u32);
        self.lead_sent = 0;
        for piece in self.pieces.skip_mut(self.head as usize) {
            if let Piece::Copied { start, .. } = piece {
                *start -= dead;
            }
        }
    }

    /// Moves what leases hold out of the loop's memory: a peer that does not read must not pin it.
    pub fn make_private(&mut self) {
        for piece in self.pieces.skip_mut(self.head as usize) {
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

    #[inline(always)]
    fn release(&mut self) {
        self.copied.clear();
        self.lead = 0;
        self.lead_sent = 0;
        self.len = 0;
        if self.copied.capacity() > SPARE_COPY_CAPACITY {
            self.copied = Vec::new();
        }
        if self.head + self.waiting > 0 {
            self.release_pieces();
        }
        if let Some(messages) = &mut self.messages {
            messages.clear();
            if messages.capacity() > SPARE_CHUNK_CAPACITY {
                self.messages = None;
            }
        }
    }

    #[inline(always)]
    fn release_pieces(&mut self) {
        self.pieces.clear();
        self.head = 0;
        self.waiting = 0;
        self.head_sent = 0;
    }

    fn unsent(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.skip(self.head as usize)
    }

    /// What is still to be sent before the chunks.
    #[inline]
    fn lead(&self) -> &[u8] {
        &self.copied[self.lead_sent as usize..self.lead as usize]
    }

    #[inline(always)]
    fn bytes_of<'a>(&'a self, piece: &'a Piece) -> Option<&'a [u8]> {
        match piece {
            // By itself: a jump that depends on data is mispredicted after the kernel's work.
            Piece::Kept(Chunk::Lease(lease)) => Some(lease),
            _ => self.bytes_of_other(piece),
        }
    }

    #[inline(never)]
    fn bytes_of_other<'a>(&'a self, piece: &'a Piece) -> Option<&'a [u8]> {
        match piece {
            Piece::Copied { start, len } => Some(&self.copied[*start..*start + *len]),
            Piece::Kept(chunk) => chunk.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
                assert!(queue.pieces.capacity() <= 1 + SPARE_CHUNK_CAPACITY);
            }
        }
    }

    #[test]
    fn a_lead_ends_at_its_size_and_every_byte_leaves_in_order() {
        let bytes: Vec<u8> = (0..2 * LEAD_SIZE + 99).map(|at| (at % 251) as u8).collect();
        let mut queue = OutQueue::default();
        bytes.chunks(97).for_each(|part| queue.push_copy(part));
        assert!(queue.lead().len() <= LEAD_SIZE && queue.pieces.len() == 1);
        let mut sent = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = queue.io_slices(&mut slices);
            let before = sent.len();
            slices[..filled].iter().for_each(|slice| sent.extend_from_slice(slice));
            // A short send.
            sent.truncate(before + (sent.len() - before).min(300_001));
            queue.advance((sent.len() - before) as u64);
        }
        assert!(sent == bytes);
    }

    #[test]
    fn a_small_queue_keeps_its_memory_for_the_next_use() {
        let mut queue = filled(1, 10);
        let before = (queue.copied.capacity(), queue.pieces.capacity());
        queue.clear();
        assert_eq!((queue.copied.capacity(), queue.pieces.capacity()), before);
    }
}
