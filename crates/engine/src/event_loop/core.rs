//! What of a loop is the same whoever sends to it: its sockets, its timers and its driver.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::burst::Burst;
use super::dirty::DirtyList;
use super::slot::{Phase, Role, Slot, TimerTask};
use super::{Config, Event, LoopStats, Progress};
use crate::buffer::{Lease, OutQueue};
use crate::clock::Timestamp;
use crate::driver::{Driver, DriverKind, Opened};
use crate::limits;
use crate::log;
use crate::op::{Completion, Frequent, Op, Submitted, less_one};
use crate::slab::{SlotNumbers, Table};
use crate::timer::{TimerId, TimerWheel};
use crate::token::{ConnId, Key};

/// An [`EventLoop`](super::EventLoop) without its mailbox: all that may be asked of it while its events are
/// handled. Belongs to the loop's thread.
#[derive(Debug)]
pub struct Core {
    pub(super) driver: Driver,
    driver_reason: String,
    pub(super) slots: Table<Slot>,
    pub(super) numbers: Arc<SlotNumbers>,
    pub(super) timers: TimerWheel<TimerTask>,
    /// What ended as soon as it was submitted, and was not dispatched yet.
    pub(super) completions: VecDeque<Completion>,
    /// What became known outside a dispatch.
    pub(super) events: VecDeque<Event<Infallible>>,
    /// Sends that ended well, to be reported with their bytes; before all other events.
    pub(super) sent: VecDeque<(ConnId, u64)>,
    pub(super) dirty: DirtyList,
    #[expect(clippy::vec_box, reason = "the boxes move into send operations as they are")]
    pub(super) spare_queues: Vec<Box<OutQueue>>,
    /// To whom much was written since the last event: it is sent before the next.
    pub(super) eager: Option<Key>,
    pub(super) burst: Burst,
    pub(super) loop_number: u16,
    pub(super) now: Timestamp,
    /// Slots that may each have a lease under way before the driver lacks its memory for the next receives.
    lendable: usize,
    /// There are no more than that: short leases are sent as they are too, instead of copied.
    pub(super) keeps_short_leases: bool,
    /// What the next messages need is seldom in the first-level cache, and is fetched ahead of them.
    pub(super) fetches_ahead: bool,
    /// Whose completion the driver will probably bring next, if that is of use.
    upcoming: Option<Key>,
    /// Completions and timers that this turn may still dispatch.
    budget: Budget,
    turns: u64,
    /// Asked for by the front end.
    timer_operations: u64,
    pub(super) close_timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    completions: usize,
    timers: usize,
}

impl Budget {
    /// An operation may complete at once while a handler runs, and its handler may start the next: twice
    /// the kernel's share leaves room for that and still ends the turn.
    const TURN: Self =
        Self { completions: 2 * limits::COMPLETIONS_PER_TURN, timers: limits::TIMERS_PER_TURN };

    fn take(count: &mut usize) -> bool {
        let left = *count > 0;
        *count -= usize::from(left);
        left
    }
}

