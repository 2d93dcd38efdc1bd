//! Counters of a running server.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a server since it was started, summed over its loops.
///
/// Each loop publishes its own once a turn, so the sum is a few microseconds old and its parts are not of
/// one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open.
    pub connections: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Calls of [`Handler::on_data`](super::Handler::on_data).
    pub messages: u64,
    /// Bytes that arrived.
    pub bytes_received: u64,
    /// Bytes that handlers wrote, sent or still queued.
    pub bytes_sent: u64,
    /// Times accepting paused for lack of descriptors or memory.
    pub accept_pauses: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Messages that an output limit dropped.
    pub messages_dropped: u64,
}

/// One loop's counters, where other threads can read them. Written by the loop's thread only.
#[derive(Debug, Default)]
#[repr(align(128))] // its own pair of cache lines, which no other loop writes to
pub(super) struct Published {
    connections: AtomicU64,
    accepted: AtomicU64,
    messages: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    accept_pauses: AtomicU64,
    panics: AtomicU64,
    messages_dropped: AtomicU64,
}

impl Published {
    pub(super) fn publish(&self, stats: &Stats) {
        self.connections.store(stats.connections, Ordering::Relaxed);
        self.accepted.store(stats.accepted, Ordering::Relaxed);
        self.messages.store(stats.messages, Ordering::Relaxed);
        self.bytes_received.store(stats.bytes_received, Ordering::Relaxed);
        self.bytes_sent.store(stats.bytes_sent, Ordering::Relaxed);
        self.accept_pauses.store(stats.accept_pauses, Ordering::Relaxed);
        self.panics.store(stats.panics, Ordering::Relaxed);
        self.messages_dropped.store(stats.messages_dropped, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, sum: &mut Stats) {
        sum.connections += self.connections.load(Ordering::Relaxed);
        sum.accepted += self.accepted.load(Ordering::Relaxed);
        sum.messages += self.messages.load(Ordering::Relaxed);
        sum.bytes_received += self.bytes_received.load(Ordering::Relaxed);
        sum.bytes_sent += self.bytes_sent.load(Ordering::Relaxed);
        sum.accept_pauses += self.accept_pauses.load(Ordering::Relaxed);
        sum.panics += self.panics.load(Ordering::Relaxed);
        sum.messages_dropped += self.messages_dropped.load(Ordering::Relaxed);
    }
}
