//! One kernel interface seen as completions.
//!
//! io_uring is the model and the others imitate it. What a driver must supply is the list of methods of
//! [`Driver`]; their contract, which `tests/contract` checks for every driver:
//!
//! - [`submit`](Driver::submit) and [`send`](Driver::send) start an operation. It ends at once ([`Submitted::Done`]) or later,
//!   with exactly one final completion.
//! - [`cancel`](Driver::cancel) asks for the end of an operation. The operation's own final completion
//!   says what came of it; the cancel itself completes with nothing.
//! - [`turn`](Driver::turn) makes the one system call that submits and waits;
//!   [`next_completion`](Driver::next_completion) then gives out what is complete, one by one, about
//!   [`COMPLETIONS_PER_TURN`](crate::limits::COMPLETIONS_PER_TURN) of them. Operations may be submitted
//!   and cancelled in between.
//! - At most one receive, one send and one auxiliary operation of a slot are in flight.
//! - A receive into the loop's buffers goes on by itself: running out of buffers or of queue entries
//!   makes it slower, never wrong, and is invisible here.
//! - [`Op::Close`] ends what is in flight (each operation completes), closes the descriptor, and then
//!   completes itself as the slot's last. Only after that may the slot's number be used again.
//!
//! Dispatch is static: an enum chosen when the loop is made, matched once a submit and once a turn.

#[cfg(target_os = "linux")]
mod datagrams;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod epoll;
#[cfg(target_os = "linux")]
mod linux;
mod probe;
mod readiness;
mod shelf;
mod sim;
#[cfg(target_os = "linux")]
mod uring;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use crate::buffer::{Lease, OutQueue};
use crate::clock::Timestamp;
use crate::limits;
use crate::op::{Completion, Direction, Frequent, LeaseSend, Op, Submitted};
use crate::socket::{self, Address, SocketOptions};
use crate::token::Key;
use crate::wake::Wake;

pub use probe::{Feature, Opened, features};
pub use sim::{SimConfig, SimDatagramPeer, SimNet, SimPeer, SimPeerListener, SimSocket};

/// Completions in the order in which they are to be dispatched.
type Completions = VecDeque<Completion>;

/// One kernel interface. All methods belong to the loop's thread, which is the one that calls
/// [`turn`](Self::turn) first; the waker works from any thread.
#[derive(Debug)]
pub enum Driver {
    /// Linux io_uring.
    Uring(Box<uring::Uring>),
    /// Linux epoll.
    Epoll(Box<epoll::Epoll>),
    /// The simulated kernel.
    Sim(Box<sim::Sim>),
}

/// Calls the same method of whichever driver it is.
macro_rules! dispatch {
    ($driver:expr, $inner:ident => $call:expr) => {
        match $driver {
            Driver::Uring($inner) => $call,
            Driver::Epoll($inner) => $call,
            Driver::Sim($inner) => $call,
        }
    };
}

impl Driver {
    /// Opens the driver that `choice` asks for.
    ///
    /// # Errors
    ///
    /// A forced driver that the kernel refuses, with the reason and what to do; for
    /// [`DriverChoice::Auto`] only what makes every driver fail, such as too few descriptors.
    pub fn open(choice: &DriverChoice, config: &DriverConfig) -> io::Result<Opened> {
        probe::open(choice, config)
    }

    /// Which interface this is.
    pub fn kind(&self) -> DriverKind {
        match self {
            Self::Uring(_) => DriverKind::IoUring,
            Self::Epoll(_) => DriverKind::Epoll,
            Self::Sim(_) => DriverKind::Sim,
        }
    }

    /// An unconnected stream socket of the kind that can connect to `address`.
    ///
    /// # Errors
    ///
    /// What socket(2) says, such as a full descriptor table.
    pub fn open_stream(&self, address: &Address) -> io::Result<Socket> {
        match self {
            Self::Sim(sim) => Ok(sim.open_stream().into()),
            _ => socket::stream_for(address).map(Socket::from),
        }
    }

    /// Takes over the socket of a slot, which must have none.
    ///
    /// # Errors
    ///
    /// What the kernel says of a descriptor that cannot be waited for, such as a regular file; the
    /// socket is closed then.
    pub fn attach(&mut self, key: Key, socket: Socket) -> io::Result<()> {
        dispatch!(self, driver => driver.attach(key, socket))
    }

