//! Who wants to hear that a write has left.
//!
//! The bytes of a connection are numbered from the first write with a notice on. Each notice waits for the
//! number behind its last byte:
//!
//! ```text
//!   left ──►│ in a send, or queued                  │
//!   ────────┼─────────────┬───────────────┬─────────┤
//!           │             │ notice 1      │ notice 2: called once `left` is here
//! ```

use std::collections::VecDeque;

use kolk_engine::buffer::Chunk;

use super::command::Notice;
use super::conn::Conn;
use crate::error::{Error, Result};

/// The notices of one connection, oldest first.
#[derive(Default)]
pub(super) struct Notices {
    /// Bytes that have left.
    left: u64,
    waiting: VecDeque<(u64, Notice)>,
}

impl Notices {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `count` bytes have left: those whose notices are due.
    pub(super) fn advance(&mut self, count: u64) -> Vec<Notice> {
        self.left += count;
        let due = self.waiting.iter().take_while(|(target, _)| *target <= self.left).count();
        self.waiting.drain(..due).map(|(_, notice)| notice).collect()
    }

    /// `bytes` behind those in flight will never leave.
    fn lose(&mut self, in_flight: u64, bytes: u64) {
        let first = self.left + in_flight;
        let (kept, behind) = (self.waiting.partition_point(|(target, _)| *target <= first), first + bytes);
        let lost = self.waiting.partition_point(|(target, _)| *target <= behind) - kept;
        for (_, notice) in self.waiting.drain(kept..kept + lost) {
            notice(Err(Error::dropped()));
        }
        for (target, _) in self.waiting.range_mut(kept..) {
            *target -= bytes;
        }
    }

    /// Nothing more leaves.
    pub(super) fn fail(&mut self) {
        for (_, notice) in self.waiting.drain(..) {
            notice(Err(Error::not_connected()));
        }
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").field("left", &self.left).field("waiting", &self.waiting.len()).finish()
    }
}

impl Conn<'_> {
    /// As [`write`](Self::write), and calls `notice` on this loop once the kernel has taken all of the bytes, or it is
    /// known that it never will.
    pub fn write_then(&mut self, chunk: impl Into<Chunk>, notice: impl FnOnce(Result<()>) + Send + 'static) {
        self.write_noticed(chunk.into(), Box::new(notice));
    }

    pub(super) fn write_noticed(&mut self, chunk: Chunk, notice: Notice) {
        let dropped = self.home.stats.messages_dropped;
        self.write(chunk);
        if !self.state.gate.is_live() {
            return notice(Err(Error::not_connected()));
        }
        let is_dropped = self.home.settings.output.overflow == super::Overflow::DropNew
            && self.home.stats.messages_dropped > dropped;
        if is_dropped {
            return notice(Err(Error::dropped()));
        }
        let queued = self.event_loop.queued(self.id);
        let notices = self.state.extra().notices.get_or_insert_default();
        notices.waiting.push_back((notices.left + queued, notice));
        self.update_reports();
    }

    /// `bytes` of the oldest that are in no send were dropped.
    pub(super) fn notices_lose(&mut self, bytes: u64) {
        let Some(notices) = self.state.extra.as_mut().and_then(|extra| extra.notices.as_mut()) else {
            return;
        };
        let in_flight = self.event_loop.queued(self.id) - self.event_loop.unsent(self.id);
        notices.lose(in_flight, bytes);
    }
}
