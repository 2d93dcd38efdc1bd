//! Each client gets a connection of its own to the target: kolk's example `proxy`.

use std::collections::HashSet;

use kolk::server::{Action, Builder, CloseReason, Conn, Connect, Handler, Input, Origin};
use kolk::{Address, ConnId};

/// Bytes queued for one side from which on the other is not read.
const FULL: u64 = 64 << 10;

pub(super) fn limits(server: Builder) -> Builder {
    server.output_watermarks(FULL / 4, FULL)
}

pub(super) struct Relay {
    to: Address,
    /// Connections whose other side has sent all that it will.
    half_closed: HashSet<ConnId>,
}

impl Relay {
    pub(super) fn new(to: Address) -> Self {
        Self {
            to,
            half_closed: HashSet::new(),
        }
    }
}

impl Handler for Relay {
    type Session = Option<ConnId>; // the other side

    fn on_open(&mut self, conn: &mut Conn<'_>) -> Option<ConnId> {
        match conn.origin() {
            Origin::Outbound { opener, .. } => opener,
            // What the client sends waits in its queue until it is there.
            _ => conn.connect(Connect::to(self.to.clone())).ok(),
        }
    }

    fn on_data(
        &mut self,
        other: &mut Option<ConnId>,
        conn: &mut Conn<'_>,
        input: &mut Input<'_>,
    ) -> Action {
        let Some(other) = *other else {
            return Action::Close;
        };
        conn.context().write(other, input.take());
        if conn.context().queued(other) > FULL {
            conn.pause_reading(); // until `on_writable` of the other
        }
        Action::Continue
    }

    fn on_writable(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>) -> Action {
        if let Some(other) = *other {
            conn.context().resume_reading(other);
        }
        Action::Continue
    }

    fn on_eof(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>) -> Action {
        let Some(other) = *other else {
            return Action::Close;
        };
        if self.half_closed.remove(&conn.id()) {
            return Action::Close; // both have ended, and `on_close` ends the other
        }
        self.half_closed.insert(other);
        conn.context().shutdown_write(other);
        Action::Continue
    }

    fn on_close(&mut self, other: Option<ConnId>, conn: &mut Conn<'_>, _: CloseReason) {
        self.half_closed.remove(&conn.id());
        if let Some(other) = other {
            conn.context().close(other);
        }
    }
}
