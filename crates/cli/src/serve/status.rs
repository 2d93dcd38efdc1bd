//! The line that shows a running server's traffic, redrawn in place once a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::units::grouped;

/// Time between two redraws.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// What a server has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Connections that are open.
    pub(super) connections: u64,
    /// Receives that brought bytes.
    pub(super) messages: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
}

/// The line and what it showed last. Invisible unless standard error is a terminal.
#[derive(Debug)]
pub(super) struct StatusLine {
    bar: ProgressBar,
    shown: Traffic,
    shown_at: Instant,
}

impl StatusLine {
    pub(super) fn new(traffic: Traffic) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { bar, shown: traffic, shown_at: Instant::now() }
    }

    /// Whether anybody sees it.
    pub(super) fn is_visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows the traffic since the last update.
    pub(super) fn update(&mut self, traffic: Traffic) {
        let seconds = self.shown_at.elapsed().as_secs_f64();
        self.bar.set_message(describe(self.shown, traffic, seconds));
        self.bar.tick();
        self.shown = traffic;
        self.shown_at = Instant::now();
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn describe(before: Traffic, now: Traffic, seconds: f64) -> String {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(1e-3);
    format!(
        "{} connections   {} messages/s   {:.1} MB/s in   {:.1} MB/s out",
        grouped(now.connections),
        grouped(rate(before.messages, now.messages) as u64),
        rate(before.bytes_received, now.bytes_received) / 1e6,
        rate(before.bytes_sent, now.bytes_sent) / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_rates_since_the_last_one() {
        let mut before = Traffic::default();
        (before.messages, before.bytes_received) = (1000, 1_000_000);
        let mut now = before;
        (now.connections, now.messages) = (8192, 251_000);
        (now.bytes_received, now.bytes_sent) = (257_000_000, 128_000_000);
        assert_eq!(
            describe(before, now, 2.0),
            "8 192 connections   125 000 messages/s   128.0 MB/s in   64.0 MB/s out"
        );
    }
}
