//! From what the front end writes to what the driver has sent.
//!
//! ```text
//!  write ─► the slot's out-queue, made dirty ─► flush_dirty, once a turn ─► Driver::send
//!      │               ▲     └── much: send_eagerly, before the next event ──►     │
//!      │               └── what was written meanwhile, next turn ◄── on_sent ◄──┘
//!      └► one lease and nothing else: the dirty list itself ─► flush_dirty ─► Driver::send_lease
//!                └── much: at once ──────────────────────────────────────────►
//! ```

use std::io;

use super::Event;
use super::core::Core;
use super::slot::Phase;
use crate::buffer::{Chunk, Fill, Lease, OutQueue};
use crate::driver::Driver;
use crate::limits;
use crate::op::{Direction, LeaseSend, is_cancelled};
use crate::prefetch::prefetch;
use crate::token::{ConnId, Key};

impl Core {
    /// Queues a chunk: a small one by copy, a longer one by reference. All chunks of one turn leave in one send;
    /// from [`limits::EAGER_SEND`] on they leave before the next event, and as much that lies in the loop's memory,
    /// with nothing before it, leaves at once. Answers how many bytes are queued, as [`queued`](Self::queued) does.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name or a connection that is closing or whose output was ended.
    #[inline(always)]
    pub fn write(&mut self, conn: ConnId, chunk: Chunk) -> io::Result<u64> {
        // Taken apart, and put together again if it is long: so a small one never leaves the registers.
        match chunk {
            Chunk::Lease(lease) => self.write_lease(conn, lease),
            Chunk::Shared(bytes) if bytes.len() <= limits::COPY_SIZE => self.write_copy(conn, &bytes),
            Chunk::Shared(bytes) => self.write_kept(conn, Chunk::Shared(bytes)),
            Chunk::Static(bytes) if bytes.len() <= limits::COPY_SIZE => self.write_copy(conn, bytes),
            Chunk::Static(bytes) => self.write_kept(conn, Chunk::Static(bytes)),
            Chunk::File(range) => self.write_kept(conn, Chunk::File(range)),
        }
    }

    #[inline(never)]
    fn write_kept(&mut self, conn: ConnId, chunk: Chunk) -> io::Result<u64> {
        let len = chunk.len();
        if len == 0 {
            return Ok(self.queued(conn));
        }
        let (queue, queued) = self.out_queue(conn, len)?;
        queue.push_kept(chunk);
        Ok(queued)
    }

    /// A piece of what was received: mostly it is the whole answer, and the first.
    #[inline(always)]
    fn write_lease(&mut self, conn: ConnId, lease: Lease) -> io::Result<u64> {
        let (key, len) = (conn.key(), lease.len() as u64);
        if lease.len() <= limits::COPY_SIZE && !self.keeps_short_leases {
            return self.write_short(conn, lease);
        }
        match self.slots.get_mut(key) {
            Some(slot) if slot.is_clean() && len > 0 => {
                if len >= limits::EAGER_SEND && !slot.reports_sends {
                    return Ok(self.send_only(key, lease, true));
                }
                slot.dirty = true;
                slot.queued = len;
                slot.only = Some(self.dirty.push_only(key, lease));
                Ok(len)
            }
            _ => self.write_behind(conn, lease),
        }
    }

    #[inline(always)]
    fn write_short(&mut self, conn: ConnId, lease: Lease) -> io::Result<u64> {
        let queued = self.write_copy(conn, &lease);
        self.driver.give_back(lease);
        queued
    }

    /// A lease that is not the first, or may not be written at all.
    #[inline(never)]
    fn write_behind(&mut self, conn: ConnId, lease: Lease) -> io::Result<u64> {
        if lease.len() <= limits::COPY_SIZE {
            self.write_short(conn, lease)
        } else {
            self.write_kept(conn, lease.into())
        }
    }

    /// Queues a copy of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[inline]
    pub fn write_copy(&mut self, conn: ConnId, bytes: &[u8]) -> io::Result<u64> {
        if bytes.is_empty() {
            return Ok(self.queued(conn));
        }
        let (queue, queued) = self.out_queue(conn, bytes.len() as u64)?;
        queue.push_copy(bytes);
        Ok(queued)
    }

