//! The watcher itself: its parts, its turn, and where each event goes.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use kolk_engine::clock::Timestamp;
use kolk_engine::driver::DriverKind;
use kolk_engine::slab::Table;
use kolk_engine::timer::TimerId;
use kolk_engine::token::{ConnId, Key};
use kolk_engine::{Config, Event, EventLoop, Progress};

use super::buffer::Buffer;
use super::builder::Builder;
use super::completion::{Completion, Completions, Detail, Ready};
use super::conn::{Conn, Due};
use super::input::buffer_of;
use super::pending::{Owner, Pending, Shelves, Slab, Stop};
use super::relay::Relay;
use super::request::Request;
use super::stats::{Counters, Stats};
use super::submitter::{Names, Submitter};
use super::timers::Alarm;
use crate::error::{Error, Result};

/// The proactor: it takes operations, and brings completions to the thread that waits.
///
/// See the [module](super) for what it promises. `C` is the program's own context, one value for each
/// operation, which comes back with the completion.
///
/// A watcher belongs to one thread, the first that calls [`wait`](Self::wait); until then it may be moved to
/// another. Its methods submit directly, without a queue or a lock; other threads have a
/// [`submitter`](Self::submitter).
pub struct Watcher<C = ()> {
    pub(super) event_loop: EventLoop<Request<C>>,
    pub(super) conns: Table<Conn>,
    /// Timers and intervals. Like relays they have names among those of the connections.
    pub(super) alarms: Table<Alarm<C>>,
    pub(super) relays: Table<Relay<C>>,
    pub(super) pending: Slab<Pending<C>>,
    /// Done, and not yet given to the program.
    pub(super) ready: Ready<C>,
    /// Connections with something to send, each at most once.
    pub(super) dirty: Vec<Key>,
    pub(super) shelves: Shelves,
    pub(super) names: Arc<Names>,
    /// Number of the last operation that was submitted on this thread.
    pub(super) last_number: u64,
    pub(super) nodelay: bool,
    pub(super) stats: Counters,
    /// One instant on two clocks: that of the program and that of the loop.
    clocks: (Instant, Timestamp),
    /// The thread that waits.
    thread: Option<ThreadId>,
}

impl<C> Watcher<C> {
    /// A watcher with the default settings.
    ///
    /// # Errors
    ///
    /// When neither io_uring nor epoll can be had: too few descriptors, or too little memory.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Describes a watcher: which kernel interface, which number among several watchers, and its sizes.
    pub fn builder() -> Builder<C> {
        Builder::new()
    }

    pub(super) fn open(config: &Config, nodelay: bool) -> Result<Self> {
        let failed = |error| Error::io("cannot start a watcher", error, "");
        let instant = Instant::now();
        let event_loop = EventLoop::new(config).map_err(failed)?;
        let clocks = (instant, event_loop.now());
        let numbers = Arc::clone(event_loop.slot_numbers());
        let names = Arc::new(Names::new(numbers, config.loop_number));
        Ok(Self {
            event_loop,
            conns: Table::new(),
            alarms: Table::new(),
            relays: Table::new(),
            pending: Slab::new(),
            ready: Ready::new(),
            dirty: Vec::new(),
            shelves: Shelves::default(),
            names,
            last_number: 0,
            nodelay,
            stats: Counters::default(),
            clocks,
            thread: None,
        })
    }

    /// A handle for other threads; any number of clones may submit while this one waits.
    pub fn submitter(&self) -> Submitter<C> {
        Submitter::new(self.event_loop.sender(), Arc::clone(&self.names))
    }

