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

mod burst;
mod closing;
mod completions;
mod core;
mod dirty;
mod sending;
mod slot;
mod sockets;

use std::convert::Infallible;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::BytesMut;

use crate::buffer::{DatagramQueue, Lease};
use crate::clock::Timestamp;
use crate::driver::{DriverChoice, DriverConfig, DriverStats, Socket, Waker};
use crate::limits;
use crate::mailbox::{Mailbox, Sender};
use crate::op::{InDatagram, Interest, OutDatagram};
use crate::timer::TimerId;
use crate::token::ConnId;

pub use self::core::Core;
pub use self::sockets::DatagramSend;

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
    /// Time that a close with [`Close::Flush`] may take.
    pub close_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            driver_config: DriverConfig::default(),
            loop_number: 0,
            slots: limits::SLOTS,
            mailbox_capacity: limits::MAILBOX_CAPACITY,
            close_timeout: limits::CLOSE_TIMEOUT,
        }
    }
}

/// Something that happened, for the front end to act on.
#[derive(Debug)]
pub enum Event<M> {
    /// A message of another thread.
    Message(M),
    /// A timer set with [`Core::set_timer`] is due; its payload comes back.
    Timer(TimerId, u64),
    /// A listener has a new connection. Whoever attaches it, on this loop or another, owns it.
    Accepted(ConnId, Socket),
    /// Accepting failed for lack of a resource and goes on by itself after the pause.
    AcceptFailed(ConnId, io::Error, Duration),
    /// Accepting was ended by [`Core::cancel_accept`].
    AcceptEnded(ConnId),
    /// A connect ended. After an error the socket is of no more use, and what was queued is lost.
    Connected(ConnId, io::Result<()>),
    /// Bytes arrived; an empty lease is the end of the stream. It and an error are the last, and so is what
    /// [`Core::receive_once`] brought.
    Received(ConnId, io::Result<Lease>),
    /// A receive into an owned buffer ended with this many bytes appended; 0 is the end of the stream.
    ReceivedInto(ConnId, BytesMut, io::Result<usize>),
    /// A datagram arrived; an error and the last that was asked for end the receive.
    Datagram(ConnId, io::Result<InDatagram>),
    /// Sending failed: what was queued is lost, and the connection is of no more use for writing.
    SendFailed(ConnId, io::Error),
    /// A send ended for whose connection [`Core::report_sends`] was called: so many of its bytes went to
    /// the kernel. After an error what was queued is discarded; after a cancel the output stays usable.
    Sent(ConnId, u64, io::Result<()>),
    /// A datagram was sent, or not.
    SentTo(ConnId, Box<OutDatagram>, io::Result<()>),
    /// The datagrams of a queue were sent, or not: its report says. It is empty unless it was cancelled.
    SentDatagrams(ConnId, Box<DatagramQueue>, io::Result<()>),
    /// A watched descriptor is ready; an error is the last.
    Ready(ConnId, io::Result<Interest>),
    /// The socket is closed and its name is stale from here on. The last event of each socket.
    Closed(ConnId),
}

/// The two events that every message brings; see [`Core::next_progress`].
#[derive(Debug)]
pub enum Progress {
    /// [`Event::Received`] with bytes.
    Received(ConnId, Lease),
    /// [`Event::Sent`] without error.
    Sent(ConnId, u64),
}

/// How [`Core::close`] treats what is still under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what is queued, end our direction, read and discard until the peer's end of stream, then
    /// close. Bounded by [`Config::close_timeout`] and [`limits::DRAIN_BYTES`].
    Flush,
    /// Discard what is queued and close.
    Discard,
    /// Discard what is queued and reset the connection.
    Reset,
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
    /// Timers that were ever set, moved or cancelled.
    pub timer_operations: u64,
    /// Messages that arrived in the mailbox.
    pub messages: u64,
    /// System calls made to wake the loop for them.
    pub wake_ups: u64,
    /// Counters of the driver.
    pub driver: DriverStats,
}

/// One thread's event loop. The thread that calls [`turn`](Self::turn) first is the loop's thread; all
/// methods belong to it. Other threads reach the loop through [`sender`](Self::sender).
///
/// `M` is what they send. All else is the [`Core`], to which this type dereferences: whoever only reads, writes
/// and sets timers need not know what is sent.
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
    core: Core,
    mailbox: Mailbox<M, Waker>,
    /// Messages that a turn may bring: none while they are held.
    messages_per_turn: usize,
}

