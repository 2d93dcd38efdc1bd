//! The figures of an echo load, as JSON and as text.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::server::Sample;
use super::tally::{Errors, Tally};
use crate::units;

/// Share of the window from which on a client thread counts as busy all the time.
const BOTTLENECK_PERCENT: f64 = 95.0;

/// Everything that a run measured. The JSON keys are part of the command's promise.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    setting: Setting,
    /// Kernel interface of the client.
    driver: String,
    /// Connections that were opened.
    connections: u64,
    /// Length of the measurement.
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    /// Payload in one direction, in units of 10^6 bytes.
    megabytes_per_second: f64,
    latency_us: Latency,
    errors: u64,
    error_kinds: ErrorKinds,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    mismatched_bytes: u64,
    /// Open loop: messages that were due and could not leave.
    unsent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientUse>,
}

/// What the run was asked to do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) address: String,
    pub(crate) size: usize,
    pub(crate) depth: u32,
    pub(crate) threads: u32,
    /// Messages a second; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// The errors by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ErrorKinds {
    closed_by_server: u64,
    connection_failed: u64,
    unexpected_bytes: u64,
    unanswered_messages: u64,
}

/// What the server used for a message, and holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct ServerUse {
    cpu_us_per_message: f64,
    user_us_per_message: f64,
    system_us_per_message: f64,
    rss_bytes: u64,
}

/// How the busiest thread of this command spent the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct ClientUse {
    /// On a processor.
    running_percent: f64,
    /// Ready to run, but the processor was another's.
    queued_percent: f64,
    /// Whether it was busy all the time, so that the figures say as much of the client as of the server.
    was_bottleneck: bool,
}

impl Report {
    /// Adds up what the threads counted; `server` holds two looks at it, around the measurement.
    pub(crate) fn new(setting: Setting, tallies: Vec<Tally>, server: Option<(Sample, Sample)>) -> Self {
        let mut latencies = Histogram::<u64>::new(3).expect("3 digits are within 0..=5");
        let mut errors = Errors::default();
        let client = tallies.iter().filter_map(ClientUse::of).max_by(|a, b| a.busy().total_cmp(&b.busy()));
        let driver = tallies.first().map(|tally| tally.driver.to_string()).unwrap_or_default();
        let messages = sum(&tallies, |tally| tally.messages);
        let messages_per_second = tallies.iter().map(rate).sum::<f64>();
        let seconds = tallies.iter().map(|tally| tally.window.as_secs_f64()).fold(0.0, f64::max);
        let (connections, unsent) =
            (sum(&tallies, |tally| tally.connections), sum(&tallies, |tally| tally.unsent));
        let mismatched_bytes = sum(&tallies, |tally| tally.mismatched_bytes);
        for tally in tallies {
            latencies.add(&tally.latencies).expect("the sum resizes itself");
            errors.add(tally.errors);
        }
        Self {
            driver,
            connections,
            seconds,
            messages,
            messages_per_second,
            megabytes_per_second: messages_per_second * setting.size as f64 / 1e6,
            latency_us: Latency::of(&latencies),
            errors: errors.total(),
            error_kinds: ErrorKinds::of(&errors),
            first_error: errors.first,
            mismatched_bytes,
            unsent,
            server: server.map(|(before, after)| ServerUse::of(before, after, messages)),
            client,
            setting,
        }
    }

