//! Slow work, away from the loops.
//!
//! ```text
//!  loop's thread                       one of the pool's threads
//!  ─────────────                       ─────────────────────────
//!  conn.offload(job, then)  ── queue ──►  job() ─┐
//!        │      (bounded: else "busy")           │
//!        ▼                                       │
//!  then(session, conn, result) ◄── mailbox ──────┘
//! ```
//!
//! Jobs of one connection may run side by side, and end in any order; their results wait for each other, so
//! `then` is called in the order of the calls of `offload`.

use std::any::{Any, TypeId, type_name};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use kolk_engine::token::Key;

use super::command::Task;
use super::conn::Conn;
use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// What came of a job, on its way back to its connection.
pub(super) struct Offloaded {
    pub(super) key: Key,
    /// Which of the connection's jobs it was.
    pub(super) number: u64,
    /// A [`Task`] of the connection's session; `None` if the job panicked.
    pub(super) then: Option<Box<dyn Any + Send>>,
}

/// Brings results to the loop of their connections; they are lost only with the loop itself.
pub(super) type GiveBack = Arc<dyn Fn(Offloaded) + Send + Sync>;

/// What `Conn::offload` needs to know of the loop.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) pool: Arc<Pool>,
    pub(super) give_back: GiveBack,
    /// The session that connections have.
    pub(super) session: (TypeId, &'static str),
}

/// The threads that do the work. They start with the first job.
#[derive(Debug)]
pub(super) struct Pool {
    threads: usize,
    queue: usize,
    running: OnceLock<RunningPool>,
}

#[derive(Debug)]
struct RunningPool {
    /// `None` once the pool ends.
    jobs: Option<Sender<Job>>,
    /// To throw away what nobody has begun.
    waiting: Receiver<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(threads: usize, queue: usize) -> Self {
        Self { threads: threads.max(1), queue, running: OnceLock::new() }
    }

    /// Jobs of one connection that may be under way.
    fn room(&self) -> u64 {
        (self.queue + self.threads) as u64
    }

    fn submit(&self, job: Job) -> Result<()> {
        let running = self.running.get_or_init(|| RunningPool::start(self.threads, self.queue));
        let Some(jobs) = &running.jobs else { return Err(Error::server_stopped()) };
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::pool_is_full(self.threads, self.queue),
            TrySendError::Disconnected(_) => Error::server_stopped(),
        })
    }
}

impl RunningPool {
    fn start(threads: usize, queue: usize) -> Self {
        let (jobs, waiting) = bounded::<Job>(queue);
        let start = |number: usize| {
            let waiting = waiting.clone();
            let work = move || waiting.iter().for_each(|job| job());
            thread::Builder::new().name(format!("kolk-pool-{number}")).spawn(work).ok()
        };
        // Fewer threads than asked for are better than none: the queue says when they do not keep up.
        let threads: Vec<_> = (0..threads).map_while(start).collect();
        Self { jobs: (!threads.is_empty()).then_some(jobs), waiting, threads }
    }
}

/// Waits for the jobs that run; those that wait are dropped.
impl Drop for RunningPool {
    fn drop(&mut self) {
        self.jobs = None;
        self.waiting.try_iter().for_each(drop);
        for thread in self.threads.drain(..) {
            // A job's panic was caught.
            let _ = thread.join();
        }
    }
}

/// The jobs of one connection.
#[derive(Default)]
pub(super) struct Jobs {
    next: u64,
    /// The one whose result is handed over next.
    due: u64,
    /// Results of later ones.
    early: BTreeMap<u64, Option<Box<dyn Any + Send>>>,
}

impl Jobs {
    /// A job has ended.
    pub(super) fn put(&mut self, number: u64, then: Option<Box<dyn Any + Send>>) {
        self.early.insert(number, then);
    }

    /// The next result in order, if it is there.
    pub(super) fn take(&mut self) -> Option<Option<Box<dyn Any + Send>>> {
        let then = self.early.remove(&self.due)?;
        self.due += 1;
        Some(then)
    }
}

/// Slow work.
impl Conn<'_> {
    /// Runs `job` on a thread of the server's pool, and `then` with its result on this connection's loop: in the order
    /// of the calls for one connection, and not at all if the connection has closed by then. `S` is the handler's
    /// [`Session`](super::Handler::Session).
    ///
    /// The loop goes on meanwhile, also with this connection: [`pause_reading`](Self::pause_reading) if its next
    /// request is to wait. A job that panics closes the connection, as a callback does.
    ///
    /// # Errors
    ///
    /// [`is_busy`](Error::is_busy) when as many jobs wait as the pool has room for
    /// ([`Builder::offload_pool`](super::Builder::offload_pool)); answer the peer so, or close.
    /// [`is_invalid_input`](Error::is_invalid_input) when `S` is not the session of this server's connections. Nothing
    /// is run then.
    ///
    /// # Examples
    ///
    /// ```
    /// use kolk::server::{Action, Conn, Input};
    ///
    /// fn on_data(answered: &mut u64, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
    ///     let request = input.take();
    ///     let slow = move || request.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    ///     let offloaded = conn.offload(slow, |answered: &mut u64, conn, sum| {
    ///         *answered += 1;
    ///         conn.write(format!("{sum}\n").into_bytes());
    ///     });
    ///     if offloaded.is_err() {
    ///         conn.write("busy\n");
    ///     }
    ///     Action::Continue
    /// }
    /// ```
    pub fn offload<S: 'static, T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut S, &mut Conn<'_>, T) + Send + 'static,
    ) -> Result<()> {
        let office = &self.home.office;
        if TypeId::of::<S>() != office.session.0 {
            let (given, session) = (type_name::<S>(), office.session.1);
            return Err(Error::invalid(format!(
                "cannot offload: the session given to `then` is a {given}, that of the handler a {session}"
            )));
        }
        let (give_back, pool) = (Arc::clone(&office.give_back), Arc::clone(&office.pool));
        let jobs = self.state.jobs();
        let (key, number) = (self.id.key(), jobs.next);
        if number - jobs.due >= pool.room() {
            return Err(Error::pool_is_full(pool.threads, pool.queue));
        }
        pool.submit(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(job)).ok();
            let then = result.map(|result| {
                let task: Task<S> = Box::new(move |session, conn| then(session, conn, result));
                Box::new(task) as Box<dyn Any + Send>
            });
            give_back(Offloaded { key, number, then });
        }))?;
        self.state.jobs().next += 1;
        self.home.stats.jobs += 1;
        Ok(())
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("next", &self.next).field("due", &self.due).finish_non_exhaustive()
    }
}
