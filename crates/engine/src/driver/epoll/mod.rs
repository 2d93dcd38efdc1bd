//! Linux epoll as completions.
//!
//! Each descriptor is registered once, edge-triggered, for both directions; after that the kernel is
//! asked only to wait. What it reports is remembered as *ready bits*, and an operation whose bit is set
//! stands in the run queue:
//!
//! ```text
//!  epoll_pwait2 ─► ready bits ─► run queue ─► recv, send, accept ─► completions
//!                                   ▲                │ would block: clear the bit
//!  submit ──────────────────────────┘                │ budget used up: to the end of the queue
//!                                   ▲                │
//!                                   └────────────────┘
//! ```
//!
//! A send is tried when it is submitted; a receive is not, since in request and response traffic the
//! next request is not there yet.
//!
//! [`row`] has what is in flight on a slot and goes on with it, [`run_queue`] who is next; this file waits, starts
//! and ends operations.

mod row;
mod run_queue;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytes::BytesMut;

use super::datagrams::DatagramCalls;
use super::descriptors;
use super::linux::{self, EventFd};
use super::readiness::{self, Attempt};
use super::shelf::Shelf;
use super::{Completions, DriverConfig, DriverStats, Socket, Waker};
use crate::buffer::{Arena, Lease, OutQueue};
use crate::clock::Timestamp;
use crate::limits::{COMPLETIONS_PER_TURN, RUNS_PER_TURN};
use crate::op::{Completion, Direction, Frequent, Op, Outcome, Submitted, cancelled};
use crate::prefetch::prefetch;
use crate::sys::syscall;
use crate::token::{Key, Token, TokenKind};

use row::{Auxiliary, Ready, Receive, Row, Run, Send};
use run_queue::RunQueue;

/// The epoll driver of one loop.
#[derive(Debug)]
pub struct Epoll {
    epoll: OwnedFd,
    wake: EventFd,
    /// By slot number.
    rows: Vec<Row>,
    /// Slots with an operation whose ready bit is set. A slot stands here at most once.
    run: RunQueue,
    /// What completed beside what [`Self::next_completion`] was asked for.
    done: Completions,
    /// Buffers of receives in flight that brought their own.
    buffers: Shelf<BytesMut>,
    arena: Arena,
    /// `None` before the first datagram socket.
    datagrams: Option<Box<DatagramCalls>>,
    events: Box<[libc::epoll_event]>,
    /// The kernel refused `epoll_pwait2`: waits are rounded up to milliseconds.
    coarse_waits: bool,
    stats: DriverStats,
}

impl Epoll {
    pub(super) fn new(config: &DriverConfig) -> io::Result<Self> {
        descriptors::begin();
        // SAFETY: epoll_create1 takes no pointer, and nobody else owns the descriptor it returns.
        let epoll = unsafe { OwnedFd::from_raw_fd(syscall!(epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let wake = EventFd::new()?;
        // Level-triggered: it stays ready until the loop has reset it.
        register(&epoll, wake.as_fd(), libc::EPOLLIN, Token::WAKE)?;
        Ok(Self {
            epoll,
            wake,
            rows: Vec::new(),
            run: RunQueue::default(),
            done: Completions::new(),
            buffers: Shelf::new(),
            arena: Arena::new(config.arena_block_size, config.arena_blocks),
            datagrams: None,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; COMPLETIONS_PER_TURN].into(),
            coarse_waits: false,
            stats: DriverStats::default(),
        })
    }

    pub(super) fn attach(&mut self, key: Key, socket: Socket) -> io::Result<()> {
        let Some(fd) = socket.as_fd() else {
            let message = "a simulated socket cannot be attached to epoll";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        register(&self.epoll, fd, events, Token::new(TokenKind::Watch, key))?;
        descriptors::note(fd);
        let index = key.index() as usize;
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, Row::default);
        }
        let row = &mut self.rows[index];
        debug_assert!(row.socket.is_none(), "{key:?}: the slot has a socket already");
        *row = Row { socket: Some(socket), generation: Some(key.generation()), ..Row::default() };
        Ok(())
    }

    pub(super) fn detach(&mut self, key: Key) -> Option<Socket> {
        let row = self.row_mut(key).filter(|row| row.is_idle())?;
        let socket = std::mem::take(row).socket?;
        let fd = socket.as_fd()?.as_raw_fd();
        // SAFETY: EPOLL_CTL_DEL ignores the event pointer.
        let removed = unsafe {
            syscall!(epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()))
        };
        debug_assert!(removed.is_ok(), "{key:?} was registered");
        Some(socket)
    }

    pub(super) fn socket(&self, key: Key) -> Option<&Socket> {
        let row = self.rows.get(key.index() as usize)?;
        row.socket.as_ref().filter(|_| row.generation == Some(key.generation()))
    }

