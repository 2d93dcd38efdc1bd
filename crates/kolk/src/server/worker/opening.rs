//! How a connection comes.

use kolk_engine::driver::Socket;
use kolk_engine::token::ConnId;

use super::{Entry, Running, Worker};
use crate::server::Conn;
use crate::server::handler::{Action, Handler};
use crate::server::state::ConnState;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    pub(super) fn on_accepted(&mut self, listener: ConnId, socket: Socket) {
        let Some(listening) = self.listening.iter().find(|each| each.conn == listener) else { return };
        listening.prepare(&socket);
        let address = listening.address;
        if let Some(pause) = self.home.admission.pause() {
            for listening in &self.listening {
                // A listener that is closing accepts nobody anyway.
                let _ = self.event_loop.pause_accept(listening.conn, pause);
            }
        }
        self.open(socket, address);
    }

    /// An acceptor has accepted this.
    pub(super) fn on_adopt(&mut self, socket: Socket, address: u16) {
        self.published.load.note_arrived();
        self.open(socket, address);
    }

    /// Makes a connection of a socket that came from the address of this index.
    fn open(&mut self, socket: Socket, address: u16) {
        self.home.stats.accepted += 1;
        if !self.home.admission.enter() {
            self.home.stats.refused += 1;
            return;
        }
        let Ok(id) = self.event_loop.attach(socket) else {
            // All slots are taken: the socket was closed, and the peer sees that.
            self.home.stats.refused += 1;
            return self.home.admission.leave();
        };
        self.introduce(id, ConnState::new(address, self.home.now));
    }

    /// Calls `on_open`: from here on the connection has callbacks.
    pub(super) fn introduce(&mut self, id: ConnId, mut state: ConnState) {
        self.home.stats.connections += 1;
        let session = self.call_on_open(id, &mut state);
        self.sessions.insert(id.key(), Entry { session, input: None, state });
        self.after_callback(id, Action::Continue);
        self.ask(id, |conn| conn.watch_idle());
        self.update_reading(id);
    }

    pub(super) fn call_on_open(&mut self, id: ConnId, state: &mut ConnState) -> H::Session {
        let mut conn = Conn { event_loop: &mut self.event_loop, home: &mut self.home, state, id };
        self.running = Running::Opening(id);
        let session = self.handler.on_open(&mut conn);
        self.running = Running::Nothing;
        session
    }
}