    /// Gives the socket of a slot back, if it has one and nothing of it is in flight.
    pub fn detach(&mut self, key: Key) -> Option<Socket> {
        dispatch!(self, driver => driver.detach(key))
    }

    /// The socket of a slot, to ask it for addresses or to set options.
    pub fn socket(&self, key: Key) -> Option<&Socket> {
        dispatch!(self, driver => driver.socket(key))
    }

    /// Starts an operation on an attached slot.
    #[inline]
    pub fn submit(&mut self, key: Key, op: Op) -> Submitted {
        dispatch!(self, driver => driver.submit(key, op))
    }

    /// Starts to send everything in the queue, which must not be empty. The queue comes back at once if that
    /// was possible; if it goes on, or failed, one [`Outcome::Sent`](crate::op::Outcome::Sent) brings it.
    #[inline(always)]
    pub fn send(&mut self, key: Key, queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        debug_assert!(!queue.is_empty(), "{key:?}: a send of nothing");
        dispatch!(self, driver => driver.send(key, queue))
    }

    /// The same, at once as far as the socket takes it.
    #[inline(always)]
    pub fn send_at_once(&mut self, key: Key, queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        match self {
            Self::Uring(driver) => driver.send_at_once(key, queue),
            // They always do.
            Self::Epoll(_) | Self::Sim(_) => self.send(key, queue),
        }
    }

    /// Starts to send one lease, which must not be empty, as [`send`](Self::send) does a queue. If it goes on, an
    /// outcome brings it in a queue, or [`Frequent::SentLease`] says that it has left.
    #[inline(always)]
    pub fn send_lease(&mut self, key: Key, lease: Lease) -> LeaseSend {
        match self {
            Self::Uring(driver) => driver.send_lease(key, lease),
            // Their sends are calls in any case.
            Self::Epoll(_) | Self::Sim(_) => self.send_lease_at_once(key, lease),
        }
    }

    /// The same by one ordinary call, which sends all of it or not.
    #[inline(always)]
    pub fn send_lease_at_once(&mut self, key: Key, lease: Lease) -> LeaseSend {
        let first = match self {
            Self::Uring(driver) => driver.try_send(key, &lease),
            Self::Epoll(driver) => driver.try_send(key, &lease),
            // Nothing yet.
            Self::Sim(_) => Ok(0),
        };
        if first.as_ref().is_ok_and(|&count| count == lease.len()) {
            self.give_back(lease);
            return LeaseSend::Done;
        }
        LeaseSend::Unfinished(lease, first)
    }

    /// Goes on with an [unfinished](LeaseSend::Unfinished) send, once its lease is in a queue. As
    /// [`send`](Self::send).
    pub fn go_on_sending(
        &mut self,
        key: Key,
        queue: Box<OutQueue>,
        first: io::Result<usize>,
    ) -> Option<Box<OutQueue>> {
        match self {
            Self::Uring(driver) => driver.go_on_sending(key, queue, first),
            Self::Epoll(driver) => driver.go_on_sending(key, queue, first),
            Self::Sim(driver) => driver.send(key, queue),
        }
    }

    /// Ends a lease on the loop's thread: cheaper than to drop it if its bytes lie in the driver's memory.
    #[inline(always)]
    pub fn give_back(&mut self, lease: Lease) {
        match self {
            Self::Uring(driver) => driver.give_back(lease),
            Self::Epoll(driver) => driver.give_back(lease),
            Self::Sim(_) => drop(lease),
        }
    }

    /// Gives the kernel what was started, without waiting for the turn.
    pub fn submit_queued(&mut self) {
        match self {
            Self::Uring(driver) => driver.submit_queued(),
            // They have it already.
            Self::Epoll(_) | Self::Sim(_) => {}
        }
    }

    /// Asks for the end of the operation in `direction`; no effect if there is none.
    pub fn cancel(&mut self, key: Key, direction: Direction) {
        dispatch!(self, driver => driver.cancel(key, direction));
    }

