//! What other threads, and other connections, ask.

use kolk_engine::Close;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::{ConnId, Key};

use super::{Running, Worker};
use crate::server::Conn;
use crate::server::command::{Command, Task};
use crate::server::context::Later;
use crate::server::handler::{Action, CloseReason, Handler};
use crate::server::log;
use crate::server::offload::Offloaded;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// A message of the mailbox. A key that is stale by now reaches nobody.
    pub(super) fn obey(&mut self, command: Command<H::Session, M>) {
        match command {
            Command::Write(key, chunk) => self.write(self.conn_id(key), chunk),
            Command::WriteThen(key, chunk, notice) => self.write_then(self.conn_id(key), chunk, notice),
            Command::Close(key) => self.close(self.conn_id(key), CloseReason::ByHandler, Close::Flush),
            Command::CloseNow(key) => self.close(self.conn_id(key), CloseReason::ByHandler, Close::Reset),
            Command::Message(key, message) => self
                .call(self.conn_id(key), |handler, session, conn| handler.on_message(session, conn, message)),
            Command::Run(key, task) => self.call(self.conn_id(key), |_, session, conn| {
                task(session, conn);
                Action::Continue
            }),
            Command::Offloaded(offloaded) => self.on_offloaded(offloaded),
            Command::Broadcast(audience, bytes) => self.broadcast(audience, bytes),
            Command::Each(task) => {
                for key in self.keys() {
                    self.call(self.conn_id(key), |_, session, conn| {
                        task(session, conn);
                        Action::Continue
                    });
                }
            }
            Command::Adopt(socket, listener) => self.on_adopt(socket, listener),
            Command::Enroll(key, socket, tag) => self.on_enroll(key, socket, tag),
            Command::Connect(key, connect) => self.on_connect(key, *connect),
            Command::SendDatagram(key, to, payload) => self.send_datagram(key, &to, payload),
            // Who asked may have given up.
            Command::Share(reply) => drop(reply.send(self.share())),
            Command::Stop => self.stop(),
            Command::StopNow => self.stop_now(),
        }
    }

    /// What a callback asked for that was not for its own connection, or not for that moment.
    pub(super) fn do_one(&mut self, later: Later) {
        match later {
            Later::Write(key, chunk) => self.write(self.conn_id(key), chunk),
            Later::Close(key) => self.close(self.conn_id(key), CloseReason::ByHandler, Close::Flush),
            Later::CloseNow(key) => self.close(self.conn_id(key), CloseReason::ByHandler, Close::Reset),
            Later::PauseReading(key) => self.ask(self.conn_id(key), |conn| conn.pause_reading()),
            Later::ResumeReading(key) => self.ask(self.conn_id(key), |conn| conn.resume_reading()),
            Later::Deliver(key) => self.deliver(self.conn_id(key)),
            Later::Broadcast(audience, bytes) => self.broadcast(audience, bytes),
            Later::Connect(key, connect) => self.on_connect(key, *connect),
            Later::ShutdownWrite(key) => self.ask(self.conn_id(key), |conn| conn.shutdown_write()),
            Later::Fail(mut notices) => {
                self.running = Running::Loop;
                notices.fail();
                self.running = Running::Nothing;
            }
            Later::FlushAll => self.flush_all(),
            Later::Shutdown => self.handle.stop(),
        }
    }

    /// A job has ended: hands over its result, and those that waited for it, in their order.
    fn on_offloaded(&mut self, offloaded: Offloaded) {
        let Offloaded { key, number, then } = offloaded;
        let id = self.conn_id(key);
        let Some(entry) = self.sessions.get_mut(key) else { return };
        entry.state.jobs().put(number, then);
        while let Some(entry) = self.sessions.get_mut(key)
            && let Some(then) = entry.state.jobs().take()
        {
            match then.map(|then| then.downcast::<Task<H::Session>>()) {
                Some(Ok(task)) => self.call(id, |_, session, conn| {
                    task(session, conn);
                    Action::Continue
                }),
                Some(Err(_)) => debug_assert!(false, "`offload` has checked the type of the session"),
                None => {
                    self.home.stats.panics += 1;
                    log::job_panicked(id);
                    self.close(id, CloseReason::Panicked, Close::Reset);
                }
            }
        }
    }

    pub(super) fn write(&mut self, id: ConnId, chunk: Chunk) {
        self.ask(id, |conn| conn.write(chunk));
    }

    /// Uses a connection without a callback.
    pub(super) fn ask(&mut self, id: ConnId, what: impl FnOnce(&mut Conn<'_>)) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if !entry.state.gate.is_live() {
            return;
        }
        what(&mut Conn {
            event_loop: &mut self.event_loop,
            home: &mut self.home,
            state: &mut entry.state,
            id,
        });
        self.after_callback(id, Action::Continue);
    }

    /// All connections, for a walk during which some may close.
    fn keys(&self) -> Vec<Key> {
        self.sessions.iter().map(|(key, _)| key).collect()
    }
}
