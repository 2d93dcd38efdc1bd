//! Receivers are a group, and what a publisher sends is broadcast to it where it was received. No receiver misses any of
//! it: publishers are not read while one is far behind.

use bytes::Bytes;
use kolk::ConnId;
use kolk::server::{Action, Builder, CloseReason, Conn, Handler, Input, LoopContext};
use peer_common::OUTSTANDING;

const RECEIVERS: &str = "receivers";

/// Messages of one publisher between two looks at how far behind receivers are.
const UNSEEN: usize = OUTSTANDING / 4;

/// Messages that wait for a receiver that is far behind; those that are seen next come on top of them.
const BEHIND: usize = OUTSTANDING / 2;

/// Whoever is far behind tells when it has caught up; nobody is ever so far that it would be closed.
pub(super) fn limits(server: Builder, size: usize) -> Builder {
    let bytes = |messages: usize| (size * messages) as u64;
    server
        .output_watermarks(bytes(BEHIND / 2), bytes(BEHIND))
        .output_cap(
            bytes(4 * OUTSTANDING).max(1 << 20),
            kolk::server::Overflow::Close,
        )
}

pub(super) struct Broadcast {
    /// Bytes of a message.
    size: usize,
    /// Publishers that are not read until nobody is far behind.
    paused: Vec<ConnId>,
}

#[derive(Clone, Copy)]
pub(super) enum Role {
    Unknown,
    Receiver,
    /// With the bytes since the last look.
    Publisher(usize),
}

impl Broadcast {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            paused: Vec::new(),
        }
    }

    fn publish(&mut self, unseen: &mut usize, conn: &mut Conn<'_>, input: &mut Input<'_>) {
        let whole = input.len() - input.len() % self.size;
        let Some(messages) = input
            .take_exact(whole)
            .filter(|messages| !messages.is_empty())
        else {
            return;
        };
        conn.context()
            .broadcast_to(RECEIVERS, Bytes::from(messages));
        *unseen += whole;
        if *unseen < UNSEEN * self.size {
            return;
        }
        *unseen = 0;
        conn.pause_reading();
        if self.is_far_behind(&conn.context()) {
            self.paused.push(conn.id());
        } else {
            // It takes its turn behind the broadcast, so this one is read on when all have that.
            let id = conn.id();
            conn.context().resume_reading(id);
        }
    }

    fn is_far_behind(&self, context: &LoopContext<'_>) -> bool {
        let most = (self.size * BEHIND) as u64;
        context.conns().any(|conn| context.queued(conn) > most)
    }

    /// A receiver has caught up, or has gone.
    fn resume(&mut self, context: &mut LoopContext<'_>) {
        if !self.paused.is_empty() && !self.is_far_behind(context) {
            self.paused
                .drain(..)
                .for_each(|publisher| context.resume_reading(publisher));
        }
    }
}

impl Handler for Broadcast {
    type Session = Role;

    fn on_open(&mut self, _: &mut Conn<'_>) -> Role {
        Role::Unknown
    }

    fn on_data(&mut self, role: &mut Role, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        if let Role::Unknown = role {
            *role = match input.peek().first() {
                Some(b'R') => {
                    conn.join(RECEIVERS);
                    Role::Receiver
                }
                Some(b'P') => Role::Publisher(0),
                _ => return Action::Close,
            };
            input.skip(1);
        }
        match role {
            Role::Publisher(unseen) => self.publish(unseen, conn, input),
            // What receivers say is ignored.
            _ => drop(input.take()),
        }
        Action::Continue
    }

    fn on_writable(&mut self, _: &mut Role, conn: &mut Conn<'_>) -> Action {
        self.resume(&mut conn.context());
        Action::Continue
    }

    fn on_close(&mut self, _: Role, conn: &mut Conn<'_>, _: CloseReason) {
        self.resume(&mut conn.context());
    }
}
