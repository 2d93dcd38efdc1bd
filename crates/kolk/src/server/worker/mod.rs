//! One event loop and the handler on it.
//!
//! The way of a received message: [`Worker::serve`] takes its bytes from the loop, [`Worker::on_bytes`] puts them
//! behind what was left before and calls the handler; what the handler writes leaves with the loop's next turn.
//!
//! | file | what happens to a connection |
//! |---|---|
//! | `opening.rs` | it is accepted, or refused |
//! | `connecting.rs` | it is made, or brought |
//! | `receiving.rs` | bytes arrive, or the end of the stream; reading pauses and goes on |
//! | `sending.rs` | what was written has left |
//! | `asking.rs` | other threads and other connections ask something of it |
//! | `broadcasting.rs` | it gets what many get |
//! | `closing.rs` | it closes, or leaves the server |
//! | `timing.rs` | its timers are due, or it is idle |
//! | `datagrams.rs` | none: datagrams arrive and leave |
//! | `stopping.rs` | the server stops |

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the path of a method of `Conn` is not general enough in its lifetime"
)]

mod asking;
mod broadcasting;
mod closing;
mod connecting;
mod datagrams;
mod opening;
mod receiving;
mod sending;
mod stopping;
mod timing;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kolk_engine::buffer::LinkedBuffer;
use kolk_engine::slab::Table;
use kolk_engine::token::{ConnId, Key};
use kolk_engine::{Event, EventLoop, Progress};

use super::Conn;
use super::builder::OnPanic;
use super::command::Command;
use super::context::{LoopContext, LoopState};
use super::handle::ServerHandle;
use super::handler::{Action, Handler};
use super::limits::LATER_PER_TURN;
use super::listening::Listening;
use super::state::ConnState;
use super::stats::Published;
use crate::listener::Bound;
use broadcasting::Broadcast;

pub(super) struct Worker<H: Handler<M>, M> {
    event_loop: EventLoop<Command<H::Session, M>>,
    handler: H,
    /// By slot, beside the loop's own state of the connection.
    sessions: Table<Entry<H::Session>>,
    home: LoopState,
    listening: Vec<Listening>,
    broadcast: Broadcast,
    handle: ServerHandle<H, M>,
    /// Whose callback runs; a panic is then that of the program.
    running: Running,
    published: Arc<Published>,
}

/// What the server keeps for one connection.
struct Entry<S> {
    session: S,
    /// What the handler left, never empty; or has yet to see.
    input: Option<Box<LinkedBuffer>>,
    state: ConnState,
}

