//! What to do with each completion of the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::row::{Auxiliary, Flight, Last, Receive, Send};
use super::{Memory, Uring};
use crate::buffer::Lease;
use crate::driver::Socket;
use crate::driver::datagrams::{DatagramCalls, Share};
use crate::driver::readiness::{self, Attempt};
use crate::driver::shelf::Place;
use crate::limits::HEARD_IN_RING;
use crate::op::{Completion, Frequent, Interest, OutDatagram, Outcome, cancelled};
use crate::token::{Key, Token, TokenKind};

/// The kernel's answer to an operation.
#[derive(Clone, Copy, Debug)]
struct Answer {
    /// A count, a descriptor or an event mask; negative: an error number.
    result: i32,
    /// Further completions of this operation follow.
    more: bool,
    /// The receive buffer that the kernel picked.
    buffer: Option<u16>,
    /// The socket has more to receive. Not told of Unix sockets before Linux 6.17.
    nonempty: bool,
}

impl Answer {
    fn error(self) -> Option<i32> {
        (self.result < 0).then_some(-self.result)
    }

    fn into_result(self) -> io::Result<usize> {
        match self.error() {
            Some(libc::ECANCELED) => Err(cancelled()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(self.result as usize),
        }
    }

    /// Why an operation that goes on by itself has ended; `None`: it is to be started again.
    fn end(self, ending: bool) -> Option<io::Error> {
        match self.into_result() {
            Err(error) if !self.is_passing() => Some(error),
            _ => ending.then(cancelled),
        }
    }

    /// The operation did not run to its end for a reason that is over: start it again.
    fn is_passing(self) -> bool {
        matches!(self.error(), Some(libc::EAGAIN | libc::EINTR))
    }
}

impl Uring {
    /// What a completion of the kernel comes to if that is one of the frequent ones; nothing is done otherwise.
    #[inline]
    pub(super) fn frequent(&mut self, entry: cqueue::Entry) -> Option<Frequent> {
        let token = Token::from_u64(entry.user_data())?;
        let key = token.key();
        let count = u32::try_from(entry.result()).ok().filter(|&count| count > 0)?;
        match token.kind() {
            TokenKind::Receive => {
                let index = cqueue::buffer_select(entry.flags())?;
                if !cqueue::more(entry.flags()) {
                    self.end_single_receive(key, count as usize, entry.flags())?;
                } else {
                    self.row(key).receive.note_bytes();
                    self.leave_ring_if_large(key, count as usize, cqueue::sock_nonempty(entry.flags()));
                }
                self.pass_entry();
                Some(Frequent::Received(key, self.memory.receive_buffers.lend(index, count as usize)))
            }
            TokenKind::Send => {
                let send = &mut self.row(key).send;
                if let &mut Send::Lease(place, len) = send {
                    if len != count {
                        return None;
                    }
                    *send = Send::None;
                    let lease = self.memory.leases.take(place);
                    self.memory.receive_buffers.give_back(lease);
                    self.in_kernel -= 1;
                    self.operation_ended(key);
                    self.pass_entry();
                    return Some(Frequent::SentLease(key, u64::from(count)));
                }
                let Send::Queue { queue, .. } = send else { return None };
                if queue.len() != u64::from(count) || queue.begins_with_file() {
                    return None;
                }
                let Send::Queue { mut queue, header, .. } = std::mem::take(send) else { return None };
                self.memory.retire_header(header);
                if let Some(lease) = queue.finish() {
                    self.memory.receive_buffers.give_back(lease);
                }
                self.in_kernel -= 1;
                self.operation_ended(key);
                self.pass_entry();
                Some(Frequent::Sent(key, queue))
            }
            _ => None,
        }
    }

    /// The bytes that were asked for once are there; `None` if it was not so.
    #[inline]
    fn end_single_receive(&mut self, key: Key, count: usize, flags: u32) -> Option<()> {
        let (nonempty, size) = (cqueue::sock_nonempty(flags), self.memory.receive_buffers.block_size());
        let row = self.row(key);
        let Receive::Stream { once: true, .. } = row.receive else { return None };
        row.receive = Receive::None;
        row.last = Last::new(!nonempty, nonempty && count == size);
        self.in_kernel -= 1;
        self.operation_ended(key);
        Some(())
    }

