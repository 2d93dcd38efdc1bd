//! Connections that the program makes or brings.

use std::io;

use kolk_engine::Close;
use kolk_engine::driver::Socket;
use kolk_engine::token::{ConnId, Key};

use super::{Entry, Worker};
use crate::server::connect::{Connect, ENROLLED, OUTBOUND};
use crate::server::handler::{CloseReason, Handler};
use crate::server::state::ConnState;
use crate::server::timers::Purpose;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// The program brought this.
    pub(super) fn on_enroll(&mut self, key: Key, socket: Socket, tag: u64) {
        // A descriptor that cannot be waited for was refused before; it is closed and its name given back.
        let Ok(id) = self.event_loop.attach_reserved(key, socket) else {
            self.home.stats.refused += 1;
            return;
        };
        let mut state = ConnState::new(ENROLLED, self.home.now);
        state.set_tag(tag);
        self.home.admission.count_in();
        self.introduce(id, state);
    }

    /// Begins to connect. The connection has its first callback at once, and a failure is its last.
    pub(super) fn on_connect(&mut self, key: Key, connect: Connect) {
        let mut state = ConnState::new(OUTBOUND, self.home.now);
        state.set_tag(connect.tag);
        state.extra().opener = connect.opener;
        let settings = &self.home.settings.sockets;
        let options = connect.options.as_ref().unwrap_or_else(|| settings.outbound());
        let timeout = connect.timeout.unwrap_or(settings.connect_timeout);
        self.home.admission.count_in();
        let begun = self.event_loop.connect_with(key, &connect.address, connect.from.as_ref(), options);
        match begun {
            Ok(id) => {
                self.introduce(id, state);
                self.ask(id, |conn| {
                    conn.arm(Purpose::Connect, Some(timeout));
                });
            }
            Err(error) => self.introduce_failed(self.conn_id(key), state, error),
        }
    }

    /// There is no socket, so nothing else will come.
    fn introduce_failed(&mut self, id: ConnId, mut state: ConnState, error: io::Error) {
        self.home.stats.connections += 1;
        self.home.stats.connect_failures += 1;
        let session = self.call_on_open(id, &mut state);
        self.home.attention = false;
        state.note_reason(CloseReason::ConnectFailed(error));
        let entry = Entry { session, input: None, state };
        self.end(id, entry, CloseReason::ServerStopping);
    }

    pub(super) fn on_connected(&mut self, id: ConnId, result: io::Result<()>) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        entry.state.last_input = self.home.now;
        self.ask(id, |conn| {
            conn.arm(Purpose::Connect, None);
        });
        match result {
            Ok(()) => {
                self.home.stats.connected += 1;
                self.call(id, H::on_connect);
            }
            Err(error) => self.connect_failed(id, error),
        }
    }

    /// Its time is over, and it was not made.
    pub(super) fn on_connect_timeout(&mut self, id: ConnId) {
        let message = "the connection was not made in time";
        self.connect_failed(id, io::Error::new(io::ErrorKind::TimedOut, message));
    }

    fn connect_failed(&mut self, id: ConnId, error: io::Error) {
        self.home.stats.connect_failures += 1;
        self.close(id, CloseReason::ConnectFailed(error), Close::Discard);
    }
}