    /// Whether every byte came back and no connection was lost.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0 && self.mismatched_bytes == 0
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![self.headline(), self.throughput(), self.latencies(), self.faults()];
        lines.extend(self.server.as_ref().map(ServerUse::line));
        lines.extend(self.client.as_ref().map(ClientUse::line));
        lines.join("\n")
    }

    /// What the reader should know before believing the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.client.is_some_and(|client| client.was_bottleneck) {
            warnings.push(
                "the client was the bottleneck: its busiest thread had no time to spare, so the \
                 server may be able to do more (add --threads, or give client and server \
                 processors of their own with taskset)"
                    .to_owned(),
            );
        }
        if self.unsent > 0 {
            warnings.push(format!(
                "the rate was not kept: {} messages were due and could not leave, because --depth \
                 {} of their connection were still under way; they count with the time they \
                 waited",
                units::grouped(self.unsent),
                self.setting.depth
            ));
        }
        warnings
    }

    fn headline(&self) -> String {
        let Setting { address, size, depth, threads, rate } = &self.setting;
        let pace =
            rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop at {rate} messages/s"));
        format!(
            "{} connections to {address}, {size} B a message, depth {depth}, {threads} thread{}, \
             {pace}, client on {}",
            units::grouped(self.connections),
            if *threads == 1 { "" } else { "s" },
            self.driver
        )
    }

    fn throughput(&self) -> String {
        format!(
            "  throughput  {} messages/s, {:.1} MB/s each way ({} messages in {:.1} s)",
            units::grouped(self.messages_per_second as u64),
            self.megabytes_per_second,
            units::grouped(self.messages),
            self.seconds
        )
    }

    fn latencies(&self) -> String {
        let Latency { p50, p99, p999, max } = self.latency_us;
        let [p50, p99, p999, max] = [p50, p99, p999, max].map(units::micros);
        format!("  latency     p50 {p50}   p99 {p99}   p99.9 {p999}   max {max}")
    }

    fn faults(&self) -> String {
        let counts =
            format!("  faults      {} errors, {} mismatched bytes", self.errors, self.mismatched_bytes);
        match &self.first_error {
            Some(first) => format!("{counts}; the first: {first}\n              {}", self.error_kinds.list()),
            None => counts,
        }
    }
}

fn sum(tallies: &[Tally], count: impl Fn(&Tally) -> u64) -> u64 {
    tallies.iter().map(count).sum()
}

fn rate(tally: &Tally) -> f64 {
    if tally.window.is_zero() { 0.0 } else { tally.messages as f64 / tally.window.as_secs_f64() }
}

impl Latency {
    fn of(latencies: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| (nanos as f64 / 10.0).round() / 100.0;
        Self {
            p50: micros(latencies.value_at_quantile(0.5)),
            p99: micros(latencies.value_at_quantile(0.99)),
            p999: micros(latencies.value_at_quantile(0.999)),
            max: micros(latencies.max()),
        }
    }
}

impl ErrorKinds {
    fn of(errors: &Errors) -> Self {
        Self {
            closed_by_server: errors.closed,
            connection_failed: errors.failed,
            unexpected_bytes: errors.unexpected,
            unanswered_messages: errors.unanswered,
        }
    }

    fn list(self) -> String {
        format!(
            "{} connections closed by the server, {} failed, {} brought bytes nobody sent; {} \
             messages unanswered",
            self.closed_by_server, self.connection_failed, self.unexpected_bytes, self.unanswered_messages
        )
    }
}

impl ServerUse {
    fn of(before: Sample, after: Sample, messages: u64) -> Self {
        let used = after.cpu.since(before.cpu);
        let a_message = |time: Duration| time.as_secs_f64() * 1e6 / messages.max(1) as f64;
        Self {
            cpu_us_per_message: a_message(used.total),
            user_us_per_message: a_message(used.user),
            system_us_per_message: a_message(used.system()),
            rss_bytes: after.memory.rss_bytes,
        }
    }

    fn line(&self) -> String {
        format!(
            "  server      {:.3} us CPU a message (user {:.3}, system {:.3}: the kernel samples \
             this split), {} resident",
            self.cpu_us_per_message,
            self.user_us_per_message,
            self.system_us_per_message,
            units::bytes(self.rss_bytes as f64)
        )
    }
}

impl ClientUse {
    fn of(tally: &Tally) -> Option<Self> {
        let spent = tally.spent.filter(|_| !tally.window.is_zero())?;
        let percent =
            |time: Duration| (time.as_secs_f64() / tally.window.as_secs_f64() * 1000.0).round() / 10.0;
        let (running_percent, queued_percent) = (percent(spent.running), percent(spent.queued));
        let was_bottleneck = running_percent + queued_percent > BOTTLENECK_PERCENT;
        Some(Self { running_percent, queued_percent, was_bottleneck })
    }

    fn busy(&self) -> f64 {
        self.running_percent + self.queued_percent
    }

