//! One message goes to many, in as many turns as that takes.
//!
//! ```text
//!  broadcast ─► names of the receivers ─► 256 writes ─► turn: they are sent ─► 256 writes ─► ... ─► the last
//!                                          └─ meanwhile: nothing else that other threads asked for, so that their order
//!                                             is kept; bytes that arrive, timers and sends go on
//! ```

use bytes::Bytes;
use kolk_engine::token::Key;

use super::Worker;
use crate::server::Group;
use crate::server::command::Audience;
use crate::server::handler::Handler;
use crate::server::limits::{BROADCAST_WRITES_PER_TURN, RETAINED_RECEIVERS};

/// A broadcast that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    bytes: Bytes,
    /// Who is to have it: those who were there when it began. Empty if none is under way.
    receivers: Vec<Key>,
    /// 0 <= next <= receivers.len(): those before it have it.
    next: usize,
    /// Of which they have to be members still.
    group: Option<Group>,
    /// Writes that this turn may still make.
    budget: usize,
}

impl Broadcast {
    pub(super) fn begin_turn(&mut self) {
        self.budget = BROADCAST_WRITES_PER_TURN;
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.receivers.is_empty()
    }

    /// The next receiver, if there is one, and this turn may still write.
    fn next(&mut self) -> Option<Key> {
        let next = *self.receivers.get(self.next)?;
        self.budget = self.budget.checked_sub(1)?;
        self.next += 1;
        Some(next)
    }

    /// Forgets it if all have it.
    fn end(&mut self) {
        if self.next == self.receivers.len() {
            self.bytes = Bytes::new();
            self.receivers.clear();
            self.receivers.shrink_to(RETAINED_RECEIVERS);
            self.next = 0;
            self.group = None;
        }
    }
}

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// Begins to write to many. None other may be under way.
    pub(super) fn broadcast(&mut self, audience: Audience, bytes: Bytes) {
        let broadcast = &mut self.broadcast;
        debug_assert!(!broadcast.is_under_way(), "broadcasts go one after the other");
        broadcast.bytes = bytes;
        match audience {
            Audience::All => broadcast.receivers.extend(self.sessions.iter().map(|(key, _)| key)),
            Audience::Group(group) => {
                broadcast.receivers.extend(self.home.groups.members(&group));
                broadcast.group = Some(group);
            }
        }
        self.go_on_broadcasting();
    }

    /// Writes to the next receivers, as many as this turn may. What other threads ask waits until all have it, since
    /// they may have asked for it after the broadcast.
    pub(super) fn go_on_broadcasting(&mut self) {
        while let Some(key) = self.broadcast.next() {
            let left =
                self.broadcast.group.as_ref().is_some_and(|group| !self.home.groups.contains(group, key));
            if !left {
                self.write(self.conn_id(key), self.broadcast.bytes.clone().into());
            }
        }
        self.broadcast.end();
        self.event_loop.hold_messages(self.broadcast.is_under_way());
    }
}
