//! Counters of a watcher.

use kolk_engine::LoopStats;
use kolk_engine::driver::DriverStats;

/// Counters of a watcher since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sockets that are open: connections, listeners and watched descriptors.
    pub connections: usize,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were accepted or adopted, and had no place.
    pub refused: u64,
    /// Completions that the program was given.
    pub completions: u64,
    /// Waits that brought any.
    pub batches: u64,
    /// Bytes that arrived.
    pub bytes_received: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// Requests of other threads.
    pub submissions: u64,
    /// System calls made to wake the waiting thread for them.
    pub wake_ups: u64,
    /// Turns of the loop; each is one system call that submits and waits.
    pub turns: u64,
    /// Timers and deadlines that are set.
    pub timers: usize,
    /// Times accepting paused for lack of descriptors or memory.
    pub accept_pauses: u64,
    /// Counters of the kernel interface.
    pub driver: DriverStats,
}

/// What the watcher counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) completions: u64,
    pub(super) batches: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) accept_pauses: u64,
}

impl Counters {
    /// Together with what the loop counts.
    pub(super) fn with(&self, connections: usize, event_loop: &LoopStats) -> Stats {
        Stats {
            connections,
            accepted: self.accepted,
            refused: self.refused,
            completions: self.completions,
            batches: self.batches,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            submissions: event_loop.messages,
            wake_ups: event_loop.wake_ups,
            turns: event_loop.turns,
            timers: event_loop.timers,
            accept_pauses: self.accept_pauses,
            driver: event_loop.driver,
        }
    }
}
