//! What is in flight on one slot, and going on with it.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::BytesMut;

use super::super::datagrams::{DatagramCalls, Share};
use super::super::linux;
use super::super::readiness::{self, Attempt, Received};
use super::super::shelf::Place;
use super::super::{Completions, DriverStats, Socket};
use crate::buffer::{Arena, DatagramQueue, Lease, OutQueue};
use crate::limits::ACCEPTS_PER_TURN;
use crate::op::{Completion, Interest, OutDatagram, Outcome};
use crate::token::{Generation, Key};

/// What is in flight on one slot.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Row {
    /// `None` while the slot is vacant.
    pub(super) socket: Option<Socket>,
    pub(super) generation: Option<Generation>,
    pub(super) ready: Ready,
    /// The slot stands in the run queue.
    pub(super) queued: bool,
    pub(super) receive: Receive,
    pub(super) auxiliary: Auxiliary,
    pub(super) send: Send,
}

/// What one go at a receive came to.
pub(super) enum Run {
    Done(Outcome),
    /// Nothing is there, or it was reported already.
    Blocked,
    /// The arena has no room: it could not be tried.
    NoRoom,
}

/// What the kernel reported and no system call has denied since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer's end of stream, or an error, lies behind what is still to be read: a short receive
    /// does not mean that nothing follows.
    pub(super) read_closed: bool,
}

#[derive(Debug, Default)]
pub(super) enum Receive {
    #[default]
    None,
    Stream {
        once: bool,
    },
    Into(Place),
    /// `left`: how many are still wanted.
    Datagrams {
        left: u32,
    },
}

#[derive(Debug, Default)]
pub(super) enum Send {
    #[default]
    None,
    Queue(Box<OutQueue>),
    Datagram(Box<OutDatagram>),
    Datagrams(Box<DatagramQueue>),
}

#[derive(Debug, Default)]
pub(super) enum Auxiliary {
    #[default]
    None,
    Accept,
    Connect,
    Watch(Interest),
}

/// What a message touches lies on one cache line.
const _: () = assert!(size_of::<Row>() == 64);

impl Row {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().and_then(Socket::as_fd).expect("an operation runs on an attached descriptor")
    }

    /// Whether an operation is in flight whose ready bit is set.
    #[inline(always)]
    pub(super) fn can_run(&self) -> bool {
        self.only_receives() || self.can_run_rarely()
    }

    #[inline(never)]
    fn can_run_rarely(&self) -> bool {
        let Ready { readable, writable, .. } = self.ready;
        let auxiliary = match self.auxiliary {
            Auxiliary::None => false,
            Auxiliary::Accept => readable,
            Auxiliary::Connect => writable,
            Auxiliary::Watch(interest) => readable && interest.readable || writable && interest.writable,
        };
        auxiliary
            || readable && !matches!(self.receive, Receive::None)
            || writable && !matches!(self.send, Send::None)
    }

    /// Whether what can run is a receive from a stream, and nothing else.
    #[inline(always)]
    pub(super) fn only_receives(&self) -> bool {
        self.ready.readable
            && matches!(
                (&self.receive, &self.send, &self.auxiliary),
                (Receive::Stream { .. }, Send::None, Auxiliary::None)
            )
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!((&self.receive, &self.send, &self.auxiliary), (Receive::None, Send::None, Auxiliary::None))
    }
}

/// Going on with what can go on.
impl Row {
    pub(super) fn set_receive(&mut self, receive: Receive) {
        debug_assert!(matches!(self.receive, Receive::None), "a receive is in flight already");
        self.receive = receive;
    }

    /// Sends what it can of a queue; what came of it, unless a rest stays here and goes on by itself.
    pub(super) fn send_queue(&mut self, mut queue: Box<OutQueue>) -> Option<(Box<OutQueue>, io::Result<()>)> {
        debug_assert!(matches!(self.send, Send::None), "a send is in flight already");
        match readiness::send_queue(self.fd(), &mut queue) {
            Attempt::Done(Ok(())) if !queue.is_empty() => self.keep_sending(queue, true),
            Attempt::Done(result) => return Some((queue, result)),
            Attempt::WouldBlock => self.keep_sending(queue, false),
        }
        None
    }

    /// A rest stays here, and goes on by itself.
    pub(super) fn keep_sending(&mut self, mut queue: Box<OutQueue>, writable: bool) {
        self.ready.writable = writable;
        // A peer that does not read must not pin the arena.
        queue.make_private();
        self.send = Send::Queue(queue);
    }

