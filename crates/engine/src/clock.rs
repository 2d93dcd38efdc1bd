//! Instants as plain numbers.
//!
//! Nothing here reads a clock. The event loop reads it once a turn and hands the instant down as an
//! argument, so everything below the loop runs as well on the simulated driver's virtual time, and
//! no test of it has to sleep.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// An instant on an event loop's monotonic clock, in nanoseconds.
///
/// Where zero lies is the clock's affair: compare only instants of the same loop. The range is 584
/// years, and arithmetic saturates at its ends instead of wrapping, so that "in a very long time"
/// never turns into "at once".
///
/// Plain data: any thread may hold or compare it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kolk_engine::clock::Timestamp;
///
/// let now = Timestamp::from_nanos(5_000);
/// let deadline = now + Duration::from_micros(2);
///
/// assert_eq!(deadline.as_nanos(), 7_000);
/// assert_eq!(deadline - now, Duration::from_micros(2));
/// assert_eq!(now - deadline, Duration::ZERO);
/// assert_eq!(now + Duration::MAX, Timestamp::MAX);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The clock's own zero, the earliest instant.
    pub const ZERO: Timestamp = Timestamp(0);

    /// The latest instant; as a deadline it means "never".
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is in truth the later one.
    ///
    /// The same as `self - earlier`, for places where a name reads better than a sign.
    pub const fn saturating_duration_since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    /// Saturates at [`Timestamp::MAX`].
    fn add(self, span: Duration) -> Timestamp {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Timestamp {
    /// Saturates at [`Timestamp::MAX`].
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Timestamp) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl fmt::Debug for Timestamp {
    /// Seconds with nine decimals, as the kernel's own logs print them: `12.000000345s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        write!(f, "{seconds}.{nanos:09}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Timestamp::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_nanos(1), Timestamp::MAX);
        assert_eq!(late + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::ZERO + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::ZERO - late, Duration::ZERO);
        assert_eq!(Timestamp::MAX - Timestamp::ZERO, Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn adding_in_place_equals_adding() {
        let mut now = Timestamp::from_nanos(10);
        now += Duration::from_nanos(5);
        assert_eq!(now, Timestamp::from_nanos(10) + Duration::from_nanos(5));
    }

    #[test]
    fn debug_shows_seconds() {
        assert_eq!(format!("{:?}", Timestamp::from_nanos(12_000_000_345)), "12.000000345s");
    }
}
