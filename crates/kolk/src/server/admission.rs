//! How many connections a server has, and how fast it takes new ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::limits::ACCEPT_SLACK;

/// What the loops of a server share about new connections. Touched once for each of them, never for a message.
#[derive(Debug)]
pub(super) struct Admission {
    most: u64,
    open: AtomicU64,
    rate: Option<Rate>,
}

/// So many connections a second.
///
/// Each new connection moves `free_at` on by its share of a second, from the present at least: by how much it is
/// ahead of the present, so long accepting has to pause.
#[derive(Debug)]
struct Rate {
    /// Nanoseconds.
    interval: u64,
    since: Instant,
    /// Nanoseconds after `since`.
    free_at: AtomicU64,
}

impl Admission {
    /// `most`: connections at one time. `rate`: new ones a second, if they are limited.
    pub(super) fn new(most: u64, rate: Option<u32>) -> Self {
        let rate = rate.map(|rate| Rate {
            interval: 1_000_000_000 / u64::from(rate.max(1)),
            since: Instant::now(),
            free_at: AtomicU64::new(0),
        });
        Self { most, open: AtomicU64::new(0), rate }
    }

    /// Counts a connection in; `false` if there are as many as there may be.
    pub(super) fn enter(&self) -> bool {
        let is_one_too_many = self.open.fetch_add(1, Ordering::Relaxed) >= self.most;
        if is_one_too_many {
            self.leave();
        }
        !is_one_too_many
    }

    /// Counts a connection in that the program made or brought itself, and that nobody refuses.
    pub(super) fn count_in(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it out again.
    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was accepted: how long to accept no further one, if at all.
    pub(super) fn pause(&self) -> Option<Duration> {
        let rate = self.rate.as_ref()?;
        let now = rate.since.elapsed().as_nanos() as u64;
        let step = |free_at: u64| Some(free_at.max(now) + rate.interval);
        let before = rate.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        let free_at = before.unwrap_or(0).max(now) + rate.interval;
        let ahead = Duration::from_nanos(free_at - now);
        (ahead > ACCEPT_SLACK).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_most_are_in() {
        let admission = Admission::new(2, None);
        assert!(admission.enter() && admission.enter() && !admission.enter());
        admission.leave();
        assert!(admission.enter() && !admission.enter());
        assert_eq!(admission.pause(), None);
    }

    #[test]
    fn a_rate_lets_few_in_and_then_asks_for_a_pause() {
        let admission = Admission::new(u64::MAX, Some(1000));
        let let_in = (0..1000).take_while(|_| admission.pause().is_none()).count();
        assert!(let_in < 1000, "at least 1000 in less than a second");
        let pause = admission.pause().expect("it is ahead of its rate");
        assert!(pause > ACCEPT_SLACK && pause < Duration::from_secs(1));
    }
}
