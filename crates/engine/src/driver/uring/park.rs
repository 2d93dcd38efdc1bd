//! Parking: a silent stream waits in less of the kernel's memory.
//!
//! ```text
//!        ┌── bytes: heard ──┐                      ┌── bytes: heard once more ──┐
//!        ▼                  │                      ▼                            │
//!   receive, heard ─hand─► receive, not heard ─hand─► poll ◄───────hand──────── poll, heard
//!        ▲                                                                      │
//!        └──────────────────────── heard HEARD_IN_RING times ───────────────────┘
//! ```
//!
//! A hand goes round over the rows, as in the clock algorithm of page replacement, and takes from each that it was
//! heard of since the last time. A stream of which it was not leaves the ring the way one with large messages
//! does ([`super::complete`]): its receive is cancelled, it is read by an ordinary call once, and waits by a poll.
//! Whatever arrived on the way is found by that call, or by the poll. Who speaks seldom stays with the poll; who
//! speaks often between two visits of the hand goes back to the ring.
//!
//! A cancel is looked up in lists that grow with all that waits in the ring: 2 us among 10 000, 0.1 ms among 100 000,
//! 1.6 ms among a million. So the more there are, the fewer are parked at a time, and in a crowd a stream begins with
//! the poll and must be heard of first.
//!
//! The hand is moved by a timeout of the ring, so that no wait has to look at a clock. It rests while there is
//! nothing to find. `docs/decisions/parking.md` has the measurements.

use std::time::Duration;

use io_uring::{opcode, types};

use super::Uring;
use super::row::{Flight, Receive};
use crate::limits::{CROWD, HEARD_IN_RING, PARK_LOOK_UPS, PARK_STEP, PARKED_PER_STEP, ROWS_PER_PARK_STEP};
use crate::token::{Key, Token};

/// The hand, and when it moves.
#[derive(Debug)]
pub(super) struct ParkClock {
    /// Pause between two rounds; `None`: nobody is parked.
    period: Option<Duration>,
    /// The next row to look at.
    hand: usize,
    /// The hand waits for its timeout, or may not move.
    running: bool,
    /// A stream was heard of since the round began, or has yet to be: another round must follow.
    again: bool,
}

/// What the hand found in a row.
enum Found {
    /// Nothing to do, now or in the next round.
    Nothing,
    /// Something was received since the hand was here.
    Heard,
    Silent,
}

impl ParkClock {
    pub(super) fn new(period: Option<Duration>) -> Self {
        Self { period, hand: 0, running: period.is_none(), again: false }
    }
}

impl Receive {
    /// Bytes have come by a multishot receive.
    #[inline(always)]
    pub(super) fn note_bytes(&mut self) {
        if let Self::Stream { heard, .. } = self {
            *heard = HEARD_IN_RING;
        }
    }

    /// The hand goes by.
    fn look(&mut self) -> Found {
        match self {
            Self::Stream { heard: heard @ 1.., .. } => {
                *heard = 0;
                Found::Heard
            }
            Self::Stream { flight: Flight::InKernel, .. } => Found::Silent,
            _ => Found::Nothing,
        }
    }
}

impl Uring {
    /// Receives from a stream for as long as it lasts.
    #[inline]
    pub(super) fn start_stream(&mut self, key: Key) {
        let receive = Receive::stream(false, Flight::InKernel);
        self.row(key).start_receiving(receive);
        if self.park_clock.period.is_some() && self.memory.rows.len() > CROWD {
            self.poll_stream(key, false, false, 0);
        } else {
            self.arm_receive(key);
        }
    }

    /// There is a stream which may fall silent.
    #[inline]
    pub(super) fn wind_up(&mut self) {
        self.park_clock.again = true;
        if !self.park_clock.running {
            self.begin_round();
        }
    }

    /// The hand's timeout has come.
    #[inline(never)]
    pub(super) fn park_silent(&mut self) {
        self.park_clock.running = false;
        if self.ending {
            return;
        }
        if self.park_clock.hand == 0 {
            self.park_clock.again = false;
        }
        self.move_hand();
        if self.park_clock.hand < self.memory.rows.len() {
            self.move_hand_after(PARK_STEP);
        } else if self.park_clock.again {
            self.begin_round();
        } else {
            self.park_clock.hand = 0;
        }
    }

    /// Looks at so many rows as one step may.
    fn move_hand(&mut self) {
        let most = (PARK_LOOK_UPS / self.memory.rows.len().max(1)).clamp(1, PARKED_PER_STEP);
        let (mut looked, mut parked) = (0, 0);
        while looked < ROWS_PER_PARK_STEP && parked < most {
            let Some(row) = self.memory.rows.get_mut(self.park_clock.hand) else { return };
            let found = row.receive.look();
            let key = row.generation.map(|generation| Key::new(self.park_clock.hand as u32, generation));
            match (found, key) {
                (Found::Silent, Some(key)) => {
                    self.leave_ring(key);
                    self.ring.stats.parked += 1;
                    parked += 1;
                }
                (Found::Heard, _) => self.park_clock.again = true,
                _ => {}
            }
            self.park_clock.hand += 1;
            looked += 1;
        }
    }

    /// The next round begins after the pause.
    #[cold]
    fn begin_round(&mut self) {
        self.park_clock.hand = 0;
        if let Some(period) = self.park_clock.period {
            self.move_hand_after(period);
        }
    }

    fn move_hand_after(&mut self, pause: Duration) {
        *self.memory.park_pause = types::Timespec::from(pause);
        self.park_clock.running = true;
        let entry = opcode::Timeout::new(&raw const *self.memory.park_pause).build();
        // SAFETY: the boxed pause stays where it is for as long as the ring, and is only written when no timeout
        // waits.
        unsafe { self.ring.push(entry.user_data(Token::PARK.to_u64())) };
    }
}