    fn line(&self) -> String {
        format!(
            "  client      busiest thread ran {:.0} % of the time and waited for a processor \
             {:.0} %",
            self.running_percent, self.queued_percent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{CpuTime, Memory, ThreadTime};
    use kolk_engine::driver::DriverKind;

    fn setting() -> Setting {
        Setting { address: "tcp://127.0.0.1:7000".to_owned(), size: 1000, depth: 2, threads: 2, rate: None }
    }

    fn tally(messages: u64) -> Tally {
        let mut tally = Tally::new(DriverKind::Epoll);
        tally.connections = 50;
        tally.messages = messages;
        tally.window = Duration::from_secs(2);
        for micros in 1..=1000 {
            tally.record(Duration::from_micros(micros));
        }
        tally
    }

    fn sample(total_ms: u64, user_ms: u64) -> Sample {
        let cpu = CpuTime { total: Duration::from_millis(total_ms), user: Duration::from_millis(user_ms) };
        Sample { cpu, memory: Memory { rss_bytes: 4096, anonymous_bytes: 1024 } }
    }

    #[test]
    fn the_threads_are_added_up() {
        let report = Report::new(setting(), vec![tally(1000), tally(3000)], None);
        assert_eq!((report.connections, report.messages, report.messages_per_second), (100, 4000, 2000.0));
        assert_eq!(report.megabytes_per_second, 2.0);
        assert!((report.latency_us.p50 - 500.0).abs() < 1.0, "{:?}", report.latency_us);
        assert!((report.latency_us.max - 1000.0).abs() < 1.0, "{:?}", report.latency_us);
        assert!(report.is_clean());
    }

    #[test]
    fn the_promised_json_keys_are_there() {
        let report = Report::new(setting(), vec![tally(1000)], Some((sample(0, 0), sample(10, 2))));
        let json = serde_json::to_value(&report).unwrap();
        for key in
            ["messages_per_second", "megabytes_per_second", "errors", "mismatched_bytes", "connections"]
        {
            assert!(json[key].is_number(), "{key}");
        }
        for key in ["p50", "p99", "p999", "max"] {
            assert!(json["latency_us"][key].is_number(), "{key}");
        }
        assert_eq!(json["server"]["cpu_us_per_message"], 10.0);
        assert_eq!(json["server"]["user_us_per_message"], 2.0);
        assert_eq!(json["server"]["system_us_per_message"], 8.0);
        assert_eq!(json["server"]["rss_bytes"], 4096);
    }

    #[test]
    fn without_a_server_pid_there_is_no_server_key() {
        let json = serde_json::to_value(Report::new(setting(), vec![tally(1)], None)).unwrap();
        assert!(json.get("server").is_none());
    }

    #[test]
    fn a_busy_client_is_called_the_bottleneck() {
        let mut busy = tally(1);
        busy.spent =
            Some(ThreadTime { running: Duration::from_millis(1800), queued: Duration::from_millis(180) });
        let mut idle = tally(1);
        idle.spent = Some(ThreadTime { running: Duration::from_millis(900), queued: Duration::ZERO });

        let report = Report::new(setting(), vec![tally(1), idle], None);
        assert!(!report.client.unwrap().was_bottleneck);
        let report = Report::new(setting(), vec![busy, tally(1)], None);
        assert!(report.warnings()[0].contains("the client was the bottleneck"));
        assert_eq!(report.client.unwrap().running_percent, 90.0);
    }

    #[test]
    fn faults_are_counted_and_the_first_is_told() {
        let mut faulty = tally(1);
        faulty.mismatched_bytes = 3;
        faulty.errors.remember(|| "connection 7: 3 bytes came back wrong".to_owned());
        let report = Report::new(setting(), vec![tally(1), faulty], None);
        assert!(!report.is_clean());
        assert!(
            report.text().contains("0 errors, 3 mismatched bytes; the first: connection 7"),
            "{}",
            report.text()
        );

        let mut faulty = tally(1);
        faulty.errors.unanswered = 4;
        assert!(!Report::new(setting(), vec![faulty], None).is_clean());
    }

    #[test]
    fn a_rate_that_was_not_kept_is_said() {
        let mut late = tally(1);
        late.unsent = 1234;
        let report = Report::new(setting(), vec![late], None);
        assert!(report.warnings()[0].contains("1 234 messages were due"), "{:?}", report.warnings());
    }
}