    /// A multishot receive has brought `count` bytes and goes on. One that fills a whole buffer and leaves something
    /// would fill one after the other, for as long as there are any.
    #[inline(always)]
    fn leave_ring_if_large(&mut self, key: Key, count: usize, nonempty: bool) {
        if nonempty && count == self.memory.receive_buffers.block_size() {
            self.leave_ring(key);
        }
    }

    /// Ends the multishot receive of a stream that brings much at a time: it goes on by ordinary calls, one in a
    /// turn, so that the others have their share of the turn, and of the ring.
    #[cold]
    pub(super) fn leave_ring(&mut self, key: Key) {
        if let Receive::Stream { flight: flight @ Flight::InKernel, .. } = &mut self.row(key).receive {
            *flight = Flight::Leaving;
            self.cancel_in_kernel(key, TokenKind::Receive);
        }
    }

    /// What a completion of the kernel comes to: nothing, an outcome, or several, of which all but the first
    /// stand in `done`.
    #[inline]
    pub(super) fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let answer = Answer {
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
            nonempty: cqueue::sock_nonempty(entry.flags()),
        };
        let token = Token::from_u64(entry.user_data()).expect("every entry carries a token");
        let key = token.key();
        let outcome = match token.kind() {
            TokenKind::Receive => self.complete_receive(key, answer),
            TokenKind::Send => self.complete_send(key, answer),
            kind => self.complete_rare(kind, key, answer),
        };
        outcome.map(|outcome| Completion { key, outcome })
    }

    /// The operations that no message waits for.
    #[inline(never)]
    fn complete_rare(&mut self, kind: TokenKind, key: Key, answer: Answer) -> Option<Outcome> {
        match kind {
            TokenKind::Accept => self.complete_accept(key, answer),
            TokenKind::Connect => self.complete_connect(key, answer),
            TokenKind::Watch => self.complete_watch(key, answer),
            TokenKind::Poll => self.complete_poll(key, answer),
            TokenKind::Wake => {
                if !answer.more && !self.ending {
                    self.watch_wake();
                }
                None
            }
            TokenKind::Park => {
                // A kernel without timeouts answers another error: the hand stays where it is.
                if answer.error() == Some(libc::ETIME) {
                    self.park_silent();
                }
                None
            }
            // What the request to cancel completes with says nothing.
            TokenKind::Cancel => None,
            TokenKind::Receive | TokenKind::Send => unreachable!("completed by the caller"),
        }
    }

    /// After the last outcome of an operation: closes the slot if it waits for that.
    #[inline(always)]
    fn operation_ended(&mut self, key: Key) {
        if self.row(key).closing {
            self.go_on_closing(key);
        }
    }

    #[cold]
    fn go_on_closing(&mut self, key: Key) {
        let closed = self.close_if_idle(key);
        self.done.extend(closed.map(|outcome| Completion { key, outcome }));
    }

    #[inline]
    fn complete_receive(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        match self.row(key).receive {
            Receive::Stream { once, flight, .. } => self.complete_stream(key, once, flight, answer),
            Receive::Into(place, flight) => self.complete_receive_into(key, place, flight, answer),
            Receive::None | Receive::Datagrams { .. } => {
                unreachable!("{key:?}: a receive completed that was not in flight")
            }
        }
    }

    fn complete_receive_into(
        &mut self,
        key: Key,
        place: Place,
        flight: Flight,
        answer: Answer,
    ) -> Option<Outcome> {
        self.in_kernel -= 1;
        let row = self.row(key);
        row.last = Last::new(!answer.nonempty, false);
        row.receive = Receive::None;
        let mut buffer = self.memory.buffers.take(place);
        if answer.is_passing() && flight == Flight::InKernel {
            self.start_receive_into(key, buffer);
            return None;
        }
        if let Some(count) = usize::try_from(answer.result).ok().filter(|&count| count > 0) {
            // SAFETY: the kernel has written that many bytes behind the buffer's end.
            unsafe { bytes::BufMut::advance_mut(&mut buffer, count) };
        }
        self.operation_ended(key);
        Some(Outcome::ReceivedInto(buffer, answer.into_result()))
    }

