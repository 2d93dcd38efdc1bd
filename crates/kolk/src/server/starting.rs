//! From a described server to one whose loops run.
//!
//! ```text
//!  starting thread                        loop's thread, one of several
//!  ───────────────                        ─────────────────────────────
//!  spawn                          ─────►  open the driver
//!  collect what all are reached by ◄────  Ready
//!  handle of the whole server     ─────►  make the handler, on_start, listen
//!  wait until all have begun      ◄─────  Begun
//!  RunningServer                          serve
//! ```

use std::any::{TypeId, type_name};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use kolk_engine::driver::DriverKind;
use kolk_engine::{Config, EventLoop};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle as SignalHandle, Signals};

use super::acceptor::StartingAcceptor;
use super::admission::Admission;
use super::builder::Settings;
use super::command::Command;
use super::context::LoopState;
use super::handle::{LoopEnd, ServerHandle};
use super::handler::Handler;
use super::offload::{Office, Pool};
use super::running::RunningServer;
use super::stats::Published;
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::listener::{Bound, Listeners};

/// Starts one thread a loop and waits until all have begun. If one cannot, the others stop.
pub(super) fn start<H, M, F>(
    listeners: Listeners,
    loops: usize,
    settings: Arc<Settings>,
    stop_on_signals: bool,
    make_handler: F,
) -> Result<RunningServer<H, M>>
where
    H: Handler<M> + 'static,
    M: Send + 'static,
    F: Fn(usize) -> H + Send + Sync + 'static,
{
    let addresses = listeners.addresses().iter().map(ToString::to_string).collect();
    let (mut sockets, unix_paths) = listeners.into_parts();
    let for_acceptors = sockets.split_off(loops);
    let cpus = settings.pin.then(cpus_of_this_process).transpose()?;
    let make_handler = Arc::new(make_handler);
    let admission = Arc::new(Admission::new(settings.max_connections, settings.accept_rate));
    let pool = Arc::new(Pool::new(settings.pool_threads, settings.pool_queue));
    let mut starting = Vec::new();
    let begun = sockets.into_iter().enumerate().try_for_each(|(number, sockets)| {
        let cpu = cpus.as_ref().map(|cpus| cpus[number % cpus.len()]);
        let (settings, admission) = (Arc::clone(&settings), Arc::clone(&admission));
        let plan = Plan { number, sockets, settings, admission, pool: Arc::clone(&pool), cpu };
        starting.push(plan.spawn(Arc::clone(&make_handler))?);
        Ok(())
    });
    let left = Arc::new(AtomicUsize::new(for_acceptors.len()));
    let mut accepting = Vec::new();
    let begun = begun.and_then(|()| {
        for_acceptors.into_iter().enumerate().try_for_each(|(number, sockets)| {
            let (settings, left) = (Arc::clone(&settings), Arc::clone(&left));
            let admission = Arc::clone(&admission);
            accepting.push(StartingAcceptor::spawn(number, sockets, settings, admission, left)?);
            Ok(())
        })
    });
    let (handle, driver) = match begun.and_then(|()| introduce(&starting, &accepting)) {
        Ok(introduced) => introduced,
        Err(error) => return Err(abandon(starting, accepting, error)),
    };
    // One after the other, so that handlers are made in the order of their loops; nobody is accepted before.
    let begun = starting.iter().try_for_each(|each| each.begin(&handle));
    let begun = begun.and_then(|()| accepting.iter().try_for_each(|each| each.begin(&handle)));
    let threads = starting.into_iter().map(|each| each.thread);
    let threads = threads.chain(accepting.into_iter().map(|each| each.thread));
    let mut server = RunningServer {
        addresses,
        driver: driver.0,
        driver_reason: driver.1,
        handle,
        threads: threads.map(Some).collect(),
        signals: None,
        unix_paths,
    };
    // Dropping the server stops those that have begun; the others have nobody left to wait for.
    begun?;
    if stop_on_signals {
        server.signals = Some(watch_signals(server.handle.clone())?);
    }
    Ok(server)
}

/// Collects what all loops are reached by.
fn introduce<H, M>(
    starting: &[Starting<H, M>],
    accepting: &[StartingAcceptor<H, M>],
) -> Result<(ServerHandle<H, M>, (DriverKind, String))>
where
    H: Handler<M> + 'static,
    M: Send + 'static,
{
    let (mut ends, mut driver) = (Vec::new(), (DriverKind::Epoll, String::new()));
    for each in starting {
        let ready = each.ready.recv().unwrap_or_else(|_| Err(panicked(each.number)))?;
        ends.push(ready.end);
        driver = (ready.driver, ready.driver_reason);
    }
    let acceptors = accepting.iter().map(StartingAcceptor::ready).collect::<Result<_>>()?;
    Ok((ServerHandle::new(ends, acceptors), driver))
}

/// Waits for the threads that were started: without a handle they end.
fn abandon<H: Handler<M>, M>(
    starting: Vec<Starting<H, M>>,
    accepting: Vec<StartingAcceptor<H, M>>,
    error: Error,
) -> Error {
    let threads = starting.into_iter().map(|each| each.thread);
    let threads: Vec<_> = threads.chain(accepting.into_iter().map(|each| each.thread)).collect();
    for thread in threads {
        let _ = thread.join();
    }
    error
}

/// What one loop's thread is started with.
struct Plan {
    number: usize,
    sockets: Vec<Bound>,
    settings: Arc<Settings>,
    admission: Arc<Admission>,
    pool: Arc<Pool>,
    cpu: Option<usize>,
}

