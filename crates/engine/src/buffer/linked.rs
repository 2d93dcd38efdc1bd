//! Bytes of one connection that its handler has not consumed.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::Lease;

/// Received pieces linked in order, read as one stream of bytes.
///
/// ```text
///  head: Lease ─► rest: Lease ─► Lease ─► ...        (`rest` is empty for nearly every message)
/// ```
///
/// While a handler runs, the pieces are leases of the loop's memory; what the handler leaves is copied
/// out by [`make_private`](Self::make_private), so that an idle connection pins no block.
///
/// # Examples
///
/// ```
/// use kolk_engine::buffer::{Lease, LinkedBuffer};
///
/// let mut input = LinkedBuffer::default();
/// input.push(Lease::from(bytes::Bytes::from_static(b"hel")));
/// input.push(Lease::from(bytes::Bytes::from_static(b"lo, world")));
/// assert_eq!(input.contiguous(5), Some(&b"hello"[..]));
/// input.consume(7);
/// assert_eq!(input.front(), b"world");
/// ```
#[derive(Debug, Default)]
pub struct LinkedBuffer {
    /// First piece. Empty only when the whole buffer is, and then it holds no block.
    head: Lease,
    /// Further pieces, none of them empty. Boxed, because few connections ever have any.
    #[expect(clippy::box_collection, reason = "eight bytes in each connection instead of 32")]
    rest: Option<Box<VecDeque<Lease>>>,
}

impl From<Lease> for LinkedBuffer {
    #[inline(always)]
    fn from(head: Lease) -> Self {
        Self { head, rest: None }
    }
}

impl LinkedBuffer {
    /// Number of bytes in all pieces.
    pub fn len(&self) -> usize {
        self.head.len() + self.pieces_behind_head().map(Lease::len).sum::<usize>()
    }

    /// Whether no byte is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Appends a piece; an empty one is dropped.
    #[inline(always)]
    pub fn push(&mut self, piece: Lease) {
        if piece.is_empty() {
            return;
        }
        if self.head.is_empty() {
            self.head = piece;
        } else {
            self.push_behind(piece);
        }
    }

    #[inline(never)]
    fn push_behind(&mut self, piece: Lease) {
        self.rest.get_or_insert_default().push_back(piece);
    }

    /// The first piece: empty only when the whole buffer is.
    #[inline]
    pub fn front(&self) -> &[u8] {
        &self.head
    }

    /// The bytes from `at` on that lie in one piece. Empty at the end and beyond it, and only there.
    #[inline]
    pub fn piece_at(&self, at: usize) -> &[u8] {
        match self.head.get(at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.piece_behind_head(at - self.head.len()),
        }
    }

    /// The first `count` bytes as one slice, or `None` if there are fewer.
    ///
    /// If they lie in several pieces, they are joined once, by a copy; the bytes behind them stay where they are.
    pub fn contiguous(&mut self, count: usize) -> Option<&[u8]> {
        if count > self.head.len() {
            if count > self.len() {
                return None;
            }
            self.join(count);
        }
        Some(&self.head[..count])
    }

    /// All bytes as one slice; several pieces are joined once, by a copy.
    pub fn all_contiguous(&mut self) -> &[u8] {
        self.join(self.len());
        &self.head
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn consume(&mut self, mut count: usize) {
        while count > 0 {
            assert!(!self.is_empty(), "cannot consume {count} bytes more than there are");
            let step = count.min(self.head.len());
            self.head.advance(step);
            count -= step;
            self.restore_head();
        }
    }

    /// Takes the first piece, whatever its length; `None` when the buffer is empty.
    #[inline]
    pub fn take_front(&mut self) -> Option<Lease> {
        if self.head.is_empty() {
            return None;
        }
        let front = std::mem::take(&mut self.head);
        self.restore_head();
        Some(front)
    }

    /// Takes everything as one lease. Bytes that lie in several pieces are joined, by a copy.
    #[inline(always)]
    pub fn take_all(&mut self) -> Lease {
        if self.rest.is_some() {
            self.join(self.len());
        }
        std::mem::take(&mut self.head)
    }

    /// Takes exactly `count` bytes as one lease, or nothing if there are fewer.
    ///
    /// No byte is copied unless they lie in several pieces.
    pub fn take_exact(&mut self, count: usize) -> Option<Lease> {
        self.contiguous(count)?;
        let taken = self.head.split_to(count);
        self.restore_head();
        Some(taken)
    }

    /// Copies out of the loop's memory what still lies there, into one private piece.
    #[inline]
    pub fn make_private(&mut self) {
        if self.rest.is_some() {
            self.join(self.len());
        }
        self.head.make_private();
    }

    /// Joins pieces into the head until that has `count` bytes, which there are.
    ///
    /// Private bytes that nobody else holds grow in place, so a frame that arrives in many small
    /// pieces costs amortised time, not the square of its length.
    fn join(&mut self, count: usize) {
        let Some(mut rest) = self.rest.take() else { return };
        let head = Bytes::from(std::mem::take(&mut self.head));
        let mut joined = head.try_into_mut().unwrap_or_else(|shared| {
            let mut copy = BytesMut::with_capacity(count.next_power_of_two());
            copy.extend_from_slice(&shared);
            copy
        });
        while let Some(piece) = rest.front_mut()
            && joined.len() < count
        {
            let step = piece.len().min(count - joined.len());
            joined.extend_from_slice(&piece[..step]);
            piece.advance(step);
            if piece.is_empty() {
                rest.pop_front();
            }
        }
        self.head = Lease::from(joined.freeze());
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
    }

    /// After the head shrank: if nothing is left of it, the next piece takes its place.
    #[inline]
    fn restore_head(&mut self) {
        if self.head.is_empty() {
            // An empty lease would still hold its block.
            self.head = self.pop_rest().unwrap_or_default();
        }
    }

    #[inline]
    fn pop_rest(&mut self) -> Option<Lease> {
        let rest = self.rest.as_mut()?;
        let piece = rest.pop_front();
        if rest.is_empty() {
            self.rest = None;
        }
        piece
    }

    #[inline(never)]
    fn piece_behind_head(&self, mut at: usize) -> &[u8] {
        for piece in self.pieces_behind_head() {
            match piece.get(at..) {
                Some(rest) if !rest.is_empty() => return rest,
                _ => at -= piece.len(),
            }
        }
        &[]
    }

    fn pieces_behind_head(&self) -> impl Iterator<Item = &Lease> {
        self.rest.iter().flat_map(|rest| rest.iter())
    }
}