    #[inline]
    pub(super) fn submit(&mut self, key: Key, op: Op) -> Submitted {
        let Some(row) = self.row_mut(key) else { unreachable!("{key:?}: operations need an attached slot") };
        match op {
            Op::Receive => row.set_receive(Receive::Stream { once: false }),
            Op::ReceiveOnce => row.set_receive(Receive::Stream { once: true }),
            Op::ReceiveFrom(left) => row.set_receive(Receive::Datagrams { left }),
            Op::ReceiveInto(buffer) => {
                let place = self.buffers.put(buffer);
                self.rows[key.index() as usize].set_receive(Receive::Into(place));
            }
            Op::SendTo(datagram) => match readiness::send_datagram(row.fd(), &datagram) {
                Attempt::Done(result) => return Submitted::Done(Outcome::SentTo(datagram, result)),
                Attempt::WouldBlock => {
                    row.ready.writable = false;
                    row.send = Send::Datagram(datagram);
                }
            },
            Op::SendDatagrams(queue) => {
                let calls = self.datagrams.get_or_insert_with(DatagramCalls::new);
                let row = &mut self.rows[key.index() as usize];
                if let Some(outcome) = row.send_datagrams(queue, calls, &mut self.stats) {
                    return Submitted::Done(outcome);
                }
            }
            Op::Accept => {
                if let Err(error) = readiness::set_nonblocking(&row.fd()) {
                    return Submitted::Done(Outcome::Accepted(Err(error)));
                }
                row.auxiliary = Auxiliary::Accept;
            }
            Op::Connect(address) => {
                // An unconnected socket is reported as hung up: that is over once it connects.
                row.ready = Ready::default();
                let fd = row.fd();
                let started = readiness::set_nonblocking(&fd).map(|()| readiness::connect(fd, &address));
                match started.unwrap_or_else(|error| Attempt::Done(Err(error))) {
                    Attempt::Done(result) => return Submitted::Done(Outcome::Connected(result)),
                    Attempt::WouldBlock => row.auxiliary = Auxiliary::Connect,
                }
            }
            Op::Watch(interest) => row.auxiliary = Auxiliary::Watch(interest),
            Op::Close => return self.close(key),
        }
        self.enqueue(key);
        Submitted::Pending
    }

    #[inline(always)]
    pub(super) fn send(&mut self, key: Key, mut queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        let row = &mut self.rows[key.index() as usize];
        debug_assert_eq!(row.generation, Some(key.generation()), "{key:?} is stale");
        // What most sends are: one piece, that leaves whole.
        if let Some(bytes) = queue.single_slice() {
            match linux::send(row.fd(), bytes) {
                Ok(count) if count as u64 == queue.len() => {
                    if let Some(lease) = queue.finish() {
                        self.arena.give_back(lease);
                    }
                    return Some(queue);
                }
                result => return self.go_on_sending(key, queue, result),
            }
        }
        self.go_on_sending(key, queue, Ok(0))
    }

    #[inline(always)]
    pub(super) fn try_send(&mut self, key: Key, bytes: &[u8]) -> io::Result<usize> {
        let row = &self.rows[key.index() as usize];
        debug_assert_eq!(row.generation, Some(key.generation()), "{key:?} is stale");
        linux::send(row.fd(), bytes)
    }

    /// After the first call for a send: `first` is what came of it, 0 if there was none.
    #[inline(never)]
    pub(super) fn go_on_sending(
        &mut self,
        key: Key,
        mut queue: Box<OutQueue>,
        first: io::Result<usize>,
    ) -> Option<Box<OutQueue>> {
        let row = &mut self.rows[key.index() as usize];
        let ended = match Attempt::from(first) {
            Attempt::Done(Ok(count)) => {
                queue.advance(count as u64);
                row.send_queue(queue)
            }
            Attempt::Done(Err(error)) => Some((queue, Err(error))),
            Attempt::WouldBlock => {
                row.keep_sending(queue, false);
                None
            }
        };
        match ended {
            Some((queue, Ok(()))) => return Some(queue),
            Some((queue, Err(error))) => {
                self.done.push_back(Completion { key, outcome: Outcome::Sent(queue, Err(error)) });
            }
            None => self.enqueue(key),
        }
        None
    }

    pub(super) fn cancel(&mut self, key: Key, direction: Direction) {
        if let Some(outcome) = self.take_cancelled(key, direction) {
            self.done.push_back(Completion { key, outcome });
        }
    }

