//! How an operation begins, on the watcher's thread or from the mailbox.

use std::time::Instant;

use bytes::BytesMut;
use kolk_engine::clock::Timestamp;
use kolk_engine::op::OutDatagram;
use kolk_engine::slab::Table;
use kolk_engine::token::{ConnId, Key};

use super::Watcher;
use super::buffer::Buffer;
use super::completion::{Detail, OperationId};
use super::conn::{Conn, Due};
use super::input::start_pooled;
use super::pending::{Fill, Lane, Owner, Pending, Search, Stop, Task};
use super::request::{Deadline, Request, Verb};
use crate::error::{Error, Result};

impl<C> Watcher<C> {
    /// Submits one operation, and answers its name. The watcher's thread only.
    ///
    /// # Errors
    ///
    /// [`is_invalid_input`](Error::is_invalid_input) for an empty buffer and for what its socket cannot do,
    /// [`is_not_connected`](Error::is_not_connected) for a connection that is gone,
    /// [`is_busy`](Error::is_busy) for a second accept or watch. The operation did not begin then.
    pub fn submit(&mut self, mut request: Request<C>) -> Result<OperationId> {
        request.check()?;
        self.check_state(&request)?;
        let conn = match request.conn {
            Some(conn) if !request.needs_name() => conn,
            _ => self.names.reserve()?,
        };
        self.last_number += 1;
        request.number = self.last_number;
        let id = OperationId { conn, number: request.number };
        self.take_up(conn, request);
        Ok(id)
    }

    // The verbs that a message needs, without a request in between: it has room for every verb, and moving it
    // costs more than what these say. The connection is looked up once. What is not so simple goes to `submit`,
    // which also says what is wrong.

    pub(super) fn begin_read(&mut self, id: ConnId, context: C, buffer: BytesMut) -> Result<()> {
        let is_plain = open_stream(&mut self.conns, self.event_loop.loop_number(), id).is_some();
        if !is_plain || buffer.len() == buffer.capacity() {
            return self.submit(Request::read(id, context, buffer)).map(drop);
        }
        self.last_number += 1;
        let begin = Begin { id, number: self.last_number, deadline: None };
        let fill = self.shelves.fills.take(Fill::new(buffer));
        self.queue_input(begin, Some(context), Task::Read(fill));
        Ok(())
    }

    #[inline]
    pub(super) fn begin_read_pooled(&mut self, id: ConnId, context: C) -> Result<()> {
        let Some(conn) = open_stream(&mut self.conns, self.event_loop.loop_number(), id) else {
            return self.submit(Request::read_pooled(id, context)).map(drop);
        };
        self.last_number += 1;
        let (number, is_first) = (self.last_number, conn.input.is_empty());
        conn.input.push(&mut self.pending, Pending::of_program(context, Task::ReadPooled, number));
        if is_first && !start_pooled(id, conn, &self.pending, &mut self.event_loop) {
            self.advance_input(id.key());
        }
        Ok(())
    }

    #[inline]
    pub(super) fn begin_write(&mut self, id: ConnId, context: C, buffer: Buffer) -> Result<()> {
        let conn = open_stream(&mut self.conns, self.event_loop.loop_number(), id);
        let Some(conn) = conn.filter(|conn| !conn.flags.shuts_down && !buffer.is_nothing()) else {
            return self.submit(Request::write(id, context, buffer)).map(drop);
        };
        self.last_number += 1;
        let send = self.shelves.outgoing.take_for(buffer.sendable());
        let task = Task::Write(send);
        conn.output.push(&mut self.pending, Pending::of_program(context, task, self.last_number));
        if !std::mem::replace(&mut conn.flags.dirty, true) {
            self.dirty.push(id.key());
        }
        Ok(())
    }

    /// A request of another thread. What is wrong with it, its completion says.
    pub(super) fn take_up_message(&mut self, request: Request<C>) {
        let Some(conn) = request.conn else { return };
        match self.check_state(&request) {
            Ok(()) => self.take_up(conn, request),
            Err(error) => self.refuse(conn, request, error),
        }
    }

