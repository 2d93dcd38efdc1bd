//! Linux io_uring.
//!
//! ```text
//!  submit ─► Row (owns queue or buffer) ─► submission queue ─┐
//!                                                            ▼ one io_uring_enter a turn
//!  completions ◄─ Row: done, or started again ◄─ completion queue
//! ```
//!
//! [`ring`] has the queues and the system call, [`buffer_ring`] the receive buffers, [`row`] what is in
//! flight on a slot; this file starts operations, [`complete`] acts on completions, [`end`] ends operations and the
//! driver, [`park`] makes silent streams wait in less of the kernel's memory.

mod buffer_ring;
mod complete;
mod end;
mod features;
mod park;
mod ring;
mod row;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};

use bytes::BytesMut;
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use super::datagrams::DatagramCalls;
use super::descriptors;
use super::linux::{self, EventFd};
use super::readiness::{self, Attempt};
use super::shelf::{Place, Shelf};
use super::{Completions, DriverConfig, DriverStats, Socket, Waker};
use crate::buffer::{Arena, DatagramQueue, Lease, OutQueue};
use crate::clock::Timestamp;
use crate::limits::{COMPLETIONS_PER_TURN, HEARD_IN_RING, SEND_BYTES_PER_TURN};
use crate::op::{Completion, Direction, Frequent, Interest, LeaseSend, Op, Outcome, Submitted};
use crate::prefetch::prefetch;
use crate::socket;
use crate::token::{Key, Token, TokenKind};

use buffer_ring::{BUFFER_GROUP, BufferRing};
use park::ParkClock;
use ring::Ring;
use row::{Auxiliary, Flight, Last, MessageHeader, Receive, Row, Send};

pub(super) use features::features;

/// The kernel's flag of the same name: wait until the socket is ready before the first try.
const RECVSEND_POLL_FIRST: u16 = 1;

/// A stream is sent whole, or until it fails, and a peer that has gone is an error, not a signal.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// Most bytes of one send or receive: the kernel moves no more at a time, read(2), and refuses an entry of 2 GiB and more.
const TRANSFER_SIZE_MAX: usize = 0x7fff_f000;

/// The io_uring driver of one loop.
///
/// Dropped by hand, the kernel's ring before the memory that it may touch.
#[derive(Debug)]
pub struct Uring {
    ring: ManuallyDrop<Ring>,
    memory: ManuallyDrop<Memory>,
    wake: EventFd,
    /// What completed outside a turn.
    done: Completions,
    /// Slots whose receive goes on by ordinary calls, first come first served; each at most once.
    line: VecDeque<Key>,
    /// How many of the line may still go on in this turn.
    line_share: usize,
    /// Operations of all slots that the kernel has.
    in_kernel: usize,
    park_clock: ParkClock,
    /// The driver is being dropped.
    ending: bool,
}

/// Everything that the kernel may read or write.
#[derive(Debug)]
struct Memory {
    rows: Vec<Row>,
    receive_buffers: BufferRing,
    /// Buffers of receives in flight that brought their own.
    buffers: Shelf<BytesMut>,
    /// Addresses of connects in flight. Boxed: the kernel reads them where they are.
    addresses: Shelf<Box<SockAddr>>,
    /// Of sends in flight that are one lease.
    leases: Shelf<Lease>,
    /// Of sends of several pieces in flight. Boxed, and used again: the kernel reads them where they are.
    headers: Shelf<Box<MessageHeader>>,
    #[expect(clippy::vec_box, reason = "they go to the shelf as they are")]
    spare_headers: Vec<Box<MessageHeader>>,
    /// Until the clock hand moves. Boxed: the kernel reads it where it is.
    park_pause: Box<types::Timespec>,
    /// For what is received by ordinary calls. Its memory is untouched until the first of them.
    arena: Arena,
    /// For datagrams, which are exchanged by ordinary calls; `None` before the first of them.
    datagrams: Option<Box<DatagramCalls>>,
}

impl Memory {
    /// A send that goes on another way than most: its lease, if it is one, is in a queue. No byte of it moves.
    fn with_queue(&mut self, send: Send) -> Send {
        let Send::Lease(place, _) = send else { return send };
        let queue = Box::new(OutQueue::of(self.leases.take(place)));
        Send::Queue { queue, ending: false, header: None }
    }

    /// The send that a header described has ended.
    #[inline]
    fn retire_header(&mut self, header: Option<Place>) {
        if let Some(place) = header {
            self.spare_headers.push(self.headers.take(place));
        }
    }
}

