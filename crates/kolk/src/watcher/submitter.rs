//! The watcher as other threads see it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use kolk_engine::driver::Waker;
use kolk_engine::mailbox::{SendError, Sender};
use kolk_engine::op::Interest;
use kolk_engine::slab::SlotNumbers;
use kolk_engine::token::ConnId;

use super::adopt::{IntoSocket, identify, identify_all};
use super::buffer::Buffer;
use super::completion::OperationId;
use super::request::{Request, Watched};
use crate::error::{Error, Result};

/// Submits to a [`Watcher`](super::Watcher) from any thread. `Clone`, `Send` and `Sync`, when the context is
/// `Send`.
///
/// It has the verbs of the watcher. What can be told at once is an error of the call; the rest, such as a
/// connection that is gone, the completion says. The watcher's thread is woken if it sleeps, once for all that
/// is submitted until it runs. Operations of one thread begin in the order in which it submitted them.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use kolk::watcher::{Completions, Operation, Watcher};
///
/// let (near, far) = UnixStream::pair()?;
/// let mut watcher = Watcher::new()?;
/// let submitter = watcher.submitter();
/// let thread = std::thread::spawn(move || {
///     let conn = submitter.adopt(near)?;
///     submitter.write(conn, "greeting", "hello")
/// });
///
/// let mut completions = Completions::default();
/// watcher.wait(&mut completions, None)?;
/// let done = completions.pop().expect("`wait` waits for one");
/// assert_eq!((done.operation, done.context), (Operation::Write, "greeting"));
/// # thread.join().expect("it does not panic")?;
/// # drop(far);
/// # Ok::<(), kolk::Error>(())
/// ```
pub struct Submitter<C = ()> {
    sender: Sender<Request<C>, Waker>,
    names: Arc<Names>,
}

impl<C> Submitter<C> {
    pub(super) fn new(sender: Sender<Request<C>, Waker>, names: Arc<Names>) -> Self {
        Self { sender, names }
    }

    /// Gives a socket to the watcher, and answers its name at once.
    ///
    /// # Errors
    ///
    /// A descriptor that is closed or a regular file, all slots taken,
    /// [`is_watcher_closed`](Error::is_watcher_closed). The socket is closed then.
    pub fn adopt(&self, socket: impl IntoSocket) -> Result<ConnId> {
        let (socket, kind) = identify(socket.into_socket())?;
        let conn = self.names.reserve()?;
        match self.send(Request::adopt(conn, socket, kind)) {
            Ok(()) => Ok(conn),
            Err(error) => {
                self.names.release(conn);
                Err(error)
            }
        }
    }

    /// Gives several descriptors to the watcher, which [watches](Self::watch) each with an interest and a context of
    /// its own. Answers their names, in the same order. One wake-up does for all.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt), and [`is_busy`](Error::is_busy); then none of them is watched, and all are closed.
    pub fn watch_many<S: IntoSocket>(
        &self,
        descriptors: impl IntoIterator<Item = (S, Interest, C)>,
    ) -> Result<Vec<ConnId>>
    where
        C: Clone,
    {
        let sockets = identify_all(descriptors)?;
        let mut conns = Vec::with_capacity(sockets.len());
        let mut watched = Vec::with_capacity(sockets.len());
        let reserved = sockets.into_iter().try_for_each(|(socket, kind, interest, context)| {
            let (conn, number) = (self.names.reserve()?, self.names.next_number());
            conns.push(conn);
            watched.push(Watched { conn, number, socket, kind, interest, context });
            Ok(())
        });
        if conns.is_empty() {
            return reserved.map(|()| conns);
        }
        match reserved.and_then(|()| self.send(Request::watch_many(watched, C::clone))) {
            Ok(()) => Ok(conns),
            Err(error) => {
                conns.into_iter().for_each(|conn| self.names.release(conn));
                Err(error)
            }
        }
    }