    /// Submits, and waits until something is complete or `deadline` has passed (`None`: for ever). Does not
    /// wait while something of an earlier turn is still to be given out.
    ///
    /// # Errors
    ///
    /// Only what makes going on impossible, such as a completion that the kernel says it lost.
    pub fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        dispatch!(self, driver => driver.turn(deadline))
    }

    /// The next completion if it is one of the frequent ones, else `None`.
    #[inline(always)]
    pub fn next_frequent(&mut self) -> Option<Frequent> {
        match self {
            Self::Uring(driver) => driver.next_frequent(),
            Self::Epoll(driver) => driver.next_frequent(),
            Self::Sim(_) => None,
        }
    }

    /// Whose completion [`next_frequent`](Self::next_frequent) will probably bring next; for those who would
    /// fetch what they keep of it into the cache in time.
    #[inline]
    pub fn upcoming(&self) -> Option<Key> {
        match self {
            Self::Uring(driver) => driver.upcoming(),
            Self::Epoll(driver) => driver.upcoming(),
            Self::Sim(_) => None,
        }
    }

    /// Starts to fetch what the next operation on a slot needs into the cache.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        match self {
            Self::Uring(driver) => driver.prefetch(key),
            Self::Epoll(driver) => driver.prefetch(key),
            Self::Sim(_) => {}
        }
    }

    /// The next completion, whichever it is, or `None` when the turn has no more.
    ///
    /// When spare receive memory is gone, received bytes come as private copies, so that whoever keeps
    /// leases starves nobody.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        dispatch!(self, driver => driver.next_completion())
    }

    /// Ends our direction of a stream; the peer sees end of stream after what was sent.
    ///
    /// # Errors
    ///
    /// What `shutdown(2)` says, but for a peer that has gone already.
    pub fn shutdown_write(&mut self, key: Key) -> io::Result<()> {
        dispatch!(self, driver => driver.shutdown_write(key))
    }

    /// The time now, on the clock that `turn` waits by.
    pub fn now(&self) -> Timestamp {
        dispatch!(self, driver => driver.now())
    }

    /// What wakes a waiting [`turn`](Self::turn) from any thread.
    pub fn waker(&self) -> Waker {
        dispatch!(self, driver => driver.waker())
    }

    /// Counters since the driver was opened.
    pub fn stats(&self) -> DriverStats {
        dispatch!(self, driver => driver.stats())
    }
}

/// Counters of a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// System calls that submit and wait.
    pub waits: u64,
    /// Times a receive found no free buffer and went on another way.
    pub buffers_exhausted: u64,
    /// Times the kernel's completion queue overflowed.
    pub overflows: u64,
    /// Times the submission queue was full and had to be submitted early.
    pub early_submits: u64,
    /// Times a silent stream was parked.
    pub parked: u64,
    /// Datagrams received; what the kernel has joined counts as one.
    pub datagrams_received: u64,
    /// System calls that received them, also those that found none.
    pub datagram_receives: u64,
    /// Datagrams sent by queue.
    pub datagrams_sent: u64,
    /// System calls that sent them, also those that found no room.
    pub datagram_sends: u64,
}

/// Which driver to open.
#[derive(Clone, Debug, Default)]
pub enum DriverChoice {
    /// io_uring where the kernel offers what is needed, else epoll; `docs/decisions/driver.md` has the loads for which
    /// the other would do better. The environment variable `KOLK_DRIVER` (`io_uring` or `epoll`) overrides it.
    #[default]
    Auto,
    /// This one or an error.
    Only(DriverKind),
    /// The simulated kernel of this network.
    Sim(SimNet),
}

/// The kernel interfaces there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// Linux io_uring.
    IoUring,
    /// Linux epoll.
    Epoll,
    /// The simulated kernel.
    Sim,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
            Self::Sim => "sim",
        })
    }
}

/// `auto`, `io_uring` or `epoll`.
impl FromStr for DriverChoice {
    type Err = io::Error;

    fn from_str(name: &str) -> io::Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "io_uring" | "uring" => Ok(Self::Only(DriverKind::IoUring)),
            "epoll" => Ok(Self::Only(DriverKind::Epoll)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unknown driver {name:?}: use auto, io_uring or epoll"),
            )),
        }
    }
}

