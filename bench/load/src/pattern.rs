//! Bytes that tell when one of them is wrong: the same random ones, begun elsewhere for each message.

use std::sync::OnceLock;

/// Length of the random bytes; a power of two. Small enough for the cache of a processor.
pub(crate) const PERIOD: usize = 128 << 10;

const SEED: u64 = 0x6b6f_6c6b;

/// The random bytes twice, so that up to a period can be taken from anywhere.
pub(crate) fn bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut bytes = vec![0; PERIOD];
        random.fill(&mut bytes);
        bytes.repeat(2)
    })
}

/// The `length` bytes, at most a period, of message number `number`.
pub(crate) fn message(number: u64, length: usize) -> &'static [u8] {
    // Neighbours begin far from each other, at an odd distance: every place is a start before one comes again.
    let start = (number.wrapping_mul(40_503) % PERIOD as u64) as usize;
    &bytes()[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_differ_from_their_neighbours_and_repeat_only_after_a_period() {
        for number in [0, 1, 2, 1000, u64::MAX] {
            assert_eq!(message(number, 64).len(), 64);
            assert_ne!(message(number, 64), message(number.wrapping_add(1), 64));
        }
        assert_eq!(message(7, PERIOD).len(), PERIOD);
        assert_eq!(message(3, 64), message(3 + PERIOD as u64, 64));
    }
}
