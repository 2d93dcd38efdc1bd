//! A server whose loops run.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use kolk_engine::driver::{DriverKind, Socket, Waker};
use kolk_engine::mailbox::Sender;
use kolk_engine::{Config, EventLoop};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle as SignalHandle, Signals};

use super::builder::Settings;
use super::handler::Handler;
use super::stats::{Published, Stats};
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::listener::{Listeners, UnixPath};

/// What other threads tell a loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    /// Stop gracefully.
    Stop,
    /// Stop without waiting for anybody.
    StopNow,
}

/// A server whose loops run. Any thread may use it.
///
/// Dropping it stops the server at once and waits for its threads.
///
/// # Examples
///
/// ```
/// # use kolk::server::{Action, Conn, Handler, Input, Server};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Session = ();
/// #     fn on_open(&mut self, _: &mut Conn<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
/// #         conn.write(input.take());
/// #         Action::Continue
/// #     }
/// # }
/// use std::io::{Read, Write};
///
/// let server = Server::builder().listen("tcp://127.0.0.1:0").event_loops(1).start(|_loop| Echo)?;
/// let address = server.addresses()[0].trim_start_matches("tcp://").to_owned();
///
/// let mut client = std::net::TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// let mut answer = [0; 5];
/// client.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
///
/// server.stop();
/// server.wait()?;
/// # Ok::<(), kolk::Error>(())
/// ```
#[derive(Debug)]
pub struct RunningServer {
    addresses: Vec<String>,
    driver: DriverKind,
    driver_reason: String,
    loops: Vec<Loop>,
    signals: Option<SignalHandle>,
    /// Removed from the file system when the server has stopped.
    unix_paths: Vec<UnixPath>,
}

/// One loop's thread, seen from outside.
#[derive(Debug)]
struct Loop {
    sender: Sender<Command, Waker>,
    published: Arc<Published>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What a thread says once its loop is ready to serve.
struct Ready {
    driver: DriverKind,
    driver_reason: String,
    sender: Sender<Command, Waker>,
}

impl RunningServer {
    /// Every address that the server listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The kernel interface that the loops stand on.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Why it is that one, in a sentence for a log.
    pub fn driver_reason(&self) -> &str {
        &self.driver_reason
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for each in &self.loops {
            each.published.add_to(&mut sum);
        }
        sum
    }

    /// Stops gracefully: no new connections; those that are there send what is queued and close. Returns at
    /// once; [`wait`](Self::wait) says when it is done.
    pub fn stop(&self) {
        self.tell_all(Command::Stop);
    }

    /// Stops without waiting for anybody: what is queued is discarded. Returns at once.
    pub fn stop_now(&self) {
        self.tell_all(Command::StopNow);
    }

    /// Waits until the server has stopped and every socket is closed.
    ///
    /// # Errors
    ///
    /// A loop that could not go on, or whose handler panicked. The other loops were stopped then.
    pub fn wait(mut self) -> Result<()> {
        self.join()
    }

    fn tell_all(&self, command: Command) {
        for each in &self.loops {
            // A loop that has ended needs no telling.
            let _ = each.sender.send(command);
        }
    }

    fn join(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for number in 0..self.loops.len() {
            let Some(thread) = self.loops[number].thread.take() else { continue };
            let ended = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Error::io(format!("event loop {number} stopped"), error, ""),
                Err(_) => Error::internal(format!("event loop {number} stopped: its handler panicked")),
            };
            // Half a server would go on unnoticed.
            self.tell_all(Command::Stop);
            outcome = outcome.and(Err(ended));
        }
        if let Some(signals) = self.signals.take() {
            signals.close();
        }
        self.unix_paths.clear();
        outcome
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop_now();
        let _ = self.join();
    }
}

