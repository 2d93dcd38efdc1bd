//! Much was queued, and has left: the memory that it took goes back to the system.
//!
//! ```text
//!  large queues leave ──16 MiB──► a timer ──quiet for half a second──► spare queues go, the heap is trimmed
//!                         ▲         ▲  │                                                │
//!                         │         └──┘ more large queues left meanwhile               │
//!                         └──── 256 KiB do now, and twice as much after each trim ◄─────┘
//! ```
//!
//! The slowest readers of a burst take theirs when it is over, each for itself far from 16 MiB.

use super::core::Core;
use super::slot::TimerTask;
use crate::buffer::OutQueue;
use crate::clock::Timestamp;
use crate::heap;
use crate::limits;

/// What large queues held since the heap was trimmed.
#[derive(Debug)]
pub(super) struct Burst {
    /// Bytes.
    held: u64,
    /// Bytes from which on it is worth a trim. 0 < enough <= `limits::BURST_BYTES`
    enough: u64,
    /// The turn in which the last of them left.
    last: Timestamp,
    /// Whether the timer that looks for the end is set.
    is_watched: bool,
}

impl Default for Burst {
    fn default() -> Self {
        Self { held: 0, enough: limits::BURST_BYTES, last: Timestamp::ZERO, is_watched: false }
    }
}

impl Burst {
    /// The heap is trimmed: what is to come is what slow readers left of the burst.
    fn end(&mut self) {
        self.enough = if self.held >= limits::BURST_BYTES {
            limits::BURST_REST
        } else {
            (self.enough * 2).min(limits::BURST_BYTES)
        };
        self.held = 0;
        self.is_watched = false;
    }

    /// Timers of the wheel that nobody asked for.
    pub(super) fn timers(&self) -> usize {
        usize::from(self.is_watched)
    }
}

impl Core {
    /// A queue that held much has left, or was given up. No part of the way of an ordinary message.
    #[inline(never)]
    pub(super) fn keep_large(&mut self, mut queue: Box<OutQueue>) {
        let held = queue.sent() + queue.len();
        queue.clear();
        if held <= limits::SPARE_QUEUE_HELD && self.spare_queues.len() < limits::SPARE_OUT_QUEUES {
            self.spare_queues.push(queue);
        }
        self.burst.held = self.burst.held.saturating_add(held);
        self.burst.last = self.now;
        if self.burst.held >= self.burst.enough && !self.burst.is_watched {
            self.burst.is_watched = true;
            self.watch_burst();
        }
    }

    fn watch_burst(&mut self) {
        self.timers.insert(self.burst.last + limits::BURST_PAUSE, TimerTask::EndBurst);
    }

    /// Nothing large has left for a while, or it has and the burst goes on.
    pub(super) fn end_burst(&mut self) {
        if self.burst.last + limits::BURST_PAUSE > self.now {
            return self.watch_burst();
        }
        self.burst.end();
        // Those that were made in the midst of it lie scattered, each in a page that is otherwise empty.
        self.spare_queues.clear();
        heap::trim();
    }
}
