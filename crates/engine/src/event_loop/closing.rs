//! How a socket ends without losing a byte.
//!
//! What is queued is sent, our direction ends, and the loop reads on until the peer's end of stream: closing
//! with unread input would turn the FIN into a reset, which may destroy our last bytes on their way.

use super::core::Core;
use super::slot::{Phase, TimerTask};
use crate::driver::Socket;
use crate::limits;
use crate::op::{Direction, Op};
use crate::token::Key;

impl Core {
    pub(super) fn begin_flush(&mut self, key: Key) {
        let deadline = self.now + self.close_timeout;
        let timer = self.timers.insert(deadline, TimerTask::CloseTimeout(key));
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.phase = Phase::Flushing;
        if let Some(own) = slot.timer.replace(timer) {
            self.timers.cancel(own);
        }
        self.discard_input(key);
        self.after_output(key);
    }

    /// Reads on while the connection closes: a peer may write all it has before it reads.
    pub(super) fn discard_input(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !slot.is_receiving() && !slot.connecting && !slot.input_ended {
            slot.receives_left = u32::MAX;
            self.start(key, Op::Receive);
        }
    }

    /// Everything is sent: say so to the peer, and read until it says the same.
    pub(super) fn begin_drain(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.phase = Phase::Draining;
        slot.count = 0;
        if self.driver.shutdown_write(key).is_err() {
            slot.input_ended = true;
        }
        self.continue_draining(key);
    }

    pub(super) fn continue_draining(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.input_ended {
            self.finish_close(key);
        } else if slot.count as usize > limits::DRAIN_BYTES {
            slot.phase = Phase::Settling;
            self.driver.cancel(key, Direction::Receive);
            self.check_unsent(key);
        } else {
            self.discard_input(key);
        }
    }

    /// Closes once a reset can destroy nothing any more. A key that is stale by now has no effect.
    pub(super) fn check_unsent(&mut self, key: Key) {
        if self.slots.get(key).is_none_or(|slot| slot.phase != Phase::Settling) {
            return;
        }
        match self.driver.socket(key).map(Socket::unsent) {
            Some(Ok(1..)) => {
                let again = self.now + limits::UNSENT_CHECK;
                self.timers.insert(again, TimerTask::CheckUnsent(key));
            }
            _ => self.finish_close(key),
        }
    }

    /// Hands the slot to the driver for good.
    pub(super) fn finish_close(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.phase == Phase::Closing {
            return;
        }
        slot.phase = Phase::Closing;
        if let Some(timer) = slot.timer.take() {
            self.timers.cancel(timer);
        }
        self.discard_output(key);
        self.start(key, Op::Close);
    }

    /// The slot is gone; its number may be used again under the next generation.
    pub(super) fn forget(&mut self, key: Key) {
        if let Some(timer) = self.slots.remove(key).and_then(|slot| slot.timer) {
            self.timers.cancel(timer);
        }
        self.numbers.release(key);
    }
}