    /// Waits until something is done, and brings all that is, at most as much as `completions` has room for.
    ///
    /// The calling thread is the loop: it submits what was written, waits in the kernel and takes completions
    /// in, with nobody in between. `None` waits for ever, zero only looks. Answers how many completions there
    /// are to take; 0 when the timeout has passed. Those that the program left from the last time stay in
    /// front; when they fill all the room, nothing is waited for.
    ///
    /// # Errors
    ///
    /// A call from a second thread; and what makes going on impossible, when the kernel lost a completion.
    pub fn wait(&mut self, completions: &mut Completions<C>, timeout: Option<Duration>) -> Result<usize> {
        self.claim_thread()?;
        let room = completions.room();
        if room == 0 {
            return Ok(completions.len());
        }
        let timeout = if completions.is_empty() { timeout } else { Some(Duration::ZERO) };
        let deadline = timeout.map(|timeout| self.clock() + timeout);
        loop {
            self.turn(deadline, room)?;
            let is_over = deadline.is_some_and(|deadline| self.event_loop.now() >= deadline);
            if is_over || !self.ready.is_empty() {
                break;
            }
        }
        let count = self.ready.hand_over(completions);
        self.stats.completions += count as u64;
        self.stats.batches += u64::from(count > 0);
        Ok(completions.len())
    }

    /// One turn of the loop: waits only while nothing is ready.
    fn turn(&mut self, deadline: Option<Timestamp>, room: usize) -> Result<()> {
        self.names.take_orphans().into_iter().for_each(|conn| self.free(conn));
        self.flush_output();
        let deadline = if self.ready.is_empty() { deadline } else { Some(self.event_loop.now()) };
        self.event_loop.turn(deadline).map_err(cannot_go_on)?;
        while self.ready.len() < room {
            let progress = self.event_loop.next_progress();
            if let Some(next) = self.event_loop.upcoming() {
                self.conns.prefetch(next);
            }
            match progress {
                Some(Progress::Received(conn, bytes)) => self.on_bytes(conn, bytes),
                Some(Progress::Sent(conn, count)) => self.on_all_sent(conn, count),
                None => match self.event_loop.next_event() {
                    Some(event) => self.dispatch(event),
                    None => break,
                },
            }
        }
        Ok(())
    }

    #[inline]
    fn dispatch(&mut self, event: Event<Request<C>>) {
        match event {
            Event::Received(conn, result) => self.on_received(conn, result),
            Event::ReceivedInto(conn, buffer, result) => self.on_received_into(conn, buffer, result),
            Event::Sent(conn, count, result) => self.on_sent(conn, count, result),
            Event::Datagram(conn, result) => self.on_datagram(conn, result),
            Event::SentTo(conn, datagram, result) => self.on_sent_to(conn, datagram, result),
            Event::Message(request) => self.take_up_message(request),
            Event::Timer(timer, payload) => self.on_timer(timer, payload),
            Event::Accepted(listener, socket) => self.on_accepted(listener, socket),
            Event::AcceptFailed(..) => self.stats.accept_pauses += 1,
            Event::AcceptEnded(listener) => self.on_ended(listener),
            Event::Connected(conn, result) => self.on_connected(conn, result),
            Event::Ready(conn, result) => self.on_ready(conn, result),
            Event::Closed(conn) => self.on_closed(conn),
            // Every connection that sends is one whose sends are reported.
            Event::SendFailed(conn, error) => self.on_sent(conn, 0, Err(error)),
            // A watcher sends datagrams one by one, each with its own completion.
            Event::SentDatagrams(..) => {}
        }
    }

    /// An operation is done: tells the program, or the relay that it belongs to.
    pub(super) fn finish(
        &mut self,
        conn: ConnId,
        pending: Pending<C>,
        result: Result<usize>,
        count: u64,
        buffer: Buffer,
        detail: Detail,
    ) {
        let Pending { owner, task, number, timer, .. } = pending;
        if let Some(timer) = timer {
            self.event_loop.cancel_timer(timer);
        }
        let operation = task.operation();
        self.shelves.put(task);
        match owner {
            Owner::Program(context) => self.ready.push(|| Completion {
                operation,
                conn,
                context,
                result,
                count,
                buffer,
                number,
                detail,
            }),
            Owner::Relay(way) => {
                if let Some((_, relay)) = Due::unpack(number) {
                    self.relay_step(relay, usize::from(way), result, count, buffer);
                }
            }
            Owner::Nobody => {}
        }
    }

