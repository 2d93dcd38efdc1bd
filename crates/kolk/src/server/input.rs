//! The bytes that a handler is to consume.

use bytes::Buf;
use kolk_engine::buffer::{Lease, LinkedBuffer};

use crate::codec::View;

/// Received bytes of one connection, oldest first, as the handler sees them for one callback.
///
/// The bytes lie where the kernel put them, together with what was left before. Taking or skipping consumes;
/// what is not consumed is kept and comes again.
///
/// # Examples
///
/// Lines, each consumed as a whole:
///
/// ```
/// use kolk::server::{Action, Conn, Input};
///
/// fn on_data(conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
///     while let Some(line) = input.take_until(b'\n') {
///         conn.write(line);
///     }
///     Action::Continue // an unfinished line stays in `input`
/// }
/// ```
#[derive(Debug)]
pub struct Input<'a> {
    pub(super) buffer: &'a mut LinkedBuffer,
    needs: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(buffer: &'a mut LinkedBuffer) -> Self {
        Self { buffer, needs: 0 }
    }

    /// What [`need`](Self::need) was told.
    #[inline]
    pub(super) fn needs(&self) -> usize {
        self.needs
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether everything is consumed.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The first bytes, as many as lie in one piece; empty only when all is consumed.
    pub fn peek(&self) -> &[u8] {
        self.buffer.front()
    }

    /// Says that the handler has no use for another call before there are `count` bytes, those that are left in here
    /// included: a frame's length, once its header is known. It is called earlier when the stream ends.
    /// A count that is there already has no effect; one above [`Builder::input_limit`](super::Builder::input_limit)
    /// closes the connection.
    ///
    /// # Examples
    ///
    /// Frames of a two-byte length and that many bytes:
    ///
    /// ```
    /// use kolk::server::{Action, Conn, Input};
    ///
    /// fn on_data(conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
    ///     while let Some(header) = input.first(2) {
    ///         let len = 2 + usize::from(u16::from_be_bytes([header[0], header[1]]));
    ///         match input.take_exact(len) {
    ///             Some(frame) => conn.write(frame),
    ///             None => {
    ///                 input.need(len);
    ///                 break;
    ///             }
    ///         }
    ///     }
    ///     Action::Continue
    /// }
    /// ```
    pub fn need(&mut self, count: usize) {
        self.needs = count;
    }

    /// The first `count` bytes in one piece, or `None` if there are fewer. They are joined by a copy where they
    /// lie in several pieces.
    pub fn first(&mut self, count: usize) -> Option<&[u8]> {
        self.buffer.contiguous(count)
    }

    /// All bytes in one piece. They nearly always are already; otherwise they are joined by a copy, once.
    pub fn contiguous(&mut self) -> &[u8] {
        self.buffer.all_contiguous()
    }

    /// Consumes everything. The bytes stay where they are, for as long as the lease is kept; those that a
    /// handler left before and the new ones are joined by a copy.
    #[inline]
    pub fn take(&mut self) -> Lease {
        self.buffer.take_all()
    }

    /// Consumes exactly `count` bytes, or nothing if there are fewer.
    pub fn take_exact(&mut self, count: usize) -> Option<Lease> {
        self.buffer.take_exact(count)
    }

    /// Consumes everything up to the first `byte`, this included; nothing, if it is not there.
    ///
    /// It looks at all bytes each time: for what may come in many pieces there are
    /// [`Lines`](crate::codec::Lines) and [`Delimiter`](crate::codec::Delimiter), which remember how far they looked.
    pub fn take_until(&mut self, byte: u8) -> Option<Lease> {
        let place = self.find_byte(byte, 0)?;
        self.take_exact(place + 1)
    }

    /// All bytes as slices, in order, each as long as bytes lie together; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let piece = self.buffer.piece_at(at);
            at += piece.len();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Consumes `count` bytes unseen.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn skip(&mut self, count: usize) {
        self.buffer.consume(count);
    }
}

/// Reads integers and slices; [`Buf::advance`] consumes.
impl Buf for Input<'_> {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.peek()
    }

    fn advance(&mut self, count: usize) {
        self.skip(count);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn arrived(pieces: &[&'static [u8]]) -> LinkedBuffer {
        let mut buffer = LinkedBuffer::default();
        pieces.iter().for_each(|&piece| buffer.push(Lease::from(Bytes::from_static(piece))));
        buffer
    }

    #[test]
    fn r10_input_is_looked_at_without_consuming_it() {
        let mut buffer = arrived(&[b"ab", b"cde", b"f"]);
        let input = &mut Input::new(&mut buffer);
        assert_eq!((input.len(), input.is_empty(), input.peek()), (6, false, &b"ab"[..]));
        assert_eq!(input.pieces().collect::<Vec<_>>(), [&b"ab"[..], b"cde", b"f"]);
        assert_eq!(input.first(3), Some(&b"abc"[..]));
        assert_eq!(input.first(7), None);
        assert_eq!(input.pieces().collect::<Vec<_>>(), [&b"abc"[..], b"de", b"f"], "the rest stays");
        assert_eq!(input.contiguous(), b"abcdef");
        assert_eq!(input.len(), 6);
    }

    #[test]
    fn r10_input_is_taken_by_count_and_by_byte() {
        let mut buffer = arrived(&[b"one\ntw", b"o\nthr", b"ee"]);
        let input = &mut Input::new(&mut buffer);
        assert_eq!(input.take_until(b'\n').as_deref(), Some(&b"one\n"[..]));
        assert_eq!(input.take_until(b'\n').as_deref(), Some(&b"two\n"[..]), "over two pieces");
        assert_eq!(input.take_until(b'\n').as_deref(), None);
        assert_eq!(input.take_exact(6).as_deref(), None);
        input.skip(2);
        assert_eq!(input.take_exact(2).as_deref(), Some(&b"re"[..]));
        assert_eq!(&*input.take(), b"e");
        assert!(input.is_empty() && input.take().is_empty() && input.peek().is_empty());
        assert_eq!(input.pieces().count(), 0);
    }

    #[test]
    fn r10_input_is_a_buf() {
        let mut buffer = arrived(&[b"\x01\x02", b"\x03\x04\x05"]);
        let input = &mut Input::new(&mut buffer);
        assert_eq!((input.get_u8(), input.get_u16(), input.remaining()), (1, 0x0203, 2));
        assert_eq!(input.chunk(), [4, 5]);
        input.advance(2);
        assert!(!input.has_remaining());
    }
}