    /// As [`adopt`](Self::adopt), and a handle that frees the connection when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt).
    pub fn adopt_owned(&self, socket: impl IntoSocket) -> Result<ConnOwner<C>> {
        self.adopt(socket).map(|conn| self.own(conn))
    }

    /// A handle that frees the connection when it is dropped.
    pub fn own(&self, conn: ConnId) -> ConnOwner<C> {
        ConnOwner { conn, submitter: self.clone() }
    }

    /// Submits one operation, and answers its name.
    ///
    /// # Errors
    ///
    /// [`is_invalid_input`](Error::is_invalid_input) for an empty buffer,
    /// [`is_watcher_closed`](Error::is_watcher_closed), and [`is_busy`](Error::is_busy) when the watcher does
    /// not keep up with a million requests that wait.
    pub fn submit(&self, mut request: Request<C>) -> Result<OperationId> {
        self.check(&request)?;
        let id = self.name(&mut request)?;
        let own_name = request.needs_name().then_some(id.conn);
        let sent = self.send(request);
        if sent.is_err() {
            own_name.into_iter().for_each(|name| self.names.release(name));
        }
        sent.map(|()| id)
    }

    pub(super) fn begin_read(&self, conn: ConnId, context: C, buffer: BytesMut) -> Result<()> {
        self.submit(Request::read(conn, context, buffer)).map(drop)
    }

    pub(super) fn begin_read_pooled(&self, conn: ConnId, context: C) -> Result<()> {
        self.submit(Request::read_pooled(conn, context)).map(drop)
    }

    pub(super) fn begin_write(&self, conn: ConnId, context: C, buffer: Buffer) -> Result<()> {
        self.submit(Request::write(conn, context, buffer)).map(drop)
    }

    /// Submits many operations with one wake-up, and leaves the empty vector to the caller for the next time.
    /// No request of another thread comes between them.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit). Requests that were not submitted are still in `requests`; when one of
    /// them is invalid, that is all of them.
    pub fn submit_batch(&self, requests: &mut Vec<Request<C>>) -> Result<()> {
        requests.iter().try_for_each(|request| self.check(request))?;
        let named = requests.iter_mut().try_for_each(|request| self.name(request).map(drop));
        let sent = named.and_then(|()| self.sender.send_batch(requests).map_err(|refused| refusal(&refused)));
        if sent.is_err() {
            requests.iter_mut().for_each(|request| self.unname(request));
        }
        sent
    }

    /// Ends one pending operation, as [`Watcher::cancel`](super::Watcher::cancel).
    ///
    /// # Errors
    ///
    /// [`is_watcher_closed`](Error::is_watcher_closed), [`is_busy`](Error::is_busy).
    pub fn cancel(&self, operation: OperationId) -> Result<()> {
        self.order(Request::cancel(operation))
    }

    /// Closes a connection, as [`Watcher::free`](super::Watcher::free).
    ///
    /// # Errors
    ///
    /// [`is_watcher_closed`](Error::is_watcher_closed), [`is_busy`](Error::is_busy).
    pub fn free(&self, conn: ConnId) -> Result<()> {
        self.order(Request::free_quietly(conn))
    }

    /// Ends our direction of a stream after the writes that are queued, as
    /// [`Watcher::shutdown_write`](super::Watcher::shutdown_write).
    ///
    /// # Errors
    ///
    /// [`is_watcher_closed`](Error::is_watcher_closed), [`is_busy`](Error::is_busy).
    pub fn shutdown_write(&self, conn: ConnId) -> Result<()> {
        self.order(Request::shutdown_write(conn))
    }

    /// Refuses what cannot be, as far as that is known here.
    fn check(&self, request: &Request<C>) -> Result<()> {
        if request.conn.is_some_and(|conn| conn.event_loop() != self.names.loop_number) {
            return Err(Error::invalid("the connection belongs to another watcher"));
        }
        request.check()
    }