impl Uring {
    pub(super) fn new(config: &DriverConfig) -> io::Result<Self> {
        descriptors::begin();
        let ring = Ring::new(config)?;
        let receive_buffers = BufferRing::new(ring.inner(), config)?;
        let wake = EventFd::new()?;
        let memory = Memory {
            rows: Vec::new(),
            receive_buffers,
            buffers: Shelf::new(),
            addresses: Shelf::new(),
            leases: Shelf::new(),
            headers: Shelf::new(),
            spare_headers: Vec::new(),
            park_pause: Box::default(),
            arena: Arena::new(config.arena_block_size, config.arena_blocks),
            datagrams: None,
        };
        let mut driver = Self {
            ring: ManuallyDrop::new(ring),
            memory: ManuallyDrop::new(memory),
            wake,
            done: Completions::new(),
            line: VecDeque::new(),
            line_share: 0,
            in_kernel: 0,
            park_clock: ParkClock::new(config.park_after),
            ending: false,
        };
        driver.watch_wake();
        Ok(driver)
    }

    // ---- the contract ---------------------------------------------------------------------------

    pub(super) fn attach(&mut self, key: Key, socket: Socket) -> io::Result<()> {
        let Some(fd) = socket.as_fd() else {
            let message = "a simulated socket cannot be attached to io_uring";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let single_shot = readiness::is_unix_stream(fd);
        descriptors::note(fd);
        let index = key.index() as usize;
        if index >= self.memory.rows.len() {
            self.memory.rows.resize_with(index + 1, Row::default);
        }
        let row = &mut self.memory.rows[index];
        debug_assert!(row.socket.is_none() && row.is_idle(), "{key:?}: the slot has a socket already");
        *row =
            Row { socket: Some(socket), generation: Some(key.generation()), single_shot, ..Row::default() };
        Ok(())
    }

    pub(super) fn detach(&mut self, key: Key) -> Option<Socket> {
        let row = self.row_mut(key).filter(|row| row.is_idle())?;
        std::mem::take(row).socket
    }

    pub(super) fn socket(&self, key: Key) -> Option<&Socket> {
        let row = self.memory.rows.get(key.index() as usize)?;
        row.socket.as_ref().filter(|_| row.generation == Some(key.generation()))
    }

    #[inline]
    pub(super) fn submit(&mut self, key: Key, op: Op) -> Submitted {
        let Some(row) = self.row_mut(key) else { unreachable!("{key:?}: operations need an attached slot") };
        match op {
            Op::Receive => self.start_stream(key),
            Op::ReceiveOnce => self.start_receive_once(key),
            Op::ReceiveInto(buffer) => self.start_receive_into(key, buffer),
            Op::ReceiveFrom(left) => {
                row.start_receiving(Receive::Datagrams { left, flight: Flight::InKernel });
                self.arm_poll(key, TokenKind::Poll, libc::POLLIN, false);
            }
            Op::SendTo(datagram) => match readiness::send_datagram(row.fd(), &datagram) {
                Attempt::Done(result) => return Submitted::Done(Outcome::SentTo(datagram, result)),
                Attempt::WouldBlock => {
                    row.send = Send::Datagram(datagram);
                    self.arm_poll(key, TokenKind::Send, libc::POLLOUT, false);
                }
            },
            Op::SendDatagrams(queue) => {
                if let Some(outcome) = self.send_datagrams(key, queue) {
                    return Submitted::Done(outcome);
                }
            }
            Op::Accept => {
                row.auxiliary = Auxiliary::Accept { ending: false };
                self.arm_accept(key);
            }
            Op::Connect(address) => match address.to_sock_addr() {
                Ok(address) => self.start_connect(key, Box::new(address)),
                Err(error) => return Submitted::Done(Outcome::Connected(Err(error))),
            },
            Op::Watch(interest) => {
                row.auxiliary = Auxiliary::Watch { interest, ending: false };
                self.arm_watch(key, interest);
            }
            Op::Close => return self.start_close(key),
        }
        Submitted::Pending
    }

    #[inline]
    pub(super) fn send(&mut self, key: Key, queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        debug_assert!(matches!(self.row(key).send, Send::None), "a send is in flight already");
        match self.start_send(key, queue)? {
            Outcome::Sent(queue, Ok(())) => Some(queue),
            outcome => {
                self.done.push_back(Completion { key, outcome });
                None
            }
        }
    }

    /// Sends by ordinary calls what the socket takes, and leaves the rest to an operation.
    pub(super) fn send_at_once(&mut self, key: Key, mut queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        match readiness::send_queue(self.row(key).fd(), &mut queue) {
            Attempt::Done(Ok(())) if queue.is_empty() => Some(queue),
            Attempt::Done(Err(error)) => {
                self.done.push_back(Completion { key, outcome: Outcome::Sent(queue, Err(error)) });
                None
            }
            _ => self.send(key, queue),
        }
    }

    #[inline(always)]
    pub(super) fn try_send(&mut self, key: Key, bytes: &[u8]) -> io::Result<usize> {
        linux::send(self.row(key).fd(), bytes)
    }

    /// Starts to send one lease. One that is longer than an operation may be goes by way of a queue.
    #[inline(always)]
    pub(super) fn send_lease(&mut self, key: Key, lease: Lease) -> LeaseSend {
        if lease.len() > TRANSFER_SIZE_MAX {
            return LeaseSend::Unfinished(lease, Ok(0));
        }
        let len = lease.len() as u32;
        let fd = types::Fd(self.row(key).raw_fd());
        let entry = opcode::Send::new(fd, lease.as_ptr(), len).flags(SEND_FLAGS).build();
        let place = self.memory.leases.put(lease);
        self.row(key).set_send(Send::Lease(place, len));
        // SAFETY: the lease stays on the shelf, or in a queue, until the final completion, and its bytes where they are.
        unsafe { self.push(key, TokenKind::Send, entry) };
        LeaseSend::Pending
    }

    /// After the first call of [`try_send`](Self::try_send): `first` is what came of it.
    #[inline(never)]
    pub(super) fn go_on_sending(
        &mut self,
        key: Key,
        mut queue: Box<OutQueue>,
        first: io::Result<usize>,
    ) -> Option<Box<OutQueue>> {
        match Attempt::from(first) {
            Attempt::Done(Ok(count)) => {
                queue.advance(count as u64);
                self.send_at_once(key, queue)
            }
            Attempt::Done(Err(error)) => {
                self.done.push_back(Completion { key, outcome: Outcome::Sent(queue, Err(error)) });
                None
            }
            Attempt::WouldBlock => self.send(key, queue),
        }
    }

    pub(super) fn submit_queued(&mut self) {
        // A failure leaves the entries queued, and the turn's own call reports it.
        let _ = self.ring.submit();
    }

    pub(super) fn cancel(&mut self, key: Key, direction: Direction) {
        if self.row_mut(key).is_none() {
            return;
        }
        match direction {
            Direction::Receive => self.cancel_receive(key),
            Direction::Send => self.cancel_send(key),
            Direction::Auxiliary => self.cancel_auxiliary(key),
        }
    }

    pub(super) fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        // Takes back what leases returned.
        self.memory.receive_buffers.refill();
        self.memory.arena.begin_turn();
        let polls = !self.done.is_empty() || !self.line.is_empty() || self.ring.has_completions();
        self.ring.wait(if polls { Some(Timestamp::ZERO) } else { deadline })?;
        self.ring.note_overflow();
        self.ring.take_batch()?;
        self.line_share = self.line.len().min(COMPLETIONS_PER_TURN);
        Ok(())
    }

