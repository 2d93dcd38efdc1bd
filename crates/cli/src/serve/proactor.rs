//! The echo on the proactor: one watcher a thread, each with its own listeners.
//!
//! ```text
//!  accept ─► read_pooled ─► write of the lease ─► read_pooled ─► ... ─► end of stream: free
//! ```
//!
//! A connection has one operation at a time, so it is read no faster than it takes its answers.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kolk::watcher::{Completion, Completions, IntoSocket, Operation, Submitter, Watcher};
use kolk::{DriverChoice, DriverConfig, Listeners};
use rustix::thread::{CpuSet, sched_getaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle as SignalHandle, Signals};

use super::status::Traffic;
use super::{Args, Serving};

/// Watchers that run, one a thread. Dropping this stops them.
#[derive(Debug)]
pub(super) struct Watchers {
    /// Keeps the Unix paths until the end.
    listeners: Listeners,
    driver_reason: String,
    threads: Vec<Thread>,
    signals: Option<SignalHandle>,
}

/// One watcher's thread, seen from outside.
#[derive(Debug)]
struct Thread {
    submitter: Submitter,
    published: Arc<Published>,
    /// `None` once it was waited for.
    handle: Option<JoinHandle<kolk::Result<()>>>,
}

/// Binds every address, and starts a thread for each watcher. If one cannot start, the others stop.
pub(super) fn start(args: &Args, tell_ended: &Sender<()>) -> kolk::Result<Watchers> {
    let parallelism = || thread::available_parallelism().map_or(1, NonZero::get);
    let count = args.loops.map_or_else(parallelism, usize::from);
    let cpus = if args.pin { cpus_of_this_process()? } else { Vec::new() };
    let listeners = Listeners::bind(&args.listen, count)?;
    let mut watchers =
        Watchers { listeners, driver_reason: String::new(), threads: Vec::new(), signals: None };
    for number in 0..count {
        let plan = Plan {
            number: number as u16,
            driver: args.driver.into(),
            driver_config: args.driver_config(),
            cpu: cpus.get(number % cpus.len().max(1)).copied(),
            sockets: watchers.listeners.take(number),
            published: Arc::default(),
        };
        watchers.add(plan, tell_ended.clone())?;
    }
    let submitters = watchers.submitters();
    watchers.signals = Some(stop_on_signals(submitters)?);
    Ok(watchers)
}

impl Watchers {
    fn add(
        &mut self,
        plan: Plan<impl IntoSocket + Send + 'static>,
        tell_ended: Sender<()>,
    ) -> kolk::Result<()> {
        let published = Arc::clone(&plan.published);
        let (tell, told) = mpsc::sync_channel(1);
        let end = AtTheEnd { stops: self.submitters(), tells: tell_ended };
        let handle =
            thread::Builder::new().name(format!("kolk-watcher-{}", plan.number)).spawn(move || {
                let _end = end;
                plan.serve(tell)
            })?;
        let mut handle = Some(handle);
        let Ok((submitter, driver_reason)) = told.recv() else {
            return join(&mut handle);
        };
        self.driver_reason = driver_reason;
        self.threads.push(Thread { submitter, published, handle });
        Ok(())
    }

    fn submitters(&self) -> Vec<Submitter> {
        self.threads.iter().map(|thread| thread.submitter.clone()).collect()
    }

    /// Waits for every thread; the end of one is that of all.
    fn join(&mut self) -> kolk::Result<()> {
        let mut outcome = Ok(());
        for number in 0..self.threads.len() {
            let ended = join(&mut self.threads[number].handle);
            stop(&self.submitters());
            outcome = outcome.and(ended);
        }
        if let Some(signals) = self.signals.take() {
            signals.close();
        }
        outcome
    }
}

impl Serving for Watchers {
    fn addresses(&self) -> Vec<String> {
        self.listeners.addresses().iter().map(ToString::to_string).collect()
    }

    fn driver_reason(&self) -> &str {
        &self.driver_reason
    }

    fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for thread in &self.threads {
            thread.published.add_to(&mut sum);
        }
        sum
    }

    fn wait(mut self) -> kolk::Result<()> {
        self.join()
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        stop(&self.submitters());
        let _ = self.join();
    }
}

fn join(thread: &mut Option<JoinHandle<kolk::Result<()>>>) -> kolk::Result<()> {
    match thread.take().map(JoinHandle::join) {
        Some(Err(_)) => Err(std::io::Error::other("the thread of a watcher panicked").into()),
        Some(Ok(outcome)) => outcome,
        None => Ok(()),
    }
}

/// A timer that is due is the word to stop.
fn stop(submitters: &[Submitter]) {
    for submitter in submitters {
        // A watcher that is gone needs no telling.
        let _ = submitter.timer(Duration::ZERO, ());
    }
}