    pub(super) fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        self.arena.begin_turn();
        let polls = !self.run.is_empty() || !self.done.is_empty();
        let count = self.wait(if polls { Some(Timestamp::ZERO) } else { deadline })?;
        for index in 0..count {
            self.note_event(self.events[index]);
        }
        self.run.begin_turn(RUNS_PER_TURN);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn next_frequent(&mut self) -> Option<Frequent> {
        if !self.done.is_empty() {
            return None;
        }
        let key = self.run.front()?;
        let row = self.rows.get_mut(key.index() as usize)?;
        if row.generation != Some(key.generation()) || !row.only_receives() {
            return None;
        }
        self.run.take_front();
        if let Some(next) = self.upcoming() {
            self.prefetch(next);
        }
        let row = &mut self.rows[key.index() as usize];
        let attempt = readiness::receive(row.fd(), &mut self.arena);
        if let Some(Attempt::Done(Ok(received))) = &attempt
            && received.bytes > 0
        {
            row.queued = row.go_on_receiving(received.drained);
            if row.queued {
                self.run.push(key);
            }
            return Some(Frequent::Received(key, self.arena.lend(received.bytes)));
        }
        row.queued = false;
        let ended = row.end_receiving(attempt);
        if let Some(outcome) = self.end_run(key, ended) {
            self.done.push_back(Completion { key, outcome });
        }
        None
    }

    #[inline(always)]
    pub(super) fn give_back(&mut self, lease: Lease) {
        self.arena.give_back(lease);
    }

    #[inline]
    pub(super) fn prefetch(&self, key: Key) {
        if let Some(row) = self.rows.get(key.index() as usize) {
            prefetch(row);
        }
    }

    #[inline]
    pub(super) fn upcoming(&self) -> Option<Key> {
        self.run.front()
    }