/// A loop's thread, seen by the one that starts it.
struct Starting<H: Handler<M>, M> {
    number: usize,
    thread: JoinHandle<io::Result<()>>,
    ready: Receiver<Result<Ready<H::Session, M>>>,
    give_handle: SyncSender<ServerHandle<H, M>>,
    begun: Receiver<Result<()>>,
}

impl<H: Handler<M>, M> Starting<H, M> {
    fn begin(&self, handle: &ServerHandle<H, M>) -> Result<()> {
        // A thread that has gone does not say that it has begun.
        let _ = self.give_handle.send(handle.clone());
        self.begun.recv().unwrap_or_else(|_| Err(panicked(self.number)))
    }
}

/// What a thread says once its driver is open.
struct Ready<S, M> {
    driver: DriverKind,
    driver_reason: String,
    end: LoopEnd<S, M>,
}

/// The other ends of the channels of [`Starting`].
struct Tell<H: Handler<M>, M> {
    ready: SyncSender<Result<Ready<H::Session, M>>>,
    handle: Receiver<ServerHandle<H, M>>,
    begun: SyncSender<Result<()>>,
}

impl Plan {
    fn spawn<H, M, F>(self, make_handler: Arc<F>) -> Result<Starting<H, M>>
    where
        H: Handler<M> + 'static,
        M: Send + 'static,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let number = self.number;
        let (tell_ready, ready) = mpsc::sync_channel(1);
        let (give_handle, handle) = mpsc::sync_channel(1);
        let (tell_begun, begun) = mpsc::sync_channel(1);
        let tell = Tell { ready: tell_ready, handle, begun: tell_begun };
        let thread = thread::Builder::new()
            .name(format!("kolk-loop-{number}"))
            .spawn(move || self.live(&*make_handler, &tell))
            .map_err(|error| {
                Error::io("cannot start an event loop's thread", error, "use fewer event loops")
            })?;
        Ok(Starting { number, thread, ready, give_handle, begun })
    }

    /// The whole life of a loop's thread. Whoever waits for it on the other side gives up when it ends.
    fn live<H, M>(self, make_handler: &impl Fn(usize) -> H, tell: &Tell<H, M>) -> io::Result<()>
    where
        H: Handler<M> + 'static,
        M: Send + 'static,
    {
        let published = Arc::new(Published::default());
        let event_loop = match self.open() {
            Ok(event_loop) => event_loop,
            Err(error) => {
                let _ = tell.ready.send(Err(error));
                return Ok(());
            }
        };
        let end = LoopEnd {
            mailbox: event_loop.sender(),
            numbers: Arc::clone(event_loop.slot_numbers()),
            published: Arc::clone(&published),
        };
        let (driver, driver_reason) = (event_loop.driver_kind(), event_loop.driver_reason().to_owned());
        let _ = tell.ready.send(Ok(Ready { driver, driver_reason, end }));
        let Ok(handle) = tell.handle.recv() else { return Ok(()) };
        let _stop_others = StopOthers(handle.clone());
        let failed = |error| Error::io(format!("cannot start event loop {}", self.number), error, "");
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let handler = make_handler(self.number);
            let session = (TypeId::of::<H::Session>(), type_name::<H::Session>());
            let office = Office { pool: self.pool, give_back: handle.give_back(self.number), session };
            let home = LoopState::new(self.settings, self.admission, office);
            Worker::new(event_loop, handler, home, handle, published).begin(self.sockets)
        }));
        let mut worker = match begun {
            Ok(Ok(worker)) => worker,
            Ok(Err(error)) => {
                let _ = tell.begun.send(Err(failed(error)));
                return Ok(());
            }
            Err(_) => {
                let _ = tell.begun.send(Err(panicked(self.number)));
                return Ok(());
            }
        };
        let _ = tell.begun.send(Ok(()));
        worker.run()
    }

    fn open<S, M>(&self) -> Result<EventLoop<Command<S, M>>> {
        if let Some(cpu) = self.cpu {
            pin_this_thread(cpu)?;
        }
        let config = Config {
            driver: self.settings.driver.clone(),
            driver_config: self.settings.driver_config.clone(),
            loop_number: self.number as u16,
            close_timeout: self.settings.close_timeout,
            ..Config::default()
        };
        EventLoop::new(&config)
            .map_err(|error| Error::io(format!("cannot start event loop {}", self.number), error, ""))
    }
}

fn panicked(number: usize) -> Error {
    Error::internal(format!("cannot start event loop {number}: its handler panicked"))
}

/// Half a server would go on unnoticed: however a loop ends, the others do, too.
struct StopOthers<H: Handler<M>, M>(ServerHandle<H, M>);

impl<H: Handler<M>, M> Drop for StopOthers<H, M> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A first SIGINT or SIGTERM stops the loops gracefully, a second one at once.
fn watch_signals<H, M>(handle: ServerHandle<H, M>) -> Result<SignalHandle>
where
    H: Handler<M> + 'static,
    M: Send + 'static,
{
    let failed = |error| Error::io("cannot watch for SIGINT and SIGTERM", error, "");
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let closer = signals.handle();
    let watch = move || {
        for (index, _) in signals.forever().enumerate() {
            match index {
                0 => handle.stop(),
                _ => handle.stop_now(),
            }
        }
    };
    thread::Builder::new().name("kolk-signals".into()).spawn(watch).map_err(failed)?;
    Ok(closer)
}

fn cpus_of_this_process() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)
        .map_err(|error| Error::io("cannot ask for the CPUs of this process", error.into(), ""))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

fn pin_this_thread(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| Error::io(format!("cannot pin an event loop to CPU {cpu}"), error.into(), ""))
}
