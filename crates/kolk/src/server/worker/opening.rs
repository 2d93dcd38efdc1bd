//! How a connection comes.

use kolk_engine::buffer::LinkedBuffer;
use kolk_engine::driver::Socket;
use kolk_engine::token::ConnId;

use super::{Entry, Running, Worker};
use crate::server::Conn;
use crate::server::handler::{Action, Handler};
use crate::server::state::ConnState;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    pub(super) fn on_accepted(&mut self, listener: ConnId, socket: Socket) {
        if self.home.settings.nodelay {
            // It fails only on a connection that is already gone, which the receive will report.
            let _ = socket.set_nodelay(true);
        }
        let index = self.listeners.iter().position(|&known| known == listener).unwrap_or(0);
        self.home.stats.accepted += 1;
        if let Some(pause) = self.home.admission.pause() {
            for &listener in &self.listeners {
                // A listener that is closing accepts nobody anyway.
                let _ = self.event_loop.pause_accept(listener, pause);
            }
        }
        self.open(socket, index as u16);
    }

    /// Makes a connection of a socket: from here on it has callbacks.
    pub(super) fn open(&mut self, socket: Socket, listener: u16) {
        if !self.home.admission.enter() {
            self.home.stats.refused += 1;
            return;
        }
        let Ok(id) = self.event_loop.attach(socket) else {
            // All slots are taken: the socket was closed, and the peer sees that.
            self.home.stats.refused += 1;
            return self.home.admission.leave();
        };
        self.home.stats.connections += 1;
        let mut state = ConnState::new(listener, self.home.now);
        let mut conn = Conn { event_loop: &mut self.event_loop, home: &mut self.home, state: &mut state, id };
        self.running = Running::Opening(id);
        let session = self.handler.on_open(&mut conn);
        self.running = Running::Nothing;
        self.sessions.insert(id.key(), Entry { session, input: LinkedBuffer::default(), state });
        self.after_callback(id, Action::Continue);
        self.ask(id, |conn| conn.start_idle_timeout());
        self.update_reading(id);
    }
}
