//! What a load counts, and when.
//!
//! ```text
//!  begin ──── warm-up, thrown away ────┤ measured ├ over
//!                                      ▲          ▲
//!                                      looks at the server's and our own account
//! ```

use std::time::{Duration, Instant};

use harness::Result;
use harness::account::{Account, ServerUse, busy_percent};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Common;

/// Load before the measurement: caches, windows and rings fill.
const WARM_UP: Duration = Duration::from_millis(300);

/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Counts while it is time to.
#[derive(Debug)]
pub(crate) struct Meter {
    measured: Duration,
    server: Option<u32>,
    phase: Phase,
    /// When the phase ends.
    until: Instant,
    /// When the measurement began, and what had been used by then.
    start: (Instant, Option<Account>, Account),
    messages: u64,
    bytes: u64,
    lost: u64,
    latencies: Histogram<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
}

impl Meter {
    /// The warm-up begins.
    pub(crate) fn begin(common: &Common) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            measured: common.duration,
            server: common.server_pid,
            phase: Phase::WarmUp,
            until: now + WARM_UP,
            start: (now, None, Account::of_this_process()?),
            messages: 0,
            bytes: 0,
            lost: 0,
            latencies: Histogram::new_with_bounds(1, LONGEST, 3)?,
        })
    }

    /// One more message came back, sent at `sent`.
    #[inline]
    pub(crate) fn count(&mut self, bytes: usize, sent: Instant, now: Instant) {
        self.latencies
            .saturating_record((now - sent).as_nanos() as u64);
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Some bytes of a stream came.
    #[inline]
    pub(crate) fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Datagrams that did not come back.
    pub(crate) fn count_lost(&mut self, datagrams: u64) {
        self.lost += datagrams;
    }

    /// Moves on from phase to phase; the report when the measurement is over.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<Option<Report>> {
        if now < self.until {
            return Ok(None);
        }
        if self.phase == Phase::Measured {
            return self.report(now).map(Some);
        }
        self.phase = Phase::Measured;
        self.until = now + self.measured;
        (self.messages, self.bytes, self.lost) = (0, 0, 0);
        self.latencies.reset();
        self.start = (now, self.look()?, Account::of_this_process()?);
        Ok(None)
    }

    fn look(&self) -> Result<Option<Account>> {
        self.server.map(Account::of).transpose()
    }

    fn report(&self, now: Instant) -> Result<Report> {
        let (began, server, own) = self.start;
        let window = now - began;
        let seconds = window.as_secs_f64();
        // A stream has no messages: its unit is the megabyte.
        let messages = if self.messages == 0 {
            self.bytes / 1_000_000
        } else {
            self.messages
        };
        let micros =
            |part: f64| (self.latencies.value_at_quantile(part) as f64 / 10.0).round() / 100.0;
        let used = Account::of_this_process()?.cpu.saturating_sub(own.cpu);
        let server = server.zip(self.look()?);
        Ok(Report {
            seconds,
            messages,
            messages_per_second: messages as f64 / seconds,
            megabytes_per_second: self.bytes as f64 / 1e6 / seconds,
            latency_us: Latency {
                p50: micros(0.5),
                p99: micros(0.99),
                p999: micros(0.999),
                max: micros(1.0),
            },
            errors: 0,
            mismatched_bytes: 0,
            lost: self.lost,
            server: server
                .map(|(before, after)| ServerUse::between(before, after, messages, window)),
            client: ClientUse {
                running_percent: busy_percent(used, window),
            },
        })
    }
}

/// The figures, with the keys that `kolk load echo --json` uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    seconds: f64,
    /// Messages that came back; of a stream, megabytes (10^6 bytes).
    messages: u64,
    messages_per_second: f64,
    /// In one direction.
    megabytes_per_second: f64,
    latency_us: Latency,
    /// None: with one there is no report.
    errors: u64,
    /// None: with one there is no report.
    mismatched_bytes: u64,
    /// Datagrams that did not come back in time.
    lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerUse>,
    client: ClientUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct ClientUse {
    /// Part of the measured time that this load was on a processor.
    running_percent: f64,
}

impl Report {
    /// On one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are JSON")
    }

    /// Datagrams lost, as a part of those that came back.
    pub(crate) fn lost_part(&self) -> f64 {
        self.lost as f64 / self.messages.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(measured: Duration) -> Meter {
        let common = Common {
            address: "127.0.0.1:1".parse().unwrap(),
            duration: measured,
            server_pid: Some(std::process::id()),
            connections: 1,
        };
        Meter::begin(&common).unwrap()
    }

    #[test]
    fn what_comes_in_the_warm_up_does_not_count() {
        let mut meter = meter(Duration::from_secs(2));
        let begin = Instant::now();
        meter.count(1000, begin, begin);
        assert_eq!(meter.tick(begin).unwrap(), None);
        let measured = begin + WARM_UP + Duration::from_millis(1);
        assert_eq!(meter.tick(measured).unwrap(), None);
        meter.count(500, measured, measured + Duration::from_micros(40));
        let over = measured + Duration::from_secs(2);
        let report = meter.tick(over).unwrap().unwrap();
        assert_eq!((report.messages, report.messages_per_second), (1, 0.5));
        assert!((report.latency_us.p50 - 40.0).abs() < 0.1 && report.server.is_some());
    }

    #[test]
    fn a_stream_is_counted_in_megabytes() {
        let mut meter = meter(Duration::from_secs(1));
        let measured = Instant::now() + WARM_UP;
        meter.tick(measured).unwrap();
        meter.count_bytes(5_000_000);
        let report = meter
            .tick(measured + Duration::from_secs(1))
            .unwrap()
            .unwrap();
        assert_eq!((report.messages, report.megabytes_per_second), (5, 5.0));
    }
}
