//! How a connection goes.

use std::mem;

use kolk_engine::Close;
use kolk_engine::buffer::Lease;
use kolk_engine::token::ConnId;

use super::{Entry, Running, Worker};
use crate::server::context::Later;
use crate::server::handler::{Action, CloseReason, Handler};
use crate::server::log;
use crate::server::state::{Ask, ConnState, Gate, Reading};
use crate::server::{Conn, Detached};

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// Does what a callback answered, and what it asked its connection for: whichever is stronger.
    #[inline(never)]
    pub(super) fn settle(&mut self, id: ConnId, action: Action) {
        self.home.attention = false;
        let answered = match action {
            Action::Continue => None,
            Action::Close => Some(Ask::Close),
            Action::CloseNow => Some(Ask::CloseNow),
            Action::Detach => Some(Ask::Detach),
            Action::Shutdown => {
                self.home.later.push_back(Later::Shutdown);
                None
            }
        };
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        match mem::take(&mut entry.state.asked).max(answered) {
            None => self.update_reading(id),
            Some(Ask::Close) => self.close(id, CloseReason::ByHandler, Close::Flush),
            Some(Ask::CloseNow) => self.close(id, CloseReason::ByHandler, Close::Reset),
            Some(Ask::Detach) => self.detach(id),
        }
    }

    /// Ends a connection; its last callback comes when the socket is closed. A second close may be harder than
    /// the first, but the first reason counts.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason, how: Close) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        entry.state.note_reason(reason);
        entry.state.gate.set(Gate::CLOSING, true);
        entry.input = None;
        self.event_loop.close(id, how);
    }

    pub(super) fn on_closed(&mut self, id: ConnId) {
        // A listener has no session.
        let Some(entry) = self.sessions.remove(id.key()) else { return };
        self.end(id, entry, CloseReason::ServerStopping);
    }

    /// The last callback of a connection. `otherwise` is the reason if none is known.
    pub(super) fn end(&mut self, id: ConnId, entry: Entry<H::Session>, otherwise: CloseReason) {
        let Entry { session, mut state, .. } = entry;
        self.home.stats.connections -= 1;
        self.home.admission.leave();
        self.let_go(id, &mut state);
        let reason = state.extra.as_mut().and_then(|extra| extra.reason.take()).unwrap_or(otherwise);
        let mut conn = Conn { event_loop: &mut self.event_loop, home: &mut self.home, state: &mut state, id };
        self.running = Running::Loop;
        self.handler.on_close(session, &mut conn, reason);
        self.running = Running::Nothing;
        self.home.attention = false;
    }

    /// Takes back what the connection had of the loop.
    fn let_go(&mut self, id: ConnId, state: &mut ConnState) {
        state.gate.set(Gate::CLOSING, true);
        let Some(extra) = &mut state.extra else { return };
        for (timer, _) in extra.timers.drain(..) {
            self.event_loop.cancel_timer(timer);
        }
        for group in extra.groups.drain(..) {
            self.home.groups.leave(&group, id.key());
        }
        if let Some(notices) = extra.notices.take_if(|notices| !notices.is_empty()) {
            self.home.later.push_back(Later::Fail(notices));
        }
    }

    /// A callback panicked: its connection closes, and the loop goes on.
    pub(super) fn on_panic(&mut self, running: Running) {
        self.home.attention = false;
        let conn = match running {
            Running::Nothing => return,
            Running::Conn(id) | Running::Opening(id) | Running::Leaving(id) => Some(id),
            Running::Loop => None,
        };
        log::callback_panicked(self.event_loop.loop_number(), conn);
        match running {
            Running::Conn(id) => self.close(id, CloseReason::Panicked, Close::Reset),
            Running::Opening(id) => {
                self.home.stats.connections -= 1;
                self.home.admission.leave();
                self.home.groups.forget(id.key());
                self.event_loop.close(id, Close::Reset);
            }
            Running::Leaving(id) => {
                if let Some(entry) = self.sessions.remove(id.key()) {
                    self.end(id, entry, CloseReason::Panicked);
                }
            }
            Running::Loop | Running::Nothing => {}
        }
        // The turn goes on as a further one, which may sleep.
        self.publish();
    }

    /// Begins to take a connection out of the server: what is queued is sent first, and the receive ends.
    fn detach(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if !entry.state.gate.is_live() {
            return;
        }
        entry.state.gate.set(Gate::DETACHING, true);
        // A name that is stale has nothing to send.
        let _ = self.event_loop.report_sends(id, true);
        self.update_reading(id);
        self.finish_detach(id);
    }

    /// Takes it out, if it is to leave and nothing of it is in flight any more.
    pub(super) fn finish_detach(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get(id.key()) else { return };
        let state = &entry.state;
        let in_flight = matches!(state.reading, Reading::Receiving | Reading::Stopping);
        if !state.gate.has(Gate::DETACHING) || state.gate.has(Gate::CLOSING) || in_flight {
            return;
        }
        // While something is queued the next send that ends comes here again.
        let Ok(socket) = self.event_loop.detach(id) else { return };
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        let left = entry.input.take().map_or_else(Lease::default, |mut input| input.take_all());
        let detached = Detached::new(socket, left);
        let mut conn =
            Conn { event_loop: &mut self.event_loop, home: &mut self.home, state: &mut entry.state, id };
        self.running = Running::Leaving(id);
        self.handler.on_detach(&mut entry.session, &mut conn, detached);
        self.running = Running::Nothing;
        if let Some(entry) = self.sessions.remove(id.key()) {
            self.end(id, entry, CloseReason::Detached);
        }
    }
}
