//! Reads: one at a time is with the kernel, the others wait behind it.
//!
//! ```text
//!  read, read_exact ──────► receive_into(buffer) ─┐
//!  read_pooled, read_until ► receive_once ────────┼─► the head of the lane ─► completion, next head
//!  recv_from, recv_from ───► receive_from(2) ─────┘
//! ```

use std::io;

use bytes::{Buf, BytesMut};
use kolk_engine::EventLoop;
use kolk_engine::buffer::Lease;
use kolk_engine::op::{InDatagram, is_cancelled};
use kolk_engine::token::{ConnId, Key};

use super::Watcher;
use super::buffer::Buffer;
use super::completion::{Completion, Detail, Operation};
use super::conn::{Conn, End};
use super::pending::{Owner, Pending, Slab, Stop, Task};
use super::request::{Request, Until};
use crate::error::{Error, Result};

/// How far bytes that have come bring a read.
enum Progress {
    Done(Result<usize>, Buffer),
    More,
}

impl<C> Watcher<C> {
    /// Serves reads from what is known already, and gives the first that needs the kernel to the engine.
    pub(super) fn advance_input(&mut self, key: Key) {
        let id = self.conn_id(key);
        loop {
            let Self { conns, pending, event_loop, .. } = self;
            let Some(conn) = conns.get_mut(key) else { return };
            if conn.flags.freed || conn.flags.connecting || conn.receiving > 0 {
                return;
            }
            let Some(head) = conn.input.head().and_then(|head| pending.get_mut(head)) else { return };
            if let Some(stop) = head.stop {
                self.finish_input(key, Err(stop.error()), Detail::None);
                continue;
            }
            if let Some(mut unread) = conn.unread.take() {
                let progress = take_in(&mut head.task, &mut unread);
                if !unread.is_empty() {
                    conn.unread = Some(unread);
                }
                match progress {
                    Progress::Done(result, buffer) => self.finish_read(key, result, buffer),
                    // All of it was taken in, and more is wanted.
                    Progress::More => {}
                }
                continue;
            }
            if let Some(end) = conn.input_end {
                let result = end_of(end, &head.task);
                self.finish_input(key, result, Detail::None);
                continue;
            }
            let started = match &mut head.task {
                Task::ReadPooled | Task::ReadUntil(_) => event_loop.receive_once(id).map(|()| 1),
                Task::Read(fill) | Task::ReadExact(fill) => {
                    event_loop.receive_into(id, std::mem::take(&mut fill.buffer)).map(|()| 1)
                }
                Task::RecvFrom => {
                    let is_datagram = |pending: &Pending<C>| matches!(pending.task, Task::RecvFrom);
                    let count = conn.input.run(pending, is_datagram);
                    event_loop.receive_from(id, count).map(|()| count)
                }
                // These went to the engine when they were submitted.
                _ => return,
            };
            match started {
                Ok(count) => return conn.receiving = count,
                Err(error) => self.finish_input(key, Err(Error::of_operation(error)), Detail::None),
            }
        }
    }