/// What a callback was called for.
#[derive(Clone, Copy, Debug)]
enum Running {
    /// No callback runs.
    Nothing,
    /// A connection's.
    Conn(ConnId),
    /// `on_open`: the connection has no session yet.
    Opening(ConnId),
    /// `on_detach`: the connection has no socket any more.
    Leaving(ConnId),
    /// The loop's, or the last of a connection, which is gone already.
    Loop,
}

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    pub(super) fn new(
        event_loop: EventLoop<Command<H::Session, M>>,
        handler: H,
        home: LoopState,
        handle: ServerHandle<H, M>,
        published: Arc<Published>,
    ) -> Self {
        Self {
            event_loop,
            handler,
            sessions: Table::new(),
            home,
            listening: Vec::new(),
            broadcast: Broadcast::default(),
            handle,
            running: Running::Nothing,
            published,
        }
    }

    /// Tells the handler, takes over the loop's listeners, and accepts.
    pub(super) fn begin(mut self, sockets: Vec<Bound>) -> io::Result<Self> {
        self.note_time();
        let (datagrams, listeners) = sockets.into_iter().partition::<Vec<_>, _>(|bound| bound.is_datagram);
        datagrams.into_iter().try_for_each(|bound| self.attach_datagrams(bound))?;
        let mut context = LoopContext { event_loop: &mut self.event_loop, state: &mut self.home };
        self.handler.on_start(&self.handle, &mut context);
        self.tick();
        self.receive_datagrams()?;
        self.flush_datagrams();
        for bound in listeners {
            self.listening.push(Listening::begin(&mut self.event_loop, bound)?);
        }
        Ok(self)
    }

    /// Serves until the server is stopped and every socket is closed.
    ///
    /// A panic in a callback ends that callback, and its connection; all that the loop keeps is whole, since a
    /// callback is lent only what is its own. A panic of ours goes on.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut panicked = Running::Nothing;
        loop {
            // What follows a panic may call back, and panic in turn.
            let serve = || {
                self.on_panic(std::mem::replace(&mut panicked, Running::Nothing));
                self.serve()
            };
            let payload = match catch_unwind(AssertUnwindSafe(serve)) {
                Ok(ended) => return ended,
                Err(payload) => payload,
            };
            panicked = std::mem::replace(&mut self.running, Running::Nothing);
            match panicked {
                Running::Nothing => std::panic::resume_unwind(payload),
                _ if self.home.settings.on_panic == OnPanic::Abort => std::process::abort(),
                _ => self.home.stats.panics += 1,
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        while !self.home.stopping || self.event_loop.counters().sockets > 0 {
            if self.home.stopping {
                self.close_idle_datagrams();
            }
            self.call_hooks();
            // What a turn left undone comes first in the next, which does not wait.
            let is_left = !self.home.later.is_empty() || self.broadcast.is_under_way();
            let deadline = is_left.then(|| self.event_loop.now());
            self.event_loop.turn(deadline)?;
            self.note_time();
            self.broadcast.begin_turn();
            loop {
                let progress = self.event_loop.next_progress();
                if let Some(next) = self.event_loop.upcoming() {
                    self.sessions.prefetch(next);
                }
                match progress {
                    Some(Progress::Received(conn, bytes)) => self.on_bytes(conn, bytes),
                    Some(Progress::Sent(conn, count)) => self.on_sent(conn, count),
                    None => match self.event_loop.next_event() {
                        Some(event) => self.dispatch(event),
                        None => break,
                    },
                }
            }
            self.do_later();
            self.flush_datagrams();
            self.publish();
        }
        Ok(())
    }

    /// The end of a turn. The clock is read once more: only so it is known how long the turn took.
    fn publish(&mut self) {
        let counters = self.event_loop.counters();
        let stats = &mut self.home.stats;
        stats.longest_turn = stats.longest_turn.max(self.event_loop.read_clock() - self.event_loop.now());
        stats.turns = counters.turns;
        stats.timer_operations = counters.timer_operations;
        stats.buffers_exhausted = counters.driver.buffers_exhausted;
        stats.overflows = counters.driver.overflows;
        stats.early_submits = counters.driver.early_submits;
        stats.parked = counters.driver.parked;
        stats.datagram_calls = counters.driver.datagram_receives + counters.driver.datagram_sends;
        self.published.publish(stats);
    }

    #[inline(never)]
    fn dispatch(&mut self, event: Event<Command<H::Session, M>>) {
        match event {
            Event::Message(command) => self.obey(command),
            Event::Received(conn, result) => self.on_received(conn, result),
            Event::Sent(conn, count, Ok(())) => self.on_sent(conn, count),
            Event::Sent(conn, _, Err(error)) | Event::SendFailed(conn, error) => {
                self.on_send_failed(conn, error);
            }
            Event::Accepted(listener, socket) => self.on_accepted(listener, socket),
            Event::AcceptFailed(..) => self.home.stats.accept_pauses += 1,
            Event::Closed(conn) => self.on_closed(conn),
            Event::Timer(timer, payload) => self.on_timer(timer, payload),
            Event::Connected(conn, result) => self.on_connected(conn, result),
            Event::Datagram(socket, result) => self.on_datagram(socket, result),
            Event::SentDatagrams(socket, queue, _) => self.on_datagrams_sent(socket, queue),
            // A server watches nothing.
            _ => {}
        }
    }

    /// What callbacks asked for; what this leads to is asked for in turn, so it is bounded.
    fn do_later(&mut self) {
        if self.broadcast.is_under_way() {
            self.go_on_broadcasting();
        }
        for _ in 0..LATER_PER_TURN {
            if self.broadcast.is_under_way() {
                return;
            }
            let Some(later) = self.home.later.pop_front() else { return };
            self.do_one(later);
        }
    }

    fn note_time(&mut self) {
        // 49 days fit, and only differences count.
        self.home.now = (self.event_loop.now().as_nanos() / 1_000_000) as u32;
    }

    /// Calls the handler for a connection, and does what it asks for. No effect on one that is closing.
    fn call(&mut self, id: ConnId, callback: impl FnOnce(&mut H, &mut H::Session, &mut Conn<'_>) -> Action) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if !entry.state.gate.is_live() {
            return;
        }
        let mut conn =
            Conn { event_loop: &mut self.event_loop, home: &mut self.home, state: &mut entry.state, id };
        self.running = Running::Conn(id);
        let action = callback(&mut self.handler, &mut entry.session, &mut conn);
        self.running = Running::Nothing;
        self.after_callback(id, action);
    }

    /// A look at what a callback answered and asked for, on the way of each message.
    #[inline(always)]
    fn after_callback(&mut self, id: ConnId, action: Action) {
        if action != Action::Continue || self.home.attention {
            self.settle(id, action);
        }
    }

    fn conn_id(&self, key: Key) -> ConnId {
        ConnId::new(self.event_loop.loop_number(), key)
    }
}
