//! What the loop makes of each completion of its driver.

use std::io;
use std::time::Duration;

use super::Event;
use super::core::Core;
use super::slot::{Phase, Role, TimerTask};
use crate::buffer::Lease;
use crate::driver::Socket;
use crate::limits;
use crate::log;
use crate::op::{Outcome, is_cancelled, less_one};
use crate::socket;
use crate::token::{ConnId, Key};

impl Core {
    /// Takes note of a completion; what concerns the front end becomes an event.
    #[inline(always)]
    pub(super) fn absorb<M>(&mut self, key: Key, outcome: Outcome) -> Option<Event<M>> {
        let conn = ConnId::new(self.loop_number, key);
        match outcome {
            Outcome::Received(result) => self.on_received(conn, result),
            Outcome::Sent(queue, result) => {
                self.on_sent(key, queue, result);
                None
            }
            outcome => self.absorb_rare(conn, outcome),
        }
    }

    /// The outcomes that no message waits for.
    #[inline(never)]
    pub(super) fn absorb_rare<M>(&mut self, conn: ConnId, outcome: Outcome) -> Option<Event<M>> {
        let key = conn.key();
        match outcome {
            Outcome::Received(_) | Outcome::Sent(..) => unreachable!("absorbed by the caller"),
            Outcome::Accepted(result) => self.on_accepted(conn, result),
            Outcome::Connected(result) => self.on_connected(conn, result),
            Outcome::ReceivedInto(buffer, result) => {
                let slot = self.slots.get_mut(key)?;
                slot.receives_left = 0;
                slot.input_ended |=
                    result.as_ref().map_or_else(|error| !is_cancelled(error), |&count| count == 0);
                match slot.phase {
                    Phase::Flushing => self.discard_input(key),
                    Phase::Draining => self.continue_draining(key),
                    Phase::Open | Phase::Settling | Phase::Closing => {}
                }
                Some(Event::ReceivedInto(conn, buffer, result))
            }
            Outcome::Datagram(result) => {
                let slot = self.slots.get_mut(key)?;
                slot.receives_left = if result.is_ok() { less_one(slot.receives_left) } else { 0 };
                if slot.phase != Phase::Open {
                    return None;
                }
                Some(Event::Datagram(conn, result))
            }
            Outcome::SentTo(datagram, result) => {
                self.slots.get_mut(key)?.sending = false;
                Some(Event::SentTo(conn, datagram, result))
            }
            Outcome::SentDatagrams(queue, result) => {
                self.slots.get_mut(key)?.sending = false;
                Some(Event::SentDatagrams(conn, queue, result))
            }
            Outcome::Ready(result) => {
                let slot = self.slots.get_mut(key)?;
                if result.is_err() {
                    slot.role = Role::default();
                }
                (slot.phase == Phase::Open).then_some(Event::Ready(conn, result))
            }
            Outcome::Closed => {
                self.forget(key);
                Some(Event::Closed(conn))
            }
        }
    }

    pub(super) fn on_received<M>(&mut self, conn: ConnId, result: io::Result<Lease>) -> Option<Event<M>> {
        let slot = self.slots.get_mut(conn.key())?;
        let count = match &result {
            Ok(lease) => lease.len(),
            Err(_) => 0,
        };
        slot.receives_left = less_one(slot.receives_left);
        if count == 0 {
            slot.receives_left = 0;
            slot.input_ended = !result.as_ref().is_err_and(is_cancelled);
        }
        if slot.phase == Phase::Open {
            return Some(Event::Received(conn, result));
        }
        slot.count = slot.count.saturating_add(count as u32);
        match slot.phase {
            Phase::Flushing => self.discard_input(conn.key()),
            Phase::Draining => self.continue_draining(conn.key()),
            Phase::Open | Phase::Settling | Phase::Closing => {}
        }
        None
    }

    pub(super) fn on_accepted<M>(
        &mut self,
        listener: ConnId,
        result: io::Result<Socket>,
    ) -> Option<Event<M>> {
        let slot = self.slots.get_mut(listener.key())?;
        slot.connecting &= result.is_ok();
        match result {
            Ok(socket) => {
                slot.count = 0;
                // Also while it closes: the peer believes that it was accepted.
                Some(Event::Accepted(listener, socket))
            }
            Err(_) if slot.phase != Phase::Open => None,
            Err(_) if slot.role == Role::Leaving => self.end_accepting(listener),
            Err(error) if socket::is_lost_in_accept(&error) || is_cancelled(&error) => {
                self.start_accepting(listener.key());
                None
            }
            // It is to wait already, for another reason.
            Err(_) if slot.timer.is_some() => None,
            Err(error) => {
                let pause = accept_pause(slot.count);
                slot.count += 1;
                let again = TimerTask::AcceptAgain(listener.key());
                slot.timer = Some(self.timers.insert(self.now + pause, again));
                log::accept_paused(listener, &error, pause);
                Some(Event::AcceptFailed(listener, error, pause))
            }
        }
    }

    pub(super) fn on_connected<M>(&mut self, conn: ConnId, result: io::Result<()>) -> Option<Event<M>> {
        let key = conn.key();
        let slot = self.slots.get_mut(key)?;
        slot.connecting = false;
        if slot.phase == Phase::Closing {
            return None;
        }
        if let Err(error) = result {
            slot.input_ended = true;
            slot.output_ended = true;
            slot.receives_left = 0;
            slot.waiting_receive = None;
            let phase = slot.phase;
            self.discard_output(key);
            if phase != Phase::Open {
                self.finish_close(key);
                return None;
            }
            return Some(Event::Connected(conn, Err(error)));
        }
        if slot.out.is_some() && !slot.dirty {
            slot.dirty = true;
            self.dirty.push(key);
        }
        if let Some(receive) = slot.waiting_receive.take() {
            self.start(key, *receive);
        } else if slot.phase == Phase::Flushing {
            self.discard_input(key);
        }
        self.after_output(key);
        Some(Event::Connected(conn, Ok(())))
    }
}

/// Pause after the given number of consecutive accept failures.
fn accept_pause(failures: u32) -> Duration {
    let doubled = limits::ACCEPT_BACKOFF_MIN.saturating_mul(1 << failures.min(16));
    doubled.min(limits::ACCEPT_BACKOFF_MAX)
}