    /// Whether there is such a connection, and whether it can do that.
    fn check_state(&self, request: &Request<C>) -> Result<()> {
        let verb = &request.verb;
        match verb {
            Verb::Relay(ends) => return self.check_relay(ends),
            Verb::Adopt(..) | Verb::WatchMany(..) | Verb::Cancel(_) => return Ok(()),
            _ if request.needs_name() => return Ok(()),
            _ => {}
        }
        let id = request.conn.ok_or_else(Error::not_connected)?;
        let conn = self.open_conn(id).ok_or_else(Error::not_connected)?;
        let kind = conn.kind;
        let fits = match verb {
            Verb::Read(_) | Verb::ReadPooled | Verb::ReadExact(_) | Verb::ReadUntil(_) => kind.is_stream(),
            Verb::Write(_) => kind.is_stream() || kind.is_datagram(),
            Verb::ShutdownWrite => kind.is_stream(),
            Verb::RecvFrom | Verb::SendTo(..) => kind.is_datagram(),
            Verb::Accept(_) => kind.is_listener(),
            _ => true,
        };
        if !fits {
            let message = format!("{id} is {}, which cannot do that", kind.name());
            return Err(Error::invalid(message));
        }
        if let Verb::Write(buffer) | Verb::SendTo(buffer, _) = verb
            && !kind.is_stream()
            && buffer.has_file()
        {
            return Err(Error::invalid("a datagram is sent from memory: read the range of the file first"));
        }
        let moves_bytes =
            !matches!(verb, Verb::Watch(..) | Verb::Accept(_) | Verb::Free | Verb::ShutdownWrite);
        if conn.flags.watched && moves_bytes {
            let message = format!("{id} is watched: read and write it yourself, or adopt a duplicate of it");
            return Err(Error::invalid(message));
        }
        if matches!(verb, Verb::Accept(_) | Verb::Watch(..)) && !conn.input.is_empty() {
            let message = format!("{id} is accepted on, watched or read from already");
            return Err(Error::of_kind(std::io::ErrorKind::ResourceBusy, message.into()));
        }
        Ok(())
    }

