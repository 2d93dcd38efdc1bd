//! Frames that end with a line feed.

use super::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

/// A frame is a line, without its end.
///
/// A line ends with LF, and one CR in front of that belongs to the end too; a CR elsewhere is a byte as any other.
/// It remembers how far it has looked: each connection needs a value of its own.
///
/// # Examples
///
/// ```
/// use bytes::BytesMut;
/// use kolk_proto::codec::{Decode, Encode, Lines};
///
/// let mut lines = Lines::new(1024).crlf();
/// let mut arrived = BytesMut::from("one\r\ntwo\n\nrest");
/// assert_eq!(lines.take_frame(&mut arrived)?.unwrap(), "one");
/// assert_eq!(lines.take_frame(&mut arrived)?.unwrap(), "two");
/// assert_eq!(lines.take_frame(&mut arrived)?.unwrap(), "");
/// assert_eq!(lines.take_frame(&mut arrived)?, None);
/// assert_eq!(lines.encode(b"answer")?.trailer(), b"\r\n");
/// # Ok::<(), kolk_proto::codec::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lines {
    limit: usize,
    /// Bytes at the front in which there is no LF.
    looked_at: usize,
    end: &'static [u8],
}

impl Lines {
    /// Lines of at most `limit` bytes, their ends not counted. They are encoded with LF.
    pub fn new(limit: usize) -> Self {
        Self { limit, looked_at: 0, end: b"\n" }
    }

    /// Encodes with CR LF. Decoding takes both.
    pub fn crlf(mut self) -> Self {
        self.end = b"\r\n";
        self
    }
}

impl Decode for Lines {
    #[inline]
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        let Some(feed) = input.find_byte(b'\n', self.looked_at) else {
            self.looked_at = input.len_bytes();
            within(self.looked_at - usize::from(ends_with_return(input, self.looked_at)), self.limit)?;
            return Ok(Decoded::NeedMore(1));
        };
        let end = 1 + usize::from(ends_with_return(input, feed));
        let payload = feed + 1 - end;
        within(payload, self.limit)?;
        self.looked_at = 0;
        Ok(Decoded::Frame(Frame { header: 0, payload, trailer: end }))
    }
}

impl Encode for Lines {
    #[inline]
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError> {
        within(payload.len(), self.limit)?;
        if let Some(at) = payload.find_byte(b'\n', 0) {
            return Err(FrameError::HoldsDelimiter { at });
        }
        // It would be taken for a part of the line's end, and be lost.
        if payload.last() == Some(&b'\r') {
            return Err(FrameError::HoldsDelimiter { at: payload.len() - 1 });
        }
        Ok(Envelope::new(&[], self.end))
    }
}

/// Whether the first `len` bytes end with a carriage return.
#[inline]
fn ends_with_return<V: View + ?Sized>(input: &V, len: usize) -> bool {
    len.checked_sub(1).and_then(|last| input.byte_at(last)) == Some(b'\r')
}

/// Refuses a frame whose end is not among its first `len` bytes, if these are too many already.
#[inline]
pub(super) fn within(len: usize, limit: usize) -> Result<(), FrameError> {
    if len > limit {
        return Err(FrameError::TooLong { len: limit as u64 + 1, limit });
    }
    Ok(())
}