/// Sizes of a driver's memory, and how long a connection may hold what it does not use. The defaults are those of
/// [`limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverConfig {
    /// Entries of the submission queue (io_uring).
    pub submission_entries: u32,
    /// Entries of the completion queue (io_uring).
    pub completion_entries: u32,
    /// Buffers the kernel may fill at one time (io_uring); a power of two, at most 32 768.
    pub ring_buffers: u16,
    /// Further buffers that replace those which leases hold (io_uring).
    pub ring_spare_buffers: u16,
    /// Bytes of one such buffer (io_uring).
    pub ring_buffer_size: usize,
    /// Blocks of the receive arena (epoll, and datagrams everywhere).
    pub arena_blocks: usize,
    /// Bytes of one such block, at least 4 KiB.
    pub arena_block_size: usize,
    /// A stream that brought nothing for this long is parked within as long again (io_uring): it waits by a poll
    /// instead of a receive, which is 260 B of kernel memory instead of 860 B. What is sent to it does not count.
    /// `None`: never.
    pub park_after: Option<Duration>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            submission_entries: limits::SUBMISSION_ENTRIES,
            completion_entries: limits::COMPLETION_ENTRIES,
            ring_buffers: limits::RING_BUFFERS,
            ring_spare_buffers: limits::RING_SPARE_BUFFERS,
            ring_buffer_size: limits::RING_BUFFER_SIZE,
            arena_blocks: limits::ARENA_BLOCKS,
            arena_block_size: limits::ARENA_BLOCK_SIZE,
            park_after: Some(limits::PARK_AFTER),
        }
    }
}

/// What a driver works on: a descriptor of the real kernel, or one of the simulated kernel's sockets.
#[derive(Debug)]
pub enum Socket {
    /// A descriptor, closed on drop.
    Descriptor(OwnedFd),
    /// A simulated socket, closed on drop.
    Simulated(SimSocket),
}

impl Socket {
    /// The descriptor, unless the socket is simulated.
    #[inline(always)]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Descriptor(fd) => Some(fd.as_fd()),
            Self::Simulated(_) => None,
        }
    }

    /// The address this socket is bound to.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` says.
    pub fn local_address(&self) -> io::Result<Address> {
        match self {
            Self::Descriptor(fd) => socket::local_address(fd.as_fd()),
            Self::Simulated(socket) => Ok(socket.local_address()),
        }
    }

    /// The address this socket is connected to.
    ///
    /// # Errors
    ///
    /// What `getpeername(2)` says; `NotConnected` when the peer has gone.
    pub fn peer_address(&self) -> io::Result<Address> {
        match self {
            Self::Descriptor(fd) => socket::peer_address(fd.as_fd()),
            Self::Simulated(socket) => socket.peer_address(),
        }
    }

    /// Makes the close of a stream reset the connection (`SO_LINGER` of zero seconds, socket(7)).
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` says.
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Descriptor(fd) => socket::set_reset_on_close(fd.as_fd()),
            Self::Simulated(socket) => {
                socket.set_reset_on_close();
                Ok(())
            }
        }
    }

    /// Bytes of a stream that the peer's kernel has not acknowledged (`SIOCOUTQ`, tcp(7)); on a Unix socket,
    /// that the peer has not read.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` says.
    pub fn unsent(&self) -> io::Result<usize> {
        match self {
            Self::Descriptor(fd) => socket::unsent(fd.as_fd()),
            Self::Simulated(socket) => Ok(socket.unsent()),
        }
    }

    /// Sets the options of a connection that is about to be made, and binds it to the local address `from`. A
    /// simulated socket has neither.
    ///
    /// # Errors
    ///
    /// What `bind(2)` says; for an option that the kernel refuses, its name.
    pub fn prepare_connect(&self, from: Option<&Address>, options: &SocketOptions) -> io::Result<()> {
        match self {
            Self::Descriptor(fd) => socket::prepare_connect(fd.as_fd(), from, options),
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Sends small segments at once (`TCP_NODELAY`, tcp(7)). No effect on what is not TCP.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` says.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Descriptor(fd) => socket::set_nodelay(fd.as_fd(), on),
            Self::Simulated(_) => Ok(()),
        }
    }
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self::Descriptor(fd)
    }
}

impl From<SimSocket> for Socket {
    fn from(socket: SimSocket) -> Self {
        Self::Simulated(socket)
    }
}

/// Wakes a waiting driver; any thread may.
#[derive(Clone, Debug)]
pub enum Waker {
    /// By a descriptor that the driver watches.
    #[cfg(target_os = "linux")]
    EventFd(linux::EventFd),
    /// By the simulated kernel.
    Sim(sim::SimWaker),
}

impl Wake for Waker {
    fn wake(&self) {
        match self {
            Self::EventFd(event) => event.notify(),
            Self::Sim(waker) => waker.wake(),
        }
    }
}
