//! Frames whose header tells their length.

use super::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

/// A frame's length stands in a field of its header.
///
/// Where the field is, how wide it is and what it counts are the five parameters of Netty's
/// `LengthFieldBasedFrameDecoder`, see [`LengthFieldLayout`]. It has no state between calls: one value may serve
/// many connections.
///
/// # Examples
///
/// ```
/// use bytes::BytesMut;
/// use kolk_proto::codec::{Decode, Encode, LengthField, LengthFieldLayout};
///
/// // Two bytes of length, most significant first, then the payload.
/// let layout = LengthFieldLayout {
///     length_field_length: 2,
///     initial_bytes_to_strip: 2,
///     ..LengthFieldLayout::default()
/// };
/// let mut codec = LengthField::new(layout)?;
/// let mut stream = BytesMut::new();
/// codec.encode_to(b"hello", &mut stream)?;
/// assert_eq!(stream, &b"\x00\x05hello"[..]);
/// assert_eq!(codec.take_frame(&mut stream)?.unwrap(), "hello");
/// # Ok::<(), kolk_proto::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthField {
    /// 1 <= length_field_length <= 8; the header is within the limit.
    layout: LengthFieldLayout,
}

/// Where the length stands and what it counts.
///
/// ```text
///  ┌─ length_field_offset ─┬─ length_field_length ─┬──────────── rest ────────────┐
///  │   e.g. magic, kind    │        length         │                              │
///  └───────────────────────┴───────────────────────┴──────────────────────────────┘
///  │◄─ initial_bytes_to_strip ─►│◄──────────── what the program gets ────────────►│
///
///  bytes of the rest = length + length_adjustment
/// ```
///
/// The default is a length of four bytes, most significant first, that counts what follows it and is stripped;
/// frames have at most 1 MiB.
///
/// | header | offset | length | adjustment | strip |
/// |---|---|---|---|---|
/// | length of the rest | 0 | 2 | 0 | 2 |
/// | length of the whole frame, itself included; all of it wanted | 0 | 2 | -2 | 0 |
/// | magic (2), length of the rest | 2 | 3 | 0 | 0 |
/// | length of the body, kind (2), body | 0 | 3 | 2 | 0 |
/// | kind (1), length of the body (2), flags (1), body; flags and body wanted | 1 | 2 | 1 | 3 |
/// | kind (1), length of the whole frame (2), flags (1), body; flags and body wanted | 1 | 2 | -3 | 3 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthFieldLayout {
    /// Most bytes of a frame, header included.
    pub max_frame_length: usize,
    /// Bytes before the length field.
    pub length_field_offset: usize,
    /// Bytes of the length field, 1 to 8.
    pub length_field_length: usize,
    /// What to add to the length so that it counts the bytes behind the length field.
    pub length_adjustment: i64,
    /// Bytes at the front of a frame that the program does not want.
    pub initial_bytes_to_strip: usize,
    /// Which byte of the length comes first.
    pub byte_order: ByteOrder,
}

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant one, as in the Internet's own protocols.
    #[default]
    BigEndian,
    /// The least significant one.
    LittleEndian,
}

impl Default for LengthFieldLayout {
    fn default() -> Self {
        Self {
            max_frame_length: 1 << 20,
            length_field_offset: 0,
            length_field_length: 4,
            length_adjustment: 0,
            initial_bytes_to_strip: 4,
            byte_order: ByteOrder::BigEndian,
        }
    }
}

impl LengthField {
    /// A codec of this layout.
    ///
    /// # Errors
    ///
    /// A length field of no byte or of more than eight; a header that alone is over the limit.
    pub fn new(layout: LengthFieldLayout) -> Result<Self, FrameError> {
        if !(1..=8).contains(&layout.length_field_length) {
            return Err(FrameError::Parameters("a length field has one to eight bytes"));
        }
        let header = layout.length_field_offset.checked_add(layout.length_field_length);
        let least = header.map(|header| header.max(layout.initial_bytes_to_strip));
        if least.is_none_or(|least| least > layout.max_frame_length) {
            return Err(FrameError::Parameters("the header alone is longer than a frame may be"));
        }
        Ok(Self { layout })
    }