    /// One receive into the ring's buffers. Bytes go on in any case; what follows depends on why the
    /// kernel stopped, if it did.
    #[inline]
    fn complete_stream(&mut self, key: Key, once: bool, flight: Flight, answer: Answer) -> Option<Outcome> {
        let received = self.take_buffer(answer).map(|bytes| Outcome::Received(Ok(bytes)));
        if answer.more {
            self.row(key).receive.note_bytes();
            self.leave_ring_if_large(key, answer.result as usize, answer.nonempty);
            return received;
        }
        self.stream_stopped(key, once, flight, answer, received)
    }

    /// The bytes of a receive, out of the ring.
    #[inline]
    fn take_buffer(&mut self, answer: Answer) -> Option<Lease> {
        let index = answer.buffer?;
        if answer.result > 0 {
            return Some(self.memory.receive_buffers.lend(index, answer.result as usize));
        }
        self.memory.receive_buffers.take_back(index);
        None
    }

    /// The kernel has stopped receiving, with or after `received`.
    fn stream_stopped(
        &mut self,
        key: Key,
        once: bool,
        flight: Flight,
        answer: Answer,
        received: Option<Outcome>,
    ) -> Option<Outcome> {
        self.in_kernel -= 1;
        let filled = answer.result as usize == self.memory.receive_buffers.block_size();
        self.row(key).last = Last::new(!answer.nonempty, filled && answer.nonempty);
        let starved = answer.error() == Some(libc::ENOBUFS);
        self.ring.stats.buffers_exhausted += u64::from(starved);
        let left = flight == Flight::Leaving && answer.error() == Some(libc::ECANCELED);
        let goes_on = received.is_some() || starved || left || answer.is_passing();
        if goes_on && flight != Flight::Ending && !(once && received.is_some()) {
            if starved || left || filled {
                self.row(key).receive.set_flight(Flight::InLine);
                self.stand_in_line(key);
                self.line_share += 1;
            } else {
                self.row(key).receive = Receive::stream(once, Flight::InKernel);
                self.arm_receive(key);
            }
            return received;
        }
        // It has ended: by what was asked for, the end of the stream, an error or a cancel.
        self.row(key).receive = Receive::None;
        let last = match received {
            Some(bytes) if once => bytes,
            Some(bytes) => {
                self.done.push_back(Completion { key, outcome: Outcome::Received(Err(cancelled())) });
                bytes
            }
            None if goes_on => Outcome::Received(Err(cancelled())),
            None => Outcome::Received(answer.into_result().map(|_| Lease::default())),
        };
        self.operation_ended(key);
        Some(last)
    }

    #[inline]
    fn complete_send(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        self.in_kernel -= 1;
        let send = std::mem::take(&mut self.row(key).send);
        let outcome = match self.memory.with_queue(send) {
            Send::Lease(..) => unreachable!("{key:?}: it is in a queue now"),
            Send::Queue { mut queue, ending, header } => {
                let polled = header.is_none() && queue.begins_with_file();
                self.memory.retire_header(header);
                if answer.result > 0 && !polled {
                    queue.advance(answer.result as u64);
                }
                if queue.is_empty() {
                    Outcome::Sent(queue, Ok(()))
                } else if ending {
                    Outcome::Sent(queue, Err(cancelled()))
                } else if answer.error().is_some() && !answer.is_passing() {
                    Outcome::Sent(queue, answer.into_result().map(drop))
                } else {
                    self.start_send(key, queue)?
                }
            }
            Send::Datagram(datagram) => self.continue_datagram_send(key, datagram)?,
            Send::EndingDatagram(datagram) => Outcome::SentTo(datagram, Err(cancelled())),
            Send::Datagrams { queue, ending: true } => Outcome::SentDatagrams(queue, Err(cancelled())),
            Send::Datagrams { queue, .. } => self.send_datagrams(key, queue)?,
            Send::None => unreachable!("{key:?}: a send completed that was not in flight"),
        };
        self.operation_ended(key);
        Some(outcome)
    }

