//! What a server keeps for one connection, whatever its session is.

use kolk_engine::timer::TimerId;
use kolk_engine::token::ConnId;

use super::groups::Group;
use super::handler::CloseReason;
use super::notices::Notices;
use super::offload::Jobs;
use super::timers::{IdleTimeouts, Purpose};

/// Beside the session and the input: what [`Conn`](super::Conn) works on.
///
/// A connection that waits and is asked nothing unusual has nothing in `extra`.
#[derive(Debug, Default)]
pub(super) struct ConnState {
    /// Index of the address that it came from, or that it did not come from one.
    pub(super) listener: u16,
    /// Why `on_data` may not be called. 0 for nearly every message, so that one look decides.
    pub(super) gate: Gate,
    pub(super) reading: Reading,
    /// What a callback asked for by a method instead of by its [`Action`](super::Action).
    pub(super) asked: Option<Ask>,
    /// What is queued was above the high watermark, and has not fallen to the low one since.
    pub(super) is_full: bool,
    /// `on_flush` and `on_sent` are called.
    pub(super) hooks_writes: bool,
    /// `on_flush` is to be called before the next turn.
    pub(super) hook_is_due: bool,
    /// Bytes of input without which `on_data` need not be called.
    pub(super) needs: u32,
    /// When something last arrived and when something last left, in milliseconds of the loop's clock.
    pub(super) last_input: u32,
    pub(super) last_output: u32,
    pub(super) extra: Option<Box<Extra>>,
}

/// What few connections have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Why it is closing; the first reason counts.
    pub(super) reason: Option<CloseReason>,
    /// What it has joined.
    pub(super) groups: Vec<Group>,
    /// Who hears that a write has left.
    pub(super) notices: Option<Box<Notices>>,
    pub(super) timers: Vec<(TimerId, Purpose)>,
    pub(super) jobs: Option<Box<Jobs>>,
    /// Its own, instead of the server's.
    pub(super) idle: Option<IdleTimeouts>,
    /// The program's number of a connection that was not accepted.
    pub(super) tag: u64,
    /// Who asked for it to be made.
    pub(super) opener: Option<ConnId>,
}

/// Reasons for which input waits, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate(u8);

impl Gate {
    /// [`Conn::pause_reading`](super::Conn::pause_reading).
    pub(super) const PAUSED: u8 = 1;
    /// Output is above the high watermark.
    pub(super) const OUTPUT: u8 = 2;
    /// The handler waits for more bytes than there are.
    pub(super) const NEEDS_MORE: u8 = 4;
    /// It closes: no callback but `on_close`.
    pub(super) const CLOSING: u8 = 8;
    /// It leaves the server: no callback but `on_detach` and `on_close`.
    pub(super) const DETACHING: u8 = 16;

    #[inline]
    pub(super) fn is_open(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, reasons: u8) -> bool {
        self.0 & reasons != 0
    }

    pub(super) fn set(&mut self, reason: u8, on: bool) {
        if on {
            self.0 |= reason;
        } else {
            self.0 &= !reason;
        }
    }

    /// Whether the connection still has callbacks to come, besides the last.
    pub(super) fn is_live(self) -> bool {
        !self.has(Self::CLOSING | Self::DETACHING)
    }

    /// Whether bytes are to be received.
    pub(super) fn lets_read(self) -> bool {
        !self.has(Self::PAUSED | Self::OUTPUT | Self::CLOSING | Self::DETACHING)
    }
}

/// The receiving direction.
///
/// ```text
///  Idle ──receive──► Receiving ──cancel──► Stopping ──cancelled──► Idle
///                        └── end of stream ──┴──► Ended ──on_eof──► Told
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// No receive is in flight.
    #[default]
    Idle,
    /// A receive is in flight, and goes on by itself.
    Receiving,
    /// It was cancelled, and has not ended yet.
    Stopping,
    /// The stream has ended, and the handler does not know.
    Ended,
    /// The handler knows.
    Told,
}

/// What a callback may ask for, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Detach,
    Close,
    CloseNow,
}

impl ConnState {
    pub(super) fn new(listener: u16, now: u32) -> Self {
        Self { listener, last_input: now, last_output: now, ..Self::default() }
    }

    /// Milliseconds until it can be idle for too long, see [`IdleTimeouts::left`].
    pub(super) fn idle_left(&self, of_server: &IdleTimeouts, now: u32) -> Option<u32> {
        let own = self.extra.as_ref().and_then(|extra| extra.idle.as_ref());
        let since = [self.last_input, self.last_output].map(|then| now.wrapping_sub(then));
        own.unwrap_or(of_server).left(since[0], since[1])
    }

    /// Whether somebody wants to know of each send that ends.
    pub(super) fn wants_reports(&self) -> bool {
        let notices = self.extra.as_ref().and_then(|extra| extra.notices.as_ref());
        let has_notices = notices.is_some_and(|notices| !notices.is_empty());
        self.is_full || self.hooks_writes || has_notices || self.gate.has(Gate::DETACHING)
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn jobs(&mut self) -> &mut Jobs {
        self.extra().jobs.get_or_insert_default()
    }

    pub(super) fn tag(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.tag)
    }

    pub(super) fn opener(&self) -> Option<ConnId> {
        self.extra.as_ref().and_then(|extra| extra.opener)
    }

    pub(super) fn set_tag(&mut self, tag: u64) {
        if tag != 0 {
            self.extra().tag = tag;
        }
    }

    /// Notes why it closes, unless a reason is known already.
    pub(super) fn note_reason(&mut self, reason: CloseReason) {
        self.extra().reason.get_or_insert(reason);
    }
}
