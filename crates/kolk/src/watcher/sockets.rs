//! The life of a connection: adopted, accepted or connected; freed or detached.

use std::io;
use std::os::fd::OwnedFd;

use kolk_engine::Close;
use kolk_engine::driver::Socket;
use kolk_engine::op::{Interest, is_cancelled};
use kolk_engine::socket::Address;
use kolk_engine::token::{ConnId, Key};

use super::Watcher;
use super::adopt::{Detached, IntoSocket, Kind, identify, identify_all};
use super::buffer::Buffer;
use super::completion::{Completion, Detail};
use super::conn::{Conn, Due};
use super::pending::{Owner, Stop, Task};
use super::request::{Again, Request, Watched};
use super::submit::Begin;
use crate::error::{Error, Result};

impl<C> Watcher<C> {
    /// Takes over a socket; the watcher owns it from here on. Options that were set stay as they are.
    ///
    /// Any socket of the standard library and any descriptor that can be waited for. One that is no socket can
    /// be [watched](Self::watch) only; give a duplicate (`try_clone`) to go on using it.
    ///
    /// # Errors
    ///
    /// A descriptor that is closed, a regular file, all slots taken. The socket is closed then.
    pub fn adopt(&mut self, socket: impl IntoSocket) -> Result<ConnId> {
        let (socket, kind) = identify(socket.into_socket())?;
        self.attach(socket, kind)
    }

    fn attach(&mut self, socket: Socket, kind: Kind) -> Result<ConnId> {
        let id =
            self.event_loop.attach(socket).map_err(|error| Error::io("cannot adopt a socket", error, ""))?;
        self.conns.insert(id.key(), Conn::new(kind));
        Ok(id)
    }

    /// Adopts several descriptors and [watches](Self::watch) each, with an interest and a context of its own.
    /// Answers their names, in the same order.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt); then none of them is watched, and all are closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use kolk::Interest;
    /// use kolk::watcher::Watcher;
    ///
    /// let (first, _) = std::os::unix::net::UnixStream::pair()?;
    /// let (second, _) = std::os::unix::net::UnixStream::pair()?;
    /// let mut watcher = Watcher::new()?;
    /// let conns = watcher.watch_many([
    ///     (first, Interest::READABLE, "first"),
    ///     (second, Interest::READABLE, "second"),
    /// ])?;
    /// assert_eq!(conns.len(), 2);
    /// # Ok::<(), kolk::Error>(())
    /// ```
    pub fn watch_many<S: IntoSocket>(
        &mut self,
        descriptors: impl IntoIterator<Item = (S, Interest, C)>,
    ) -> Result<Vec<ConnId>>
    where
        C: Clone,
    {
        let sockets = identify_all(descriptors)?;
        let mut conns = Vec::with_capacity(sockets.len());
        let mut watches = Vec::with_capacity(sockets.len());
        for (socket, kind, interest, context) in sockets {
            match self.attach(socket, kind) {
                Ok(conn) => {
                    conns.push(conn);
                    watches.push(Request::watch(conn, context, interest));
                }
                Err(error) => {
                    conns.into_iter().for_each(|conn| self.free(conn));
                    return Err(error);
                }
            }
        }
        watches.into_iter().try_for_each(|watch| self.submit(watch).map(drop))?;
        Ok(conns)
    }

    /// One of several that another thread gave names.
    pub(super) fn attach_watched(&mut self, watched: Watched<C>, again: Again<C>) {
        let Watched { conn, number, socket, kind, interest, context } = watched;
        self.attach_reserved(conn, socket, kind);
        self.take_up_message(Request::watch_named(conn, number, context, interest, again));
    }

    /// A socket that another thread gave a name. If the kernel refuses it, operations on it will say so.
    pub(super) fn attach_reserved(&mut self, id: ConnId, socket: Socket, kind: Kind) {
        match self.event_loop.attach_reserved(id.key(), socket) {
            Ok(_) => {
                self.conns.insert(id.key(), Conn::new(kind));
            }
            Err(_) => self.stats.refused += 1,
        }
    }

    // ---- accept and watch -----------------------------------------------------------------------

    pub(super) fn queue_accept(&mut self, begin: Begin, context: Option<C>, again: Again<C>) {
        let key = begin.id.key();
        self.queue_input(begin, context, Task::Accept(again));
        if let Err(error) = self.event_loop.accept(begin.id) {
            self.finish_input(key, Err(Error::of_operation(error)), Detail::None);
        }
    }

