//! The bytes that a handler is to consume.

use bytes::Buf;
use kolk_engine::buffer::{Lease, LinkedBuffer};

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
///     while let Some(end) = input.contiguous().iter().position(|&byte| byte == b'\n') {
///         let line = input.take_exact(end + 1).expect("the line is there");
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
