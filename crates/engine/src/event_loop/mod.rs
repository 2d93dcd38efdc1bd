//! One thread, one driver, one slab of slots, one timer wheel, one mailbox.
//!
//! ```text
//!            ┌──────────────────────────── turn ────────────────────────────┐
//!  flush dirty out-queues ─► one system call: submit and wait ─► read the clock
//!            ▲                                                              │
//!            │                 next_event, until it says None               ▼
//!            └──── due timers ◄──── mailbox, bounded ◄──── completions ◄────┘
//! ```
//!
//! The front end owns the loop and drives it: [`EventLoop::turn`], then [`EventLoop::next_event`] until
//! there is none. No callback, no lock, no allocation on the way of a message.

mod closing;
mod completions;
mod sending;
mod slot;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::buffer::{Lease, OutQueue};
use crate::clock::Timestamp;
use crate::driver::{Driver, DriverChoice, DriverConfig, DriverKind, DriverStats, Opened, Socket, Waker};
use crate::limits;
use crate::log;
use crate::mailbox::{Mailbox, Sender};
use crate::op::{
    self, Completion, Direction, Frequent, InDatagram, Interest, Op, OutDatagram, Submitted, less_one,
};
use crate::slab::{SlotNumbers, Table};
use crate::socket::Address;
use crate::timer::{TimerId, TimerWheel};
use crate::token::{ConnId, Key};

use slot::{Phase, Role, Slot, TimerTask};

/// How to make an [`EventLoop`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Which kernel interface to use.
    pub driver: DriverChoice,
    /// Sizes of the driver's memory.
    pub driver_config: DriverConfig,
    /// Number of this loop among the program's loops; part of each of its [`ConnId`]s.
    pub loop_number: u16,
    /// Most sockets at one time.
    pub slots: u32,
    /// Messages that may wait in the mailbox.
    pub mailbox_capacity: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            driver_config: DriverConfig::default(),
            loop_number: 0,
            slots: limits::SLOTS,
            mailbox_capacity: limits::MAILBOX_CAPACITY,
        }
    }
}

/// Something that happened, for the front end to act on.
#[derive(Debug)]
pub enum Event<M> {
    /// A message of another thread.
    Message(M),
    /// A timer set with [`EventLoop::set_timer`] is due; its payload comes back.
    Timer(TimerId, u64),
    /// A listener has a new connection. Whoever attaches it, on this loop or another, owns it.
    Accepted(ConnId, Socket),
    /// Accepting failed for lack of a resource and goes on by itself after the pause.
    AcceptFailed(ConnId, io::Error, Duration),
    /// A connect ended. After an error the socket is of no more use, and what was queued is lost.
    Connected(ConnId, io::Result<()>),
    /// Bytes arrived; an empty lease is the end of the stream. It and an error are the last, and so is what
    /// [`EventLoop::receive_once`] brought.
    Received(ConnId, io::Result<Lease>),
    /// A receive into an owned buffer ended with this many bytes appended; 0 is the end of the stream.
    ReceivedInto(ConnId, BytesMut, io::Result<usize>),
    /// A datagram arrived; an error and the last that was asked for end the receive.
    Datagram(ConnId, io::Result<InDatagram>),
    /// Sending failed: what was queued is lost, and the connection is of no more use for writing.
    SendFailed(ConnId, io::Error),
    /// A send ended for whose connection [`EventLoop::report_sends`] was called: so many of its bytes went to
    /// the kernel. After an error what was queued is discarded; after a cancel the output stays usable.
    Sent(ConnId, u64, io::Result<()>),
    /// A datagram was sent, or not.
    SentTo(ConnId, Box<OutDatagram>, io::Result<()>),
    /// A watched descriptor is ready; an error is the last.
    Ready(ConnId, io::Result<Interest>),
    /// The socket is closed and its name is stale from here on. The last event of each socket.
    Closed(ConnId),
}

/// The two events that every message brings; see [`EventLoop::next_progress`].
#[derive(Debug)]
pub enum Progress {
    /// [`Event::Received`] with bytes.
    Received(ConnId, Lease),
    /// [`Event::Sent`] without error.
    Sent(ConnId, u64),
}

