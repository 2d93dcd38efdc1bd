//! A server, as any thread reaches it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use bytes::Bytes;
use kolk_engine::buffer::Chunk;
use kolk_engine::driver::Waker;
use kolk_engine::mailbox::{SendError, Sender};
use kolk_engine::slab::SlotNumbers;
use kolk_engine::token::{ConnId, Key};

use super::acceptor::{AcceptorCommand, AcceptorEnd};
use super::command::{Audience, Command, EachTask};
use super::conn::Conn;
use super::groups::Group;
use super::handler::Handler;
use super::limits::GIVE_BACK_PAUSE;
use super::offload::GiveBack;
use super::stats::{Published, Stats};
use crate::error::{Error, Result};

/// Reaches the connections of a running server from any thread, by their names. Clones share it.
///
/// A handle comes from [`RunningServer::handle`](super::RunningServer::handle), or to the handlers by
/// [`Handler::on_start`]. It does not keep the server alive.
///
/// What one thread asks of one connection, or of connections on the same loop, takes effect in the order in which
/// it was asked; what several threads ask is interleaved, each request whole. The loop does it in its next
/// turn, at most 1024 requests in each, and is woken once however many there are.
///
/// A name that is stale is answered with an error for which
/// [`is_not_connected`](Error::is_not_connected) is true. A connection may close while a request is under way;
/// then the request is dropped, and never reaches the connection that has the slot afterwards. When it
/// matters whether bytes were sent, use [`write_then`](Self::write_then).
///
/// # Examples
///
/// A clock that a second thread keeps:
///
/// ```
/// use kolk::server::{Action, Conn, Handler, Input, Server};
///
/// struct Clock;
///
/// impl Handler for Clock {
///     type Session = ();
///     fn on_open(&mut self, _: &mut Conn<'_>) {}
///     fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
///         input.take();
///         Action::Continue
///     }
/// }
///
/// let server = Server::builder().listen("tcp://127.0.0.1:0").event_loops(1).start(|_loop| Clock)?;
/// let handle = server.handle().clone();
/// let beats = std::thread::spawn(move || (0..3).try_for_each(|beat| handle.broadcast(format!("beat {beat}\n"))));
/// beats.join().expect("no panic")?;
/// # Ok::<(), kolk::Error>(())
/// ```
pub struct ServerHandle<H: Handler<M>, M = ()> {
    loops: Arc<[LoopEnd<H::Session, M>]>,
    pub(super) common: Arc<Common>,
}

/// What all handles of a server share beside its loops.
pub(super) struct Common {
    pub(super) acceptors: Vec<AcceptorEnd>,
    /// The next loop of those that take what the program brings.
    pub(super) turn: AtomicUsize,
    /// A successor has the listeners, and with them the paths of Unix sockets.
    pub(super) handed_over: AtomicBool,
}

/// One loop, as other threads see it.
pub(super) struct LoopEnd<S, M> {
    pub(super) mailbox: Sender<Command<S, M>, Waker>,
    pub(super) numbers: Arc<SlotNumbers>,
    pub(super) published: Arc<Published>,
}

/// One connection.
impl<H: Handler<M>, M> ServerHandle<H, M> {
    /// Writes to a connection, as [`Conn::write`] does.
    ///
    /// # Errors
    ///
    /// [`is_not_connected`](Error::is_not_connected): the name is stale.
    /// [`is_server_stopped`](Error::is_server_stopped): the loop has ended.
    /// [`is_busy`](Error::is_busy): the loop does not keep up, and 1 048 576 requests wait for it. This holds for
    /// all that a handle is asked.
    pub fn write(&self, conn: ConnId, chunk: impl Into<Chunk>) -> Result<()> {
        self.send(conn, |key| Command::Write(key, chunk.into()))
    }

    /// Writes to a connection, and calls `notice` on its loop once the kernel has taken all of the bytes, or it
    /// is known that it never will: because the connection has closed, or its output limit dropped them.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); `notice` is not called then.
    pub fn write_then(
        &self,
        conn: ConnId,
        chunk: impl Into<Chunk>,
        notice: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.send(conn, |key| Command::WriteThen(key, chunk.into(), Box::new(notice)))
    }

