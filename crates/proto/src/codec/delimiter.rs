//! Frames that end with bytes of the program's choice.

use std::sync::Arc;

use super::lines::within;
use super::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

/// A frame is what lies before a delimiter: a zero byte, an empty line, any bytes.
///
/// It remembers how far it has looked: each connection needs a value of its own. A clone shares the delimiter, so
/// make one and clone it; it has 32 bytes.
///
/// # Examples
///
/// ```
/// use bytes::BytesMut;
/// use kolk_proto::codec::{Decode, Decoded, Delimiter};
///
/// let mut heads = Delimiter::new(b"\r\n\r\n", 8 * 1024)?;
/// let mut arrived = BytesMut::from("GET / HTTP/1.1\r\n\r\nGET /ne\r\n");
/// assert_eq!(heads.take_frame(&mut arrived)?.unwrap(), "GET / HTTP/1.1");
/// assert_eq!(heads.decode(&arrived)?, Decoded::NeedMore(2));
/// # Ok::<(), kolk_proto::codec::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimiter {
    pattern: Arc<Pattern>,
    limit: usize,
    /// Bytes at the front in which the delimiter does not end.
    looked_at: usize,
    /// How many of these, the last ones, are the beginning of a delimiter. Less than all of it.
    matched: usize,
}

/// The delimiter as an automaton (Knuth, Morris, Pratt): a byte is looked at once, whatever the delimiter is.
#[derive(Debug)]
struct Pattern {
    /// Not empty.
    bytes: Box<[u8]>,
    /// For each number of matched bytes: how many remain matched when the next does not fit.
    fallback: Box<[usize]>,
}

impl Delimiter {
    /// Frames of at most `limit` bytes, each followed by `delimiter`.
    ///
    /// # Errors
    ///
    /// Without any byte in the delimiter no frame would end.
    pub fn new(delimiter: &[u8], limit: usize) -> Result<Self, FrameError> {
        if delimiter.is_empty() {
            return Err(FrameError::Parameters("a delimiter needs at least one byte"));
        }
        Ok(Self { pattern: Arc::new(Pattern::new(delimiter)), limit, looked_at: 0, matched: 0 })
    }
}

impl Decode for Delimiter {
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        let trailer = self.pattern.bytes.len();
        if let Some(end) = self.pattern.search(input, &mut self.looked_at, &mut self.matched) {
            let payload = end - trailer;
            within(payload, self.limit)?;
            (self.looked_at, self.matched) = (0, 0);
            return Ok(Decoded::Frame(Frame { header: 0, payload, trailer }));
        }
        within(self.looked_at - self.matched, self.limit)?;
        Ok(Decoded::NeedMore(trailer - self.matched))
    }
}

impl Encode for Delimiter {
    fn encode(&self, payload: &[u8]) -> Result<Envelope<'_>, FrameError> {
        within(payload.len(), self.limit)?;
        let (mut looked_at, mut matched) = (0, 0);
        let delimiter = &*self.pattern.bytes;
        // The beginning of a delimiter at the payload's end may become a whole one too early: "a-" before "--".
        let followed: [&[u8]; 2] = [payload, delimiter];
        let end = self.pattern.search(&followed[..], &mut looked_at, &mut matched);
        match end.map(|end| end - delimiter.len()) {
            Some(at) if at < payload.len() => Err(FrameError::HoldsDelimiter { at }),
            _ => Ok(Envelope::new(&[], delimiter)),
        }
    }
}

impl Pattern {
    fn new(bytes: &[u8]) -> Self {
        let mut fallback = vec![0; bytes.len()];
        let mut matched = 0;
        for place in 1..bytes.len() {
            fallback[place] = matched;
            while matched > 0 && bytes[matched] != bytes[place] {
                matched = fallback[matched];
            }
            matched += usize::from(bytes[matched] == bytes[place]);
        }
        Self { bytes: bytes.into(), fallback: fallback.into() }
    }

    /// Goes on from `looked_at`, where `matched` bytes of the pattern lie before; says where its first occurrence
    /// ends.
    #[inline]
    fn search<V: View + ?Sized>(
        &self,
        input: &V,
        looked_at: &mut usize,
        matched: &mut usize,
    ) -> Option<usize> {
        loop {
            if *matched == 0 {
                // Nearly always: no byte is of interest before the first one of the pattern.
                let Some(place) = input.find_byte(self.bytes[0], *looked_at) else {
                    *looked_at = input.len_bytes();
                    return None;
                };
                *looked_at = place;
            }
            let piece = input.piece_at(*looked_at);
            if piece.is_empty() {
                return None;
            }
            for &byte in piece {
                *looked_at += 1;
                *matched = self.step(*matched, byte);
                if *matched == self.bytes.len() {
                    return Some(*looked_at);
                }
                if *matched == 0 {
                    break;
                }
            }
        }
    }

    /// How many bytes of the pattern are matched after one more byte.
    #[inline]
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.bytes[matched] != byte {
            matched = self.fallback[matched];
        }
        matched + usize::from(self.bytes[matched] == byte)
    }
}