    /// Queues what `fill` writes, straight into the out-queue, which has room for `reserve` bytes at once. Answers
    /// how many were written, and how many are queued.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); `fill` is not called then.
    pub fn write_with(
        &mut self,
        conn: ConnId,
        reserve: usize,
        fill: impl FnOnce(&mut Fill<'_>),
    ) -> io::Result<(u64, u64)> {
        let (queue, _) = self.out_queue(conn, 0)?;
        let count = queue.push_with(reserve, fill);
        let slot = self.open_slot(conn)?;
        slot.queued = slot.queued.saturating_add(count);
        let queued = slot.queued;
        if queued >= limits::EAGER_SEND {
            self.eager = Some(conn.key());
        }
        Ok((count, queued))
    }

    /// Says that the last `len` bytes that were written are one whole message. Only connections of which every
    /// message is ended may have some dropped.
    pub fn end_message(&mut self, conn: ConnId, len: u64) {
        if let Some(queue) = self.queue_of(conn.key()) {
            queue.end_message(len);
        }
    }

    /// Drops the oldest messages of which no byte was given to a send, until `excess` bytes are gone, but never
    /// the newest. Answers how many messages and bytes went.
    pub fn drop_oldest(&mut self, conn: ConnId, excess: u64) -> (u64, u64) {
        let Some(queue) = self.queue_of(conn.key()) else { return (0, 0) };
        let (count, bytes) = queue.drop_oldest(excess);
        if let Some(slot) = self.slots.get_mut(conn.key()) {
            slot.queued -= bytes;
        }
        (count, bytes)
    }

    /// The queue of what was written and is in no send, if anything is.
    fn queue_of(&mut self, key: Key) -> Option<&mut OutQueue> {
        let slot = self.slots.get_mut(key)?;
        if let Some(place) = slot.only.take() {
            slot.out = Some(queue_with(&mut self.spare_queues, self.dirty.take_only(place)));
        }
        slot.out.as_deref_mut()
    }

    /// Sends what is queued at once, instead of with the next turn. No effect while a send is in flight.
    pub fn flush(&mut self, conn: ConnId) {
        let key = conn.key();
        // However much it was, it is sent.
        self.hold_back(conn);
        let Some(slot) = self.slots.get(key).filter(|slot| slot.dirty) else { return };
        match slot.only {
            Some(place) => {
                let lease = self.dirty.take_only(place);
                self.send_only(key, lease, false);
            }
            None => self.send_queued(key, |driver, queue| driver.send(key, queue)),
        }
        self.driver.submit_queued();
    }

    /// Lets what was written wait for the turn's end, however much it is.
    pub fn hold_back(&mut self, conn: ConnId) {
        self.eager.take_if(|key| *key == conn.key());
    }

    /// Bytes that were written and have not left, as far as it is known: those of a send in flight count until
    /// it ends. 0 for a stale name.
    #[inline]
    pub fn queued(&self, conn: ConnId) -> u64 {
        self.slots.get(conn.key()).map_or(0, |slot| slot.queued)
    }

    /// Those of the queued bytes that were given to no send. 0 for a stale name.
    pub fn unsent(&self, conn: ConnId) -> u64 {
        let Some(slot) = self.slots.get(conn.key()) else { return 0 };
        match slot.only {
            Some(place) => self.dirty.only(place).len() as u64,
            None => slot.out.as_ref().map_or(0, |queue| queue.len()),
        }
    }

    /// Whether each send of the connection that ends, also the one in flight and one that a close cuts, brings
    /// an [`Event::Sent`], and none an [`Event::SendFailed`].
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name.
    pub fn report_sends(&mut self, conn: ConnId, report: bool) -> io::Result<()> {
        self.open_slot(conn)?.reports_sends = report;
        Ok(())
    }

    /// Asks for the end of the send in flight. What it was to send and has not is discarded.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name.
    pub fn cancel_send(&mut self, conn: ConnId) -> io::Result<()> {
        self.open_slot(conn)?;
        self.driver.cancel(conn.key(), Direction::Send);
        Ok(())
    }

    /// Ends our direction of the stream once everything queued is sent; the other stays usable.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name.
    pub fn shutdown_write(&mut self, conn: ConnId) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        slot.output_ended = true;
        if !slot.has_output() {
            return self.driver.shutdown_write(conn.key());
        }
        Ok(())
    }

    /// The queue that the next send of this connection takes, made dirty, and how much is queued once `len`
    /// bytes are in it.
    #[inline(always)]
    fn out_queue(&mut self, conn: ConnId, len: u64) -> io::Result<(&mut OutQueue, u64)> {
        let key = conn.key();
        let slot = self.slots.get_mut(key).ok_or(io::ErrorKind::NotConnected)?;
        if slot.phase != Phase::Open || slot.output_ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !slot.dirty && !slot.sending && !slot.connecting {
            slot.dirty = true;
            self.dirty.push(key);
        }
        slot.queued = slot.queued.saturating_add(len);
        if slot.queued >= limits::EAGER_SEND {
            self.eager = Some(key);
        }
        let spare_queues = &mut self.spare_queues;
        if let Some(place) = slot.only.take() {
            slot.out = Some(queue_with(spare_queues, self.dirty.take_only(place)));
        } else if slot.out.is_none() {
            slot.out = Some(spare_queues.pop().unwrap_or_default());
            if let Some(next) = spare_queues.last() {
                prefetch(&**next);
            }
        }
        Ok((slot.out.as_mut().expect("set above"), slot.queued))
    }

