//! What was written is about to leave, has left, or never will.

use std::io;

use kolk_engine::Close;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::ConnId;

use super::{Running, Worker};
use crate::error::Error;
use crate::server::command::Notice;
use crate::server::handler::{Action, CloseReason, Handler};
use crate::server::state::Gate;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// Before the turn: the handlers of connections that were written to, and that want to be asked.
    pub(super) fn call_hooks(&mut self) {
        while let Some(id) = self.home.hooked.pop() {
            self.call(id, |handler, session, conn| {
                handler.on_flush(session, conn);
                Action::Continue
            });
            // What the hook itself wrote needs no further call.
            if let Some(entry) = self.sessions.get_mut(id.key()) {
                entry.state.hook_is_due = false;
            }
        }
    }

    /// A send has ended that somebody wants to know of.
    #[inline(never)]
    pub(super) fn on_sent(&mut self, id: ConnId, count: u64) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if let Some(notices) = entry.state.extra.as_mut().and_then(|extra| extra.notices.as_mut()) {
            let due = notices.advance(count);
            self.running = Running::Conn(id);
            due.into_iter().for_each(|notice| notice(Ok(())));
            self.running = Running::Nothing;
        }
        let hooks = entry.state.hooks_writes;
        let is_writable = entry.state.is_full && self.event_loop.queued(id) <= self.home.settings.output.low;
        if is_writable {
            entry.state.is_full = false;
            entry.state.gate.set(Gate::OUTPUT, false);
        }
        self.ask(id, |conn| conn.update_reports());
        if hooks {
            self.call(id, |handler, session, conn| handler.on_sent(session, conn, count));
        }
        if is_writable {
            self.call(id, H::on_writable);
            self.deliver(id);
        }
        self.finish_detach(id);
    }

    pub(super) fn on_send_failed(&mut self, id: ConnId, error: io::Error) {
        self.close(id, CloseReason::from_error(error), Close::Discard);
    }

    /// A write whose end somebody wants to hear of.
    pub(super) fn write_then(&mut self, id: ConnId, chunk: Chunk, notice: Notice) {
        match self.sessions.get(id.key()) {
            Some(entry) if entry.state.gate.is_live() => {
                self.ask(id, |conn| conn.write_noticed(chunk, notice));
            }
            _ => notice(Err(Error::not_connected())),
        }
    }
}
