//! One thread of an echo load: an event loop, its connections, its tally.
//!
//! The thread is the other half of every measurement, so on the way of a message it allocates nothing,
//! takes no lock, and reads no clock: all that one turn brings counts as arrived at the turn's own time,
//! and what is sent in answer as sent then. It does leave a little later, when the turn is over, so the
//! latencies include the time that this thread itself takes for one turn: they may be too long, never
//! too short.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use kolk_engine::buffer::Chunk;
use kolk_engine::clock::Timestamp;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Event, EventLoop};

use super::control::{Control, Phase};
use super::dial::Dialer;
use super::link::{Link, Links};
use super::pace::{Pace, Schedule, Stamps};
use super::pattern::Pattern;
use super::tally::{Loss, Tally};
use super::target::Target;
use crate::driver::DriverArg;
use crate::failure::Failure;
use crate::process::ThreadTime;

/// Longest time between two looks at the phase.
const GLANCE: Duration = Duration::from_millis(10);

/// Longest silence while messages are under way that count as still to come.
const DRAIN: Duration = Duration::from_secs(5);

/// Messages of an open loop sent in one turn, so that a plan far behind does not keep the thread from
/// its answers.
const DUE_PER_TURN: usize = 1024;

/// What one thread is to do.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Number of this thread.
    pub(crate) thread: u32,
    pub(crate) target: Target,
    pub(crate) driver: DriverArg,
    /// Connections of this thread.
    pub(crate) connections: u32,
    /// Number of its first connection among those of all threads.
    pub(crate) first_connection: u64,
    pub(crate) message: Message,
    /// Messages a second of this thread; `None` for a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) pattern: Pattern,
}

/// The messages of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Bytes of each.
    pub(crate) size: usize,
    /// Most of them under way on one connection.
    pub(crate) depth: u32,
}

/// Does a job to its end, and tells the other threads if it cannot.
///
/// # Errors
///
/// The driver cannot be opened, or the server cannot be connected to.
pub(crate) fn run(job: Job, control: &Control) -> Result<Tally, Failure> {
    let result = Worker::new(job, control).and_then(Worker::work);
    if result.is_err() {
        control.abandon();
    }
    result
}

struct Worker<'a> {
    job: Job,
    control: &'a Control,
    phase: Phase,
    events: EventLoop<()>,
    dialer: Dialer,
    pace: Pace,
    links: Links,
    /// Messages under way on all links.
    outstanding: u64,
    /// Connections that had their first answer or were lost before.
    settled: u64,
    /// Messages that came back, ever.
    returned: u64,
    /// When the last bytes came.
    heard_at: Timestamp,
    /// When the present phase began, and what the thread had spent until then.
    since: Timestamp,
    spent: Option<ThreadTime>,
    tally: Tally,
}

impl<'a> Worker<'a> {
    fn new(job: Job, control: &'a Control) -> Result<Self, Failure> {
        let events = super::open_event_loop(job.driver, job.message.size)?;
        let mut dialer = Dialer::new(job.target.clone());
        dialer.add(job.connections, events.now());
        Ok(Self {
            tally: Tally::new(events.driver_kind()),
            since: events.now(),
            heard_at: events.now(),
            pace: pace_of(&job),
            links: Links::with_capacity(job.connections),
            phase: Phase::Connect,
            outstanding: 0,
            settled: 0,
            returned: 0,
            spent: None,
            dialer,
            events,
            control,
            job,
        })
    }

    fn work(mut self) -> Result<Tally, Failure> {
        while !self.is_finished() {
            self.dialer.dial(&mut self.events)?;
            self.send_due();
            self.events.turn(Some(self.deadline())).map_err(|error| self.broken(&error))?;
            while let Some(event) = self.events.next_event() {
                self.dispatch(event)?;
            }
            self.publish();
            self.follow_phase();
        }
        Ok(self.finish())
    }

