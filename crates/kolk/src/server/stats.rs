//! Counters of a running server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::balance::Load;

/// Counters of a server since it was started, summed over its loops, or those of one loop.
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
    /// Connections that were closed at once, because there were as many as
    /// [`Builder::max_connections`](super::Builder::max_connections) allows, or the loop has no slot left.
    pub refused: u64,
    /// Calls of [`Handler::on_data`](super::Handler::on_data).
    pub messages: u64,
    /// Bytes that arrived.
    pub bytes_received: u64,
    /// Bytes that handlers wrote, sent or still queued.
    pub bytes_sent: u64,
    /// Messages that an output limit dropped.
    pub messages_dropped: u64,
    /// Times accepting paused for lack of descriptors or memory.
    pub accept_pauses: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Outbound connections that were made.
    pub connected: u64,
    /// Outbound connections that could not be made.
    pub connect_failures: u64,
    /// Datagrams that arrived.
    pub datagrams_received: u64,
    /// Datagrams that the kernel has taken.
    pub datagrams_sent: u64,
    /// Datagrams that were not sent: too long, more than the queue takes, refused by the kernel.
    pub datagrams_dropped: u64,
    /// Receives of datagrams that failed; they go on by themselves.
    pub datagram_errors: u64,
    /// System calls that received or sent datagrams, many at a time.
    pub datagram_calls: u64,
    /// Jobs that were given to the pool of [`Conn::offload`](super::Conn::offload).
    pub jobs: u64,
    /// Turns of the loop: each is one system call that submits and waits, and brings a batch of events.
    pub turns: u64,
    /// Timers that were set, moved or cancelled.
    pub timer_operations: u64,
    /// Times a receive found no free buffer and went on another way.
    pub buffers_exhausted: u64,
    /// Times a turn brought more than the kernel's completion queue holds; the rest came with the next (io_uring).
    pub overflows: u64,
    /// Operations that found the submission queue full, and had it submitted before the turn's end (io_uring).
    pub early_submits: u64,
    /// Times a connection was silent for [`DriverConfig::park_after`](crate::DriverConfig::park_after), and waits in less
    /// of the kernel's memory since (io_uring).
    pub parked: u64,
    /// Requests of [`ServerHandle`](super::ServerHandle)s that loops took in.
    pub requests: u64,
    /// System calls made to wake loops for them.
    pub wake_ups: u64,
    /// The longest time between two waits of a loop: how long it was deaf, because callbacks took so long.
    pub longest_turn: Duration,
}

/// Makes the place where a loop publishes the counters that are named, each of which is summed.
macro_rules! published {
    ($($counter:ident),+ $(,)?) => {
        /// One loop's counters, where other threads can read them. Written by the loop's thread only.
        #[derive(Debug, Default)]
        #[repr(align(128))] // its own pairs of cache lines, which no other loop writes to
        pub(super) struct Published {
            $($counter: AtomicU64,)+
            /// Nanoseconds.
            longest_turn: AtomicU64,
            /// What balance policies look at.
            pub(super) load: Load,
        }

        impl Published {
            pub(super) fn publish(&self, stats: &Stats) {
                $(self.$counter.store(stats.$counter, Ordering::Relaxed);)+
                self.longest_turn.store(stats.longest_turn.as_nanos() as u64, Ordering::Relaxed);
                self.load.publish(stats.connections);
            }

            pub(super) fn add_to(&self, sum: &mut Stats) {
                $(sum.$counter += self.$counter.load(Ordering::Relaxed);)+
                let longest_turn = Duration::from_nanos(self.longest_turn.load(Ordering::Relaxed));
                sum.longest_turn = sum.longest_turn.max(longest_turn);
            }
        }
    };
}

published! {
    connections,
    accepted,
    refused,
    messages,
    bytes_received,
    bytes_sent,
    messages_dropped,
    accept_pauses,
    panics,
    connected,
    connect_failures,
    datagrams_received,
    datagrams_sent,
    datagrams_dropped,
    datagram_errors,
    datagram_calls,
    jobs,
    turns,
    timer_operations,
    buffers_exhausted,
    overflows,
    early_submits,
    parked,
}