    /// Begins an operation that was checked. From here on its end is told by a completion.
    fn take_up(&mut self, id: ConnId, request: Request<C>) {
        let key = id.key();
        let deadline = match request.deadline {
            Deadline::Never => None,
            Deadline::After(after) => Some(self.clock() + after),
            Deadline::At(at) => Some(self.clock() + at.saturating_duration_since(Instant::now())),
        };
        if deadline.is_some_and(|deadline| deadline <= self.clock()) {
            return self.refuse(id, request, Error::timed_out());
        }
        let Request { context, verb, number, .. } = request;
        let begin = Begin { id, number, deadline };
        match verb {
            Verb::Read(buffer) => {
                let fill = self.shelves.fills.take(Fill::new(buffer));
                self.queue_input(begin, context, Task::Read(fill));
            }
            Verb::ReadPooled => self.queue_input(begin, context, Task::ReadPooled),
            Verb::ReadExact(buffer) => {
                let fill = self.shelves.fills.take(Fill::new(buffer));
                self.queue_input(begin, context, Task::ReadExact(fill));
            }
            Verb::ReadUntil(until) => {
                let search = self.shelves.searches.take(Search { bytes: BytesMut::new(), until });
                self.queue_input(begin, context, Task::ReadUntil(search));
            }
            Verb::RecvFrom => self.queue_input(begin, context, Task::RecvFrom),
            Verb::Accept(again) => self.queue_accept(begin, context, again),
            Verb::Watch(interest, again) => self.queue_watch(begin, context, interest, again),
            Verb::Write(buffer) if self.conns.get(key).is_some_and(|conn| !conn.kind.is_stream()) => {
                let datagram = OutDatagram { to: None, bytes: buffer.into_bytes() };
                let datagram = self.shelves.datagrams.take(datagram);
                self.queue_output(begin, context, Task::SendTo(Some(datagram)));
            }
            Verb::Write(buffer) => {
                let send = self.shelves.outgoing.take_for(buffer.sendable());
                self.queue_output(begin, context, Task::Write(send));
            }
            Verb::SendTo(buffer, to) => {
                let datagram = self.shelves.datagrams.take(OutDatagram { to, bytes: buffer.into_bytes() });
                self.queue_output(begin, context, Task::SendTo(Some(datagram)));
            }
            Verb::Connect(address) => self.begin_connect(begin, context, &address),
            Verb::Timer(after) => self.set_alarm(begin, context, after, None),
            Verb::Interval(every, again) => self.set_alarm(begin, context, every, Some(again)),
            Verb::Relay(ends) => self.begin_relay(begin, context, ends),
            Verb::ShutdownWrite => {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.flags.shuts_down = conn.output_end.is_none();
                    self.mark_dirty(key);
                }
            }
            Verb::Free => self.begin_free(begin, context),
            Verb::Cancel(number) => self.cancel_now(OperationId { conn: id, number }),
            Verb::Adopt(socket, kind) => self.attach_reserved(id, socket, kind),
            Verb::WatchMany(descriptors, again) => {
                descriptors.into_iter().for_each(|watched| self.attach_watched(watched, again));
            }
        }
    }

    /// Ends a request before it began.
    pub(super) fn refuse(&mut self, id: ConnId, mut request: Request<C>, error: Error) {
        if request.needs_name() {
            // Nothing was inserted under it.
            self.names.release(id);
        }
        request.conn = Some(id);
        if let Some(completion) = request.refused(error) {
            self.ready.push(|| completion);
        }
    }

    pub(super) fn queue_input(&mut self, begin: Begin, context: Option<C>, task: Task<C>) {
        let pending = self.pending(begin, Due::Input, context, task);
        self.push_input(begin.id.key(), pending);
    }

    pub(super) fn push_input(&mut self, key: Key, pending: Pending<C>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_first = conn.input.is_empty();
        conn.input.push(&mut self.pending, pending);
        if is_first {
            self.advance_input(key);
        }
    }

    pub(super) fn queue_output(&mut self, begin: Begin, context: Option<C>, task: Task<C>) {
        let pending = self.pending(begin, Due::Output, context, task);
        self.push_output(begin.id.key(), pending);
    }

    pub(super) fn push_output(&mut self, key: Key, pending: Pending<C>) {
        let id = self.conn_id(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.shuts_down {
            let message = "nothing can be written after shutdown_write";
            let error = Error::of_kind(std::io::ErrorKind::BrokenPipe, message.into());
            return self.fail_pending(id, pending, error);
        }
        conn.output.push(&mut self.pending, pending);
        self.mark_dirty(key);
    }

    fn fail_pending(&mut self, id: ConnId, mut pending: Pending<C>, error: Error) {
        let buffer = super::input::buffer_of(&mut pending.task);
        self.finish(id, pending, Err(error), 0, buffer, Detail::None);
    }

    /// An operation for a lane, with its deadline set.
    pub(super) fn pending(
        &mut self,
        begin: Begin,
        due: Due,
        context: Option<C>,
        task: Task<C>,
    ) -> Pending<C> {
        let timer = begin.deadline.map(|at| self.event_loop.set_timer(at, due.pack(begin.id.key())));
        let owner = context.map_or(Owner::Nobody, Owner::Program);
        Pending { owner, task, number: begin.number, timer, stop: None }
    }

    /// Ends one pending operation.
    ///
    /// It completes with [`is_cancelled`](Error::is_cancelled), or with its result if that was faster: one of
    /// the two, once. An operation that is done, or that never was, is none to cancel. It is looked for among
    /// those that wait on its connection, from the head.
    ///
    /// A write that the cancel cuts in the middle ends the output of its connection, as a deadline does.
    pub fn cancel(&mut self, operation: OperationId) {
        if operation.conn.event_loop() == self.event_loop.loop_number() {
            self.cancel_now(operation);
        }
    }

    fn cancel_now(&mut self, operation: OperationId) {
        let key = operation.conn.key();
        if self.alarms.contains(key) {
            return self.cancel_alarm(key);
        }
        if self.relays.contains(key) {
            return self.stop_relay(key, Stop::Cancelled);
        }
        self.stop_where(key, Stop::Cancelled, |pending| pending.number == operation.number);
    }

    /// The deadline of an operation has passed: the one whose timer has fired.
    pub(super) fn on_deadline(&mut self, due: Due, key: Key, timer: kolk_engine::timer::TimerId) {
        let Some(conn) = self.open_conn_mut(key) else { return };
        let fired = |pending: &Pending<C>| pending.timer == Some(timer);
        let lane = if due == Due::Input { conn.input } else { conn.output };
        let Some(position) = lane.position(&self.pending, fired) else { return };
        match due {
            Due::Input => self.stop_input(key, position, Stop::TimedOut),
            _ => self.stop_output(key, position, Stop::TimedOut),
        }
    }

    /// Ends the first pending operation of a connection that `wanted` wants.
    pub(super) fn stop_where(&mut self, key: Key, stop: Stop, wanted: impl Fn(&Pending<C>) -> bool) {
        let Some(conn) = self.open_conn_mut(key) else { return };
        let (input, output): (Lane, Lane) = (conn.input, conn.output);
        if let Some(position) = input.position(&self.pending, &wanted) {
            self.stop_input(key, position, stop);
        } else if let Some(position) = output.position(&self.pending, &wanted) {
            self.stop_output(key, position, stop);
        }
    }

    pub(super) fn open_conn_mut(&mut self, key: Key) -> Option<&mut Conn> {
        self.conns.get_mut(key).filter(|conn| !conn.flags.freed)
    }
}

/// The connection of a name, if it is an ordinary stream and was not freed.
#[inline]
fn open_stream(conns: &mut Table<Conn>, loop_number: u16, id: ConnId) -> Option<&mut Conn> {
    let conn = conns.get_mut(id.key())?;
    let is_plain = conn.kind.is_stream() && !conn.flags.watched && !conn.flags.freed;
    (is_plain && id.event_loop() == loop_number).then_some(conn)
}

/// What every operation begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub(super) id: ConnId,
    pub(super) number: u64,
    pub(super) deadline: Option<Timestamp>,
}