    #[inline]
    pub(super) fn next_frequent(&mut self) -> Option<Frequent> {
        if !self.done.is_empty() {
            return None;
        }
        let Some(entry) = self.ring.peek_entry() else {
            if self.line_share == 0 {
                return None;
            }
            return self.serve_line().map(|(key, bytes)| Frequent::Received(key, bytes));
        };
        self.frequent(entry)
    }

    /// The entry that was looked at is dealt with.
    #[inline(always)]
    fn pass_entry(&mut self) {
        self.ring.skip_entry();
        self.prefetch_ahead();
    }

    /// Starts to fetch the row of the completion after the next, and the queue that the next has sent: its row is
    /// there by now.
    #[inline(always)]
    fn prefetch_ahead(&self) {
        if let Some(token) = self.ahead(1) {
            self.prefetch(token.key());
        }
        if let Some(token) = self.ahead(0)
            && token.kind() == TokenKind::Send
            && let Some(row) = self.memory.rows.get(token.key().index() as usize)
            && let Send::Queue { queue, .. } = &row.send
        {
            prefetch(&**queue);
        }
    }

    #[inline]
    fn ahead(&self, nth: usize) -> Option<Token> {
        Token::from_u64(self.ring.ahead(nth)?)
    }

    #[inline(always)]
    pub(super) fn give_back(&mut self, lease: Lease) {
        self.memory.receive_buffers.give_back(lease);
    }

