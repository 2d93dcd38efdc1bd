//! A loop, as a handler sees it for one callback.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kolk_engine::Core;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::{ConnId, Key};

use super::admission::Admission;
use super::builder::Settings;
use super::command::Audience;
use super::connect::Connect;
use super::datagrams::DatagramState;
use super::groups::{Group, Groups};
use super::notices::Notices;
use super::offload::Office;
use super::stats::Stats;
use super::timers::Tasks;

/// What a loop of a server keeps beside its connections, whatever their sessions are.
pub(super) struct LoopState {
    pub(super) settings: Arc<Settings>,
    pub(super) admission: Arc<Admission>,
    pub(super) stats: Stats,
    pub(super) groups: Groups,
    /// See [`OutputLimits::careless`](super::output::OutputLimits).
    pub(super) careless: u64,
    /// Connections that were written to and whose handler wants to be asked before it leaves.
    pub(super) hooked: Vec<ConnId>,
    /// What callbacks asked for that needs the handler, or concerns other connections than their own: done once
    /// the turn's events are.
    pub(super) later: VecDeque<Later>,
    /// A callback asked its own connection for something, see [`ConnState::asked`](super::state::ConnState).
    pub(super) attention: bool,
    /// The time of this turn in milliseconds, for what is written down at each message.
    pub(super) now: u32,
    pub(super) stopping: bool,
    pub(super) datagrams: Vec<DatagramState>,
    pub(super) tasks: Tasks,
    pub(super) office: Office,
}

impl LoopState {
    pub(super) fn new(settings: Arc<Settings>, admission: Arc<Admission>, office: Office) -> Self {
        Self {
            careless: settings.output.careless(),
            settings,
            admission,
            stats: Stats::default(),
            groups: Groups::default(),
            hooked: Vec::new(),
            later: VecDeque::new(),
            attention: false,
            now: 0,
            stopping: false,
            datagrams: Vec::new(),
            tasks: Tasks::default(),
            office,
        }
    }
}

/// What waits for the end of the turn's events.
#[derive(Debug)]
pub(super) enum Later {
    Write(Key, Chunk),
    Close(Key),
    CloseNow(Key),
    PauseReading(Key),
    ResumeReading(Key),
    /// Reading was resumed: what was withheld meanwhile is to be delivered.
    Deliver(Key),
    Broadcast(Audience, Bytes),
    Connect(Key, Box<Connect>),
    ShutdownWrite(Key),
    /// The connection has gone: those who wait for its writes hear of it.
    Fail(Box<Notices>),
    /// The drain time-out of a stop is over.
    FlushAll,
    /// Stop the whole server.
    Shutdown,
}

/// One event loop of a server, for the time of one callback: what does not concern the callback's own connection.
///
/// What is asked for here takes effect on this loop, in the order in which it was asked, once the events of
/// the turn are handled. A name of a connection that is gone, or lives on another loop, is harmless: nothing
/// happens. To reach other loops, keep a clone of the [`ServerHandle`](super::ServerHandle) that
/// [`on_start`](super::Handler::on_start) brings.
pub struct LoopContext<'a> {
    pub(super) event_loop: &'a mut Core,
    pub(super) state: &'a mut LoopState,
}

impl LoopContext<'_> {
    /// The number of the loop, from zero: the same as [`ConnId::event_loop`] of its connections.
    pub fn number(&self) -> u16 {
        self.event_loop.loop_number()
    }

    /// Connections that are open on this loop.
    pub fn connections(&self) -> u64 {
        self.state.stats.connections
    }

    /// The names of the connections of this loop. Visits every slot: not for the way of a message.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.event_loop.connections()
    }

    /// Counters of this loop.
    pub fn stats(&self) -> &Stats {
        &self.state.stats
    }

    /// Whether the server is stopping.
    pub fn is_stopping(&self) -> bool {
        self.state.stopping
    }

    /// Writes to another connection of this loop.
    pub fn write(&mut self, conn: ConnId, chunk: impl Into<Chunk>) {
        self.later(conn, |key| Later::Write(key, chunk.into()));
    }

    /// As [`Conn::queued`](super::Conn::queued), of another connection of this loop; 0 if there is none. What was
    /// written with [`write`](Self::write) in this callback is not in it yet.
    pub fn queued(&self, conn: ConnId) -> u64 {
        if conn.event_loop() == self.number() { self.event_loop.queued(conn) } else { 0 }
    }

    /// As [`Conn::shutdown_write`](super::Conn::shutdown_write), of another connection of this loop.
    pub fn shutdown_write(&mut self, conn: ConnId) {
        self.later(conn, Later::ShutdownWrite);
    }

    /// Closes another connection of this loop, once what is queued is sent.
    pub fn close(&mut self, conn: ConnId) {
        self.later(conn, Later::Close);
    }

    /// Resets another connection of this loop; what is queued is discarded.
    pub fn close_now(&mut self, conn: ConnId) {
        self.later(conn, Later::CloseNow);
    }

    /// As [`Conn::pause_reading`](super::Conn::pause_reading), of another connection of this loop.
    pub fn pause_reading(&mut self, conn: ConnId) {
        self.later(conn, Later::PauseReading);
    }

    /// As [`Conn::resume_reading`](super::Conn::resume_reading), of another connection of this loop.
    pub fn resume_reading(&mut self, conn: ConnId) {
        self.later(conn, Later::ResumeReading);
    }

    /// Writes the same bytes to every connection of this loop.
    pub fn broadcast(&mut self, bytes: impl Into<Bytes>) {
        self.state.later.push_back(Later::Broadcast(Audience::All, bytes.into()));
    }

    /// Writes the same bytes to the members of a group that live on this loop.
    pub fn broadcast_to(&mut self, group: impl Into<Group>, bytes: impl Into<Bytes>) {
        self.state.later.push_back(Later::Broadcast(Audience::Group(group.into()), bytes.into()));
    }

    /// How many members of a group live on this loop.
    pub fn group_len(&self, group: &Group) -> usize {
        self.state.groups.len(group)
    }

    /// Stops the whole server gracefully.
    pub fn stop(&mut self) {
        self.state.later.push_back(Later::Shutdown);
    }

    fn later(&mut self, conn: ConnId, what: impl FnOnce(Key) -> Later) {
        if conn.event_loop() == self.number() {
            self.state.later.push_back(what(conn.key()));
        }
    }
}

impl std::fmt::Debug for LoopContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopContext").field("number", &self.number()).finish_non_exhaustive()
    }
}
