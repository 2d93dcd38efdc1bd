//! What is pushed: a number, the time, and bytes that tell when one is wrong.

use bytes::{BufMut, Bytes};
use rustix::time::{ClockId, clock_gettime};

/// Bytes of a message.
pub(crate) const SIZE: usize = 512;

/// Bytes of the number and the time.
const HEAD: usize = 16;

/// The message of this number, now. One allocation: the bytes lie beside the count of those who share them.
pub(crate) fn message(number: u64) -> Bytes {
    let mut bytes = [number as u8; SIZE];
    (&mut bytes[..HEAD]).put_u64(number);
    (&mut bytes[8..HEAD]).put_u64(now_ns());
    Bytes::from_owner(bytes)
}

/// How many microseconds ago a message was made, if it is the one of this number and whole.
pub(crate) fn age_us(bytes: &[u8], number: u64) -> Option<u32> {
    let (head, body) = bytes.split_first_chunk::<HEAD>()?;
    let (told, sent) = head.split_first_chunk::<8>()?;
    let sent = u64::from_be_bytes(*sent.first_chunk()?);
    let is_right = u64::from_be_bytes(*told) == number
        && body.len() == SIZE - HEAD
        && body.iter().all(|&byte| byte == number as u8);
    is_right.then(|| u32::try_from(now_ns().saturating_sub(sent) / 1000).unwrap_or(u32::MAX))
}

/// The same clock in all processes of a machine.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_when_it_is_another_or_not_whole() {
        let mut bytes = message(7).to_vec();
        assert!(age_us(&bytes, 7).is_some());
        assert_eq!(age_us(&bytes, 8), None);
        assert_eq!(age_us(&bytes[..SIZE - 1], 7), None);
        bytes[300] ^= 1;
        assert_eq!(age_us(&bytes, 7), None);
    }
}