/// How [`EventLoop::close`] treats what is still under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what is queued, end our direction, read and discard until the peer's end of stream, then
    /// close. Bounded by [`limits::CLOSE_TIMEOUT`] and [`limits::DRAIN_BYTES`].
    Flush,
    /// Discard what is queued and close.
    Discard,
    /// Discard what is queued and reset the connection.
    Reset,
}

/// One thread's event loop. The thread that calls [`turn`](Self::turn) first is the loop's thread; all
/// methods belong to it. Other threads reach the loop through [`sender`](Self::sender).
///
/// `M` is what they send.
///
/// # Examples
///
/// A loop that waits for one message of another thread:
///
/// ```
/// use kolk_engine::{Config, Event, EventLoop};
///
/// let mut event_loop = EventLoop::<&str>::new(&Config::default())?;
/// let sender = event_loop.sender();
/// std::thread::spawn(move || sender.send("hello"));
///
/// let mut received = None;
/// while received.is_none() {
///     event_loop.turn(None)?;
///     while let Some(event) = event_loop.next_event() {
///         if let Event::Message(message) = event {
///             received = Some(message);
///         }
///     }
/// }
/// assert_eq!(received, Some("hello"));
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct EventLoop<M> {
    driver: Driver,
    driver_reason: String,
    slots: Table<Slot>,
    numbers: Arc<SlotNumbers>,
    mailbox: Mailbox<M, Waker>,
    timers: TimerWheel<TimerTask>,
    /// What ended as soon as it was submitted, and was not dispatched yet.
    completions: VecDeque<Completion>,
    /// What became known outside a dispatch.
    events: VecDeque<Event<M>>,
    /// Sends that ended well, to be reported with their bytes; before all other events.
    sent: VecDeque<(ConnId, u64)>,
    /// Slots with something in `out`, in the order in which they got it. Each at most once.
    dirty: Vec<Key>,
    #[expect(clippy::vec_box, reason = "the boxes move into send operations as they are")]
    spare_queues: Vec<Box<OutQueue>>,
    loop_number: u16,
    now: Timestamp,
    /// Completions and timers that this turn may still dispatch.
    budget: Budget,
    turns: u64,
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

/// Counters of an event loop since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Turns.
    pub turns: u64,
    /// Sockets that are attached.
    pub sockets: usize,
    /// Timers that are set.
    pub timers: usize,
    /// Messages that arrived in the mailbox.
    pub messages: u64,
    /// System calls made to wake the loop for them.
    pub wake_ups: u64,
    /// Counters of the driver.
    pub driver: DriverStats,
}

impl<M> EventLoop<M> {
    /// Makes a loop and opens its driver.
    ///
    /// # Errors
    ///
    /// What [`Driver::open`] says.
    pub fn new(config: &Config) -> io::Result<Self> {
        let Opened { driver, reason } = Driver::open(&config.driver, &config.driver_config)?;
        log::driver_chosen(config.loop_number, &reason);
        let now = driver.now();
        Ok(Self {
            mailbox: Mailbox::new(driver.waker(), config.mailbox_capacity),
            driver,
            driver_reason: reason,
            slots: Table::new(),
            numbers: Arc::new(SlotNumbers::new(config.slots)),
            timers: TimerWheel::new(now),
            completions: VecDeque::new(),
            events: VecDeque::new(),
            sent: VecDeque::new(),
            dirty: Vec::new(),
            spare_queues: Vec::new(),
            loop_number: config.loop_number,
            now,
            budget: Budget::TURN,
            turns: 0,
        })
    }

    // ---- the turn -------------------------------------------------------------------------------

