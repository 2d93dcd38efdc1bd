//! What the loop keeps for one socket, and the life of a socket.

use super::dirty::Place;
use crate::buffer::OutQueue;
use crate::op::Op;
use crate::timer::TimerId;
use crate::token::Key;

/// What the loop keeps for one socket.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// A send, of whatever kind, is in flight.
    pub(super) sending: bool,
    /// The slot is in the list of those to flush.
    pub(super) dirty: bool,
    /// The peer's end of stream, or a failure of the receiving direction, has been seen.
    pub(super) input_ended: bool,
    /// A connect is in flight, for which writes and the receive wait; of a listener, an accept.
    pub(super) connecting: bool,
    /// `shutdown_write` was asked for: nothing more may be written.
    pub(super) output_ended: bool,
    /// The front end hears of each send that ends.
    pub(super) reports_sends: bool,
    /// How often the receive in flight, of whatever kind, will still bring something: 0 when there is none,
    /// `u32::MAX` when it goes on until it ends.
    pub(super) receives_left: u32,
    /// The receive that waits for the connect in flight.
    pub(super) waiting_receive: Option<Box<Op>>,
    /// Bytes written of which no send has reported that they left: those of `out`, and all of the send in flight.
    pub(super) queued: u64,
    /// Bytes written since the last flush, unless they are in `only`; `None` while there is nothing.
    pub(super) out: Option<Box<OutQueue>>,
    /// The lease that is all that was written since the last flush.
    pub(super) only: Option<Place>,
    /// What the socket is used for.
    pub(super) role: Role,
    /// While closing or backing off: the timer that ends it. While open: the connection's own.
    pub(super) timer: Option<TimerId>,
    /// While draining: bytes discarded. While accepting: consecutive failures.
    pub(super) count: u32,
}

/// The life of a slot. `Closing` is the only way out.
///
/// ```text
///  Open ──close(Flush)──► Flushing ──out-queue empty──► Draining ──end of stream──► Closing ──► gone
///    │                       │                             └─too much─► Settling ───────┤
///    └───────────────────────┴──── close(Discard/Reset), failure, time-out ─────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// Sending what is queued; what arrives is discarded.
    Flushing,
    /// Our direction has ended; what arrives is discarded.
    Draining,
    /// Enough was discarded: nothing more is read until the peer's kernel has all that was sent.
    Settling,
    /// The driver ends what is in flight and closes the descriptor.
    Closing,
}

/// What a socket is used for; only a stream has anything to flush or to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Stream,
    Listener,
    /// A listener whose accept is to end; what it is used for next is open then.
    Leaving,
    Datagram,
    Watched,
}

/// What a timer of the wheel is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimerTask {
    Program(u64),
    AcceptAgain(Key),
    CloseTimeout(Key),
    CheckUnsent(Key),
    EndBurst,
}

impl Slot {
    /// Whether a receive, of whatever kind, is in flight.
    #[inline]
    pub(super) fn is_receiving(&self) -> bool {
        self.receives_left > 0
    }

    /// Whether anything written is not sent yet.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.sending || self.out.is_some() || self.only.is_some()
    }

    /// Whether what is written now is the first, and may leave.
    #[inline(always)]
    pub(super) fn is_clean(&self) -> bool {
        let is_writable = self.phase == Phase::Open && !self.output_ended && !self.connecting;
        is_writable && !self.dirty && !self.has_output()
    }

    /// Whether a flushing close differs from a plain one.
    pub(super) fn needs_flush(&self) -> bool {
        let ended = self.input_ended && !self.has_output();
        self.role == Role::Stream && !ended && (!self.connecting || self.out.is_some())
    }
}