    fn accept(&mut self, key: Key, completions: &mut Completions) {
        for _ in 0..ACCEPTS_PER_TURN {
            match Attempt::from(readiness::uninterrupted(|| linux::accept(self.fd()))) {
                Attempt::WouldBlock => {
                    self.ready.readable = false;
                    return;
                }
                Attempt::Done(result) => {
                    let failed = result.is_err();
                    let outcome = Outcome::Accepted(result.map(Socket::from));
                    completions.push_back(Completion { key, outcome });
                    if failed {
                        self.auxiliary = Auxiliary::None;
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn run_auxiliary(&mut self, key: Key, done: &mut Completions) {
        match self.auxiliary {
            Auxiliary::Accept if self.ready.readable => self.accept(key, done),
            Auxiliary::Connect if self.ready.writable => {
                self.auxiliary = Auxiliary::None;
                let outcome = Outcome::Connected(readiness::connect_result(self.fd()));
                done.push_back(Completion { key, outcome });
            }
            Auxiliary::Watch(interest) => {
                let readable = interest.readable && std::mem::take(&mut self.ready.readable);
                let writable = interest.writable && std::mem::take(&mut self.ready.writable);
                if readable || writable {
                    let outcome = Outcome::Ready(Ok(Interest { readable, writable }));
                    done.push_back(Completion { key, outcome });
                }
            }
            _ => {}
        }
    }

    pub(super) fn run_send(
        &mut self,
        key: Key,
        done: &mut Completions,
        calls: &mut Option<Box<DatagramCalls>>,
        stats: &mut DriverStats,
    ) {
        if !self.ready.writable {
            return;
        }
        let outcome = match std::mem::take(&mut self.send) {
            Send::None => return,
            Send::Queue(queue) => match self.send_queue(queue) {
                Some((queue, result)) => Outcome::Sent(queue, result),
                None => return,
            },
            Send::Datagram(datagram) => match readiness::send_datagram(self.fd(), &datagram) {
                Attempt::Done(result) => Outcome::SentTo(datagram, result),
                Attempt::WouldBlock => {
                    self.ready.writable = false;
                    self.send = Send::Datagram(datagram);
                    return;
                }
            },
            Send::Datagrams(queue) => {
                let calls = calls.get_or_insert_with(DatagramCalls::new);
                match self.send_datagrams(queue, calls, stats) {
                    Some(outcome) => outcome,
                    None => return,
                }
            }
        };
        done.push_back(Completion { key, outcome });
    }

    pub(super) fn receive_stream(&mut self, arena: &mut Arena) -> Run {
        match readiness::receive(self.fd(), arena) {
            Some(Attempt::Done(Ok(Received { bytes: count @ 1.., drained }))) => {
                self.go_on_receiving(drained);
                Run::Done(Outcome::Received(Ok(arena.lend(count))))
            }
            attempt => self.end_receiving(attempt),
        }
    }

    /// After a receive from a stream that brought bytes: whether another can be tried.
    #[inline(always)]
    pub(super) fn go_on_receiving(&mut self, drained: bool) -> bool {
        self.ready.readable &= !drained || self.ready.read_closed;
        if let Receive::Stream { once: true } = self.receive {
            self.receive = Receive::None;
            return false;
        }
        self.ready.readable
    }

    /// What a receive from a stream that brought no byte came to.
    #[cold]
    pub(super) fn end_receiving(&mut self, attempt: Option<Attempt<Received<usize>>>) -> Run {
        match attempt {
            None => Run::NoRoom,
            Some(Attempt::WouldBlock) => {
                self.ready.readable = false;
                Run::Blocked
            }
            Some(Attempt::Done(result)) => {
                self.receive = Receive::None;
                Run::Done(Outcome::Received(result.map(|_| Lease::default())))
            }
        }
    }

    /// The result, unless nothing was there to receive.
    pub(super) fn receive_into(&mut self, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        let result = match readiness::receive_into(self.fd(), buffer) {
            Attempt::WouldBlock => {
                self.ready.readable = false;
                return None;
            }
            Attempt::Done(result) => result,
        };
        if let Ok(received) = &result {
            self.ready.readable &= !received.drained || self.ready.read_closed;
        }
        self.receive = Receive::None;
        Some(result.map(|received| received.bytes))
    }

    /// Sends what it can of a queue; the outcome, unless a rest stays here and goes on by itself.
    pub(super) fn send_datagrams(
        &mut self,
        mut queue: Box<DatagramQueue>,
        calls: &mut DatagramCalls,
        stats: &mut DriverStats,
    ) -> Option<Outcome> {
        self.ready.writable = match calls.send(self.fd(), &mut queue, stats) {
            Attempt::Done(Ok(())) if !queue.is_empty() => true,
            Attempt::Done(result) => return Some(Outcome::SentDatagrams(queue, result)),
            Attempt::WouldBlock => false,
        };
        queue.make_private();
        self.send = Send::Datagrams(queue);
        None
    }

    /// Takes the datagrams of the socket, up to its share of the turn.
    pub(super) fn receive_datagrams(
        &mut self,
        key: Key,
        left: u32,
        calls: &mut DatagramCalls,
        arena: &mut Arena,
        done: &mut Completions,
        stats: &mut DriverStats,
    ) {
        let Share { left, drained } = calls.receive_share(self.fd(), left, arena, stats, |result| {
            done.push_back(Completion { key, outcome: Outcome::Datagram(result) });
        });
        self.ready.readable &= !drained;
        self.receive = if left == 0 { Receive::None } else { Receive::Datagrams { left } };
    }
}