/// Starts one thread a loop and waits until all are ready. If one cannot start, the others stop.
pub(super) fn start<H, F>(
    listeners: Listeners,
    settings: Settings,
    stop_on_signals: bool,
    make_handler: Arc<F>,
) -> Result<RunningServer>
where
    H: Handler,
    F: Fn(usize) -> H + Send + Sync + 'static,
{
    let addresses = listeners.addresses().iter().map(ToString::to_string).collect();
    let (sockets, unix_paths) = listeners.into_parts();
    let mut server = RunningServer {
        addresses,
        driver: DriverKind::Epoll,
        driver_reason: String::new(),
        loops: Vec::new(),
        signals: None,
        unix_paths,
    };
    let cpus = settings.pin.then(cpus_of_this_process).transpose()?;
    for (number, sockets) in sockets.into_iter().enumerate() {
        let plan = Plan {
            number,
            sockets,
            settings: settings.clone(),
            cpu: cpus.as_ref().map(|cpus| cpus[number % cpus.len()]),
            published: Arc::new(Published::default()),
        };
        let ready = server.start_loop(plan, Arc::clone(&make_handler))?;
        server.driver = ready.driver;
        server.driver_reason = ready.driver_reason;
    }
    if stop_on_signals {
        server.signals = Some(watch_signals(server.loops.iter().map(|each| each.sender.clone()).collect())?);
    }
    Ok(server)
}

/// What one loop's thread is started with.
struct Plan {
    number: usize,
    sockets: Vec<Socket>,
    settings: Settings,
    cpu: Option<usize>,
    published: Arc<Published>,
}

impl RunningServer {
    fn start_loop<H, F>(&mut self, plan: Plan, make_handler: Arc<F>) -> Result<Ready>
    where
        H: Handler,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let number = plan.number;
        let published = Arc::clone(&plan.published);
        let (tell, told) = mpsc::sync_channel(1);
        // `join` waits for the loops in order: those before this one must not outlive it.
        let others: Vec<_> = self.loops.iter().map(|each| each.sender.clone()).collect();
        let thread = thread::Builder::new()
            .name(format!("kolk-loop-{number}"))
            .spawn(move || {
                let _stop = StopOthers(others);
                plan.serve(&*make_handler, &tell)
            })
            .map_err(|error| {
                Error::io("cannot start an event loop's thread", error, "use fewer event loops")
            })?;
        let ready = match told.recv() {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(Error::internal(format!("event loop {number} stopped: its handler panicked")));
            }
        };
        self.loops.push(Loop { sender: ready.sender.clone(), published, thread: Some(thread) });
        Ok(ready)
    }
}

impl Plan {
    /// The whole life of a loop's thread.
    fn serve<H: Handler>(
        self,
        make_handler: &impl Fn(usize) -> H,
        tell: &mpsc::SyncSender<Result<Ready>>,
    ) -> io::Result<()> {
        let prepared = self.prepare(make_handler);
        match prepared {
            Ok((ready, worker)) => {
                // The starting thread waits for this; if it has gone, so will the server.
                let _ = tell.send(Ok(ready));
                worker.run()
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                Ok(())
            }
        }
    }

    fn prepare<H: Handler>(self, make_handler: &impl Fn(usize) -> H) -> Result<(Ready, Worker<H>)> {
        if let Some(cpu) = self.cpu {
            pin_this_thread(cpu)?;
        }
        let config = Config {
            driver: self.settings.driver.clone(),
            loop_number: self.number as u16,
            ..Config::default()
        };
        let failed = |error| Error::io(format!("cannot start event loop {}", self.number), error, "");
        let event_loop = EventLoop::new(&config).map_err(failed)?;
        let ready = Ready {
            driver: event_loop.driver_kind(),
            driver_reason: event_loop.driver_reason().to_owned(),
            sender: event_loop.sender(),
        };
        let mut worker = Worker::new(event_loop, make_handler(self.number), self.settings, self.published);
        worker.listen(self.sockets).map_err(failed)?;
        Ok((ready, worker))
    }
}

/// Stops the loops before this one when it ends, however it ends.
struct StopOthers(Vec<Sender<Command, Waker>>);

impl Drop for StopOthers {
    fn drop(&mut self) {
        for sender in &self.0 {
            let _ = sender.send(Command::Stop);
        }
    }
}

/// A first SIGINT or SIGTERM stops the loops gracefully, a second one at once.
fn watch_signals(senders: Vec<Sender<Command, Waker>>) -> Result<SignalHandle> {
    let failed = |error| Error::io("cannot watch for SIGINT and SIGTERM", error, "");
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let handle = signals.handle();
    let watch = move || {
        let mut command = Command::Stop;
        for _ in &mut signals {
            for sender in &senders {
                let _ = sender.send(command);
            }
            command = Command::StopNow;
        }
    };
    thread::Builder::new().name("kolk-signals".into()).spawn(watch).map_err(failed)?;
    Ok(handle)
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