    /// Gives a request its number and, if it needs one, a name of its own.
    fn name(&self, request: &mut Request<C>) -> Result<OperationId> {
        let conn = match request.conn {
            Some(conn) => conn,
            None => *request.conn.insert(self.names.reserve()?),
        };
        request.number = self.names.next_number();
        Ok(OperationId { conn, number: request.number })
    }

    /// Takes the name back from a request that was not sent.
    fn unname(&self, request: &mut Request<C>) {
        if request.needs_name()
            && let Some(name) = request.conn.take()
        {
            self.names.release(name);
        }
    }

    /// Sends what never completes.
    fn order(&self, request: Request<C>) -> Result<()> {
        self.check(&request)?;
        self.send(request)
    }

    fn send(&self, request: Request<C>) -> Result<()> {
        self.sender.send(request).map_err(|refused| refusal(&refused))
    }
}

fn refusal<T>(refused: &SendError<T>) -> Error {
    if refused.is_closed() {
        return Error::watcher_closed();
    }
    let message = "the watcher does not keep up: its mailbox is full (submit less, or try again later)";
    Error::of_kind(std::io::ErrorKind::ResourceBusy, message.into())
}

impl<C> Clone for Submitter<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), names: Arc::clone(&self.names) }
    }
}

impl<C> fmt::Debug for Submitter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("watcher", &self.names.loop_number).finish_non_exhaustive()
    }
}

/// A connection that is freed when this handle is dropped, on whichever thread that is.
#[derive(Debug)]
#[must_use = "dropping the owner frees the connection"]
pub struct ConnOwner<C = ()> {
    conn: ConnId,
    submitter: Submitter<C>,
}

impl<C> ConnOwner<C> {
    /// The name of the connection.
    pub fn id(&self) -> ConnId {
        self.conn
    }
}

impl<C> Drop for ConnOwner<C> {
    fn drop(&mut self) {
        // A watcher that is gone has closed the connection. One whose mailbox is full looks here after it has
        // emptied it; the second try is for the case that it just has.
        if self.submitter.free(self.conn).is_err_and(|error| error.is_busy()) {
            self.submitter.names.orphan(self.conn);
            let _ = self.submitter.free(self.conn);
        }
    }
}

/// Where connections and operations get their names, on any thread.
#[derive(Debug)]
pub(super) struct Names {
    slots: Arc<SlotNumbers>,
    loop_number: u16,
    last_number: AtomicU64,
    /// Connections to be freed for which the mailbox had no room.
    orphans: Mutex<Vec<ConnId>>,
    has_orphans: AtomicBool,
}

/// Tells the numbers that other threads give from those that the watcher's thread gives without sharing.
const ELSEWHERE: u64 = 1 << 63;

impl Names {
    pub(super) fn new(slots: Arc<SlotNumbers>, loop_number: u16) -> Self {
        Self {
            slots,
            loop_number,
            last_number: AtomicU64::new(ELSEWHERE),
            orphans: Mutex::default(),
            has_orphans: AtomicBool::new(false),
        }
    }

    fn orphan(&self, conn: ConnId) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        self.has_orphans.store(true, Ordering::Release);
    }

    /// What was left to be freed since the last call.
    pub(super) fn take_orphans(&self) -> Vec<ConnId> {
        if !self.has_orphans.load(Ordering::Relaxed) || !self.has_orphans.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A name that nobody has.
    pub(super) fn reserve(&self) -> Result<ConnId> {
        match self.slots.reserve() {
            Some(key) => Ok(ConnId::new(self.loop_number, key)),
            None => {
                let message = format!("all {} slots of the watcher are taken", self.slots.limit());
                Err(Error::of_kind(std::io::ErrorKind::OutOfMemory, message.into()))
            }
        }
    }

    /// Gives a name back under which nothing is kept.
    pub(super) fn release(&self, conn: ConnId) {
        let was_in_use = self.slots.release(conn.key());
        debug_assert!(was_in_use, "{conn} was given back before");
    }

    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