    /// Closes a connection once what is queued is sent, as [`Action::Close`](super::Action::Close) does.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn close(&self, conn: ConnId) -> Result<()> {
        self.send(conn, Command::Close)
    }

    /// Resets a connection, as [`Action::CloseNow`](super::Action::CloseNow) does.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn close_now(&self, conn: ConnId) -> Result<()> {
        self.send(conn, Command::CloseNow)
    }

    /// Sends a message to a connection: its handler's [`on_message`](Handler::on_message) has it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn message(&self, conn: ConnId, message: M) -> Result<()> {
        self.send(conn, |key| Command::Message(key, message))
    }

    /// Runs a closure on a connection's loop, with its session.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn run(
        &self,
        conn: ConnId,
        task: impl FnOnce(&mut H::Session, &mut Conn<'_>) + Send + 'static,
    ) -> Result<()> {
        self.send(conn, |key| Command::Run(key, Box::new(task)))
    }

    /// Whether a name is that of a connection which is open, or is just closing.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.end_of(conn).is_ok()
    }

    pub(super) fn send(
        &self,
        conn: ConnId,
        command: impl FnOnce(Key) -> Command<H::Session, M>,
    ) -> Result<()> {
        self.end_of(conn)?.send(command(conn.key()))
    }

    fn end_of(&self, conn: ConnId) -> Result<&LoopEnd<H::Session, M>> {
        let end = self.loops.get(usize::from(conn.event_loop()));
        end.filter(|end| end.numbers.is_in_use(conn.key())).ok_or_else(Error::not_connected)
    }
}

/// Many connections, and the server itself.
impl<H: Handler<M>, M> ServerHandle<H, M> {
    pub(super) fn new(loops: Vec<LoopEnd<H::Session, M>>, acceptors: Vec<AcceptorEnd>) -> Self {
        let common = Common { acceptors, turn: AtomicUsize::new(0), handed_over: AtomicBool::new(false) };
        Self { loops: loops.into(), common: Arc::new(common) }
    }

    pub(super) fn loop_end(&self, number: usize) -> &LoopEnd<H::Session, M> {
        &self.loops[number]
    }

    pub(super) fn existing_loop(&self, number: u16) -> Result<&LoopEnd<H::Session, M>> {
        let count = self.loops.len();
        let no_such_loop = || Error::invalid(format!("there is no event loop {number}: there are {count}"));
        self.loops.get(usize::from(number)).ok_or_else(no_such_loop)
    }

    /// Connections of each loop, with those on their way to it.
    pub(super) fn note_loads(&self, loads: &mut [u64]) {
        loads.iter_mut().zip(&*self.loops).for_each(|(load, end)| *load = end.published.load.count());
    }

    /// How results of jobs come back to one of the loops.
    pub(super) fn give_back(&self, event_loop: usize) -> GiveBack
    where
        H: 'static,
        M: Send + 'static,
    {
        let loops = Arc::clone(&self.loops);
        Arc::new(move |offloaded| {
            let mut command = Command::Offloaded(offloaded);
            while let Err(SendError::Full(refused)) = loops[event_loop].mailbox.send(command) {
                command = refused;
                std::thread::sleep(GIVE_BACK_PAUSE);
            }
        })
    }

    /// Writes the same bytes to every connection. They are shared, not copied, from 513 bytes on, and each loop is
    /// woken once.
    ///
    /// A loop writes to 256 of them in a turn, and goes on in the next: whoever is there when it begins gets it, unless
    /// it has closed, or left the group, by the time it would be its turn. What is asked of the loop later waits
    /// until then.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), if a loop cannot be reached; the others were.
    pub fn broadcast(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.tell_audience(&Audience::All, &bytes.into())
    }