    /// Writes the length into the header of a whole frame: the reverse of decoding, for every layout.
    ///
    /// For protocols whose header has more than the length: make the frame with any bytes in the length field, then
    /// call this.
    ///
    /// # Errors
    ///
    /// The frame is over the limit or shorter than its header, or its length does not fit into the field.
    ///
    /// # Examples
    ///
    /// ```
    /// use kolk_proto::codec::{LengthField, LengthFieldLayout};
    ///
    /// // A magic number, the length of the whole frame, the payload.
    /// let layout = LengthFieldLayout {
    ///     length_field_offset: 2,
    ///     length_field_length: 2,
    ///     length_adjustment: -4,
    ///     initial_bytes_to_strip: 4,
    ///     ..LengthFieldLayout::default()
    /// };
    /// let mut frame = *b"\xca\xfe\0\0hello";
    /// LengthField::new(layout)?.fill_length(&mut frame)?;
    /// assert_eq!(&frame, b"\xca\xfe\x00\x09hello");
    /// # Ok::<(), kolk_proto::codec::FrameError>(())
    /// ```
    pub fn fill_length(&self, frame: &mut [u8]) -> Result<(), FrameError> {
        let layout = &self.layout;
        let least = self.header().max(layout.initial_bytes_to_strip);
        if frame.len() < least {
            return Err(FrameError::TooShort { len: frame.len() as i128, least });
        }
        let (field, len) = self.field(frame.len())?;
        frame[layout.length_field_offset..self.header()].copy_from_slice(&field[..len]);
        Ok(())
    }

    /// Bytes up to the end of the length field.
    #[inline]
    fn header(&self) -> usize {
        self.layout.length_field_offset + self.layout.length_field_length
    }

    /// The length field of a frame of `len` bytes, header included; and how many bytes the field has.
    #[inline]
    fn field(&self, len: usize) -> Result<([u8; 8], usize), FrameError> {
        let limit = self.layout.max_frame_length;
        if len > limit {
            return Err(FrameError::TooLong { len: len as u64, limit });
        }
        let field = self.layout.length_field_length;
        let value = len as i128 - self.header() as i128 - i128::from(self.layout.length_adjustment);
        let fits = u64::try_from(value).ok().filter(|&value| field == 8 || value >> (8 * field) == 0);
        let value = fits.ok_or(FrameError::FieldTooSmall { value, field })?;
        let mut bytes = [0; 8];
        match self.layout.byte_order {
            ByteOrder::BigEndian => bytes[..field].copy_from_slice(&value.to_be_bytes()[8 - field..]),
            ByteOrder::LittleEndian => bytes[..field].copy_from_slice(&value.to_le_bytes()[..field]),
        }
        Ok((bytes, field))
    }

    /// The number in the length field, if that has arrived.
    #[inline]
    fn read_field<V: View + ?Sized>(&self, input: &V) -> Option<u64> {
        let field = self.layout.length_field_length;
        let mut bytes = [0; 8];
        let place = match self.layout.byte_order {
            ByteOrder::BigEndian => &mut bytes[8 - field..],
            ByteOrder::LittleEndian => &mut bytes[..field],
        };
        input.copy_at(self.layout.length_field_offset, place).then(|| match self.layout.byte_order {
            ByteOrder::BigEndian => u64::from_be_bytes(bytes),
            ByteOrder::LittleEndian => u64::from_le_bytes(bytes),
        })
    }
}

impl Decode for LengthField {
    #[inline]
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        let layout = &self.layout;
        let header = self.header();
        let Some(length) = self.read_field(input) else {
            return Ok(Decoded::NeedMore(header - input.len_bytes()));
        };
        let len = header as i128 + i128::from(length) + i128::from(layout.length_adjustment);
        let least = header.max(layout.initial_bytes_to_strip);
        if len < least as i128 {
            return Err(FrameError::TooShort { len, least });
        }
        if len > layout.max_frame_length as i128 {
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            return Err(FrameError::TooLong { len, limit: layout.max_frame_length });
        }
        // It is within the limit, which is a `usize`.
        let payload = len as usize - layout.initial_bytes_to_strip;
        Ok(Frame { header: layout.initial_bytes_to_strip, payload, trailer: 0 }.or_need_more(input))
    }
}

/// The payload is what follows the length field, which must be the first of the frame. Other headers:
/// [`LengthField::fill_length`].
impl Encode for LengthField {
    #[inline]
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError> {
        if self.layout.length_field_offset > 0 {
            return Err(FrameError::Parameters(
                "the length field is not the first of the header: make whole frames, and use `fill_length`",
            ));
        }
        let (field, len) = self.field(self.layout.length_field_length.saturating_add(payload.len()))?;
        Ok(Envelope::new(&field[..len], &[]))
    }
}