    fn continue_datagram_send(&mut self, key: Key, datagram: Box<OutDatagram>) -> Option<Outcome> {
        match readiness::send_datagram(self.row(key).fd(), &datagram) {
            Attempt::Done(result) => Some(Outcome::SentTo(datagram, result)),
            Attempt::WouldBlock => {
                self.row(key).send = Send::Datagram(datagram);
                self.arm_poll(key, TokenKind::Send, libc::POLLOUT, false);
                None
            }
        }
    }

    fn complete_accept(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        let Auxiliary::Accept { ending } = self.row(key).auxiliary else {
            unreachable!("{key:?}: an accept completed that was not in flight")
        };
        let accepted = (answer.result >= 0).then(|| {
            // SAFETY: the kernel made the descriptor for this completion, and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(answer.result) };
            Outcome::Accepted(Ok(Socket::from(fd)))
        });
        if answer.more {
            return accepted;
        }
        self.in_kernel -= 1;
        match answer.end(ending) {
            Some(error) => self.auxiliary_ended(key, accepted, Outcome::Accepted(Err(error))),
            None => {
                self.arm_accept(key);
                accepted
            }
        }
    }

    fn complete_connect(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        self.in_kernel -= 1;
        let Auxiliary::Connect(place) = std::mem::take(&mut self.row(key).auxiliary) else {
            unreachable!("{key:?}: a connect completed that was not in flight")
        };
        drop(self.memory.addresses.take(place));
        self.operation_ended(key);
        Some(Outcome::Connected(answer.into_result().map(drop)))
    }

    fn complete_watch(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        let Auxiliary::Watch { interest, ending } = self.row(key).auxiliary else {
            unreachable!("{key:?}: a watch completed that was not in flight")
        };
        let ready = (answer.result > 0).then(|| Outcome::Ready(Ok(readiness_of(answer.result, interest))));
        if answer.more {
            return ready;
        }
        self.in_kernel -= 1;
        match answer.end(ending) {
            Some(error) => self.auxiliary_ended(key, ready, Outcome::Ready(Err(error))),
            None => {
                self.arm_watch(key, interest);
                ready
            }
        }
    }

    /// An accept or a watch has ended, with or after `last`.
    fn auxiliary_ended(&mut self, key: Key, last: Option<Outcome>, end: Outcome) -> Option<Outcome> {
        self.row(key).auxiliary = Auxiliary::None;
        let first = match last {
            None => end,
            Some(last) => {
                self.done.push_back(Completion { key, outcome: end });
                last
            }
        };
        self.operation_ended(key);
        Some(first)
    }

    /// Something is there to be read by ordinary calls, or the poll has ended.
    fn complete_poll(&mut self, key: Key, answer: Answer) -> Option<Outcome> {
        self.in_kernel -= 1;
        let receive = &mut self.row(key).receive;
        let (Receive::Stream { flight, .. } | Receive::Datagrams { flight, .. }) = receive else {
            unreachable!("{key:?}: a poll completed that was not in flight")
        };
        let Some(error) = answer.end(*flight == Flight::Ending) else {
            *flight = Flight::InLine;
            self.stand_in_line(key);
            self.line_share += 1;
            return None;
        };
        let receive = std::mem::take(receive);
        self.operation_ended(key);
        Some(match receive {
            Receive::Datagrams { .. } => Outcome::Datagram(Err(error)),
            _ => Outcome::Received(Err(error)),
        })
    }
}

/// Receiving by ordinary calls.
impl Uring {
    pub(super) fn stand_in_line(&mut self, key: Key) {
        // A slot that was given up and begins anew may stand there still.
        if !std::mem::replace(&mut self.row(key).in_line, true) {
            self.line.push_back(key);
        }
    }

    /// Lets the first of the line receive. Bytes of a stream are the answer; all else stands in `done`.
    pub(super) fn serve_line(&mut self) -> Option<(Key, Lease)> {
        self.line_share -= 1;
        let key = self.line.pop_front()?;
        if let Some(&next) = self.line.front() {
            self.prefetch(next);
        }
        // A stale key is of a slot that was closed while it waited.
        let row = self.row_mut(key)?;
        row.in_line = false;
        match row.receive {
            Receive::Stream { once, flight: Flight::InLine, large, heard } => {
                return self.continue_stream(key, once, large, heard).map(|bytes| (key, bytes));
            }
            Receive::Datagrams { left, flight: Flight::InLine } => self.continue_datagrams(key, left),
            _ => {}
        }
        None
    }

