//! Frames behind a varint.

use super::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

/// Most bytes of a varint of 64 bits, seven in each.
const VARINT_MAX: usize = 10;

/// A frame is what a varint in front of it counts, as in protobuf's delimited streams (`writeDelimitedTo`).
///
/// Seven bits in a byte, the least significant ones first; the highest bit says that more follow. It has no state
/// between calls: one value may serve many connections.
///
/// # Examples
///
/// ```
/// use bytes::BytesMut;
/// use kolk_proto::codec::{Decode, Encode, VarintLength};
///
/// let mut codec = VarintLength::new(64 * 1024);
/// let mut stream = BytesMut::new();
/// codec.encode_to(&[7; 300], &mut stream)?;
/// assert_eq!(&stream[..2], [0xac, 0x02]);
/// assert_eq!(codec.take_frame(&mut stream)?.unwrap(), &[7; 300][..]);
/// # Ok::<(), kolk_proto::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VarintLength {
    limit: usize,
}

impl VarintLength {
    /// Frames of at most `limit` bytes, the varint not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit }
    }

    #[inline]
    fn within(&self, len: u64) -> Result<usize, FrameError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.limit => Ok(len),
            _ => Err(FrameError::TooLong { len, limit: self.limit }),
        }
    }
}

impl Decode for VarintLength {
    #[inline]
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        let mut len = 0;
        for place in 0..VARINT_MAX {
            let Some(byte) = input.byte_at(place) else { return Ok(Decoded::NeedMore(1)) };
            // The tenth byte has room for one bit.
            if place == VARINT_MAX - 1 && byte > 1 {
                break;
            }
            len |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                let payload = self.within(len)?;
                return Ok(Frame { header: place + 1, payload, trailer: 0 }.or_need_more(input));
            }
        }
        Err(FrameError::Varint)
    }
}

impl Encode for VarintLength {
    #[inline]
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError> {
        let mut left = self.within(payload.len() as u64)?;
        let mut bytes = [0; VARINT_MAX];
        let mut count = 0;
        while left >= 0x80 {
            bytes[count] = left as u8 | 0x80;
            left >>= 7;
            count += 1;
        }
        bytes[count] = left as u8;
        Ok(Envelope::new(&bytes[..=count], &[]))
    }
}