    pub(super) fn on_accepted(&mut self, listener: ConnId, socket: Socket) {
        let key = listener.key();
        if self.open_conn_mut(key).is_none_or(|conn| conn.input.is_empty()) {
            // It closes: its peers see that too.
            return;
        }
        if self.nodelay {
            // It fails only on a connection that is already gone, which the reads will report.
            let _ = socket.set_nodelay(true);
        }
        let kind = if matches!(socket, Socket::Simulated(_)) { Kind::Any } else { Kind::Stream };
        match self.attach(socket, kind) {
            Ok(conn) => {
                self.stats.accepted += 1;
                self.complete_again(key, Ok(0), Detail::Accepted(conn));
            }
            Err(error) => {
                self.stats.refused += 1;
                self.complete_again(key, Err(error), Detail::None);
            }
        }
    }

    pub(super) fn queue_watch(
        &mut self,
        begin: Begin,
        context: Option<C>,
        interest: Interest,
        again: Again<C>,
    ) {
        let key = begin.id.key();
        self.queue_input(begin, context, Task::Watch(again));
        match (self.event_loop.watch(begin.id, interest), self.conns.get_mut(key)) {
            (Ok(()), Some(conn)) => conn.flags.watched = true,
            (Ok(()), None) => {}
            (Err(error), _) => self.finish_input(key, Err(Error::of_operation(error)), Detail::None),
        }
    }

    pub(super) fn on_ready(&mut self, id: ConnId, result: io::Result<Interest>) {
        let key = id.key();
        match result {
            Ok(interest) => self.complete_again(key, Ok(0), Detail::Ready(interest)),
            Err(error) if is_cancelled(&error) => self.on_ended(id),
            Err(error) => {
                if let Some(conn) = self.open_conn_mut(key) {
                    conn.flags.watched = false;
                }
                self.finish_input(key, Err(Error::of_operation(error)), Detail::None);
            }
        }
    }

    /// An accept or a watch was cancelled, and has ended.
    pub(super) fn on_ended(&mut self, id: ConnId) {
        let Some(conn) = self.open_conn_mut(id.key()) else { return };
        conn.flags.watched = false;
        if let Some(pending) = self.take_input(id.key()) {
            self.finish_stopped(id, pending);
        }
    }

    /// One of the many completions of the operation at the head of the lane.
    fn complete_again(&mut self, key: Key, result: Result<usize>, detail: Detail) {
        let conn = self.conn_id(key);
        let Some(head) = self.open_conn_mut(key).and_then(|conn| conn.input.head()) else { return };
        let Some(pending) = self.pending.get_mut(head) else { return };
        let (Task::Accept(again) | Task::Watch(again)) = &pending.task else { return };
        let Owner::Program(context) = &pending.owner else { return };
        let (context, operation) = (again(context), pending.task.operation());
        let number = pending.number;
        let buffer = Buffer::Empty;
        self.ready.push(|| Completion { operation, conn, context, result, count: 0, buffer, number, detail });
    }

    // ---- connect --------------------------------------------------------------------------------

    pub(super) fn begin_connect(&mut self, begin: Begin, context: Option<C>, address: &Address) {
        let id = begin.id;
        match self.event_loop.connect_reserved(id.key(), address) {
            Ok(_) => {
                let simulated = matches!(self.event_loop.socket(id), Some(Socket::Simulated(_)));
                let mut conn = Conn::new(if simulated { Kind::Any } else { Kind::Stream });
                conn.flags.connecting = true;
                self.conns.insert(id.key(), conn);
                self.queue_input(begin, context, Task::Connect);
            }
            Err(error) => {
                let error = Error::io(format!("cannot connect to {address}"), error, "");
                let pending =
                    self.pending(Begin { deadline: None, ..begin }, Due::Input, context, Task::Connect);
                self.finish(id, pending, Err(error), 0, Buffer::Empty, Detail::None);
            }
        }
    }

    pub(super) fn on_connected(&mut self, id: ConnId, result: io::Result<()>) {
        let key = id.key();
        let Some(conn) = self.open_conn_mut(key) else { return };
        if let Err(error) = result {
            self.finish_input(key, Err(Error::io("cannot connect", error, "")), Detail::None);
            return self.close_engine(id);
        }
        conn.flags.connecting = false;
        if self.nodelay
            && let Some(socket) = self.event_loop.socket(id)
        {
            // As for accepted connections.
            let _ = socket.set_nodelay(true);
        }
        self.finish_input(key, Ok(0), Detail::None);
        self.advance_input(key);
        self.mark_dirty(key);
    }

