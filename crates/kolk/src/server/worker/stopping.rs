//! How a server goes.
//!
//! ```text
//!  Serving ──stop──► Draining ──drain time-out──► Flushing ──all closed──► gone
//!                       │                            │
//!                       └───── stop_now, or the stop time-out: discard ────► gone
//! ```

use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use kolk_engine::Close;
use kolk_engine::driver::Socket;
use kolk_engine::token::ConnId;

use super::{Running, Worker};
use crate::server::context::LoopContext;
use crate::server::handler::{CloseReason, Handler};
use crate::server::listening::Listening;
use crate::server::log;
use crate::server::state::Gate;
use crate::server::timers::Due;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// Nobody is accepted any more; those that are there have the drain time-out to come to an end.
    pub(super) fn stop(&mut self) {
        if mem::replace(&mut self.home.stopping, true) {
            return;
        }
        log::stopping(self.event_loop.loop_number(), self.home.stats.connections);
        self.close_listeners();
        let drained = self.event_loop.now() + self.home.settings.drain_timeout;
        self.event_loop.set_timer(drained, Due::Drain.pack());
        self.running = Running::Loop;
        let mut context = LoopContext { event_loop: &mut self.event_loop, state: &mut self.home };
        self.handler.on_stop(&mut context);
        self.running = Running::Nothing;
        self.stop_receiving_datagrams();
    }

    /// Those that are still there send what is queued and close.
    pub(super) fn flush_all(&mut self) {
        self.close_datagrams();
        let cut = self.event_loop.now() + self.home.settings.stop_timeout;
        self.event_loop.set_timer(cut, Due::Stop.pack());
        self.close_all(Close::Flush);
    }

    /// What is queued is discarded.
    pub(super) fn stop_now(&mut self) {
        self.home.stopping = true;
        self.close_listeners();
        self.close_datagrams();
        self.close_all(Close::Discard);
    }

    fn close_listeners(&mut self) {
        // They stay known: whom the kernel has accepted for us before it heard of the close is served.
        for listening in &self.listening {
            self.event_loop.close(listening.conn, Close::Discard);
        }
    }

    /// Duplicates of what is listened on, for a successor.
    pub(super) fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let mut shared = Listening::share_all(&self.listening, &self.event_loop)?;
        for each in &self.home.datagrams {
            if let Some(fd) = self.event_loop.socket(each.id).and_then(Socket::as_fd) {
                shared.push(fd.try_clone_to_owned()?);
            }
        }
        Ok(shared)
    }

    fn close_all(&mut self, how: Close) {
        let loop_number = self.event_loop.loop_number();
        for (key, entry) in self.sessions.iter_mut() {
            entry.state.note_reason(CloseReason::ServerStopping);
            entry.state.gate.set(Gate::CLOSING, true);
            self.event_loop.close(ConnId::new(loop_number, key), how);
        }
    }
}