impl Core {
    /// Makes a loop and opens its driver.
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let Opened { driver, reason } = Driver::open(&config.driver, &config.driver_config)?;
        log::driver_chosen(config.loop_number, &reason);
        let now = driver.now();
        let lendable = match driver.kind() {
            DriverKind::IoUring => config.driver_config.ring_spare_buffers.into(),
            // Their sends end within the turn.
            DriverKind::Epoll | DriverKind::Sim => usize::MAX,
        };
        Ok(Self {
            driver,
            driver_reason: reason,
            slots: Table::new(),
            numbers: Arc::new(SlotNumbers::new(config.slots)),
            timers: TimerWheel::new(now),
            completions: VecDeque::new(),
            events: VecDeque::new(),
            sent: VecDeque::new(),
            dirty: DirtyList::default(),
            spare_queues: Vec::new(),
            eager: None,
            burst: Burst::default(),
            loop_number: config.loop_number,
            now,
            lendable,
            keeps_short_leases: false,
            fetches_ahead: false,
            upcoming: None,
            budget: Budget::TURN,
            turns: 0,
            timer_operations: 0,
            close_timeout: config.close_timeout,
        })
    }

    // ---- the turn -------------------------------------------------------------------------------

    /// How long the driver may wait, at most until `deadline`; until now when something is left to dispatch.
    pub(super) fn wait_until(&mut self, deadline: Option<Timestamp>) -> Option<Timestamp> {
        if !self.completions.is_empty() || !self.events.is_empty() || !self.sent.is_empty() {
            return Some(self.now);
        }
        earlier(deadline, self.timers.next_deadline())
    }

    /// The driver's turn, and the beginning of the loop's.
    pub(super) fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        let result = self.driver.turn(deadline);
        self.now = self.driver.now();
        self.budget = Budget::TURN;
        let (on_ring, slots) = (self.driver.kind() == DriverKind::IoUring, self.slots.len());
        self.fetches_ahead = !on_ring || slots > limits::CACHED_SLOTS;
        self.keeps_short_leases = slots <= self.lendable;
        self.upcoming = None;
        self.turns += 1;
        result
    }

    /// What happens most, on a path of its own: the next event if it is one of [`Progress`]. `None` does not say
    /// that there is no other: ask [`next_event`](super::EventLoop::next_event) then.
    #[inline(always)]
    pub fn next_progress(&mut self) -> Option<Progress> {
        if self.eager.is_some() {
            self.send_eagerly();
        }
        if let Some((conn, count)) = self.sent.pop_front() {
            return Some(Progress::Sent(conn, count));
        }
        while self.events.is_empty() && self.completions.is_empty() && self.budget.completions > 0 {
            let frequent = self.driver.next_frequent()?;
            self.budget.completions -= 1;
            if self.fetches_ahead {
                self.upcoming = self.driver.upcoming();
                if let Some(next) = self.upcoming {
                    self.slots.prefetch(next);
                }
            }
            match frequent {
                Frequent::Sent(key, queue) => {
                    if let Some(count) = self.on_all_sent(key, queue) {
                        return Some(Progress::Sent(ConnId::new(self.loop_number, key), count));
                    }
                    if let Some((conn, count)) = self.sent.pop_front() {
                        return Some(Progress::Sent(conn, count));
                    }
                }
                Frequent::SentLease(key, count) => {
                    if self.on_lease_sent(key, count) {
                        return Some(Progress::Sent(ConnId::new(self.loop_number, key), count));
                    }
                    if let Some((conn, count)) = self.sent.pop_front() {
                        return Some(Progress::Sent(conn, count));
                    }
                }
                Frequent::Received(key, bytes) => {
                    let conn = ConnId::new(self.loop_number, key);
                    match self.slots.get_mut(key) {
                        Some(slot) if slot.phase == Phase::Open => {
                            slot.receives_left = less_one(slot.receives_left);
                            return Some(Progress::Received(conn, bytes));
                        }
                        _ => self.discard(conn, bytes),
                    }
                }
            }
        }
        None
    }

    /// Whose bytes [`next_progress`](Self::next_progress) will probably bring next: a front end that keeps much
    /// can [fetch](Table::prefetch) it into the cache in time.
    #[inline]
    pub fn upcoming(&self) -> Option<Key> {
        self.upcoming
    }

    /// Bytes for nobody: the connection is closing.
    #[cold]
    fn discard(&mut self, conn: ConnId, bytes: Lease) {
        let event: Option<Event<Infallible>> = self.on_received(conn, Ok(bytes));
        debug_assert!(event.is_none());
    }

    /// The next of what the driver completed, or of what became known since, that concerns the front end.
    #[inline(always)]
    pub(super) fn next_completed<M>(&mut self) -> Option<Event<M>> {
        loop {
            if let Some((conn, count)) = self.sent.pop_front() {
                return Some(Event::Sent(conn, count, Ok(())));
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event.of());
            }
            if !Budget::take(&mut self.budget.completions) {
                return None;
            }
            let Completion { key, outcome } = self.next_completion()?;
            if let Some(event) = self.absorb(key, outcome) {
                return Some(event);
            }
        }
    }

    /// The next of the timers that are due.
    pub(super) fn next_expired<M>(&mut self) -> Option<Event<M>> {
        while Budget::take(&mut self.budget.timers) {
            let (id, task) = self.timers.pop_expired(self.now)?;
            if let Some(event) = self.fire(id, task) {
                return Some(event);
            }
        }
        None
    }

    #[inline(always)]
    fn next_completion(&mut self) -> Option<Completion> {
        if !self.completions.is_empty() {
            return self.completions.pop_front();
        }
        self.driver.next_completion()
    }

    /// The time of this turn; the clock is read once a turn.
    #[inline]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The time at this moment, from the clock.
    pub fn read_clock(&self) -> Timestamp {
        self.driver.now()
    }

    /// Number of this loop among the program's loops.
    pub fn loop_number(&self) -> u16 {
        self.loop_number
    }

    /// Which kernel interface the loop stands on.
    pub fn driver_kind(&self) -> DriverKind {
        self.driver.kind()
    }

    /// Why it is that one, in a sentence for a log.
    pub fn driver_reason(&self) -> &str {
        &self.driver_reason
    }

    /// Counters since the loop was made, but for those of the mailbox, which are zero: they take a lock.
    pub fn counters(&self) -> LoopStats {
        LoopStats {
            turns: self.turns,
            sockets: self.slots.len(),
            timers: self.timers.len() - self.burst.timers(),
            timer_operations: self.timer_operations,
            messages: 0,
            wake_ups: 0,
            driver: self.driver.stats(),
        }
    }

    // ---- timers ---------------------------------------------------------------------------------

    /// Sets a timer: [`Event::Timer`] brings `payload` back once `deadline` has passed, at most one
    /// tick of the wheel (0.13 ms) and the length of a turn later, never earlier.
    pub fn set_timer(&mut self, deadline: Timestamp, payload: u64) -> TimerId {
        self.timer_operations += 1;
        self.timers.insert(deadline, TimerTask::Program(payload))
    }

    /// Sets or moves the one timer that a connection has in its slot, and that ends when its close begins. As
    /// [`set_timer`](Self::set_timer) otherwise; one that is moved keeps its payload.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `InvalidInput` for a listener, which needs its timer itself.
    pub fn set_conn_timer(&mut self, conn: ConnId, deadline: Timestamp, payload: u64) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        if slot.role == Role::Listener {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let known = slot.timer;
        self.timer_operations += 1;
        if known.is_none_or(|timer| !self.timers.reschedule(timer, deadline)) {
            let timer = self.timers.insert(deadline, TimerTask::Program(payload));
            self.open_slot(conn)?.timer = Some(timer);
        }
        Ok(())
    }

    /// Cancels the timer that a connection has in its slot; `false` if there is none, or it has fired.
    pub fn cancel_conn_timer(&mut self, conn: ConnId) -> bool {
        let Ok(slot) = self.open_slot(conn) else { return false };
        match slot.timer.take() {
            Some(timer) => self.cancel_timer(timer),
            None => false,
        }
    }

    /// Moves a timer; `false` if it fired or was cancelled before.
    pub fn move_timer(&mut self, timer: TimerId, deadline: Timestamp) -> bool {
        self.timer_operations += 1;
        self.timers.reschedule(timer, deadline)
    }

    /// Cancels a timer; `false` if it fired or was cancelled before.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.timer_operations += 1;
        self.timers.cancel(timer).is_some()
    }

    fn fire<M>(&mut self, id: TimerId, task: TimerTask) -> Option<Event<M>> {
        match task {
            TimerTask::Program(payload) => return Some(Event::Timer(id, payload)),
            TimerTask::CloseTimeout(key) => self.finish_close(key),
            TimerTask::CheckUnsent(key) => self.check_unsent(key),
            TimerTask::EndBurst => self.end_burst(),
            TimerTask::AcceptAgain(key) => {
                self.slots.get_mut(key)?.timer = None;
                self.start_accepting(key);
            }
        }
        None
    }

    // ---- helpers --------------------------------------------------------------------------------

    /// Submits an operation; one that ends at once is dispatched like any other.
    #[inline]
    pub(super) fn start(&mut self, key: Key, op: Op) {
        if let Submitted::Done(outcome) = self.driver.submit(key, op) {
            self.completions.push_back(Completion { key, outcome });
        }
    }
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
