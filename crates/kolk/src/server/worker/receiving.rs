//! Bytes arrive, or the end of the stream; reading pauses and goes on.

use std::io;

use kolk_engine::buffer::{Lease, LinkedBuffer};
use kolk_engine::op::is_cancelled;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Core};

use super::{Entry, Running, Worker};
use crate::server::context::LoopState;
use crate::server::handler::{Action, CloseReason, Handler};
use crate::server::state::{Gate, Reading};
use crate::server::{Conn, Input};

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// The way of each message.
    #[inline(always)]
    pub(super) fn on_bytes(&mut self, id: ConnId, bytes: Lease) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        self.home.stats.bytes_received += bytes.len() as u64;
        entry.state.last_input = self.home.now;
        if entry.input.is_some() || !entry.state.gate.is_open() {
            return self.on_more_bytes(id, bytes);
        }
        let mut input = LinkedBuffer::from(bytes);
        self.running = Running::Conn(id);
        let answer = entry.hand_over(id, &mut input, &mut self.handler, &mut self.event_loop, &mut self.home);
        self.running = Running::Nothing;
        if answer.needs > 0 || !input.is_empty() {
            self.keep_rest(id, Box::new(input), answer.needs);
        } else {
            // An empty buffer holds nothing, and this way nobody looks.
            std::mem::forget(input);
        }
        self.after_callback(id, answer.action);
    }

    /// Bytes arrived behind others, or for a handler that does not want any, or not yet.
    #[inline(never)]
    fn on_more_bytes(&mut self, id: ConnId, bytes: Lease) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        entry.input.get_or_insert_default().push(bytes);
        self.feed_if_it_may(id);
    }

    /// Hands over what is there.
    fn feed(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        let Some(mut input) = entry.input.take() else { return };
        self.running = Running::Conn(id);
        let answer = entry.hand_over(id, &mut input, &mut self.handler, &mut self.event_loop, &mut self.home);
        self.running = Running::Nothing;
        self.keep_rest(id, input, answer.needs);
        self.after_callback(id, answer.action);
    }

    /// What the handler left is kept, out of the loop's memory.
    #[inline(never)]
    fn keep_rest(&mut self, id: ConnId, mut input: Box<LinkedBuffer>, needs: usize) {
        let limit = self.home.settings.input_limit;
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        let len = input.len();
        if len > 0 {
            input.make_private();
            entry.input = Some(input);
        }
        if len.max(needs) > limit {
            return self.close(id, CloseReason::InputLimit, Close::Flush);
        }
        entry.state.needs = if needs > len { needs as u32 } else { 0 };
        entry.state.gate.set(Gate::NEEDS_MORE, needs > len);
    }

    /// Hands over what is there, unless the handler does not want any, or not yet.
    #[inline(never)]
    fn feed_if_it_may(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if entry.state.gate.has(Gate::CLOSING) {
            entry.input = None;
            return;
        }
        let len = entry.input.as_ref().map_or(0, |input| input.len());
        entry.state.gate.set(Gate::NEEDS_MORE, len < entry.state.needs as usize);
        if entry.state.gate.is_open() {
            // It is met: what comes after the next pause is not to wait for it.
            entry.state.needs = 0;
            self.feed(id);
        } else if let Some(input) = &mut entry.input {
            input.make_private();
        }
    }

    pub(super) fn on_received(&mut self, id: ConnId, result: io::Result<Lease>) {
        match result {
            Ok(bytes) if !bytes.is_empty() => return self.on_bytes(id, bytes),
            Err(error) if !is_cancelled(&error) => {
                return self.close(id, CloseReason::from_error(error), Close::Discard);
            }
            ended => {
                let Some(entry) = self.sessions.get_mut(id.key()) else { return };
                entry.state.reading = if ended.is_ok() { Reading::Ended } else { Reading::Idle };
            }
        }
        self.update_reading(id);
        self.deliver_end(id);
        self.finish_detach(id);
    }

    /// Reading was resumed: hands over what was withheld.
    pub(super) fn deliver(&mut self, id: ConnId) {
        self.feed_if_it_may(id);
        self.update_reading(id);
        self.deliver_end(id);
    }

    /// The end of the stream comes after all bytes, also after those that were fewer than the handler needs.
    fn deliver_end(&mut self, id: ConnId) {
        let ended = |worker: &Self| {
            let entry = worker.sessions.get(id.key())?;
            (entry.state.reading == Reading::Ended && entry.state.gate.lets_read()).then_some(())
        };
        if ended(self).is_none() {
            return;
        }
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if entry.state.gate.has(Gate::NEEDS_MORE) && entry.input.is_some() {
            entry.state.gate.set(Gate::NEEDS_MORE, false);
            entry.state.needs = 0;
            self.feed(id);
            if ended(self).is_none() {
                return;
            }
        }
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        entry.state.reading = Reading::Told;
        // What `on_eof` closes was closed by the peer, by default.
        let mut closes = false;
        self.call(id, |handler, session, conn| match handler.on_eof(session, conn) {
            Action::Close => {
                closes = true;
                Action::Continue
            }
            action => action,
        });
        if closes {
            self.close(id, CloseReason::PeerClosed, Close::Flush);
        }
    }

    /// Starts or stops receiving, as the connection wants it.
    pub(super) fn update_reading(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        match (entry.state.reading, entry.state.gate.lets_read()) {
            (Reading::Idle, true) => match self.event_loop.receive(id) {
                Ok(()) => entry.state.reading = Reading::Receiving,
                Err(_) => self.close(id, CloseReason::Reset, Close::Discard),
            },
            (Reading::Receiving, false) if !entry.state.gate.has(Gate::CLOSING) => {
                entry.state.reading = Reading::Stopping;
                // A name that is stale has no receive to cancel.
                let _ = self.event_loop.cancel_receive(id);
            }
            _ => {}
        }
    }
}

/// What came of a call of `on_data`.
struct Answer {
    action: Action,
    /// What the handler says it needs, 0 if it said nothing.
    needs: usize,
}

impl<S> Entry<S> {
    /// Calls the handler with `input`.
    #[inline(always)]
    fn hand_over<H: Handler<M, Session = S>, M>(
        &mut self,
        id: ConnId,
        input: &mut LinkedBuffer,
        handler: &mut H,
        event_loop: &mut Core,
        home: &mut LoopState,
    ) -> Answer {
        home.stats.messages += 1;
        let mut conn = Conn { event_loop, home, state: &mut self.state, id };
        let mut input = Input::new(input);
        let action = handler.on_data(&mut self.session, &mut conn, &mut input);
        Answer { action, needs: input.needs() }
    }
}