    /// The buffer of a read comes back.
    pub(super) fn on_received_into(&mut self, id: ConnId, buffer: BytesMut, result: io::Result<usize>) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.receiving = 0;
        conn.flags.stopping_receive = false;
        let Some(head) = conn.input.head().and_then(|head| self.pending.get_mut(head)) else { return };
        let (Task::Read(fill) | Task::ReadExact(fill)) = &mut head.task else { return };
        fill.buffer = buffer;
        let (is_full, count) = (fill.is_full(), fill.count());
        if conn.flags.freed {
            return;
        }
        match result {
            Ok(0) => conn.input_end = Some(End::Stream),
            Ok(received) => {
                self.stats.bytes_received += received as u64;
                if is_full || matches!(head.task, Task::Read(_)) {
                    self.finish_input(key, Ok(count), Detail::None);
                }
            }
            Err(error) => self.on_receive_failed(key, error),
        }
        self.advance_input(key);
    }

    /// Bytes came. Most are for a pooled read, which takes them as they are.
    #[inline]
    pub(super) fn on_bytes(&mut self, id: ConnId, bytes: Lease) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let head = conn.input.head().and_then(|head| self.pending.get_mut(head));
        if !matches!(head, Some(Pending { task: Task::ReadPooled, .. })) {
            return self.on_received(id, Ok(bytes));
        }
        let Some(pending) = conn.input.pop(&mut self.pending) else { return };
        conn.receiving = 0;
        conn.flags.stopping_receive = false;
        let is_under_way =
            conn.input.is_empty() || start_pooled(id, conn, &self.pending, &mut self.event_loop);
        let count = bytes.len();
        self.stats.bytes_received += count as u64;
        if let Pending { owner: Owner::Program(context), number, timer: None, .. } = pending {
            self.ready.push(move || Completion {
                operation: Operation::ReadPooled,
                conn: id,
                context,
                result: Ok(count),
                count: count as u64,
                buffer: Buffer::Lease(bytes),
                number,
                detail: Detail::None,
            });
        } else {
            self.finish(id, pending, Ok(count), count as u64, Buffer::Lease(bytes), Detail::None);
        }
        if !is_under_way {
            self.advance_input(key);
        }
    }

    /// Bytes for a pooled read came, or the end of the stream.
    pub(super) fn on_received(&mut self, id: ConnId, result: io::Result<Lease>) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.receiving = 0;
        conn.flags.stopping_receive = false;
        match result {
            Ok(lease) if lease.is_empty() => conn.input_end = Some(End::Stream),
            Ok(lease) => {
                self.stats.bytes_received += lease.len() as u64;
                self.on_lease(key, lease);
            }
            Err(error) => self.on_receive_failed(key, error),
        }
        self.advance_input(key);
    }

    /// Gives received bytes to the head of the lane, and keeps what it does not take.
    fn on_lease(&mut self, key: Key, mut lease: Lease) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(head) = conn.input.head().and_then(|head| self.pending.get_mut(head)) else {
            conn.unread = Some(Box::new(lease));
            return;
        };
        let progress = take_in(&mut head.task, &mut lease);
        if !lease.is_empty() {
            // The block goes back to the loop: nobody knows how long these bytes wait.
            lease.make_private();
            conn.unread = Some(Box::new(lease));
        }
        if let Progress::Done(result, buffer) = progress {
            self.finish_read(key, result, buffer);
        }
    }

    /// A datagram came, or receiving them has ended.
    pub(super) fn on_datagram(&mut self, id: ConnId, result: io::Result<InDatagram>) {
        let key = id.key();
        let Some(conn) = self.conns.get_mut(key) else { return };
        match result {
            Ok(datagram) => {
                conn.receiving = conn.receiving.saturating_sub(1);
                self.stats.bytes_received += datagram.bytes.len() as u64;
                let count = datagram.bytes.len();
                let detail = if datagram.truncated {
                    Detail::Truncated(Box::new(datagram.from))
                } else {
                    Detail::Datagram(datagram.from)
                };
                if let Some(pending) = self.take_input(key) {
                    self.finish(id, pending, Ok(count), count as u64, Buffer::Lease(datagram.bytes), detail);
                }
            }
            Err(error) => {
                conn.receiving = 0;
                conn.flags.stopping_receive = false;
                if is_cancelled(&error) {
                    self.finish_stopped_reads(key);
                } else {
                    // An answer to an earlier send, such as "port unreachable": receiving goes on.
                    self.finish_input(key, Err(Error::of_operation(error)), Detail::None);
                }
            }
        }
        self.advance_input(key);
    }

    /// A receive ended without bytes.
    fn on_receive_failed(&mut self, key: Key, error: io::Error) {
        if is_cancelled(&error) {
            return self.finish_stopped_reads(key);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.input_end = Some(End::Failure(error.kind()));
        self.finish_input(key, Err(Error::of_operation(error)), Detail::None);
    }

    /// Ends the reads that are to end, wherever they stand in the lane.
    fn finish_stopped_reads(&mut self, key: Key) {
        let id = self.conn_id(key);
        while let Some(conn) = self.conns.get_mut(key) {
            let stopped = |pending: &Pending<C>| pending.stop.is_some();
            let Some(position) = conn.input.position(&self.pending, stopped) else { return };
            let Some(pending) = conn.input.remove(&mut self.pending, position) else { return };
            self.finish_stopped(id, pending);
        }
    }

    /// Ends a pending read, accept or watch before it is done.
    pub(super) fn stop_input(&mut self, key: Key, position: usize, stop: Stop) {
        let id = self.conn_id(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.connecting && position == 0 {
            return self.stop_connect(key, stop);
        }
        let head = conn.input.head().and_then(|head| self.pending.get_mut(head));
        if let Some(Pending { task: task @ (Task::Accept(_) | Task::Watch(_)), stop: stopped, .. }) = head {
            stopped.get_or_insert(stop);
            // It is refused while the end of it is on its way already.
            let _ = match task {
                Task::Accept(_) => self.event_loop.cancel_accept(id),
                _ => self.event_loop.cancel_watch(id),
            };
            return;
        }
        if position >= conn.receiving as usize {
            if let Some(mut pending) = conn.input.remove(&mut self.pending, position) {
                pending.stop = Some(stop);
                self.finish_stopped(id, pending);
            }
            return;
        }
        let link = conn.input.links(&self.pending).nth(position);
        if let Some(pending) = link.and_then(|link| self.pending.get_mut(link)) {
            pending.stop.get_or_insert(stop);
        }
        if !std::mem::replace(&mut conn.flags.stopping_receive, true) {
            // The name is not stale: the receive is in flight.
            let _ = self.event_loop.cancel_receive(id);
        }
    }

    /// Ends the head of the lane with what a read of the stream brought.
    fn finish_read(&mut self, key: Key, result: Result<usize>, buffer: Buffer) {
        let id = self.conn_id(key);
        let Some(pending) = self.take_input(key) else { return };
        let count = result.as_ref().map_or(buffer.len() as u64, |&count| count as u64);
        self.finish(id, pending, result, count, buffer, Detail::None);
    }

    /// Ends the head of the lane; its buffer and count are what it has so far.
    pub(super) fn finish_input(&mut self, key: Key, result: Result<usize>, detail: Detail) {
        let id = self.conn_id(key);
        let Some(mut pending) = self.take_input(key) else { return };
        let count = pending.task.count();
        let buffer = buffer_of(&mut pending.task);
        self.finish(id, pending, result, count, buffer, detail);
    }

    /// Takes the head of the input lane out.
    pub(super) fn take_input(&mut self, key: Key) -> Option<Pending<C>> {
        self.conns.get_mut(key)?.input.pop(&mut self.pending)
    }
}

/// Gives the head of the lane to the engine if it is a pooled read, before which nothing is to be looked at.
#[inline(always)]
pub(super) fn start_pooled<C>(
    id: ConnId,
    conn: &mut Conn,
    pending: &Slab<Pending<C>>,
    event_loop: &mut EventLoop<Request<C>>,
) -> bool {
    let head = conn.input.head().and_then(|head| pending.get(head));
    let is_plain = matches!(head, Some(Pending { task: Task::ReadPooled, stop: None, .. }));
    let is_started = is_plain && conn.awaits_bytes() && event_loop.receive_once(id).is_ok();
    if is_started {
        conn.receiving = 1;
    }
    is_started
}

/// The buffer of a task that ends.
pub(super) fn buffer_of<C>(task: &mut Task<C>) -> Buffer {
    match task {
        Task::Read(fill) | Task::ReadExact(fill) => Buffer::Owned(std::mem::take(&mut fill.buffer)),
        Task::ReadUntil(search) if !search.bytes.is_empty() => {
            Buffer::Owned(std::mem::take(&mut search.bytes))
        }
        Task::Write(send) => std::mem::take(&mut send.buffer),
        Task::SendTo(Some(datagram)) => Buffer::Shared(std::mem::take(&mut datagram.bytes)),
        _ => Buffer::Empty,
    }
}

/// What a read answers once the input has ended.
fn end_of<C>(end: End, task: &Task<C>) -> Result<usize> {
    match end {
        End::Stream if task.count() == 0 => Ok(0),
        End::Stream => {
            let message = "the stream ended before all that was asked for had come";
            Err(Error::of_kind(io::ErrorKind::UnexpectedEof, message.into()))
        }
        End::Failure(kind) => Err(Error::of_operation(kind.into())),
    }
}

/// Brings a read forward with bytes that have come, and takes those from the front of `lease`.
fn take_in<C>(task: &mut Task<C>, lease: &mut Lease) -> Progress {
    match task {
        Task::Read(fill) => {
            let count = copy_in(&mut fill.buffer, lease);
            Progress::Done(Ok(count), Buffer::Owned(std::mem::take(&mut fill.buffer)))
        }
        Task::ReadExact(fill) => {
            copy_in(&mut fill.buffer, lease);
            if !fill.is_full() {
                return Progress::More;
            }
            Progress::Done(Ok(fill.count()), Buffer::Owned(std::mem::take(&mut fill.buffer)))
        }
        Task::ReadUntil(search) => take_until(&mut search.bytes, &search.until, lease),
        _ => {
            let whole = std::mem::take(lease);
            Progress::Done(Ok(whole.len()), Buffer::Lease(whole))
        }
    }
}

/// Fills the spare capacity of `buffer`.
fn copy_in(buffer: &mut BytesMut, lease: &mut Lease) -> usize {
    let count = lease.len().min(buffer.capacity() - buffer.len());
    buffer.extend_from_slice(&lease[..count]);
    lease.advance(count);
    count
}

/// Looks for the delimiter in what came so far and in `lease`, which may have it in two halves.
fn take_until(bytes: &mut BytesMut, until: &Until, lease: &mut Lease) -> Progress {
    let delimiter = until.delimiter();
    let limit = until.limit as usize;
    if bytes.is_empty()
        && let Some(place) = find(lease, delimiter).filter(|place| place + delimiter.len() <= limit)
    {
        let line = lease.split_to(place + delimiter.len());
        return Progress::Done(Ok(line.len()), Buffer::Lease(line));
    }
    let before = bytes.len();
    let searched = before.saturating_sub(delimiter.len() - 1);
    let count = lease.len().min(limit - before);
    bytes.extend_from_slice(&lease[..count]);
    if let Some(place) = find(&bytes[searched..], delimiter) {
        let end = searched + place + delimiter.len();
        bytes.truncate(end);
        lease.advance(end - before);
        return Progress::Done(Ok(end), Buffer::Owned(std::mem::take(bytes)));
    }
    lease.advance(count);
    if bytes.len() < limit {
        return Progress::More;
    }
    let message = "the delimiter did not come within the limit";
    let error = Error::of_kind(io::ErrorKind::InvalidData, message.into());
    Progress::Done(Err(error), Buffer::Owned(std::mem::take(bytes)))
}

/// Place of the first `needle`, which is not empty.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut start = 0;
    loop {
        start += hay[start..].iter().position(|&byte| byte == first)?;
        if hay[start + 1..].starts_with(rest) {
            return Some(start);
        }
        start += 1;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::watcher::Request;
    use crate::watcher::pending::Search;
    use crate::watcher::request::Verb;
    use kolk_engine::token::{ConnId, Generation, Key};

    fn until(delimiter: &str, limit: usize) -> Until {
        let conn = ConnId::new(0, Key::new(0, Generation::FIRST));
        match Request::read_until(conn, (), delimiter, limit).verb {
            Verb::ReadUntil(until) => until,
            other => unreachable!("{other:?}"),
        }
    }

    /// Cuts `text` at `cut`: how the read ended, with how many bytes, and what is left.
    fn read(text: &'static str, cut: usize, until: &Until) -> (Option<bool>, String, String) {
        let mut task = Task::<()>::ReadUntil(Box::new(Search { bytes: BytesMut::new(), until: *until }));
        let (mut left, mut end) = (String::new(), (None, String::new()));
        for part in [&text[..cut], &text[cut..]] {
            let mut lease = Lease::from(Bytes::from_static(part.as_bytes()));
            if end.0.is_none()
                && !part.is_empty()
                && let Progress::Done(result, buffer) = take_in(&mut task, &mut lease)
            {
                end = (Some(result.is_ok()), String::from_utf8_lossy(&buffer).into_owned());
            }
            left.push_str(&String::from_utf8_lossy(&lease));
        }
        (end.0, end.1, left)
    }

    #[test]
    fn a_delimiter_is_found_wherever_the_bytes_are_cut() {
        let text = "GET /\r\n\r\rrest\r\n\r\nmore";
        let whole = text.find("\r\n\r\n").expect("it is there") + 4;
        for cut in 0..=text.len() {
            let (ended, line, left) = read(text, cut, &until("\r\n\r\n", 100));
            assert_eq!((ended, &line[..], &left[..]), (Some(true), &text[..whole], "more"), "cut at {cut}");
        }
    }

    #[test]
    fn a_limit_is_kept_wherever_the_bytes_are_cut() {
        for cut in 0..=10 {
            let (ended, line, left) = read("abcdef\nghi", cut, &until("\n", 6));
            assert_eq!((ended, &line[..], &left[..]), (Some(false), "abcdef", "\nghi"), "cut at {cut}");
            let (ended, line, left) = read("abcdef\nghi", cut, &until("\n", 7));
            assert_eq!((ended, &line[..], &left[..]), (Some(true), "abcdef\n", "ghi"), "cut at {cut}");
            assert_eq!(read("abcdef\nghi", cut, &until("x", 11)).0, None, "cut at {cut}");
        }
    }
}