    /// Flushes what was written, makes the one system call that submits and waits, and collects what
    /// became ready. Waits at most until `deadline` (`None`: until something happens), and not at all
    /// while something is left to dispatch.
    ///
    /// # Errors
    ///
    /// Only what makes going on impossible: the driver lost a completion or its descriptor.
    pub fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        self.flush_dirty();
        let deadline = self.wait_until(deadline);
        let result = self.driver.turn(deadline);
        self.mailbox.awake();
        self.mailbox.begin_turn(limits::MESSAGES_PER_TURN);
        self.now = self.driver.now();
        self.budget = Budget::TURN;
        self.turns += 1;
        result
    }

    /// What happens most, on a path of its own: the next event if it is one of [`Progress`]. `None` does not say
    /// that there is no other: ask [`next_event`](Self::next_event) then.
    #[inline(always)]
    pub fn next_progress(&mut self) -> Option<Progress> {
        if let Some((conn, count)) = self.sent.pop_front() {
            return Some(Progress::Sent(conn, count));
        }
        while self.events.is_empty() && self.completions.is_empty() && self.budget.completions > 0 {
            match self.driver.next_frequent()? {
                Frequent::Sent(key, queue) => {
                    self.budget.completions -= 1;
                    self.on_sent(key, queue, Ok(()));
                    if let Some((conn, count)) = self.sent.pop_front() {
                        return Some(Progress::Sent(conn, count));
                    }
                }
                Frequent::Received(key, bytes) => {
                    self.budget.completions -= 1;
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

    /// Bytes for nobody: the connection is closing.
    #[cold]
    fn discard(&mut self, conn: ConnId, bytes: Lease) {
        let event = self.on_received(conn, Ok(bytes));
        debug_assert!(event.is_none());
    }

    /// The next thing that happened, or `None` when this turn has brought all it may.
    ///
    /// Completions come first, then messages, then timers; what handlers write meanwhile leaves with
    /// the next [`turn`](Self::turn).
    #[inline(always)]
    pub fn next_event(&mut self) -> Option<Event<M>> {
        loop {
            if let Some((conn, count)) = self.sent.pop_front() {
                return Some(Event::Sent(conn, count, Ok(())));
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if Budget::take(&mut self.budget.completions)
                && let Some(Completion { key, outcome }) = self.next_completion()
            {
                match self.absorb(key, outcome) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            if let Some(message) = self.mailbox.next_message() {
                return Some(Event::Message(message));
            }
            if Budget::take(&mut self.budget.timers)
                && let Some((id, task)) = self.timers.pop_expired(self.now)
            {
                match self.fire(id, task) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            return self.events.pop_front();
        }
    }

    #[inline(always)]
    fn next_completion(&mut self) -> Option<Completion> {
        if !self.completions.is_empty() {
            return self.completions.pop_front();
        }
        self.driver.next_completion()
    }

    /// How long the driver may wait. Announces the sleep to the mailbox if it may wait at all.
    fn wait_until(&mut self, deadline: Option<Timestamp>) -> Option<Timestamp> {
        if !self.completions.is_empty() || !self.events.is_empty() || !self.sent.is_empty() {
            return Some(self.now);
        }
        let deadline = earlier(deadline, self.timers.next_deadline());
        let polls = deadline.is_some_and(|deadline| deadline <= self.now);
        if polls || !self.mailbox.prepare_sleep() { Some(self.now) } else { deadline }
    }

    /// The time of this turn; the clock is read once a turn.
    #[inline]
    pub fn now(&self) -> Timestamp {
        self.now
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

    /// How other threads send to this loop.
    pub fn sender(&self) -> Sender<M, Waker> {
        self.mailbox.sender()
    }

    /// Counters since the loop was made.
    pub fn stats(&self) -> LoopStats {
        let mailbox = self.mailbox.stats();
        LoopStats {
            turns: self.turns,
            sockets: self.slots.len(),
            timers: self.timers.len(),
            messages: mailbox.sent,
            wake_ups: mailbox.wake_ups,
            driver: self.driver.stats(),
        }
    }

    // ---- sockets --------------------------------------------------------------------------------

    /// The slot numbers of this loop, from which any thread may reserve one for a socket to come.
    pub fn slot_numbers(&self) -> &Arc<SlotNumbers> {
        &self.numbers
    }

    /// Takes over a socket under a fresh name.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` when all slots are taken; what [`Driver::attach`] says. The socket is closed then.
    pub fn attach(&mut self, socket: Socket) -> io::Result<ConnId> {
        let key = self.reserve()?;
        self.attach_reserved(key, socket)
    }

    /// Takes over a socket under a name that was reserved for it.
    ///
    /// # Errors
    ///
    /// What [`Driver::attach`] says. The socket is closed and the name given back then.
    pub fn attach_reserved(&mut self, key: Key, socket: Socket) -> io::Result<ConnId> {
        match self.driver.attach(key, socket) {
            Ok(()) => {
                self.slots.insert(key, Slot::default());
                Ok(ConnId::new(self.loop_number, key))
            }
            Err(error) => {
                self.numbers.release(key);
                Err(error)
            }
        }
    }

    /// Gives a socket back that has nothing in flight and nothing to send; its name is stale then.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` while an operation is in flight or output waits.
    pub fn detach(&mut self, conn: ConnId) -> io::Result<Socket> {
        let slot = self.open_slot(conn)?;
        // What the driver has completed and nobody has seen yet is in flight as well.
        if slot.is_receiving() || slot.connecting || slot.has_output() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let key = conn.key();
        let socket = self.driver.detach(key).ok_or(io::ErrorKind::ResourceBusy)?;
        self.forget(key);
        Ok(socket)
    }

    /// The socket behind a name, to ask it for addresses or to set options; `None` if the name is stale.
    pub fn socket(&self, conn: ConnId) -> Option<&Socket> {
        self.driver.socket(conn.key())
    }

    /// Accepts connections on a listener until it is closed. A lack of resources pauses it, longer each
    /// time, and it goes on by itself.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` if it accepts already.
    pub fn accept(&mut self, listener: ConnId) -> io::Result<()> {
        self.take_role(listener, Role::Listener)?;
        self.start(listener.key(), Op::Accept);
        Ok(())
    }

    /// Makes a stream socket and connects it; [`Event::Connected`] tells what came of it. Writes and
    /// a receive may be asked for at once: they wait for the connection.
    ///
    /// # Errors
    ///
    /// What socket(2) says; `OutOfMemory` when all slots are taken; `InvalidInput` for an address that
    /// cannot be connected to.
    pub fn connect(&mut self, address: &Address) -> io::Result<ConnId> {
        let key = self.reserve()?;
        self.connect_reserved(key, address)
    }

    /// [`connect`](Self::connect) under a name that was reserved for it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). The name is given back then.
    pub fn connect_reserved(&mut self, key: Key, address: &Address) -> io::Result<ConnId> {
        let socket = self.driver.open_stream(address).inspect_err(|_| {
            self.numbers.release(key);
        })?;
        let conn = self.attach_reserved(key, socket)?;
        let slot = self.open_slot(conn)?;
        slot.connecting = true;
        self.start(conn.key(), Op::Connect(address.clone()));
        Ok(conn)
    }

    /// Receives into the loop's buffers until the stream ends; many [`Event::Received`].
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name or a stream whose input has ended; `ResourceBusy` while
    /// another receive is in flight.
    pub fn receive(&mut self, conn: ConnId) -> io::Result<()> {
        self.start_receive(conn, Op::Receive, u32::MAX)
    }

    /// Receives once into the loop's buffers; one [`Event::Received`].
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_once(&mut self, conn: ConnId) -> io::Result<()> {
        self.start_receive(conn, Op::ReceiveOnce, 1)
    }

    /// Receives once into the spare capacity of `buffer`; one [`Event::ReceivedInto`].
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); `InvalidInput` for a buffer without spare capacity.
    pub fn receive_into(&mut self, conn: ConnId, buffer: BytesMut) -> io::Result<()> {
        if buffer.capacity() == buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the buffer has no spare capacity"));
        }
        self.start_receive(conn, Op::ReceiveInto(buffer), 1)
    }

    /// Receives `count` datagrams, or as many as come until it is cancelled (`u32::MAX`); an
    /// [`Event::Datagram`] for each.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); `InvalidInput` for a count of zero.
    pub fn receive_from(&mut self, conn: ConnId, count: u32) -> io::Result<()> {
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a receive of no datagram"));
        }
        self.open_slot(conn)?.role = Role::Datagram;
        self.start_receive(conn, Op::ReceiveFrom(count), count)
    }

    /// Ends the receive in flight; its last event carries the error for which
    /// [`is_cancelled`](crate::op::is_cancelled) is true.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name.
    pub fn cancel_receive(&mut self, conn: ConnId) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        match slot.waiting_receive.take() {
            None => self.driver.cancel(conn.key(), Direction::Receive),
            Some(receive) => {
                slot.receives_left = 0;
                self.events.push_back(match *receive {
                    Op::ReceiveInto(buffer) => Event::ReceivedInto(conn, buffer, Err(op::cancelled())),
                    _ => Event::Received(conn, Err(op::cancelled())),
                });
            }
        }
        Ok(())
    }

    /// Sends one datagram; one [`Event::SentTo`].
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` while another send is in flight.
    pub fn send_to(&mut self, conn: ConnId, datagram: Box<OutDatagram>) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        slot.role = Role::Datagram;
        if std::mem::replace(&mut slot.sending, true) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.start(conn.key(), Op::SendTo(datagram));
        Ok(())
    }

    /// Reports each time a descriptor becomes ready, until it is closed; many [`Event::Ready`]. Ready
    /// means that it became so, not that it still is: use it until it would block.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` if it is watched already.
    pub fn watch(&mut self, conn: ConnId, interest: Interest) -> io::Result<()> {
        self.take_role(conn, Role::Watched)?;
        self.start(conn.key(), Op::Watch(interest));
        Ok(())
    }

    /// Ends a socket; [`Event::Closed`] is its last event. A stale name, and a second close that asks
    /// for no more than the first, have no effect.
    pub fn close(&mut self, conn: ConnId, how: Close) {
        let Some(slot) = self.slots.get_mut(conn.key()) else { return };
        match (slot.phase, how) {
            (Phase::Closing, _) | (Phase::Flushing | Phase::Draining | Phase::Settling, Close::Flush) => {}
            (Phase::Open, Close::Flush) if slot.needs_flush() => self.begin_flush(conn.key()),
            (_, Close::Reset) => {
                if let Some(socket) = self.driver.socket(conn.key()) {
                    // The option fails only where a reset has no meaning; the close follows anyway.
                    let _ = socket.set_reset_on_close();
                }
                self.finish_close(conn.key());
            }
            _ => self.finish_close(conn.key()),
        }
    }

    // ---- timers ---------------------------------------------------------------------------------

    /// Sets a timer: [`Event::Timer`] brings `payload` back once `deadline` has passed, at most one
    /// tick of the wheel (0.13 ms) and the length of a turn later, never earlier.
    pub fn set_timer(&mut self, deadline: Timestamp, payload: u64) -> TimerId {
        self.timers.insert(deadline, TimerTask::Program(payload))
    }

    /// Moves a timer; `false` if it fired or was cancelled before.
    pub fn move_timer(&mut self, timer: TimerId, deadline: Timestamp) -> bool {
        self.timers.reschedule(timer, deadline)
    }

    /// Cancels a timer; `false` if it fired or was cancelled before.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.timers.cancel(timer).is_some()
    }

    fn fire(&mut self, id: TimerId, task: TimerTask) -> Option<Event<M>> {
        match task {
            TimerTask::Program(payload) => return Some(Event::Timer(id, payload)),
            TimerTask::CloseTimeout(key) => self.finish_close(key),
            TimerTask::CheckUnsent(key) => self.check_unsent(key),
            TimerTask::AcceptAgain(key) => {
                let slot = self.slots.get_mut(key)?;
                slot.timer = None;
                if slot.phase == Phase::Open {
                    self.start(key, Op::Accept);
                }
            }
        }
        None
    }

    // ---- helpers --------------------------------------------------------------------------------

    fn reserve(&mut self) -> io::Result<Key> {
        let limit = self.numbers.limit();
        self.numbers.reserve().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("all {limit} slots of the event loop are taken"),
            )
        })
    }

    fn open_slot(&mut self, conn: ConnId) -> io::Result<&mut Slot> {
        match self.slots.get_mut(conn.key()) {
            Some(slot) if slot.phase == Phase::Open => Ok(slot),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Makes a socket a listener or a watched one, which it then is until it is closed.
    fn take_role(&mut self, conn: ConnId, role: Role) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        if std::mem::replace(&mut slot.role, role) == role {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(())
    }

    /// `times`: how often the operation may bring something.
    fn start_receive(&mut self, conn: ConnId, op: Op, times: u32) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        if slot.input_ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if slot.is_receiving() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        slot.receives_left = times;
        if slot.connecting {
            slot.waiting_receive = Some(Box::new(op));
        } else {
            self.start(conn.key(), op);
        }
        Ok(())
    }

    /// Submits an operation; one that ends at once is dispatched like any other.
    fn start(&mut self, key: Key, op: Op) {
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