    /// A connect is not to go on: its connection is freed.
    pub(super) fn stop_connect(&mut self, key: Key, stop: Stop) {
        let id = self.conn_id(key);
        self.finish_input(key, Err(stop.error()), Detail::None);
        self.close_engine(id);
    }

    // ---- the end --------------------------------------------------------------------------------

    /// Closes a connection, as close(2) does. What is pending completes with
    /// [`is_cancelled`](Error::is_cancelled): reads first, then writes, each once; a write that is cut says in
    /// its `count` how much of it was sent. A name that is stale already has no effect, and never touches
    /// whoever came after it.
    ///
    /// Bytes whose write has completed are on their way and arrive, unless the peer's own bytes were left
    /// unread: TCP answers that with a reset. To end in order: [`shutdown_write`](Self::shutdown_write), read
    /// to the end of the stream, free. To be told when it is closed, submit [`Request::free`].
    pub fn free(&mut self, conn: ConnId) {
        // A stale name is nothing to free.
        let _ = self.submit(Request::free_quietly(conn));
    }

    pub(super) fn begin_free(&mut self, begin: Begin, context: Option<C>) {
        if context.is_some() {
            let pending = self.pending(Begin { deadline: None, ..begin }, Due::Output, context, Task::Close);
            if let Some(conn) = self.conns.get_mut(begin.id.key()) {
                conn.output.push(&mut self.pending, pending);
            }
        }
        self.close_engine(begin.id);
    }

    /// From here on the name is stale for the program.
    fn close_engine(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id.key()) {
            conn.flags.freed = true;
            self.event_loop.close(id, Close::Discard);
        }
    }

    /// Nothing of the connection is in the kernel any more: what is pending ends.
    pub(super) fn on_closed(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(id.key()) else { return };
        while let Some(pending) = conn.input.pop(&mut self.pending) {
            self.finish_stopped(id, pending);
        }
        while let Some(pending) = conn.output.pop(&mut self.pending) {
            if let Task::Close = pending.task {
                self.finish(id, pending, Ok(0), 0, Buffer::Empty, Detail::None);
            } else {
                self.finish_stopped(id, pending);
            }
        }
    }

    /// Gives a socket back, as the type that it is, with bytes that were received and not read. Its name is
    /// stale then.
    ///
    /// # Errors
    ///
    /// [`is_not_connected`](Error::is_not_connected) for a stale name; [`is_busy`](Error::is_busy) while an
    /// operation is pending: wait for its end, or cancel it. Nothing has changed then.
    pub fn detach<S: From<OwnedFd>>(&mut self, id: ConnId) -> Result<Detached<S>> {
        let conn = self.open_conn(id).ok_or_else(Error::not_connected)?;
        if !conn.is_idle() {
            let message = format!("cannot detach {id}: an operation is pending (wait for it, or cancel it)");
            return Err(Error::of_kind(io::ErrorKind::ResourceBusy, message.into()));
        }
        if matches!(self.event_loop.socket(id), Some(Socket::Simulated(_))) {
            return Err(Error::invalid("a simulated socket has no descriptor to give back"));
        }
        let detach = |error| Error::io(format!("cannot detach {id}"), error, "");
        match self.event_loop.detach(id).map_err(detach)? {
            Socket::Descriptor(fd) => {
                let unread = self.conns.remove(id.key()).and_then(|conn| conn.unread);
                Ok(Detached {
                    socket: fd.into(),
                    unread: unread.map_or_else(Default::default, |unread| *unread),
                })
            }
            Socket::Simulated(_) => unreachable!("asked above"),
        }
    }

    /// The address that a socket is bound to.
    ///
    /// # Errors
    ///
    /// [`is_not_connected`](Error::is_not_connected) for a stale name.
    pub fn local_address(&self, conn: ConnId) -> Result<Address> {
        let socket = self.event_loop.socket(conn).ok_or_else(Error::not_connected)?;
        socket.local_address().map_err(Error::of_operation)
    }

    /// The address that a socket is connected to.
    ///
    /// # Errors
    ///
    /// [`is_not_connected`](Error::is_not_connected) for a stale name, and when the peer has gone.
    pub fn peer_address(&self, conn: ConnId) -> Result<Address> {
        let socket = self.event_loop.socket(conn).ok_or_else(Error::not_connected)?;
        socket.peer_address().map_err(Error::of_operation)
    }
}
