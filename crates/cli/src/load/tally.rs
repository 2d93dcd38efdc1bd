//! What a load counts.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use kolk_engine::driver::DriverKind;

use crate::process::ThreadTime;

/// Longest latency that the histogram tells apart.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// What one thread counted.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) driver: DriverKind,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// Latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Messages that came back while measuring.
    pub(crate) messages: u64,
    /// How long was measured.
    pub(crate) window: Duration,
    /// How this thread spent the window, where the kernel tells.
    pub(crate) spent: Option<ThreadTime>,
    /// Open loop: messages that were due and could not leave, `depth` of their connection being under way.
    pub(crate) unsent: u64,
    pub(crate) mismatched_bytes: u64,
    pub(crate) errors: Errors,
}

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new(driver: DriverKind) -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3)
            .expect("bounds are in order and 3 digits are within 0..=5");
        Self {
            driver,
            connections: 0,
            latencies,
            messages: 0,
            window: Duration::ZERO,
            spent: None,
            unsent: 0,
            mismatched_bytes: 0,
            errors: Errors::default(),
        }
    }

    #[inline]
    /// Counts a latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.latencies.saturating_record(latency.as_nanos() as u64);
    }
}

/// What went wrong, by kind, and the first case in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// Connections that the server closed.
    pub(crate) closed: u64,
    /// Connections that failed otherwise.
    pub(crate) failed: u64,
    /// Connections that brought bytes which nobody had sent.
    pub(crate) unexpected: u64,
    /// Messages that did not come back in time.
    pub(crate) unanswered: u64,
    pub(crate) first: Option<String>,
}

impl Errors {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.lost_connections() + self.unanswered
    }

    /// Connections that were lost.
    pub(crate) fn lost_connections(&self) -> u64 {
        self.closed + self.failed + self.unexpected
    }

    /// Adds those of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.closed += other.closed;
        self.failed += other.failed;
        self.unexpected += other.unexpected;
        self.unanswered += other.unanswered;
        self.first = self.first.take().or(other.first);
    }

    /// Counts a lost connection.
    pub(crate) fn lost(&mut self, connection: u64, loss: Loss) {
        match loss {
            Loss::Closed => {
                self.closed += 1;
                self.remember(|| format!("connection {connection}: closed by the server"));
            }
            Loss::Failed(error) => {
                self.failed += 1;
                self.remember(|| format!("connection {connection}: {error}"));
            }
            Loss::Unexpected(count) => {
                self.unexpected += 1;
                self.remember(|| format!("connection {connection}: {count} bytes that nobody had sent"));
            }
        }
    }

    /// Keeps the words of the first error.
    pub(crate) fn remember(&mut self, words: impl FnOnce() -> String) {
        self.first.get_or_insert_with(words);
    }
}

/// Why a connection was lost.
pub(crate) enum Loss {
    Closed,
    Failed(io::Error),
    Unexpected(u64),
}
