//! One event loop and the handler on it.
//!
//! The way of a received message: [`Worker::run`] takes its bytes from the loop, [`Worker::on_data`] puts them
//! behind what was left before and calls the handler; what the handler writes leaves with the loop's next turn.

use std::io;
use std::sync::Arc;

use kolk_engine::buffer::{Lease, LinkedBuffer};
use kolk_engine::driver::Socket;
use kolk_engine::slab::Table;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Event, EventLoop, Progress};

use super::builder::Settings;
use super::handler::{Action, CloseReason, Handler};
use super::running::Command;
use super::stats::{Published, Stats};
use super::{Conn, Input};

/// Payload of the timer that ends a graceful stop. It is the only timer of a server.
const STOP_TIMER: u64 = 0;

pub(super) struct Worker<H: Handler> {
    event_loop: EventLoop<Command>,
    handler: H,
    /// By slot, beside the loop's own state of the connection.
    sessions: Table<Entry<H::Session>>,
    /// In the order of the addresses.
    listeners: Vec<ConnId>,
    settings: Settings,
    stopping: bool,
    stats: Stats,
    published: Arc<Published>,
}

/// What the server keeps for one connection.
struct Entry<S> {
    session: S,
    /// Empty between callbacks, unless the handler left something.
    input: LinkedBuffer,
    /// Why it is closing; the first reason counts.
    reason: Option<Box<CloseReason>>,
    /// Index of the address that it came from.
    listener: u16,
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(
        event_loop: EventLoop<Command>,
        handler: H,
        settings: Settings,
        published: Arc<Published>,
    ) -> Self {
        Self {
            event_loop,
            handler,
            sessions: Table::new(),
            listeners: Vec::new(),
            settings,
            stopping: false,
            stats: Stats::default(),
            published,
        }
    }

    /// Takes over the loop's listeners and accepts on them.
    pub(super) fn listen(&mut self, sockets: Vec<Socket>) -> io::Result<()> {
        for socket in sockets {
            let listener = self.event_loop.attach(socket)?;
            self.event_loop.accept(listener)?;
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// Serves until the server has stopped and every socket is closed.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.stopping || self.event_loop.stats().sockets > 0 {
            self.event_loop.turn(None)?;
            loop {
                match self.event_loop.next_progress() {
                    Some(Progress::Received(conn, bytes)) => self.on_data(conn, bytes),
                    // Nobody asked for reports of sends.
                    Some(Progress::Sent(..)) => {}
                    None => match self.event_loop.next_event() {
                        Some(event) => self.dispatch(event),
                        None => break,
                    },
                }
            }
            self.published.publish(&self.stats);
        }
        Ok(())
    }

    #[inline(never)]
    fn dispatch(&mut self, event: Event<Command>) {
        match event {
            Event::Received(conn, result) => self.on_received(conn, result),
            Event::Accepted(listener, socket) => self.on_accepted(listener, socket),
            Event::SendFailed(conn, error) => {
                self.close(conn, CloseReason::from_error(error), Close::Discard);
            }
            Event::Closed(conn) => self.on_closed(conn),
            Event::AcceptFailed(..) => self.stats.accept_pauses += 1,
            Event::Message(Command::Stop) => self.stop(),
            Event::Message(Command::StopNow) | Event::Timer(_, STOP_TIMER) => self.stop_now(),
            // A server neither connects nor watches, and has no other timer.
            _ => {}
        }
    }

    fn on_accepted(&mut self, listener: ConnId, socket: Socket) {
        if self.settings.nodelay {
            // It fails only on a connection that is already gone, which the receive will report.
            let _ = socket.set_nodelay(true);
        }
        // All slots taken: the socket was closed, and the peer sees that.
        let Ok(id) = self.event_loop.attach(socket) else { return };
        let listener = self.listeners.iter().position(|&known| known == listener).unwrap_or(0);
        self.stats.accepted += 1;
        self.stats.connections += 1;
        let bytes_sent = &mut self.stats.bytes_sent;
        let mut conn = Conn { event_loop: &mut self.event_loop, id, listener, bytes_sent };
        let session = self.handler.on_open(&mut conn);
        let entry =
            Entry { session, input: LinkedBuffer::default(), reason: None, listener: listener as u16 };
        self.sessions.insert(id.key(), entry);
        if self.event_loop.receive(id).is_err() {
            self.close(id, CloseReason::Reset, Close::Discard);
        }
    }

    fn on_received(&mut self, conn: ConnId, result: io::Result<Lease>) {
        match result {
            Ok(bytes) if bytes.is_empty() => self.close(conn, CloseReason::PeerClosed, Close::Flush),
            Ok(bytes) => self.on_data(conn, bytes),
            Err(error) => self.close(conn, CloseReason::from_error(error), Close::Discard),
        }
    }

    #[inline]
    fn on_data(&mut self, id: ConnId, bytes: Lease) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        self.stats.messages += 1;
        self.stats.bytes_received += bytes.len() as u64;
        entry.input.push(bytes);
        let bytes_sent = &mut self.stats.bytes_sent;
        let listener = usize::from(entry.listener);
        let mut conn = Conn { event_loop: &mut self.event_loop, id, listener, bytes_sent };
        let action = self.handler.on_data(&mut entry.session, &mut conn, &mut Input::new(&mut entry.input));
        if !entry.input.is_empty() {
            entry.input.make_private();
            if entry.input.len() > self.settings.input_limit {
                return self.close(id, CloseReason::InputLimit, Close::Flush);
            }
        }
        if action == Action::Close {
            self.close(id, CloseReason::ByHandler, Close::Flush);
        }
    }

    fn on_closed(&mut self, id: ConnId) {
        // A listener has no session.
        let Some(entry) = self.sessions.remove(id.key()) else { return };
        self.stats.connections -= 1;
        let reason = entry.reason.map_or(CloseReason::ServerStopping, |reason| *reason);
        let bytes_sent = &mut self.stats.bytes_sent;
        let listener = usize::from(entry.listener);
        let mut conn = Conn { event_loop: &mut self.event_loop, id, listener, bytes_sent };
        self.handler.on_close(entry.session, &mut conn, reason);
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, how: Close) {
        if let Some(entry) = self.sessions.get_mut(conn.key()) {
            entry.reason.get_or_insert_with(|| Box::new(reason));
        }
        self.event_loop.close(conn, how);
    }

    /// No new connections; those that are there send what is queued and close.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let deadline = self.event_loop.now() + self.settings.stop_timeout;
        self.event_loop.set_timer(deadline, STOP_TIMER);
        self.close_all(Close::Flush);
    }

    fn stop_now(&mut self) {
        self.stopping = true;
        self.close_all(Close::Discard);
    }

    fn close_all(&mut self, how: Close) {
        let event_loop = &mut self.event_loop;
        for &listener in &self.listeners {
            event_loop.close(listener, Close::Discard);
        }
        let loop_number = event_loop.loop_number();
        for (key, entry) in self.sessions.iter_mut() {
            entry.reason.get_or_insert_with(|| Box::new(CloseReason::ServerStopping));
            event_loop.close(ConnId::new(loop_number, key), how);
        }
    }
}