    /// Starts one send for each connection that was written to.
    pub(super) fn flush_dirty(&mut self) {
        self.eager = None;
        // Nothing here writes, but a send that ends at once may make its slot dirty again: for the next flush.
        let count = self.dirty.len();
        for index in 0..count {
            if self.fetches_ahead {
                self.prefetch_output(index + 1);
            }
            let (key, only) = self.dirty.take(index);
            if only.is_empty() {
                self.send_queued(key, |driver, queue| driver.send(key, queue));
            } else {
                self.send_only(key, only, false);
            }
        }
        self.dirty.drop_front(count);
    }

    /// Starts to fetch what the sends from this entry on need: the kernel's work for each of them displaces much.
    #[inline(always)]
    fn prefetch_output(&self, next: usize) {
        if let Some((key, _)) = self.dirty.peek(next + 1) {
            self.slots.prefetch(key);
            self.driver.prefetch(key);
        }
        if let Some((key, true)) = self.dirty.peek(next)
            && let Some(queue) = self.slots.get(key).and_then(|slot| slot.out.as_deref())
        {
            prefetch(queue);
        }
    }

    /// Sends a lease that is all that was written, with the turn's other sends or `at_once`; mostly it leaves whole.
    /// Answers how many bytes are queued then.
    #[inline(always)]
    fn send_only(&mut self, key: Key, lease: Lease, at_once: bool) -> u64 {
        let len = lease.len() as u64;
        let Some(slot) = self.slots.get_mut(key) else {
            self.driver.give_back(lease);
            return 0;
        };
        slot.dirty = false;
        slot.only = None;
        if slot.phase != Phase::Open || slot.output_ended {
            return self.send_rest(key, lease, Ok(0));
        }
        let sent = if at_once {
            self.driver.send_lease_at_once(key, lease)
        } else {
            self.driver.send_lease(key, lease)
        };
        match sent {
            LeaseSend::Done => {
                slot.queued = 0;
                if slot.reports_sends {
                    self.sent.push_back((ConnId::new(self.loop_number, key), len));
                }
                0
            }
            LeaseSend::Pending => {
                slot.sending = true;
                len
            }
            LeaseSend::Unfinished(lease, first) => self.send_rest(key, lease, first),
        }
    }

    /// The same through a queue, after a first call that did not send everything.
    #[cold]
    fn send_rest(&mut self, key: Key, lease: Lease, first: io::Result<usize>) -> u64 {
        let Some(slot) = self.slots.get_mut(key) else { return 0 };
        slot.queued = lease.len() as u64;
        slot.out = Some(queue_with(&mut self.spare_queues, lease));
        self.send_queued(key, |driver, queue| driver.go_on_sending(key, queue, first));
        self.slots.get(key).map_or(0, |slot| slot.queued)
    }

    /// Gives what was written to `send` of the driver; most sends end at once.
    #[inline(always)]
    fn send_queued(
        &mut self,
        key: Key,
        send: impl FnOnce(&mut Driver, Box<OutQueue>) -> Option<Box<OutQueue>>,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.dirty = false;
        if slot.sending || slot.phase == Phase::Closing {
            return;
        }
        let Some(queue) = slot.out.take() else { return };
        if queue.is_empty() {
            // Who was to fill it wrote nothing.
            self.keep(queue);
            return self.after_output(key);
        }
        let Some(queue) = send(&mut self.driver, queue) else {
            slot.sending = true;
            return;
        };
        if slot.phase != Phase::Open || slot.output_ended {
            return self.on_sent(key, queue, Ok(()));
        }
        slot.queued = 0;
        if slot.reports_sends {
            self.sent.push_back((ConnId::new(self.loop_number, key), queue.sent()));
        }
        self.keep(queue);
    }

    /// Sends what was written since the last event, if that is much: as long as it is in the cache, and so that
    /// the memory of the loop that it lies in serves the next receive.
    #[inline(never)]
    pub(super) fn send_eagerly(&mut self) {
        let Some(key) = self.eager.take() else { return };
        if self.dirty.pop_if_last(key) {
            self.send_queued(key, |driver, queue| driver.send_at_once(key, queue));
        }
    }