    /// An operation ends before it is done, with what has come of it.
    pub(super) fn finish_stopped(&mut self, conn: ConnId, mut pending: Pending<C>) {
        let result = Err(pending.stop.map_or_else(Error::cancelled, Stop::error));
        let (count, buffer) = (pending.task.count(), buffer_of(&mut pending.task));
        self.finish(conn, pending, result, count, buffer, Detail::None);
    }

    /// A deadline has passed, or a timer is due.
    fn on_timer(&mut self, timer: TimerId, payload: u64) {
        match Due::unpack(payload) {
            Some((Due::Timer, key)) => self.on_alarm(key),
            Some((Due::Relay, key)) => self.stop_relay(key, Stop::TimedOut),
            Some((due, key)) => self.on_deadline(due, key, timer),
            None => debug_assert!(false, "a timer of nobody"),
        }
    }

    // ---- what is so -----------------------------------------------------------------------------

    /// The time now. Virtual time passes in turns only, real time always.
    pub(super) fn clock(&self) -> Timestamp {
        if self.event_loop.driver_kind() == DriverKind::Sim {
            return self.event_loop.now();
        }
        self.clocks.1 + self.clocks.0.elapsed()
    }

    /// Compares the two clocks: the turn reads the loop's after this reads the program's, so that a deadline
    /// may come late by so little, but never early.
    fn set_clocks(&mut self) -> Result<()> {
        let instant = Instant::now();
        let at_once = self.event_loop.now();
        self.event_loop.turn(Some(at_once)).map_err(cannot_go_on)?;
        self.clocks = (instant, self.event_loop.now());
        Ok(())
    }

    pub(super) fn conn_id(&self, key: Key) -> ConnId {
        ConnId::new(self.event_loop.loop_number(), key)
    }

    /// Sockets that are open: connections, listeners and watched descriptors.
    pub fn conn_count(&self) -> usize {
        self.conns.len()
    }

    /// Whether a read of the connection is pending.
    pub fn is_reading(&self, conn: ConnId) -> bool {
        self.open_conn(conn).is_some_and(|conn| !conn.input.is_empty())
    }

    /// Whether a write of the connection is pending: its peer has not taken all that was written.
    pub fn is_writing(&self, conn: ConnId) -> bool {
        self.open_conn(conn).is_some_and(|conn| !conn.output.is_empty())
    }

    /// Whether a name is that of a connection which is open and was not freed.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.open_conn(conn).is_some()
    }

    /// The connection of a name, if it was not freed.
    pub(super) fn open_conn(&self, id: ConnId) -> Option<&Conn> {
        let own = id.event_loop() == self.event_loop.loop_number();
        self.conns.get(id.key()).filter(|conn| own && !conn.flags.freed)
    }

    /// The kernel interface that the watcher stands on.
    pub fn driver(&self) -> DriverKind {
        self.event_loop.driver_kind()
    }

    /// Why it is that one, in a sentence for a log.
    pub fn driver_reason(&self) -> &str {
        self.event_loop.driver_reason()
    }

    /// Counters since the watcher was made.
    pub fn stats(&self) -> Stats {
        self.stats.with(self.conns.len(), &self.event_loop.stats())
    }

    /// Keeps the calling thread, which is to be the one that waits, on one CPU.
    ///
    /// # Errors
    ///
    /// A CPU that does not exist, or that this process may not use.
    pub fn affinity(&self, cpu: usize) -> Result<()> {
        let failed = |error| Error::io(format!("cannot keep this thread on CPU {cpu}"), error, "");
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        }
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).map_err(|error| failed(error.into()))
    }

    fn claim_thread(&mut self) -> Result<()> {
        let current = thread::current().id();
        if self.thread.is_none() {
            self.thread = Some(current);
            return self.set_clocks();
        }
        if self.thread == Some(current) {
            return Ok(());
        }
        let message =
            "a watcher belongs to the thread that waited first: submit from others, wait on that one";
        Err(Error::invalid(message))
    }
}

fn cannot_go_on(error: std::io::Error) -> Error {
    Error::io("the watcher cannot go on", error, "")
}

impl<C> fmt::Debug for Watcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("driver", &self.event_loop.driver_kind())
            .field("number", &self.event_loop.loop_number())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
