//! Bytes that have arrived, in one piece or in several.

use bytes::{Bytes, BytesMut};

/// Bytes that have arrived and were not consumed, as a decoder sees them.
///
/// They may lie in several pieces, and a decoder must not care: it asks for the piece at a place.
///
/// # Examples
///
/// ```
/// use kolk_proto::codec::View;
///
/// let pieces: [&[u8]; 2] = [b"hel", b"lo"];
/// assert_eq!(pieces[..].len_bytes(), 5);
/// assert_eq!(pieces[..].piece_at(1), b"el");
/// assert_eq!(pieces[..].byte_at(3), Some(b'l'));
/// ```
pub trait View {
    /// Number of bytes in all pieces.
    fn len_bytes(&self) -> usize;

    /// The bytes from `at` on that lie in one piece. Empty at the end and beyond it, and only there.
    fn piece_at(&self, at: usize) -> &[u8];

    /// The byte at a place.
    #[inline]
    fn byte_at(&self, at: usize) -> Option<u8> {
        self.piece_at(at).first().copied()
    }

    /// Copies the bytes from `at` on into `target`. Says whether there were enough; if not, what `target` holds is
    /// unspecified.
    #[inline]
    fn copy_at(&self, mut at: usize, mut target: &mut [u8]) -> bool {
        while !target.is_empty() {
            let piece = self.piece_at(at);
            let step = piece.len().min(target.len());
            if step == 0 {
                return false;
            }
            let (now, later) = target.split_at_mut(step);
            now.copy_from_slice(&piece[..step]);
            target = later;
            at += step;
        }
        true
    }

    /// The place of the first `byte` at or behind `from`.
    #[inline]
    fn find_byte(&self, byte: u8, mut from: usize) -> Option<usize> {
        loop {
            let piece = self.piece_at(from);
            if let Some(place) = memchr::memchr(byte, piece) {
                return Some(from + place);
            }
            if piece.is_empty() {
                return None;
            }
            from += piece.len();
        }
    }
}

impl View for [u8] {
    #[inline]
    fn len_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn piece_at(&self, at: usize) -> &[u8] {
        self.get(at..).unwrap_or_default()
    }
}

/// Several pieces, in order. An empty one is passed over.
impl View for [&[u8]] {
    fn len_bytes(&self) -> usize {
        self.iter().map(|piece| piece.len()).sum()
    }

    fn piece_at(&self, mut at: usize) -> &[u8] {
        for piece in self {
            match piece.get(at..) {
                Some(rest) if !rest.is_empty() => return rest,
                _ => at -= piece.len(),
            }
        }
        &[]
    }
}

impl View for Bytes {
    #[inline]
    fn len_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn piece_at(&self, at: usize) -> &[u8] {
        self[..].piece_at(at)
    }
}

impl View for BytesMut {
    #[inline]
    fn len_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn piece_at(&self, at: usize) -> &[u8] {
        self[..].piece_at(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_read_as_one_stream() {
        let pieces: [&[u8]; 5] = [b"", b"ab", b"", b"c", b"def"];
        let view = &pieces[..];
        let whole = b"abcdef";
        assert_eq!(view.len_bytes(), whole.len());
        for at in 0..whole.len() {
            assert!(whole[at..].starts_with(view.piece_at(at)) && !view.piece_at(at).is_empty());
            assert_eq!(view.byte_at(at), Some(whole[at]));
            for end in at..=whole.len() {
                let mut copy = vec![0; end - at];
                assert!(view.copy_at(at, &mut copy));
                assert_eq!(copy, whole[at..end]);
            }
            assert!(!view.copy_at(at, &mut [0; 7][at..]), "one byte more than there is");
            for byte in b'a'..=b'g' {
                let expected = memchr::memchr(byte, &whole[at..]).map(|place| at + place);
                assert_eq!(view.find_byte(byte, at), expected);
            }
        }
        for beyond in [6, 7, usize::MAX] {
            assert_eq!(view.piece_at(beyond), b"");
            assert_eq!(whole[..].piece_at(beyond), b"");
        }
    }
}
