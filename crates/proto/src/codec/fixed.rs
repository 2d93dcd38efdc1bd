//! Frames that all have the same length.

use super::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

/// Every frame has the same number of bytes.
///
/// It has no state between calls: one value may serve many connections.
///
/// # Examples
///
/// ```
/// use bytes::BytesMut;
/// use kolk_proto::codec::{Decode, Decoded, FixedLength};
///
/// let mut triples = FixedLength::new(3)?;
/// let mut arrived = BytesMut::from("abcde");
/// assert_eq!(triples.take_frame(&mut arrived)?.unwrap(), "abc");
/// assert_eq!(triples.decode(&arrived)?, Decoded::NeedMore(1));
/// # Ok::<(), kolk_proto::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FixedLength {
    /// Not zero.
    len: usize,
}

impl FixedLength {
    /// Frames of `len` bytes.
    ///
    /// # Errors
    ///
    /// Frames of no bytes would never end.
    pub fn new(len: usize) -> Result<Self, FrameError> {
        match len {
            0 => Err(FrameError::Parameters("a frame needs at least one byte")),
            _ => Ok(Self { len }),
        }
    }
}

impl Decode for FixedLength {
    #[inline]
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        Ok(Frame { header: 0, payload: self.len, trailer: 0 }.or_need_more(input))
    }
}

impl Encode for FixedLength {
    #[inline]
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError> {
        if payload.len() != self.len {
            return Err(FrameError::WrongLength { len: payload.len(), frame: self.len });
        }
        Ok(Envelope::new(&[], &[]))
    }
}
