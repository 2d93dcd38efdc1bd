//! The figures of an idle load, as JSON and as text.

use std::time::Duration;

use serde::Serialize;

use super::crowd::Crowd;
use super::kernel::{KernelMemory, Source};
use crate::process::Memory;
use crate::units;

/// Memory at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Connections open then.
    pub(crate) connections: u64,
    pub(crate) server: Option<Memory>,
    pub(crate) kernel: Option<KernelMemory>,
}

/// Memory before the first connection, on the way, with all of them, and after they were held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looks {
    pub(crate) none: Look,
    /// Absent when there are too few connections for a look on the way.
    pub(crate) first: Option<Look>,
    pub(crate) all: Look,
    pub(crate) held: Look,
}

/// Everything that a run measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    address: String,
    /// Kernel interface of the client.
    driver: String,
    /// Connections open at the end.
    connections: u64,
    hold_seconds: f64,
    /// Growth is counted from this number of connections on.
    counted_from: u64,
    errors: u64,
    mismatched_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerGrowth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelGrowth>,
}

/// The server's own memory: `RssAnon` of proc(5), what its heap and stacks have touched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct ServerGrowth {
    bytes_per_connection: f64,
    /// Growth up to `counted_from` connections beyond what those cost; absent when counted from none,
    /// because `bytes_per_connection` holds it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    one_time_bytes: Option<f64>,
    /// Before the first connection.
    start_bytes: u64,
    /// With all connections.
    end_bytes: u64,
    /// With all connections, program text and shared pages included.
    rss_bytes: u64,
}

/// The kernel's memory, for both ends of a connection when both are on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct KernelGrowth {
    bytes_per_connection: f64,
    /// From none to the end of the hold: a server may let a silent connection wait in less after a while.
    held_bytes_per_connection: f64,
    source: Source,
}

impl Report {
    pub(crate) fn new(address: String, hold: Duration, looks: Looks, crowd: &Crowd) -> Self {
        Self {
            address,
            driver: crowd.driver().to_string(),
            connections: crowd.alive(),
            hold_seconds: hold.as_secs_f64(),
            counted_from: looks.from().connections,
            errors: crowd.errors().total(),
            mismatched_bytes: crowd.mismatched_bytes(),
            first_error: crowd.errors().first.clone(),
            server: looks.server_growth(),
            kernel: looks.kernel_growth(),
        }
    }

    /// Whether every connection stayed and got its bytes back.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0 && self.mismatched_bytes == 0
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![format!(
            "{} idle connections to {}, held {} s, client on {}",
            units::grouped(self.connections),
            self.address,
            self.hold_seconds,
            self.driver
        )];
        lines.extend(self.server.map(|server| server.line(self.counted_from)));
        lines.extend(self.kernel.map(KernelGrowth::line));
        let counts =
            format!("  faults      {} errors, {} mismatched bytes", self.errors, self.mismatched_bytes);
        lines.push(match &self.first_error {
            Some(first) => format!("{counts}; the first: {first}"),
            None => counts,
        });
        lines.join("\n")
    }
}

impl Looks {
    /// The look that growth is counted from.
    fn from(&self) -> Look {
        self.first.unwrap_or(self.none)
    }

    /// Connections between [`from`](Self::from) and all.
    fn added(&self) -> f64 {
        self.all.connections.saturating_sub(self.from().connections).max(1) as f64
    }

    fn server_growth(&self) -> Option<ServerGrowth> {
        let (start, from, end) = (self.none.server?, self.from().server?, self.all.server?);
        let growth =
            |earlier: Memory, later: Memory| later.anonymous_bytes as f64 - earlier.anonymous_bytes as f64;
        let bytes_per_connection = growth(from, end) / self.added();
        let one_time = |first: Look| growth(start, from) - bytes_per_connection * first.connections as f64;
        Some(ServerGrowth {
            bytes_per_connection,
            one_time_bytes: self.first.map(one_time),
            start_bytes: start.anonymous_bytes,
            end_bytes: end.anonymous_bytes,
            rss_bytes: end.rss_bytes,
        })
    }

    fn kernel_growth(&self) -> Option<KernelGrowth> {
        let (none, from, end) = (self.none.kernel?, self.from().kernel?, self.all.kernel?);
        Some(KernelGrowth {
            bytes_per_connection: end.growth(from) / self.added(),
            held_bytes_per_connection: self.held.kernel?.growth(none) / self.held.connections.max(1) as f64,
            source: end.source,
        })
    }
}

impl ServerGrowth {
    fn line(self, counted_from: u64) -> String {
        let per_connection = format!(
            "  server      {:.0} B of user memory a connection (growth of RssAnon from {} \
             connections on)",
            self.bytes_per_connection,
            units::grouped(counted_from)
        );
        let [start, end, rss] =
            [self.start_bytes, self.end_bytes, self.rss_bytes].map(|size| units::bytes(size as f64));
        let one_time = match self.one_time_bytes {
            Some(size) => format!(
                "one-time part {} (growth up to {} connections, less those connections' share)",
                units::bytes(size),
                units::grouped(counted_from)
            ),
            None => "one-time part included: it shows apart from 2000 connections on".to_owned(),
        };
        format!(
            "{per_connection}\n              {one_time}\n              RssAnon {start} before, \
             {end} after; {rss} resident"
        )
    }
}

impl KernelGrowth {
    fn line(self) -> String {
        format!(
            "  kernel      {:.0} B a connection, {:.0} B after the hold, both ends if the server is on\n     \
                      this machine ({}; the whole machine's, so other programs are noise)",
            self.bytes_per_connection,
            self.held_bytes_per_connection,
            self.source.describe()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(connections: u64, anonymous_bytes: u64, kernel: u64) -> Look {
        Look {
            connections,
            server: Some(Memory { rss_bytes: anonymous_bytes + 1, anonymous_bytes }),
            kernel: Some(KernelMemory { bytes: kernel, source: Source::SlabInfo }),
        }
    }

    #[test]
    fn the_one_time_part_is_kept_apart() {
        let looks = Looks {
            none: look(0, 50_000, 0),
            first: Some(look(1000, 50_000 + 300_000 + 200_000, 8_000_000)),
            all: look(10_000, 50_000 + 300_000 + 2_000_000, 80_000_000),
            held: look(10_000, 50_000 + 300_000 + 2_000_000, 70_000_000),
        };
        let server = looks.server_growth().unwrap();
        assert_eq!(server.bytes_per_connection, 200.0);
        assert_eq!(server.one_time_bytes, Some(300_000.0));
        assert_eq!((server.start_bytes, server.end_bytes), (50_000, 2_350_000));
        let kernel = looks.kernel_growth().unwrap();
        assert_eq!((kernel.bytes_per_connection, kernel.held_bytes_per_connection), (8000.0, 7000.0));
        assert!(server.line(1000).contains("200 B of user memory a connection"));
    }

    #[test]
    fn few_connections_are_counted_from_none() {
        let all = look(100, 51_000, 0);
        let looks = Looks { none: look(0, 1000, 0), first: None, all, held: all };
        let server = looks.server_growth().unwrap();
        assert_eq!((server.bytes_per_connection, server.one_time_bytes), (500.0, None));
        assert!(server.line(0).contains("one-time part included"));
    }

    #[test]
    fn a_server_that_ended_gives_no_figure() {
        let all = Look { server: None, ..look(1, 0, 0) };
        let looks = Looks { none: look(0, 0, 0), first: None, all, held: all };
        assert!(looks.server_growth().is_none());
    }
}