    /// There was no room to receive into: whoever could not be served is the first of the next turn.
    #[cold]
    fn stay_first(&mut self, key: Key) {
        self.row(key).in_line = true;
        self.line.push_front(key);
        self.line_share = 0;
    }

    /// Receives once.
    fn continue_stream(&mut self, key: Key, once: bool, was_large: bool, heard: u8) -> Option<Lease> {
        let Memory { rows, arena, receive_buffers, .. } = &mut *self.memory;
        let row = &mut rows[key.index() as usize];
        let (count, drained) = match readiness::receive(row.fd(), arena) {
            Some(Attempt::Done(Ok(received))) => (received.bytes, received.drained),
            Some(Attempt::WouldBlock) => {
                self.poll_stream(key, once, was_large, heard);
                return None;
            }
            Some(Attempt::Done(Err(error))) => return self.end_stream(key, Err(error)),
            None => {
                self.stay_first(key);
                return None;
            }
        };
        if count == 0 {
            return self.end_stream(key, Ok(Lease::default()));
        }
        let is_large = count > receive_buffers.block_size();
        let heard = heard.saturating_add(1);
        let bytes = arena.lend(count);
        if once {
            row.receive = Receive::None;
            row.last = Last::new(drained, is_large);
        } else if !drained {
            row.receive = Receive::Stream { once, flight: Flight::InLine, large: is_large, heard };
            self.stand_in_line(key);
        } else if is_large || was_large || heard < HEARD_IN_RING {
            // What comes after a silence may be all for a while: the stream stays parked at first.
            self.wind_up();
            self.poll_stream(key, once, is_large, heard);
        } else {
            row.receive = Receive::stream(once, Flight::InKernel);
            self.arm_receive(key);
        }
        Some(bytes)
    }

    /// A receive by an ordinary call met the end of the stream, or failed.
    #[cold]
    fn end_stream(&mut self, key: Key, last: io::Result<Lease>) -> Option<Lease> {
        self.row(key).receive = Receive::None;
        self.done.push_back(Completion { key, outcome: Outcome::Received(last) });
        None
    }

    /// Waits for what will come outside the ring: it is expected to be more than a buffer, and shall not be cut into
    /// such; or not soon.
    pub(super) fn poll_stream(&mut self, key: Key, once: bool, large: bool, heard: u8) {
        self.row(key).receive = Receive::Stream { once, flight: Flight::Polled, large, heard };
        self.arm_poll(key, TokenKind::Poll, libc::POLLIN, false);
    }

    /// Takes the datagrams of one socket, up to its share of the turn.
    fn continue_datagrams(&mut self, key: Key, left: u32) {
        let Memory { rows, arena, datagrams, .. } = &mut *self.memory;
        let (row, stats, done) = (&mut rows[key.index() as usize], &mut self.ring.stats, &mut self.done);
        let calls = datagrams.get_or_insert_with(DatagramCalls::new);
        let Share { left, drained } = calls.receive_share(row.fd(), left, arena, stats, |result| {
            done.push_back(Completion { key, outcome: Outcome::Datagram(result) });
        });
        if left == 0 {
            row.receive = Receive::None;
        } else if drained {
            row.receive = Receive::Datagrams { left, flight: Flight::InKernel };
            self.arm_poll(key, TokenKind::Poll, libc::POLLIN, false);
        } else {
            row.receive = Receive::Datagrams { left, flight: Flight::InLine };
            self.stand_in_line(key);
        }
    }
}

fn readiness_of(mask: i32, interest: Interest) -> Interest {
    let broken = mask & i32::from(libc::POLLERR | libc::POLLHUP) != 0;
    let readable = broken || mask & i32::from(libc::POLLIN | libc::POLLRDHUP) != 0;
    let writable = broken || mask & i32::from(libc::POLLOUT) != 0;
    Interest { readable: readable && interest.readable, writable: writable && interest.writable }
}
