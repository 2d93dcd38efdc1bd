//! What a codec is.

use bytes::{Buf, BytesMut};

use super::{FrameError, View};

/// Finds the frames of a stream.
///
/// # Examples
///
/// A codec of your own: one byte says how many follow.
///
/// ```
/// use kolk_proto::codec::{Decode, Decoded, Frame, FrameError, View};
///
/// struct Short;
///
/// impl Decode for Short {
///     fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
///         let Some(len) = input.byte_at(0) else { return Ok(Decoded::NeedMore(1)) };
///         Ok(Frame { header: 1, payload: usize::from(len), trailer: 0 }.or_need_more(input))
///     }
/// }
///
/// assert_eq!(Short.decode(b"\x02hi".as_slice())?, Decoded::Frame(Frame { header: 1, payload: 2, trailer: 0 }));
/// assert_eq!(Short.decode(b"\x02".as_slice())?, Decoded::NeedMore(2));
/// # Ok::<(), FrameError>(())
/// ```
pub trait Decode {
    /// Looks for the frame at the front of what has arrived.
    ///
    /// Once a frame is told, its bytes are to be consumed before the next call. After `NeedMore` the next call is
    /// shown the same bytes and more of them; a decoder may rely on that, and remember how far it has looked.
    ///
    /// # Errors
    ///
    /// The input is no frame, or one over the limit. Nothing that follows can be understood.
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError>;

    /// Takes the next frame's payload off a buffer, without a copy; `None` if it is not complete.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    fn take_frame(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, FrameError> {
        let Some(frame) = self.decode(buffer)?.whole_frame(buffer)? else { return Ok(None) };
        buffer.advance(frame.header);
        let payload = buffer.split_to(frame.payload);
        buffer.advance(frame.trailer);
        Ok(Some(payload))
    }
}

/// What a decoder says of the bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decoded {
    /// A whole frame lies in front.
    Frame(Frame),
    /// None can be complete before at least so many more bytes have come; never zero.
    NeedMore(usize),
}

impl Decoded {
    /// The frame if there is one: for those who are about to take it out of `input`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Impossible`]: whoever wrote the decoder made a mistake.
    #[inline]
    pub fn whole_frame<V: View + ?Sized>(self, input: &V) -> Result<Option<Frame>, FrameError> {
        let Self::Frame(frame) = self else { return Ok(None) };
        let (len, arrived) = (frame.len(), input.len_bytes());
        if len == 0 || len > arrived {
            return Err(FrameError::Impossible { frame: len, arrived });
        }
        Ok(Some(frame))
    }
}

/// Where a frame lies at the front of a stream. All of it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes to drop first.
    pub header: usize,
    /// Bytes of the frame as the program wants it.
    pub payload: usize,
    /// Bytes to drop behind it.
    pub trailer: usize,
}

impl Frame {
    /// Number of bytes to consume.
    #[inline]
    pub fn len(&self) -> usize {
        self.header.saturating_add(self.payload).saturating_add(self.trailer)
    }

    /// Whether it has no byte at all, which no frame of the codecs here is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame if `input` has all of it, else how much is missing.
    #[inline]
    pub fn or_need_more<V: View + ?Sized>(self, input: &V) -> Decoded {
        match self.len().checked_sub(input.len_bytes()) {
            Some(missing @ 1..) => Decoded::NeedMore(missing),
            _ => Decoded::Frame(self),
        }
    }
}

/// Makes frames.
///
/// An encoder says what goes before and behind a payload, so that the payload itself can be sent from where it
/// lies.
pub trait Encode {
    /// What goes around `payload`.
    ///
    /// # Errors
    ///
    /// The payload cannot be a frame of this codec: the peer would not get it as it is.
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError>;

    /// Appends the frame of `payload` to a buffer.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode); nothing is appended then.
    fn encode_to(&self, payload: &[u8], buffer: &mut BytesMut) -> Result<(), FrameError> {
        let envelope = self.encode(payload)?;
        let (header, trailer) = (envelope.header(), envelope.trailer());
        buffer.reserve(header.len() + payload.len() + trailer.len());
        for part in [header, payload, trailer] {
            buffer.extend_from_slice(part);
        }
        Ok(())
    }
}

/// Room for any number and a few more bytes, so that an envelope is three words and a trailer.
const HEADER_MAX: usize = 23;

/// What goes before and behind a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    header: [u8; HEADER_MAX],
    /// 0 <= header_len <= HEADER_MAX
    header_len: u8,
    trailer: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Most bytes of a header.
    pub const HEADER_MAX: usize = HEADER_MAX;

    /// An envelope of a header, which is copied, and a trailer.
    ///
    /// # Panics
    ///
    /// If the header is longer than [`HEADER_MAX`](Self::HEADER_MAX).
    #[inline]
    pub fn new(header: &[u8], trailer: &'a [u8]) -> Self {
        assert!(header.len() <= Self::HEADER_MAX, "a header of {} bytes is too long", header.len());
        let mut kept = [0; HEADER_MAX];
        kept[..header.len()].copy_from_slice(header);
        Self { header: kept, header_len: header.len() as u8, trailer }
    }

    /// What goes before the payload.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// What goes behind the payload.
    #[inline]
    pub fn trailer(&self) -> &'a [u8] {
        self.trailer
    }
}
