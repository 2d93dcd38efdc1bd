//! Writes: those that were submitted together leave together.
//!
//! ```text
//!  write, write, write ──► lane ──(nothing in flight, before a turn)──► out-queue of the engine ──► one send
//!                            ▲                                                                        │
//!                            └────── completed one by one, by the count of bytes that were sent ◄─────┘
//! ```
//!
//! A write that is still in the lane can be cancelled without harm. One that is with the engine ends by
//! cancelling the send: what was not begun is sent again, and one that was cut in the middle ends the output.

use std::io;

use kolk_engine::EventLoop;
use kolk_engine::op::{OutDatagram, is_cancelled};
use kolk_engine::token::{ConnId, Key};

use super::Watcher;
use super::buffer::Buffer;
use super::completion::{Completion, Detail, Operation};
use super::conn::Conn;
use super::input::buffer_of;
use super::limits::{BYTES_PER_SEND, WRITES_PER_SEND};
use super::pending::{Owner, Pending, Slab, Stop, Task};
use super::request::Request;
use crate::error::Error;

impl<C> Watcher<C> {
    /// Notes that a connection has something to send when the next turn begins.
    pub(super) fn mark_dirty(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !std::mem::replace(&mut conn.flags.dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Gives what was written since the last turn to the engine.
    pub(super) fn flush_output(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.flags.dirty = false;
                self.start_output(key);
            }
        }
        // Nothing above submits, but a write that failed at once may have ended a relay, which does.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Gives the first writes of a connection to the engine, if none is there.
    pub(super) fn start_output(&mut self, key: Key) {
        let id = self.conn_id(key);
        let Self { conns, pending, event_loop, .. } = self;
        let Some(conn) = conns.get_mut(key) else { return };
        if conn.flags.freed || conn.flags.connecting || conn.sending > 0 {
            return;
        }
        if let Some(kind) = conn.output_end {
            return self.fail_output(key, kind);
        }
        let started = match conn.output.head().and_then(|head| pending.get_mut(head)) {
            None => return self.start_shutdown(id),
            Some(Pending { task: Task::SendTo(datagram), .. }) => match datagram.take() {
                Some(datagram) => event_loop.send_to(id, datagram).map(|()| 1),
                None => Ok(1),
            },
            Some(_) => push_writes(id, conn, pending, event_loop),
        };
        match started {
            Ok(count) => conn.sending = count,
            Err(error) => self.fail_output(key, error.kind()),
        }
    }

    /// All is written: our direction ends if it is to.
    fn start_shutdown(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.key()) else { return };
        if std::mem::take(&mut conn.flags.shuts_down) {
            conn.output_end = Some(io::ErrorKind::BrokenPipe);
            // What it can report here, the reads report too.
            let _ = self.event_loop.shutdown_write(id);
        }
    }