    fn is_finished(&self) -> bool {
        let drained = self.outstanding == 0 || self.events.now() > self.heard_at.max(self.since) + DRAIN;
        self.control.is_abandoned() || (self.phase == Phase::Drain && drained)
    }

    fn broken(&self, error: &io::Error) -> Failure {
        Failure::runtime(format!("the load's event loop on {} failed: {error}", self.tally.driver))
    }

    /// Until when a turn may wait.
    fn deadline(&self) -> Timestamp {
        let mut deadline = self.events.now() + GLANCE;
        if let Some(resume) = self.dialer.deadline() {
            deadline = deadline.min(resume);
        }
        match &self.pace {
            Pace::Open(schedule) if self.is_sending() => deadline.min(schedule.next_due()),
            _ => deadline,
        }
    }

    fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure)
    }

    // ---- phases ---------------------------------------------------------------------------------

    #[inline]
    fn follow_phase(&mut self) {
        let phase = self.control.phase();
        while self.phase < phase {
            self.phase = match self.phase {
                Phase::Connect => self.begin_sending(),
                Phase::Warm => self.begin_window(),
                Phase::Measure | Phase::Drain => self.end_window(),
            };
        }
    }

    fn begin_sending(&mut self) -> Phase {
        self.phase = Phase::Warm;
        self.links.iter_mut().filter(|link| link.alive).for_each(Link::restart);
        match &mut self.pace {
            Pace::Open(schedule) => schedule.begin(self.events.now()),
            Pace::Closed(_) => (0..self.links.len()).for_each(|index| self.refill(index)),
        }
        Phase::Warm
    }

    fn begin_window(&mut self) -> Phase {
        self.since = self.events.now();
        self.spent = ThreadTime::of_this_thread();
        Phase::Measure
    }

    fn end_window(&mut self) -> Phase {
        let now = self.events.now();
        self.tally.window = now - self.since;
        self.tally.spent = ThreadTime::of_this_thread().zip(self.spent).map(|(now, then)| now.since(then));
        self.since = now;
        self.count_unsent(now);
        Phase::Drain
    }

    /// Messages that were due and never left waited at least until now: leaving them out would hide
    /// exactly the worst latencies.
    fn count_unsent(&mut self, now: Timestamp) {
        let Pace::Open(_) = self.pace else { return };
        for (index, link) in self.links.iter().enumerate().filter(|(_, link)| link.alive) {
            self.tally.unsent += link.due - link.sent();
            for message in link.sent()..link.due {
                self.tally.record(now - self.pace.start_of(index, message));
            }
        }
    }

    fn finish(mut self) -> Tally {
        if self.outstanding > 0 {
            let (count, seconds) = (self.outstanding, DRAIN.as_secs());
            self.tally.errors.unanswered = count;
            self.tally
                .errors
                .remember(|| format!("{count} messages were not back when nothing had come for {seconds} s"));
        }
        self.tally.connections = self.links.len() as u64;
        self.tally
    }

    fn publish(&self) {
        let progress = self.control.progress(self.job.thread);
        progress.settled.set(self.settled);
        progress.lost.set(self.tally.errors.lost_connections());
        progress.messages.set(self.returned);
    }

    // ---- sending --------------------------------------------------------------------------------

    /// Open loop: sends what has become due.
    fn send_due(&mut self) {
        if !self.is_sending() {
            return;
        }
        let now = self.events.now();
        for _ in 0..DUE_PER_TURN {
            let Pace::Open(schedule) = &mut self.pace else {
                return;
            };
            let Some(index) = schedule.take_due(now) else {
                return;
            };
            self.links[index].due += 1;
            self.refill(index);
        }
    }

    /// Sends as many messages as the pace allows.
    #[inline]
    fn refill(&mut self, index: usize) {
        let link = &self.links[index];
        if link.alive {
            self.send(index, self.pace.allowance(link, self.job.message.depth));
        }
    }

    /// Sends so many messages, neighbouring ones as one slice.
    #[inline]
    fn send(&mut self, index: usize, mut left: u64) {
        let (pattern, size) = (self.job.pattern, self.job.message.size);
        let (link, now) = (&mut self.links[index], self.events.now());
        self.outstanding += left;
        while left > 0 {
            let count = left.min((pattern.longest() / size) as u64);
            self.pace.sending(index, link.sent(), count, now);
            let bytes = link.send(pattern, size, count as usize);
            // A connection that cannot be written to says why with its own event.
            let _ = self.events.write(link.conn, Chunk::Static(bytes));
            left -= count;
        }
    }

    // ---- events ---------------------------------------------------------------------------------

    #[inline]
    fn dispatch(&mut self, event: Event<()>) -> Result<(), Failure> {
        match event {
            Event::Received(conn, Ok(bytes)) if !bytes.is_empty() => self.received(conn, &bytes),
            Event::Received(conn, Ok(_)) | Event::Closed(conn) => self.lose(conn, Loss::Closed),
            Event::Received(conn, Err(error)) | Event::SendFailed(conn, error) => {
                self.lose(conn, Loss::Failed(error));
            }
            Event::Connected(conn, result) => self.connected(conn, result)?,
            // This program asks for nothing else.
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<()>) -> Result<(), Failure> {
        if self.dialer.connected(&mut self.events, conn, result)? {
            let number = self.job.first_connection + self.links.len() as u64;
            let index = self.links.add(conn, number);
            self.send(index, 1);
        }
        Ok(())
    }

    /// A new connection had its first answer, or will have none.
    fn settle(&mut self) {
        self.settled += 1;
        self.dialer.settled(self.events.now());
    }

    #[inline]
    fn received(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(index) = self.links.find(conn) else {
            return;
        };
        self.heard_at = self.events.now();
        let arrival = self.links[index].arrived(self.job.pattern, self.job.message.size, bytes);
        self.outstanding -= arrival.completed;
        self.returned += arrival.completed;
        if self.phase == Phase::Connect && arrival.first == 0 && arrival.completed > 0 {
            self.settle();
        }
        self.count(index, arrival.first, arrival.completed);
        if arrival.mismatched > 0 {
            self.mismatch(index, arrival.mismatched);
        }
        if arrival.surplus > 0 {
            return self.lose(conn, Loss::Unexpected(arrival.surplus));
        }
        if self.is_sending() {
            self.refill(index);
        }
    }

    /// Counts messages that came back: those of the window, and of an open loop also those that were
    /// due in it and come late.
    #[inline]
    fn count(&mut self, index: usize, first: u64, completed: u64) {
        let measuring = self.phase == Phase::Measure;
        if measuring {
            self.tally.messages += completed;
        }
        if measuring || (self.phase == Phase::Drain && matches!(self.pace, Pace::Open(_))) {
            let now = self.events.now();
            for message in first..first + completed {
                self.tally.record(now - self.pace.start_of(index, message));
            }
        }
    }

    #[cold]
    fn mismatch(&mut self, index: usize, count: u64) {
        self.tally.mismatched_bytes += count;
        let number = self.job.first_connection + index as u64;
        self.tally.errors.remember(|| format!("connection {number}: {count} bytes came back wrong"));
    }

    #[cold]
    fn lose(&mut self, conn: ConnId, loss: Loss) {
        let Some(index) = self.links.find(conn) else {
            return;
        };
        let link = &mut self.links[index];
        link.alive = false;
        self.outstanding -= link.outstanding();
        if self.phase == Phase::Connect && link.returned() == 0 {
            self.settle();
        }
        self.events.close(conn, Close::Discard);
        self.tally.errors.lost(self.job.first_connection + index as u64, loss);
    }
}

fn pace_of(job: &Job) -> Pace {
    let Some(rate) = job.rate else {
        return Pace::Closed(Stamps::new(job.connections, job.message.depth));
    };
    // The kernel lets a sleep run 50 us over unless told otherwise; refused, the latencies only show it.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    Pace::Open(Schedule::new(rate, job.connections))
}
