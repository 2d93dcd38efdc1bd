//! Ending operations, slots and the driver.

use std::mem::ManuallyDrop;
use std::net::Shutdown;

use io_uring::{opcode, squeue};
use socket2::SockRef;

use super::Uring;
use super::row::{Auxiliary, Flight, Receive, Row, Send};
use crate::limits::{TEARDOWN_TURNS, TEARDOWN_WAIT};
use crate::op::{Completion, Outcome, Submitted, cancelled};
use crate::token::{Key, Token, TokenKind};

impl Uring {
    pub(super) fn cancel_receive(&mut self, key: Key) {
        let (kind, flight) = match &mut self.row(key).receive {
            Receive::None => return,
            Receive::Stream { flight: flight @ Flight::Polled, .. } => (TokenKind::Poll, flight),
            Receive::Stream { flight, .. } | Receive::Into(_, flight) => (TokenKind::Receive, flight),
            Receive::Datagrams { flight, .. } => (TokenKind::Poll, flight),
        };
        match flight {
            Flight::Ending => {}
            Flight::Leaving => *flight = Flight::Ending,
            Flight::InKernel | Flight::Polled => {
                *flight = Flight::Ending;
                self.cancel_in_kernel(key, kind);
            }
            Flight::InLine => {
                // The kernel has nothing to end.
                let outcome = match std::mem::take(&mut self.row(key).receive) {
                    Receive::Datagrams { .. } => Outcome::Datagram(Err(cancelled())),
                    _ => Outcome::Received(Err(cancelled())),
                };
                self.done.push_back(Completion { key, outcome });
            }
        }
    }

    pub(super) fn cancel_send(&mut self, key: Key) {
        let send = std::mem::take(&mut self.row(key).send);
        let ending = match self.memory.with_queue(send) {
            Send::Queue { queue, ending: false, header } => Send::Queue { queue, ending: true, header },
            Send::Datagram(datagram) => Send::EndingDatagram(datagram),
            Send::Datagrams { queue, ending: false } => Send::Datagrams { queue, ending: true },
            other => return self.row(key).send = other,
        };
        self.row(key).send = ending;
        self.cancel_in_kernel(key, TokenKind::Send);
    }

    pub(super) fn cancel_auxiliary(&mut self, key: Key) {
        let kind = match &mut self.row(key).auxiliary {
            Auxiliary::None => return,
            Auxiliary::Connect(_) => TokenKind::Connect,
            Auxiliary::Accept { ending } => {
                *ending = true;
                TokenKind::Accept
            }
            Auxiliary::Watch { ending, .. } => {
                *ending = true;
                TokenKind::Watch
            }
        };
        self.cancel_in_kernel(key, kind);
    }

    /// Asks the kernel to end an operation. What the request itself completes with says nothing: the
    /// operation may just have ended, or be about to.
    pub(super) fn cancel_in_kernel(&mut self, key: Key, kind: TokenKind) {
        let entry = opcode::AsyncCancel::new(Token::new(kind, key).to_u64())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Token::new(TokenKind::Cancel, key).to_u64());
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }

    pub(super) fn start_close(&mut self, key: Key) -> Submitted {
        self.row(key).closing = true;
        self.cancel_receive(key);
        self.cancel_send(key);
        self.cancel_auxiliary(key);
        match self.close_if_idle(key) {
            Some(closed) if self.done.is_empty() => return Submitted::Done(closed),
            Some(closed) => self.done.push_back(Completion { key, outcome: closed }),
            None => {}
        }
        Submitted::Pending
    }

    /// Closes the descriptor of a closing slot once the kernel has nothing else of it.
    ///
    /// Directly: while an operation does it nobody owns the descriptor, and a driver that is dropped before
    /// it can submit once more would leak it.
    pub(super) fn close_if_idle(&mut self, key: Key) -> Option<Outcome> {
        let row = self.row(key);
        if !row.closing || !row.is_idle() {
            return None;
        }
        *row = Row::default();
        Some(Outcome::Closed)
    }

    /// Cancels all and waits, bounded, until the kernel has nothing left. Answers whether that is so.
    fn end_everything(&mut self) -> bool {
        if !self.ring.was_entered() {
            return true;
        }
        if !self.ring.is_owned_here() {
            // Another thread may not enter this ring; the kernel ends what is left after the close.
            return self.in_kernel == 0;
        }
        for index in 0..self.memory.rows.len() {
            let row = &self.memory.rows[index];
            if let Some(generation) = row.generation
                && !row.closing
            {
                let _ = self.start_close(Key::new(index as u32, generation));
            }
        }
        for _ in 0..TEARDOWN_TURNS {
            while self.next_completion().is_some() {}
            if self.in_kernel == 0 {
                return true;
            }
            let soon = self.now() + TEARDOWN_WAIT;
            if self.turn(Some(soon)).is_err() {
                break;
            }
        }
        self.in_kernel == 0
    }
}

/// The order of tear-down: see [`crate::buffer`].
impl Drop for Uring {
    fn drop(&mut self) {
        self.ending = true;
        let nothing_left = self.end_everything();
        for row in &mut self.memory.rows {
            let Some(socket) = row.socket.take() else { continue };
            // The descriptor closes in any case, but what is still in flight has its own hold on the socket:
            // only this tells the peer.
            if let (false, Some(fd)) = (nothing_left, socket.as_fd()) {
                let _ = SockRef::from(&fd).shutdown(Shutdown::Both);
            }
        }
        // SAFETY: neither is used again, this is the drop. The ring goes first; the memory follows only
        // when the kernel has nothing of it any more, and is leaked on purpose otherwise.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            if nothing_left {
                ManuallyDrop::drop(&mut self.memory);
            }
        }
    }
}
