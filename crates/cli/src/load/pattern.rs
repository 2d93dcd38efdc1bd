//! The bytes that a connection sends, and the check of those that come back.
//!
//! One ring of random bytes serves all connections. Each runs through it from a start of its own, so a
//! byte tells both its connection and its position: one that is lost, doubled, changed, or given to
//! the wrong connection does not match. Sending is a slice, checking is a `memcmp`.
//!
//! ```text
//!           ├──────────── PERIOD ────────────┼── tail: the ring's beginning again ──┤
//!  ring:    a b c d ...                    z a b c d ...
//!             ▲ connection 0      ▲ connection 1, and so on
//! ```

/// Bytes until the pattern repeats: a prime, so that no message size but its multiples repeats with
/// it, and small enough to stay in a second-level cache with what the kernel copies.
const PERIOD: usize = 65_521;

/// Shortest tail: a receive of this size is checked with one comparison.
const TAIL_MIN: usize = 64 * 1024;

/// Distance between the starts of neighbours: prime to [`PERIOD`], so the first 65 521 connections
/// have starts of their own, far apart.
const STRIDE: u64 = 40_503;

/// The ring of bytes. It lives as long as the program, so messages are sent from where they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    ring: &'static [u8],
}

/// A place in the ring. Invariant: below [`PERIOD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position(u32);

impl Position {
    /// Where the stream of the connection with this number starts.
    pub(crate) fn start_of(connection: u64) -> Self {
        Self((connection * STRIDE % PERIOD as u64) as u32)
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        let position = self.0 as usize + count;
        self.0 = (if position < PERIOD { position } else { position % PERIOD }) as u32;
    }
}

impl Pattern {
    /// A ring from which up to `longest` bytes can be taken at once, or a little more. Allocated once
    /// a program and never freed.
    pub(crate) fn new(longest: usize) -> Self {
        let mut ring = random_bytes(PERIOD);
        let tail = longest.max(TAIL_MIN);
        while ring.len() < PERIOD + tail {
            let missing = PERIOD + tail - ring.len();
            ring.extend_from_within(..missing.min(PERIOD));
        }
        Self { ring: ring.leak() }
    }

    /// Most bytes that [`take`](Self::take) gives at once.
    pub(crate) fn longest(self) -> usize {
        self.ring.len() - PERIOD
    }

    /// The next `len` bytes from `position` on, at most [`longest`](Self::longest).
    #[inline]
    pub(crate) fn take(self, position: &mut Position, len: usize) -> &'static [u8] {
        debug_assert!(len <= self.longest());
        let start = position.0 as usize;
        position.advance(len);
        &self.ring[start..start + len]
    }

    /// Compares what arrived with what should have, and counts the bytes that differ.
    #[inline]
    pub(crate) fn check(self, position: &mut Position, mut arrived: &[u8]) -> u64 {
        let mut different = 0;
        while !arrived.is_empty() {
            let (part, rest) = arrived.split_at(arrived.len().min(self.longest()));
            let expected = self.take(position, part.len());
            if part != expected {
                different += count_differences(part, expected);
            }
            arrived = rest;
        }
        different
    }
}

#[cold]
fn count_differences(left: &[u8], right: &[u8]) -> u64 {
    left.iter().zip(right).filter(|(a, b)| a != b).count() as u64
}

/// Marsaglia's xorshift64: no one need guess it, only differ from a shifted self.
fn random_bytes(count: usize) -> Vec<u8> {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pattern: Pattern, connection: u64, len: usize) -> Vec<u8> {
        pattern.take(&mut Position::start_of(connection), len).to_vec()
    }

    #[test]
    fn what_was_sent_matches_in_any_pieces() {
        let pattern = Pattern::new(100);
        for piece in [1, 7, 64, 4096, 65_520, 65_521, 65_536, 200_000] {
            let (mut out, mut back) = (Position::start_of(3), Position::start_of(3));
            let mut sent = Vec::new();
            while sent.len() < 300_000 {
                sent.extend_from_slice(pattern.take(&mut out, 100));
            }
            for received in sent.chunks(piece) {
                assert_eq!(pattern.check(&mut back, received), 0, "pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_long_message_is_one_slice() {
        let pattern = Pattern::new(1 << 20);
        let mut position = Position::start_of(1);
        let message = pattern.take(&mut position, 1 << 20);
        assert_eq!(pattern.check(&mut Position::start_of(1), message), 0);
        assert_eq!(pattern.longest(), 1 << 20);
    }

    #[test]
    fn every_changed_byte_is_counted() {
        let pattern = Pattern::new(64);
        let mut message = stream(pattern, 5, 64);
        message[0] ^= 1;
        message[63] ^= 0x80;
        assert_eq!(pattern.check(&mut Position::start_of(5), &message), 2);
    }

    #[test]
    fn lost_doubled_and_swapped_bytes_are_seen() {
        let pattern = Pattern::new(64);
        let sent = stream(pattern, 0, 64);
        let lost = [&sent[..10], &sent[11..]].concat();
        let doubled = [&sent[..10], &sent[9..]].concat();
        let swapped = [&sent[32..], &sent[..32]].concat();
        for wrong in [lost, doubled, swapped] {
            assert!(pattern.check(&mut Position::start_of(0), &wrong) > 20);
        }
    }

    #[test]
    fn another_connections_bytes_do_not_match() {
        let pattern = Pattern::new(64);
        for other in 1..2000 {
            let message = stream(pattern, other, 64);
            assert!(pattern.check(&mut Position::start_of(0), &message) > 40, "connection {other}");
        }
    }

    #[test]
    fn starts_are_distinct() {
        let mut starts: Vec<u32> =
            (0..PERIOD as u64).map(|connection| Position::start_of(connection).0).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), PERIOD);
    }
}
