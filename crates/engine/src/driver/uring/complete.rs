//! What to do with each completion of the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::row::{Auxiliary, Flight, Receive, Send};
use super::{Completions, Uring};
use crate::buffer::{Arena, Lease};
use crate::driver::Socket;
use crate::driver::readiness::{self, Attempt};
use crate::limits::DATAGRAMS_PER_TURN;
use crate::op::{Completion, Interest, Outcome, cancelled};
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

    /// The operation did not run to its end for a reason that is over: start it again.
    fn is_passing(self) -> bool {
        matches!(self.error(), Some(libc::EAGAIN | libc::EINTR))
    }
}

impl Uring {
    #[inline]
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, completions: &mut Completions) {
        let answer = Answer {
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        };
        let token = Token::from_u64(entry.user_data()).expect("every entry carries a token");
        if matches!(token.kind(), TokenKind::Wake | TokenKind::Cancel) {
            if token.kind() == TokenKind::Wake && !answer.more && !self.ending {
                self.watch_wake();
            }
            return;
        }
        let key = token.key();
        if !answer.more {
            self.in_kernel -= 1;
            self.row(key).in_kernel -= 1;
        }
        match token.kind() {
            TokenKind::Receive => self.complete_receive(key, answer, completions),
            TokenKind::Send => self.complete_send(key, answer, completions),
            TokenKind::Accept => self.complete_accept(key, answer, completions),
            TokenKind::Connect => self.complete_connect(key, answer, completions),
            TokenKind::Watch => self.complete_watch(key, answer, completions),
            TokenKind::Datagram => self.complete_datagram(key, answer, completions),
            TokenKind::Wake | TokenKind::Cancel => unreachable!("handled above"),
        }
        if !answer.more {
            let closed = self.close_if_idle(key);
            completions.extend(closed.map(|outcome| Completion { key, outcome }));
        }
    }

    #[inline]
    fn complete_receive(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        match self.row(key).receive {
            Receive::Stream(flight) => self.complete_stream(key, flight, answer, completions),
            Receive::Into(place, flight) => {
                if answer.is_passing() && flight == Flight::InKernel {
                    let buffer = self.memory.buffers.take(place);
                    self.row(key).receive = Receive::None;
                    return self.start_receive_into(key, buffer);
                }
                self.row(key).receive = Receive::None;
                let mut buffer = self.memory.buffers.take(place);
                if let Some(count) = usize::try_from(answer.result).ok().filter(|&count| count > 0) {
                    // SAFETY: the kernel has written that many bytes behind the buffer's end.
                    unsafe { bytes::BufMut::advance_mut(&mut buffer, count) };
                }
                let outcome = Outcome::ReceivedInto(buffer, answer.into_result());
                completions.push_back(Completion { key, outcome });
            }
            Receive::None | Receive::Datagrams(_) => {
                unreachable!("{key:?}: a receive completed that was not in flight")
            }
        }
    }

    /// One receive into the ring's buffers. Bytes go on in any case; what follows depends on why the
    /// kernel stopped, if it did.
    #[inline]
    fn complete_stream(&mut self, key: Key, flight: Flight, answer: Answer, completions: &mut Completions) {
        let mut report =
            |result| completions.push_back(Completion { key, outcome: Outcome::Received(result) });
        let has_bytes = answer.result > 0;
        match answer.buffer {
            Some(index) if has_bytes => {
                self.memory.receive_buffers.lend(index, answer.result as usize, |bytes| report(Ok(bytes)));
            }
            Some(index) => self.memory.receive_buffers.take_back(index),
            None => debug_assert!(!has_bytes, "{key:?}: received bytes lie in a buffer"),
        }
        if answer.more {
            return;
        }
        let ending = flight == Flight::Ending;
        let starved = answer.error() == Some(libc::ENOBUFS);
        if (has_bytes || starved || answer.is_passing()) && !ending {
            return self.continue_receive(key, starved);
        }
        // From here on it has ended: by the end of the stream, an error or a cancel.
        self.row(key).receive = Receive::None;
        if has_bytes || starved || answer.is_passing() {
            report(Err(cancelled()));
        } else {
            report(answer.into_result().map(|_| Lease::default()));
        }
    }

    /// Starts a receive again that goes on. While some wait in line for a buffer, and if the ring was empty,
    /// it joins the line.
    #[inline]
    fn continue_receive(&mut self, key: Key, starved: bool) {
        self.ring.stats.buffers_exhausted += u64::from(starved);
        if starved || !self.starved.is_empty() {
            self.row(key).receive = Receive::Stream(Flight::Starved);
            self.starved.push_back(key);
        } else {
            self.arm_receive(key);
        }
    }

    #[inline]
    fn complete_send(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        let outcome = match std::mem::take(&mut self.row(key).send) {
            Send::Queue { mut queue, ending, header } => {
                let polled = header.is_none() && queue.front_file().is_some();
                self.memory.spare_headers.extend(header);
                if answer.result > 0 && !polled {
                    queue.advance(answer.result as u64);
                }
                if queue.is_empty() {
                    Some(Outcome::Sent(queue, Ok(())))
                } else if ending {
                    Some(Outcome::Sent(queue, Err(cancelled())))
                } else if answer.error().is_some() && !answer.is_passing() {
                    Some(Outcome::Sent(queue, answer.into_result().map(drop)))
                } else {
                    self.start_send(key, queue)
                }
            }
            Send::Datagram { datagram, ending: true } => Some(Outcome::SentTo(datagram, Err(cancelled()))),
            Send::Datagram { datagram, ending: false } => {
                match readiness::send_datagram(self.row(key).fd(), &datagram) {
                    Attempt::Done(result) => Some(Outcome::SentTo(datagram, result)),
                    Attempt::WouldBlock => {
                        self.row(key).send = Send::Datagram { datagram, ending: false };
                        self.arm_poll(key, TokenKind::Send, libc::POLLOUT, false);
                        None
                    }
                }
            }
            Send::None => unreachable!("{key:?}: a send completed that was not in flight"),
        };
        if let Some(outcome) = outcome {
            completions.push_back(Completion { key, outcome });
        }
    }

    fn complete_accept(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        let Auxiliary::Accept { ending } = self.row(key).auxiliary else {
            unreachable!("{key:?}: an accept completed that was not in flight")
        };
        let mut report =
            |result| completions.push_back(Completion { key, outcome: Outcome::Accepted(result) });
        let failed = answer.result < 0 && !answer.is_passing();
        if answer.result >= 0 {
            // SAFETY: the kernel made the descriptor for this completion, and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(answer.result) };
            report(Ok(Socket::from(fd)));
        }
        if answer.more {
            return;
        }
        if failed || ending {
            report(if failed {
                Err(answer.into_result().expect_err("the result is negative"))
            } else {
                Err(cancelled())
            });
            self.row(key).auxiliary = Auxiliary::None;
        } else {
            self.arm_accept(key);
        }
    }

    fn complete_connect(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        let Auxiliary::Connect(place) = std::mem::take(&mut self.row(key).auxiliary) else {
            unreachable!("{key:?}: a connect completed that was not in flight")
        };
        drop(self.memory.addresses.take(place));
        let outcome = Outcome::Connected(answer.into_result().map(drop));
        completions.push_back(Completion { key, outcome });
    }

    fn complete_watch(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        let Auxiliary::Watch { interest, ending } = self.row(key).auxiliary else {
            unreachable!("{key:?}: a watch completed that was not in flight")
        };
        let mut report = |result| completions.push_back(Completion { key, outcome: Outcome::Ready(result) });
        let failed = answer.result < 0 && !answer.is_passing();
        if answer.result > 0 {
            report(Ok(readiness_of(answer.result, interest)));
        }
        if answer.more {
            return;
        }
        if failed || ending {
            self.row(key).auxiliary = Auxiliary::None;
            report(if failed {
                Err(answer.into_result().expect_err("the result is negative"))
            } else {
                Err(cancelled())
            });
        } else {
            self.arm_watch(key, interest);
        }
    }

    /// Datagrams are there, or the poll has ended.
    fn complete_datagram(&mut self, key: Key, answer: Answer, completions: &mut Completions) {
        let Receive::Datagrams(flight) = self.row(key).receive else {
            unreachable!("{key:?}: a datagram poll completed that was not in flight")
        };
        if !answer.more {
            let failed = answer.result < 0 && !answer.is_passing();
            if failed || matches!(flight, Flight::Ending | Flight::Failed(_)) {
                self.row(key).receive = Receive::None;
                let error = match flight {
                    Flight::Failed(code) => io::Error::from_raw_os_error(code),
                    _ => answer.into_result().err().unwrap_or_else(cancelled),
                };
                completions.push_back(Completion { key, outcome: Outcome::Datagram(Err(error)) });
                return;
            }
            self.arm_poll(key, TokenKind::Datagram, libc::POLLIN, true);
        }
        if flight == Flight::InKernel {
            self.row(key).receive = Receive::Datagrams(Flight::Ready);
            self.continue_datagrams(key, completions);
        }
    }

    /// Takes the datagrams of one socket, up to its share of the turn.
    pub(super) fn continue_datagrams(&mut self, key: Key, completions: &mut Completions) {
        let memory = &mut *self.memory;
        let (size, blocks) = memory.arena_config;
        let arena = memory.arena.get_or_insert_with(|| Arena::new(size, blocks));
        let Some(row) = memory.rows.get_mut(key.index() as usize) else { return };
        if row.generation != Some(key.generation())
            || !matches!(row.receive, Receive::Datagrams(Flight::Ready))
        {
            return;
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            match readiness::receive_datagram(row.fd(), arena) {
                None => break,
                Some(Attempt::WouldBlock) => {
                    row.receive = Receive::Datagrams(Flight::InKernel);
                    return;
                }
                Some(Attempt::Done(Ok(datagram))) => {
                    completions.push_back(Completion { key, outcome: Outcome::Datagram(Ok(datagram)) });
                }
                Some(Attempt::Done(Err(error))) => {
                    row.receive =
                        Receive::Datagrams(Flight::Failed(error.raw_os_error().unwrap_or(libc::EIO)));
                    self.cancel_in_kernel(key, TokenKind::Datagram);
                    return;
                }
            }
        }
        self.ready.push_back(key);
    }
}

fn readiness_of(mask: i32, interest: Interest) -> Interest {
    let broken = mask & i32::from(libc::POLLERR | libc::POLLHUP) != 0;
    let readable = broken || mask & i32::from(libc::POLLIN | libc::POLLRDHUP) != 0;
    let writable = broken || mask & i32::from(libc::POLLOUT) != 0;
    Interest { readable: readable && interest.readable, writable: writable && interest.writable }
}