/// What the end of a thread brings with it, however it ends.
struct AtTheEnd {
    /// The watchers before this one: they are waited for first, and must not outlive it.
    stops: Vec<Submitter>,
    tells: Sender<()>,
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        stop(&self.stops);
        // It needs no telling once nobody watches.
        let _ = self.tells.send(());
    }
}

fn stop_on_signals(submitters: Vec<Submitter>) -> kolk::Result<SignalHandle> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let handle = signals.handle();
    let watch = move || signals.forever().for_each(|_| stop(&submitters));
    thread::Builder::new().name("kolk-signals".into()).spawn(watch)?;
    Ok(handle)
}

fn cpus_of_this_process() -> kolk::Result<Vec<usize>> {
    let set = sched_getaffinity(None).map_err(std::io::Error::from)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

// ---- one watcher's thread -----------------------------------------------------------------------

/// What one thread is started with.
struct Plan<S> {
    number: u16,
    driver: DriverChoice,
    driver_config: DriverConfig,
    cpu: Option<usize>,
    sockets: Vec<S>,
    published: Arc<Published>,
}

impl<S: IntoSocket> Plan<S> {
    /// The whole life of a thread. `ready` gets what others need of the watcher; nothing if there is none.
    fn serve(self, ready: SyncSender<(Submitter, String)>) -> kolk::Result<()> {
        let builder = Watcher::builder().driver(self.driver).driver_config(self.driver_config);
        let mut watcher = builder.number(self.number).build()?;
        if let Some(cpu) = self.cpu {
            watcher.affinity(cpu)?;
        }
        for socket in self.sockets {
            let listener = watcher.adopt(socket)?;
            watcher.accept(listener, ())?;
        }
        // If nobody takes it, the server is about to end.
        let _ = ready.send((watcher.submitter(), watcher.driver_reason().to_owned()));
        Echo { listeners: watcher.conn_count(), watcher, published: self.published }.run()
    }
}

/// One watcher, and what it counts.
struct Echo {
    watcher: Watcher,
    listeners: usize,
    published: Arc<Published>,
}

impl Echo {
    fn run(mut self) -> kolk::Result<()> {
        let mut traffic = Traffic::default();
        let mut completions = Completions::default();
        loop {
            self.watcher.wait(&mut completions, None)?;
            for mut done in completions.drain() {
                if done.operation == Operation::Timer {
                    return Ok(());
                }
                match self.go_on(&mut done, &mut traffic) {
                    // The connection was freed by an earlier completion of the same batch.
                    Err(error) if error.is_not_connected() => {}
                    outcome => outcome?,
                }
            }
            traffic.connections = (self.watcher.conn_count() - self.listeners) as u64;
            self.published.publish(&traffic);
        }
    }

    /// The next operation of a connection whose last one is done.
    fn go_on(&mut self, done: &mut Completion, traffic: &mut Traffic) -> kolk::Result<()> {
        match (done.operation, &done.result) {
            (Operation::Accept, _) => match done.accepted() {
                Some(conn) => self.watcher.read_pooled(conn, ()),
                None => Ok(()), // no slot is free: the peer was turned away
            },
            (Operation::ReadPooled, &Ok(count @ 1..)) => {
                traffic.messages += 1;
                traffic.bytes_received += count as u64;
                // A peer that does not read is not read either: at most two messages of it wait here.
                let is_behind = self.watcher.is_writing(done.conn);
                self.watcher.write(done.conn, (), std::mem::take(&mut done.buffer))?;
                if is_behind { Ok(()) } else { self.watcher.read_pooled(done.conn, ()) }
            }
            (Operation::Write, &Ok(count)) => {
                traffic.bytes_sent += count as u64;
                if self.watcher.is_reading(done.conn) {
                    return Ok(());
                }
                self.watcher.read_pooled(done.conn, ())
            }
            // The stream has ended. Behind the last write the end is asked for, and told, once more.
            (Operation::ReadPooled, Ok(0)) if self.watcher.is_writing(done.conn) => Ok(()),
            _ => {
                self.watcher.free(done.conn);
                Ok(())
            }
        }
    }
}

/// One watcher's counters, where other threads can read them. Written by its own thread only.
#[derive(Debug, Default)]
#[repr(align(128))] // its own pair of cache lines, which no other watcher writes to
struct Published {
    connections: AtomicU64,
    messages: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Published {
    fn publish(&self, traffic: &Traffic) {
        self.connections.store(traffic.connections, Ordering::Relaxed);
        self.messages.store(traffic.messages, Ordering::Relaxed);
        self.bytes_received.store(traffic.bytes_received, Ordering::Relaxed);
        self.bytes_sent.store(traffic.bytes_sent, Ordering::Relaxed);
    }

    fn add_to(&self, sum: &mut Traffic) {
        sum.connections += self.connections.load(Ordering::Relaxed);
        sum.messages += self.messages.load(Ordering::Relaxed);
        sum.bytes_received += self.bytes_received.load(Ordering::Relaxed);
        sum.bytes_sent += self.bytes_sent.load(Ordering::Relaxed);
    }
}