    #[inline]
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.done.pop_front() {
                return Some(completion);
            }
            let key = self.run.front()?;
            self.run.take_front();
            if let Some(outcome) = self.run_slot(key) {
                return Some(Completion { key, outcome });
            }
        }
    }

    pub(super) fn shutdown_write(&mut self, key: Key) -> io::Result<()> {
        match self.row_mut(key) {
            Some(row) => crate::socket::shutdown_write(row.fd()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        linux::now()
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::EventFd(self.wake.clone())
    }

    pub(super) fn stats(&self) -> DriverStats {
        self.stats
    }

    // ---- waiting --------------------------------------------------------------------------------

    /// Waits until something is ready, `deadline` has passed or a signal arrives.
    fn wait(&mut self, deadline: Option<Timestamp>) -> io::Result<usize> {
        self.stats.waits += 1;
        let timeout = deadline.map(|deadline| {
            if deadline == Timestamp::ZERO { std::time::Duration::ZERO } else { deadline - linux::now() }
        });
        let count = if self.coarse_waits { self.wait_coarse(timeout) } else { self.wait_precise(timeout) };
        match count {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            // Old kernels and strict sandboxes do not know the precise call.
            Err(error) if !self.coarse_waits && is_refused(&error) => {
                self.coarse_waits = true;
                self.wait(deadline)
            }
            Err(error) => Err(error),
        }
    }

    fn wait_precise(&mut self, timeout: Option<std::time::Duration>) -> io::Result<libc::c_long> {
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(i64::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timespec = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (epoll, events, capacity) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr(), self.events.len());
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: `events` is writable for `capacity` events; the other pointers are null or readable.
        unsafe { syscall!(syscall(libc::SYS_epoll_pwait2, epoll, events, capacity, timespec, no_mask, 0)) }
    }

    fn wait_coarse(&mut self, timeout: Option<std::time::Duration>) -> io::Result<libc::c_long> {
        // Rounded up: a wait that ends early would spin until the deadline.
        let millis =
            timeout.map_or(-1, |timeout| timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
        let (epoll, events, capacity) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr(), self.events.len());
        // SAFETY: `events` is writable for `capacity` events.
        unsafe { syscall!(epoll_wait(epoll, events, capacity as i32, millis)) }.map(libc::c_long::from)
    }

    fn note_event(&mut self, event: libc::epoll_event) {
        if event.u64 == Token::WAKE.to_u64() {
            self.wake.reset();
            return;
        }
        let Some(key) = Token::from_u64(event.u64).map(Token::key) else { return };
        // A duplicate of a closed descriptor may still be reported: its key is stale.
        let Some(row) = self.row_mut(key) else { return };
        let bits = event.events as i32;
        let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        row.ready.readable |= broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0;
        row.ready.writable |= broken || bits & libc::EPOLLOUT != 0;
        row.ready.read_closed |= broken || bits & libc::EPOLLRDHUP != 0;
        self.enqueue(key);
    }

    // ---- running --------------------------------------------------------------------------------

    /// Gives a slot of the run queue one go. What comes of its receive is the answer; all else, which is
    /// rare, stands in `done`.
    fn run_slot(&mut self, key: Key) -> Option<Outcome> {
        let row = self.rows.get_mut(key.index() as usize)?;
        if row.generation != Some(key.generation()) {
            return None;
        }
        row.queued = false;
        if !matches!((&row.auxiliary, &row.send), (Auxiliary::None, Send::None)) {
            row.run_auxiliary(key, &mut self.done);
            row.run_send(key, &mut self.done, &mut self.datagrams, &mut self.stats);
        }
        let received = match row.receive {
            Receive::Stream { .. } if row.ready.readable => row.receive_stream(&mut self.arena),
            Receive::None | Receive::Stream { .. } => Run::Blocked,
            _ => self.run_rare_receive(key),
        };
        self.end_run(key, received)
    }

    /// Puts a slot that had its go where it belongs.
    fn end_run(&mut self, key: Key, run: Run) -> Option<Outcome> {
        match run {
            Run::Done(outcome) => {
                self.enqueue(key);
                Some(outcome)
            }
            Run::Blocked => {
                self.enqueue(key);
                None
            }
            Run::NoRoom => {
                // Whoever could not be served is the first of the next turn.
                self.stats.buffers_exhausted += 1;
                self.rows[key.index() as usize].queued = true;
                self.run.put_back();
                None
            }
        }
    }

    /// Receives into a buffer of the program's, or datagrams.
    fn run_rare_receive(&mut self, key: Key) -> Run {
        let Self { rows, arena, buffers, done, datagrams, stats, .. } = self;
        let row = &mut rows[key.index() as usize];
        match row.receive {
            _ if !row.ready.readable => Run::Blocked,
            Receive::Datagrams { left } => {
                let calls = datagrams.get_or_insert_with(DatagramCalls::new);
                row.receive_datagrams(key, left, calls, arena, done, stats);
                Run::Blocked
            }
            Receive::Into(place) => match row.receive_into(buffers.get_mut(place)) {
                Some(result) => Run::Done(Outcome::ReceivedInto(buffers.take(place), result)),
                None => Run::Blocked,
            },
            Receive::None | Receive::Stream { .. } => Run::Blocked,
        }
    }

    // ---- ending ---------------------------------------------------------------------------------

    /// Ends the operation in `direction`, if there is one, as cancelled.
    fn take_cancelled(&mut self, key: Key, direction: Direction) -> Option<Outcome> {
        let row = self.row_mut(key)?;
        match direction {
            Direction::Receive => match std::mem::take(&mut row.receive) {
                Receive::None => None,
                Receive::Stream { .. } => Some(Outcome::Received(Err(cancelled()))),
                Receive::Datagrams { .. } => Some(Outcome::Datagram(Err(cancelled()))),
                Receive::Into(place) => {
                    Some(Outcome::ReceivedInto(self.buffers.take(place), Err(cancelled())))
                }
            },
            Direction::Send => match std::mem::take(&mut row.send) {
                Send::None => None,
                Send::Queue(queue) => Some(Outcome::Sent(queue, Err(cancelled()))),
                Send::Datagram(datagram) => Some(Outcome::SentTo(datagram, Err(cancelled()))),
                Send::Datagrams(queue) => Some(Outcome::SentDatagrams(queue, Err(cancelled()))),
            },
            Direction::Auxiliary => match std::mem::take(&mut row.auxiliary) {
                Auxiliary::None => None,
                Auxiliary::Accept => Some(Outcome::Accepted(Err(cancelled()))),
                Auxiliary::Connect => Some(Outcome::Connected(Err(cancelled()))),
                Auxiliary::Watch(_) => Some(Outcome::Ready(Err(cancelled()))),
            },
        }
    }

    fn close(&mut self, key: Key) -> Submitted {
        for direction in [Direction::Receive, Direction::Send, Direction::Auxiliary] {
            self.cancel(key, direction);
        }
        // Nothing is in the kernel's hands between two calls: the descriptor may go at once.
        self.rows[key.index() as usize] = Row::default();
        if self.done.is_empty() {
            return Submitted::Done(Outcome::Closed);
        }
        self.done.push_back(Completion { key, outcome: Outcome::Closed });
        Submitted::Pending
    }

    // ---- rows -----------------------------------------------------------------------------------

    #[inline]
    fn row_mut(&mut self, key: Key) -> Option<&mut Row> {
        self.rows.get_mut(key.index() as usize).filter(|row| row.generation == Some(key.generation()))
    }

    /// Puts a slot that can run into the run queue, if it does not stand there.
    #[inline(always)]
    fn enqueue(&mut self, key: Key) {
        let row = &mut self.rows[key.index() as usize];
        if row.can_run() && !row.queued {
            row.queued = true;
            self.run.push(key);
        }
    }
}

fn register(epoll: &OwnedFd, fd: BorrowedFd<'_>, events: i32, token: Token) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: token.to_u64() };
    // SAFETY: `event` is readable.
    unsafe { syscall!(epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)) }
        .map(drop)
}

/// Whether a sandbox or an old kernel refused a call that it does not know.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}