impl<M> EventLoop<M> {
    /// Makes a loop and opens its driver.
    ///
    /// # Errors
    ///
    /// What [`Driver::open`](crate::driver::Driver::open) says.
    pub fn new(config: &Config) -> io::Result<Self> {
        let core = Core::new(config)?;
        let mailbox = Mailbox::new(core.driver.waker(), config.mailbox_capacity);
        Ok(Self { core, mailbox, messages_per_turn: limits::MESSAGES_PER_TURN })
    }

    /// Flushes what was written, makes the one system call that submits and waits, and collects what
    /// became ready. Waits at most until `deadline` (`None`: until something happens), and not at all
    /// while something is left to dispatch.
    ///
    /// # Errors
    ///
    /// Only what makes going on impossible: the driver lost a completion or its descriptor.
    pub fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        self.core.flush_dirty();
        let now = self.core.now();
        let mut deadline = self.core.wait_until(deadline);
        // Announces the sleep to senders, if there is to be any.
        if deadline.is_none_or(|deadline| deadline > now) && !self.mailbox.prepare_sleep() {
            deadline = Some(now);
        }
        let result = self.core.turn(deadline);
        self.mailbox.awake();
        self.mailbox.begin_turn(self.messages_per_turn);
        result
    }

    /// The next thing that happened, or `None` when this turn has brought all it may.
    ///
    /// Completions come first, then messages, then timers; what handlers write meanwhile leaves with
    /// the next [`turn`](Self::turn).
    #[inline(always)]
    pub fn next_event(&mut self) -> Option<Event<M>> {
        if let Some(event) = self.core.next_completed() {
            return Some(event);
        }
        if let Some(message) = self.mailbox.next_message() {
            return Some(Event::Message(message));
        }
        self.core.next_expired()
    }

    /// Whether messages stay in the mailbox, from the next one on, until this is called again: while what one of
    /// them asked for goes on over several turns. A loop that holds messages has something to do, so give
    /// [`turn`](Self::turn) a deadline: messages do not end its wait.
    pub fn hold_messages(&mut self, hold: bool) {
        self.messages_per_turn = if hold { 0 } else { limits::MESSAGES_PER_TURN };
        if hold {
            self.mailbox.end_turn();
        }
    }

    /// How other threads send to this loop.
    pub fn sender(&self) -> Sender<M, Waker> {
        self.mailbox.sender()
    }

    /// Counters since the loop was made.
    pub fn stats(&self) -> LoopStats {
        let mailbox = self.mailbox.stats();
        LoopStats { messages: mailbox.sent, wake_ups: mailbox.wake_ups, ..self.core.counters() }
    }
}

impl<M> Deref for EventLoop<M> {
    type Target = Core;

    #[inline(always)]
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl<M> DerefMut for EventLoop<M> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

/// An event of the core, which has no messages, among those of a loop that has.
impl Event<Infallible> {
    fn of<M>(self) -> Event<M> {
        match self {
            Self::Message(never) => match never {},
            Self::Timer(timer, payload) => Event::Timer(timer, payload),
            Self::Accepted(conn, socket) => Event::Accepted(conn, socket),
            Self::AcceptFailed(conn, error, pause) => Event::AcceptFailed(conn, error, pause),
            Self::AcceptEnded(conn) => Event::AcceptEnded(conn),
            Self::Connected(conn, result) => Event::Connected(conn, result),
            Self::Received(conn, result) => Event::Received(conn, result),
            Self::ReceivedInto(conn, buffer, result) => Event::ReceivedInto(conn, buffer, result),
            Self::Datagram(conn, result) => Event::Datagram(conn, result),
            Self::SendFailed(conn, error) => Event::SendFailed(conn, error),
            Self::Sent(conn, count, result) => Event::Sent(conn, count, result),
            Self::SentTo(conn, datagram, result) => Event::SentTo(conn, datagram, result),
            Self::SentDatagrams(conn, queue, result) => Event::SentDatagrams(conn, queue, result),
            Self::Ready(conn, result) => Event::Ready(conn, result),
            Self::Closed(conn) => Event::Closed(conn),
        }
    }
}