    /// Writes the same bytes to the members of a group. One that nobody has joined is empty, and no error.
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_to(&self, group: impl Into<Group>, bytes: impl Into<Bytes>) -> Result<()> {
        self.tell_audience(&Audience::Group(group.into()), &bytes.into())
    }

    /// Writes the same bytes to every connection of one loop.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); [`is_invalid_input`](Error::is_invalid_input) for a loop that does not exist.
    pub fn broadcast_on(&self, event_loop: u16, bytes: impl Into<Bytes>) -> Result<()> {
        self.existing_loop(event_loop)?.send(Command::Broadcast(Audience::All, bytes.into()))
    }

    fn tell_audience(&self, audience: &Audience, bytes: &Bytes) -> Result<()> {
        let tell = |end: &LoopEnd<_, _>| end.send(Command::Broadcast(audience.clone(), bytes.clone()));
        self.loops.iter().map(tell).fold(Ok(()), Result::and)
    }

    /// Runs a closure for each connection, on its own loop.
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn for_each(
        &self,
        task: impl Fn(&mut H::Session, &mut Conn<'_>) + Send + Sync + 'static,
    ) -> Result<()> {
        let task: Arc<EachTask<H::Session>> = Arc::new(task);
        let tell = |end: &LoopEnd<_, _>| end.send(Command::Each(Arc::clone(&task)));
        self.loops.iter().map(tell).fold(Ok(()), Result::and)
    }

    /// Number of event loops.
    pub fn event_loops(&self) -> usize {
        self.loops.len()
    }

    /// Counters since the start, summed over the loops.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.loops.iter().for_each(|end| end.add_to(&mut sum));
        self.common.acceptors.iter().for_each(|end| end.published.add_to(&mut sum));
        sum
    }

    /// Counters since the start, of each loop.
    pub fn loop_stats(&self) -> Vec<Stats> {
        let of = |end: &LoopEnd<_, _>| {
            let mut stats = Stats::default();
            end.add_to(&mut stats);
            stats
        };
        self.loops.iter().map(of).collect()
    }

    /// Stops the server gracefully: no new connections; those that are there go on for
    /// [`Builder::drain_timeout`](super::Builder::drain_timeout), then send what is queued and close. Returns at
    /// once.
    pub fn stop(&self) {
        if self.common.acceptors.is_empty() {
            return self.stop_loops();
        }
        // The last of them stops the loops, when these have got everybody who was accepted.
        self.stop_acceptors();
    }

    pub(super) fn stop_loops(&self) {
        self.tell_all(|| Command::Stop);
    }

    fn stop_acceptors(&self) {
        for end in &self.common.acceptors {
            // One that has ended needs no telling.
            let _ = end.mailbox.send(AcceptorCommand::Stop);
        }
    }

    /// Stops the server without waiting for anybody: what is queued is discarded. Returns at once.
    pub fn stop_now(&self) {
        self.stop_acceptors();
        self.tell_all(|| Command::StopNow);
    }

    fn tell_all(&self, command: impl Fn() -> Command<H::Session, M>) {
        for end in &*self.loops {
            // A loop that has ended needs no telling.
            let _ = end.mailbox.send(command());
        }
    }
}

impl<S, M> LoopEnd<S, M> {
    fn add_to(&self, sum: &mut Stats) {
        let mailbox = self.mailbox.stats();
        sum.requests += mailbox.sent;
        sum.wake_ups += mailbox.wake_ups;
        self.published.add_to(sum);
    }

    pub(super) fn send(&self, command: Command<S, M>) -> Result<()> {
        self.mailbox.send(command).map_err(|error| match error {
            SendError::Closed(_) => Error::server_stopped(),
            SendError::Full(_) => Error::loop_is_busy(),
        })
    }
}

impl<H: Handler<M>, M> Clone for ServerHandle<H, M> {
    fn clone(&self) -> Self {
        Self { loops: Arc::clone(&self.loops), common: Arc::clone(&self.common) }
    }
}

impl<H: Handler<M>, M> fmt::Debug for ServerHandle<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").field("event_loops", &self.loops.len()).finish_non_exhaustive()
    }
}