    /// Keeps a queue that was sent, or is not to be, for the next use.
    #[inline(always)]
    fn keep(&mut self, mut queue: Box<OutQueue>) {
        if queue.sent() + queue.len() > limits::LARGE_QUEUE {
            return self.keep_large(queue);
        }
        queue.clear();
        if self.spare_queues.len() < limits::SPARE_OUT_QUEUES {
            self.spare_queues.push(queue);
        }
    }

    /// What was written and is in no send leaves never.
    pub(super) fn discard_output(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.queued = 0;
        if let Some(place) = slot.only.take() {
            self.driver.give_back(self.dirty.take_only(place));
        }
        if let Some(queue) = slot.out.take() {
            self.keep(queue);
        }
    }

    /// A send ended well. Answers how much it sent if the front end is to hear of it, unless that stands in `sent`.
    #[inline]
    pub(super) fn on_all_sent(&mut self, key: Key, queue: Box<OutQueue>) -> Option<u64> {
        match self.slots.get_mut(key) {
            Some(slot) if slot.phase == Phase::Open && slot.out.is_none() && !slot.output_ended => {
                slot.sending = false;
                slot.queued = 0;
                let report = slot.reports_sends.then(|| queue.sent());
                self.keep(queue);
                report
            }
            _ => {
                self.on_sent(key, queue, Ok(()));
                None
            }
        }
    }

    /// The same for a lease of `count` bytes. Answers whether the front end is to hear of it, unless that stands in
    /// `sent`.
    #[inline]
    pub(super) fn on_lease_sent(&mut self, key: Key, count: u64) -> bool {
        match self.slots.get_mut(key) {
            Some(slot) if slot.phase == Phase::Open && slot.out.is_none() && !slot.output_ended => {
                slot.sending = false;
                slot.queued = 0;
                slot.reports_sends
            }
            _ => {
                self.on_send_ended(key, count, Ok(()));
                false
            }
        }
    }

    /// The queue of a send comes back.
    #[inline]
    pub(super) fn on_sent(&mut self, key: Key, queue: Box<OutQueue>, result: io::Result<()>) {
        let sent = queue.sent();
        self.keep(queue);
        self.on_send_ended(key, sent, result);
    }

    fn on_send_ended(&mut self, key: Key, sent: u64, result: io::Result<()>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.sending = false;
        slot.queued = slot.queued.saturating_sub(sent);
        if slot.reports_sends && matches!(slot.phase, Phase::Open | Phase::Closing) {
            return self.report_sent(key, sent, result);
        }
        match result {
            Ok(()) if slot.phase == Phase::Open && !slot.output_ended && slot.out.is_none() => {}
            Ok(()) if slot.out.is_some() => {
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push(key);
                }
            }
            Ok(()) => self.after_output(key),
            Err(error) => self.on_send_failed(key, error),
        }
    }

    /// The same for a connection whose front end wants to hear of it.
    fn report_sent(&mut self, key: Key, sent: u64, result: io::Result<()>) {
        if result.is_err() {
            self.discard_output(key);
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.output_ended |= result.as_ref().is_err_and(|error| !is_cancelled(error));
        if slot.out.is_some() && !slot.dirty {
            slot.dirty = true;
            self.dirty.push(key);
        }
        let conn = ConnId::new(self.loop_number, key);
        match result {
            Ok(()) => self.sent.push_back((conn, sent)),
            Err(error) => self.events.push_back(Event::Sent(conn, sent, Err(error))),
        }
        self.after_output(key);
    }

    pub(super) fn on_send_failed(&mut self, key: Key, error: io::Error) {
        self.discard_output(key);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.output_ended = true;
        match slot.phase {
            Phase::Open => {
                let conn = ConnId::new(self.loop_number, key);
                self.events.push_back(Event::SendFailed(conn, error));
            }
            Phase::Flushing | Phase::Draining | Phase::Settling => self.finish_close(key),
            Phase::Closing => {}
        }
    }

    /// Does what waited for the out-queue to run empty, if it is.
    #[inline]
    pub(super) fn after_output(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.has_output() {
            return;
        }
        match slot.phase {
            Phase::Flushing => self.begin_drain(key),
            Phase::Open if slot.output_ended => {
                // What shutdown(2) can report here, the receive reports too.
                let _ = self.driver.shutdown_write(key);
            }
            _ => {}
        }
    }
}

/// A queue of what was one lease.
#[cold]
#[expect(clippy::vec_box, reason = "the boxes move into send operations as they are")]
fn queue_with(spare_queues: &mut Vec<Box<OutQueue>>, lease: Lease) -> Box<OutQueue> {
    let mut queue = spare_queues.pop().unwrap_or_default();
    queue.push(lease.into());
    queue
}