    /// All of a send is on its way. Most are of one write.
    #[inline]
    pub(super) fn on_all_sent(&mut self, id: ConnId, count: u64) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.sending != 1 || conn.flags.freed {
            return self.on_sent(id, count, Ok(()));
        }
        let Some(pending) = conn.output.pop(&mut self.pending) else { return };
        conn.sending = 0;
        conn.flags.stopping_send = false;
        self.stats.bytes_sent += count;
        let more = !conn.output.is_empty() || conn.flags.shuts_down;
        if more && !std::mem::replace(&mut conn.flags.dirty, true) {
            self.dirty.push(key);
        }
        let Pending {
            owner: Owner::Program(context), task: Task::Write(mut send), number, timer: None, ..
        } = pending
        else {
            return self.finish_write(id, pending);
        };
        let (count, sent) = (send.buffer.byte_count(), &mut send.buffer);
        self.ready.push(move || Completion {
            operation: Operation::Write,
            conn: id,
            context,
            result: Ok(count as usize),
            count,
            buffer: std::mem::take(sent),
            number,
            detail: Detail::None,
        });
        self.shelves.outgoing.put(send);
    }

    /// All of a write is on its way.
    fn finish_write(&mut self, id: ConnId, mut pending: Pending<C>) {
        let buffer = buffer_of(&mut pending.task);
        let count = buffer.byte_count();
        self.finish(id, pending, Ok(count as usize), count, buffer, Detail::None);
    }

    /// A send ended; `count` bytes of it are on their way.
    pub(super) fn on_sent(&mut self, id: ConnId, count: u64, result: io::Result<()>) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let with_engine = std::mem::take(&mut conn.sending);
        conn.flags.stopping_send = false;
        self.stats.bytes_sent += count;
        if conn.flags.freed {
            return self.note_sent(key, count);
        }
        let left = self.finish_sent(id, with_engine, count, result.is_ok());
        match result {
            Ok(()) => {}
            Err(error) if is_cancelled(&error) => self.on_send_cancelled(key, left),
            Err(error) => self.on_send_failed(key, left, error),
        }
        if self.conns.get(key).is_some_and(|conn| !conn.output.is_empty() || conn.flags.shuts_down) {
            self.mark_dirty(key);
        }
    }

    /// Completes the writes that `count` bytes cover, at most `with_engine` of them (all, if `whole`). What is
    /// left of the count belongs to the head.
    fn finish_sent(&mut self, id: ConnId, with_engine: u32, count: u64, whole: bool) -> u64 {
        let mut left = count;
        for _ in 0..with_engine {
            let Some(conn) = self.conns.get_mut(id.key()) else { break };
            let Some(head) = conn.output.head().and_then(|head| self.pending.get_mut(head)) else { break };
            let Task::Write(send) = &head.task else { break };
            let rest = send.rest();
            if rest > left && !whole {
                break;
            }
            left = left.saturating_sub(rest);
            if let Some(pending) = conn.output.pop(&mut self.pending) {
                self.finish_write(id, pending);
            }
        }
        left
    }

    /// The send was ended by us: ends those that were to end. Where the cut went through one of them, nothing
    /// can follow it.
    fn on_send_cancelled(&mut self, key: Key, left: u64) {
        let id = self.conn_id(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let Some(head) = conn.output.head().and_then(|head| self.pending.get_mut(head))
            && let Task::Write(send) = &mut head.task
        {
            send.sent += left;
            if send.sent > 0 && head.stop.is_some() {
                conn.output_end = Some(io::ErrorKind::BrokenPipe);
            }
        }
        while let Some(conn) = self.conns.get_mut(key) {
            let stopped = |pending: &Pending<C>| pending.stop.is_some();
            let Some(position) = conn.output.position(&self.pending, stopped) else { return };
            let Some(pending) = conn.output.remove(&mut self.pending, position) else { return };
            self.finish_stopped(id, pending);
        }
    }

    /// The connection takes no more bytes.
    fn on_send_failed(&mut self, key: Key, left: u64, error: io::Error) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let kind = error.kind();
        conn.output_end = Some(kind);
        if let Some(head) = conn.output.head().and_then(|head| self.pending.get_mut(head))
            && let Task::Write(send) = &mut head.task
        {
            send.sent += left;
        }
        if let Some(mut pending) = self.take_output(key) {
            let (count, buffer) = (pending.task.count(), buffer_of(&mut pending.task));
            let result = Err(Error::of_operation(error));
            self.finish(self.conn_id(key), pending, result, count, buffer, Detail::None);
        }
        self.fail_output(key, kind);
    }

    /// Ends all writes that wait.
    fn fail_output(&mut self, key: Key, kind: io::ErrorKind) {
        while let Some(mut pending) = self.take_output(key) {
            let (count, buffer) = (pending.task.count(), buffer_of(&mut pending.task));
            let message = "nothing can be written any more: the output has ended";
            let result = Err(Error::of_kind(kind, message.into()));
            self.finish(self.conn_id(key), pending, result, count, buffer, Detail::None);
        }
    }

    /// A datagram was sent, or not; its memory comes back.
    pub(super) fn on_sent_to(&mut self, id: ConnId, mut datagram: Box<OutDatagram>, result: io::Result<()>) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.sending = 0;
        conn.flags.stopping_send = false;
        if conn.flags.freed {
            if let Some(head) = conn.output.head().and_then(|head| self.pending.get_mut(head)) {
                head.task = Task::SendTo(Some(datagram));
            }
            return;
        }
        let Some(mut pending) = self.take_output(key) else { return };
        let bytes = std::mem::take(&mut datagram.bytes);
        pending.task = Task::SendTo(Some(datagram));
        let (result, count) = match (result, pending.stop) {
            (Ok(()), _) => (Ok(bytes.len()), bytes.len() as u64),
            (Err(error), Some(stop)) if is_cancelled(&error) => (Err(stop.error()), 0),
            (Err(error), _) => (Err(Error::of_operation(error)), 0),
        };
        self.stats.bytes_sent += count;
        self.finish(id, pending, result, count, Buffer::Shared(bytes), Detail::None);
        self.mark_dirty(key);
    }

    /// Ends a pending write before it is done.
    pub(super) fn stop_output(&mut self, key: Key, position: usize, stop: Stop) {
        let id = self.conn_id(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if position >= conn.sending as usize {
            let Some(mut pending) = conn.output.remove(&mut self.pending, position) else { return };
            if pending.task.count() > 0 {
                conn.output_end = Some(io::ErrorKind::BrokenPipe);
            }
            pending.stop = Some(stop);
            self.finish_stopped(id, pending);
            return self.mark_dirty(key);
        }
        let link = conn.output.links(&self.pending).nth(position);
        if let Some(pending) = link.and_then(|link| self.pending.get_mut(link)) {
            pending.stop.get_or_insert(stop);
        }
        if !std::mem::replace(&mut conn.flags.stopping_send, true) {
            // The name is not stale: the send is in flight.
            let _ = self.event_loop.cancel_send(id);
        }
    }

    /// Keeps account of what left before the connection was freed.
    fn note_sent(&mut self, key: Key, count: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (mut left, mut next) = (count, conn.output.head());
        while let Some(link) = next.filter(|_| left > 0) {
            if let Some(Task::Write(send)) = self.pending.get_mut(link).map(|pending| &mut pending.task) {
                let more = left.min(send.rest());
                send.sent += more;
                left -= more;
            }
            next = self.pending.after(link);
        }
    }

    fn take_output(&mut self, key: Key) -> Option<Pending<C>> {
        self.conns.get_mut(key)?.output.pop(&mut self.pending)
    }
}

/// Gives a bounded run of writes to the engine, which sends them with its next turn. Answers how many.
#[inline(always)]
fn push_writes<C>(
    id: ConnId,
    conn: &mut Conn,
    pending: &mut Slab<Pending<C>>,
    event_loop: &mut EventLoop<Request<C>>,
) -> io::Result<u32> {
    if !std::mem::replace(&mut conn.flags.reported, true) {
        event_loop.report_sends(id, true)?;
    }
    let (mut count, mut bytes) = (0, 0);
    let mut next = conn.output.head();
    while let Some(link) = next {
        let Some(Task::Write(send)) = pending.get_mut(link).map(|pending| &pending.task) else { break };
        bytes += send.buffer.queue(event_loop, id, send.sent)?;
        count += 1;
        if count == WRITES_PER_SEND || bytes >= BYTES_PER_SEND {
            break;
        }
        next = pending.after(link);
    }
    Ok(count)
}