    #[inline]
    pub(super) fn prefetch(&self, key: Key) {
        if let Some(row) = self.memory.rows.get(key.index() as usize) {
            prefetch(row);
        }
    }

    #[inline]
    pub(super) fn upcoming(&self) -> Option<Key> {
        match self.ahead(0) {
            Some(token) => Some(token.key()),
            None if self.line_share > 0 => self.line.front().copied(),
            None => None,
        }
    }

    #[inline]
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.done.pop_front() {
                return Some(completion);
            }
            if let Some(entry) = self.ring.next_entry() {
                if let Some(completion) = self.complete(&entry) {
                    return Some(completion);
                }
            } else if self.line_share > 0 {
                if let Some((key, bytes)) = self.serve_line() {
                    return Some(Completion { key, outcome: Outcome::Received(Ok(bytes)) });
                }
            } else {
                return None;
            }
        }
    }

    pub(super) fn shutdown_write(&mut self, key: Key) -> io::Result<()> {
        // Directly: as an operation it would always go to a worker thread.
        match self.row_mut(key) {
            Some(row) => socket::shutdown_write(row.fd()),
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
        self.ring.stats
    }

    // ---- starting -------------------------------------------------------------------------------

    /// Receives into the ring's buffers: one of them, or for as long as there are any.
    #[inline]
    fn arm_receive(&mut self, key: Key) {
        self.wind_up();
        let row = self.row(key);
        let fd = types::Fd(row.raw_fd());
        let entry = if row.single_shot || matches!(row.receive, Receive::Stream { once: true, .. }) {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .ioprio(row.receive_priority())
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build()
        };
        // SAFETY: the entry names no memory but the buffer ring's, which outlives the kernel's ring.
        unsafe { self.push(key, TokenKind::Receive, entry) };
    }

    /// Receives once: into a buffer of the ring, or by an ordinary call where the last one did not fit in.
    #[inline]
    fn start_receive_once(&mut self, key: Key) {
        let row = self.row(key);
        row.start_receiving(Receive::stream(true, Flight::InKernel));
        match row.last {
            Last::Some | Last::All => self.arm_receive(key),
            Last::AllOfMuch => {
                self.wind_up();
                self.poll_stream(key, true, true, HEARD_IN_RING);
            }
            Last::Much => {
                row.receive.set_flight(Flight::InLine);
                self.stand_in_line(key);
            }
        }
    }

    fn start_receive_into(&mut self, key: Key, buffer: BytesMut) {
        let place = self.memory.buffers.put(buffer);
        self.row(key).start_receiving(Receive::Into(place, Flight::InKernel));
        let spare = self.memory.buffers.get_mut(place).spare_capacity_mut();
        let (pointer, len) = (spare.as_mut_ptr().cast(), spare.len().min(TRANSFER_SIZE_MAX) as u32);
        let row = self.row(key);
        let entry =
            opcode::Recv::new(types::Fd(row.raw_fd()), pointer, len).ioprio(row.receive_priority()).build();
        // SAFETY: the buffer's heap memory stays on the shelf until the final completion; moving the
        // `BytesMut` itself does not move it.
        unsafe { self.push(key, TokenKind::Receive, entry) };
    }

    /// Sends the front of the queue; answers the outcome if the queue ended without the kernel's help.
    #[inline]
    fn start_send(&mut self, key: Key, queue: Box<OutQueue>) -> Option<Outcome> {
        if queue.begins_with_file() {
            return self.start_send_file(key, queue);
        }
        let fd = types::Fd(self.row(key).raw_fd());
        let mut header = None;
        let entry = match queue.single_slice() {
            Some(bytes) => {
                let len = bytes.len().min(TRANSFER_SIZE_MAX) as u32;
                opcode::Send::new(fd, bytes.as_ptr(), len).flags(SEND_FLAGS).build()
            }
            None => {
                let mut spare = self.memory.spare_headers.pop().unwrap_or_else(MessageHeader::new);
                let described = spare.describe(&queue);
                header = Some(self.memory.headers.put(spare));
                opcode::SendMsg::new(fd, described).flags(SEND_FLAGS as u32).build()
            }
        };
        self.row(key).set_send(Send::Queue { queue, ending: false, header });
        // SAFETY: the boxed queue and header stay in the row, untouched, until the final completion.
        unsafe { self.push(key, TokenKind::Send, entry) };
        None
    }

    /// A file range is sent by an ordinary call: as an operation it would always go to a worker thread.
    fn start_send_file(&mut self, key: Key, mut queue: Box<OutQueue>) -> Option<Outcome> {
        let row = self.row(key);
        let mut sent = 0;
        while let Some(range) = queue.front_file() {
            let share_is_left = sent < SEND_BYTES_PER_TURN;
            match if share_is_left { readiness::send_file(row.fd(), &range) } else { Attempt::WouldBlock } {
                Attempt::Done(Ok(count)) => {
                    queue.advance(count);
                    sent += count;
                }
                Attempt::Done(Err(error)) => return Some(Outcome::Sent(queue, Err(error))),
                Attempt::WouldBlock => {
                    row.send = Send::Queue { queue, ending: false, header: None };
                    self.arm_poll(key, TokenKind::Send, libc::POLLOUT, false);
                    return None;
                }
            }
        }
        if queue.is_empty() { Some(Outcome::Sent(queue, Ok(()))) } else { self.start_send(key, queue) }
    }

    /// Sends what it can of a queue by ordinary calls; the outcome, unless a rest waits for the socket.
    fn send_datagrams(&mut self, key: Key, mut queue: Box<DatagramQueue>) -> Option<Outcome> {
        let Memory { rows, datagrams, .. } = &mut *self.memory;
        let row = &mut rows[key.index() as usize];
        let calls = datagrams.get_or_insert_with(DatagramCalls::new);
        match calls.send(row.fd(), &mut queue, &mut self.ring.stats) {
            Attempt::Done(result) if queue.is_empty() => return Some(Outcome::SentDatagrams(queue, result)),
            _ => queue.make_private(),
        }
        row.send = Send::Datagrams { queue, ending: false };
        self.arm_poll(key, TokenKind::Send, libc::POLLOUT, false);
        None
    }

    fn arm_accept(&mut self, key: Key) {
        let fd = types::Fd(self.row(key).raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(key, TokenKind::Accept, entry) };
    }

    fn start_connect(&mut self, key: Key, address: Box<SockAddr>) {
        let fd = types::Fd(self.row(key).raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        let place = self.memory.addresses.put(address);
        self.row(key).auxiliary = Auxiliary::Connect(place);
        // SAFETY: the boxed address stays on the shelf until the final completion.
        unsafe { self.push(key, TokenKind::Connect, entry) };
    }

    fn arm_watch(&mut self, key: Key, interest: Interest) {
        let mask = if interest.readable { libc::POLLIN | libc::POLLRDHUP } else { 0 }
            | if interest.writable { libc::POLLOUT } else { 0 };
        self.arm_poll(key, TokenKind::Watch, mask, true);
    }

    fn arm_poll(&mut self, key: Key, kind: TokenKind, mask: libc::c_short, many: bool) {
        let fd = types::Fd(self.row(key).raw_fd());
        let entry = opcode::PollAdd::new(fd, mask as u32).multi(many).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(key, kind, entry) };
    }

    /// Watches the descriptor that wakes the loop. Each raise of its counter completes once, so the
    /// counter is never read.
    fn watch_wake(&mut self) {
        let fd = types::Fd(self.wake.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry.user_data(Token::WAKE.to_u64())) };
    }

    /// Hands an operation to the kernel.
    ///
    /// # Safety
    ///
    /// The memory that the entry names stays valid until the operation's final completion.
    #[inline(always)]
    unsafe fn push(&mut self, key: Key, kind: TokenKind, entry: squeue::Entry) {
        self.in_kernel += 1;
        // SAFETY: the caller's guarantee is passed on.
        unsafe { self.ring.push(entry.user_data(Token::new(kind, key).to_u64())) };
    }

    // ---- rows -----------------------------------------------------------------------------------

    #[inline]
    fn row_mut(&mut self, key: Key) -> Option<&mut Row> {
        let row = self.memory.rows.get_mut(key.index() as usize)?;
        (row.generation == Some(key.generation())).then_some(row)
    }

    /// The row of a key that is known to be valid.
    #[inline]
    fn row(&mut self, key: Key) -> &mut Row {
        let row = &mut self.memory.rows[key.index() as usize];
        debug_assert_eq!(row.generation, Some(key.generation()), "{key:?} is stale");
        row
    }
}

impl Row {
    fn start_receiving(&mut self, receive: Receive) {
        debug_assert!(matches!(self.receive, Receive::None), "a receive is in flight already");
        self.receive = receive;
    }

    /// How a single-shot receive begins: by a try, or by waiting if there was nothing left the last time.
    fn receive_priority(&self) -> u16 {
        if self.last.drained() { RECVSEND_POLL_FIRST } else { 0 }
    }
}
