//! What was written has left, or never will.

use std::io;

use kolk_engine::Close;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::ConnId;

use super::Worker;
use crate::error::Error;
use crate::server::command::Notice;
use crate::server::handler::{CloseReason, Handler};

impl<H: Handler<M>, M> Worker<H, M> {
    /// A write whose end somebody wants to hear of.
    pub(super) fn write_then(&mut self, id: ConnId, chunk: Chunk, notice: Notice) {
        let Some(entry) = self.sessions.get_mut(id.key()).filter(|entry| entry.state.gate.is_live()) else {
            return notice(Err(Error::not_connected()));
        };
        let _ = entry;
        self.ask(id, |conn| conn.write(chunk));
        notice(Ok(()));
    }

    pub(super) fn on_sent(&mut self, id: ConnId, count: u64) {
        let _ = count;
        self.finish_detach(id);
    }

    pub(super) fn on_send_failed(&mut self, id: ConnId, error: io::Error) {
        self.close(id, CloseReason::from_error(error), Close::Discard);
    }
}
