//! The one error type of the library.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustix::io::Errno;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What was tried, on what, why it failed, and what to do.
///
/// The text is one full sentence for a person. Programs ask with the `is_` methods; [`source`] is what the
/// operating system said, if it was asked.
///
/// [`source`]: StdError::source
///
/// # Examples
///
/// ```
/// use kolk::server::Server;
/// # use kolk::server::{Action, Conn, Handler, Input};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Session = ();
/// #     fn on_open(&mut self, _: &mut Conn<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action { Action::Close }
/// # }
///
/// let error = Server::builder().listen("tpc://localhost:80").start(|_| Echo).unwrap_err();
/// assert!(error.is_invalid_input());
/// println!("{error}"); // cannot listen on "tpc://localhost:80": the scheme "tpc" is unknown: use ...
/// ```
pub struct Error(Box<Inner>);

/// Boxed: a result that is nearly always good is small to move.
struct Inner {
    /// Empty where the source says it all.
    message: Cow<'static, str>,
    kind: io::ErrorKind,
    cause: Cause,
    source: Option<io::Error>,
}

/// What [`io::ErrorKind`] has no word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    AsKind,
    Cancelled,
    WatcherClosed,
    ServerStopped,
}

impl Error {
    fn new(inner: Inner) -> Self {
        Self(Box::new(inner))
    }

    /// The program or its user asked for something that cannot be.
    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::of_kind(io::ErrorKind::InvalidInput, message.into())
    }

    /// `tried`, on what, failed with `source`; `advice` says what to do and may be empty.
    pub(crate) fn io(tried: impl fmt::Display, source: io::Error, advice: &str) -> Self {
        let reason = reason(&source);
        let advice = match advice {
            "" if lacks_descriptors(&source) => "no descriptor is free: raise `ulimit -n`",
            advice => advice,
        };
        let message = if advice.is_empty() {
            format!("{tried}: {reason}")
        } else {
            format!("{tried}: {reason} ({advice})")
        };
        Self::new(Inner {
            message: message.into(),
            kind: source.kind(),
            cause: Cause::AsKind,
            source: Some(source),
        })
    }

    /// Our own fault, or a handler's: not what anybody asked for.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::of_kind(io::ErrorKind::Other, message.into().into())
    }

    /// A sentence for an error that no system call reported.
    pub(crate) fn of_kind(kind: io::ErrorKind, message: Cow<'static, str>) -> Self {
        Self::new(Inner { message, kind, cause: Cause::AsKind, source: None })
    }

    /// What the system said of an operation, as it is.
    pub(crate) fn of_operation(source: io::Error) -> Self {
        Self::new(Inner {
            message: Cow::Borrowed(""),
            kind: source.kind(),
            cause: Cause::AsKind,
            source: Some(source),
        })
    }

    /// The operation was ended by `cancel`, or by the end of its connection.
    pub(crate) fn cancelled() -> Self {
        let message = Cow::Borrowed("the operation was cancelled");
        Self::new(Inner { message, kind: io::ErrorKind::Other, cause: Cause::Cancelled, source: None })
    }

    /// The operation's deadline has passed.
    pub(crate) fn timed_out() -> Self {
        Self::of_kind(io::ErrorKind::TimedOut, Cow::Borrowed("the deadline of the operation has passed"))
    }

    /// The name is stale.
    pub(crate) fn not_connected() -> Self {
        let message = "there is no such connection (any more)";
        Self::of_kind(io::ErrorKind::NotConnected, Cow::Borrowed(message))
    }

    /// The watcher that a submitter belongs to was dropped.
    pub(crate) fn watcher_closed() -> Self {
        let message = Cow::Borrowed("the watcher is gone: it was dropped");
        Self::new(Inner {
            message,
            kind: io::ErrorKind::NotConnected,
            cause: Cause::WatcherClosed,
            source: None,
        })
    }

    /// The loop of the server that a handle belongs to has ended.
    pub(crate) fn server_stopped() -> Self {
        let message = Cow::Borrowed("the server has stopped");
        Self::new(Inner {
            message,
            kind: io::ErrorKind::NotConnected,
            cause: Cause::ServerStopped,
            source: None,
        })
    }

    /// An output limit dropped a message.
    pub(crate) fn dropped() -> Self {
        let message = "the message was dropped: too much is queued for the connection";
        Self::of_kind(io::ErrorKind::ResourceBusy, Cow::Borrowed(message))
    }

    /// A worker pool has no room.
    pub(crate) fn pool_is_full(threads: usize, queue: usize) -> Self {
        let message = format!(
            "the pool of {threads} threads is busy, and {queue} jobs wait: offload less, or give it more threads"
        );
        Self::of_kind(io::ErrorKind::ResourceBusy, message.into())
    }

    /// A loop does not keep up with what it is sent.
    pub(crate) fn loop_is_busy() -> Self {
        let message = "the event loop's mailbox is full: send less, or try again later";
        Self::of_kind(io::ErrorKind::ResourceBusy, Cow::Borrowed(message))
    }

    /// Whether the arguments cannot be used: a malformed address, a size out of range.
    pub fn is_invalid_input(&self) -> bool {
        self.0.kind == io::ErrorKind::InvalidInput
    }

    /// Whether somebody else has the address.
    pub fn is_address_in_use(&self) -> bool {
        self.0.kind == io::ErrorKind::AddrInUse
    }

    /// Whether the address does not belong to this machine.
    pub fn is_address_not_available(&self) -> bool {
        self.0.kind == io::ErrorKind::AddrNotAvailable
    }

    /// Whether rights are missing, also when a sandbox forbids a kernel interface.
    pub fn is_permission_denied(&self) -> bool {
        self.0.kind == io::ErrorKind::PermissionDenied
    }

    /// Whether the deadline passed before the operation was done.
    pub fn is_timed_out(&self) -> bool {
        self.0.kind == io::ErrorKind::TimedOut
    }

    /// Whether the operation was ended by a `cancel`, or because its connection was freed.
    pub fn is_cancelled(&self) -> bool {
        self.0.cause == Cause::Cancelled
    }

    /// Whether the connection is gone, was never there, or has no peer. See also
    /// [`is_watcher_closed`](Self::is_watcher_closed) and [`is_server_stopped`](Self::is_server_stopped).
    pub fn is_not_connected(&self) -> bool {
        self.0.kind == io::ErrorKind::NotConnected && self.0.cause == Cause::AsKind
    }

    /// Whether the peer's end of stream came before all that was asked for.
    pub fn is_unexpected_eof(&self) -> bool {
        self.0.kind == io::ErrorKind::UnexpectedEof
    }

    /// Whether nobody accepts connections at the address.
    pub fn is_connection_refused(&self) -> bool {
        self.0.kind == io::ErrorKind::ConnectionRefused
    }

    /// Whether the peer reset the connection, or nothing can be written to it any more.
    pub fn is_connection_lost(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        matches!(self.0.kind, BrokenPipe | ConnectionAborted | ConnectionReset)
    }

    /// Whether something is still under way that has to end first, or a queue is full: try again later.
    pub fn is_busy(&self) -> bool {
        self.0.kind == io::ErrorKind::ResourceBusy
    }

    /// Whether the [`Watcher`](crate::watcher::Watcher) that was asked is gone.
    pub fn is_watcher_closed(&self) -> bool {
        self.0.cause == Cause::WatcherClosed
    }

    /// Whether the [`Server`](crate::server::Server) that was asked has stopped.
    pub fn is_server_stopped(&self) -> bool {
        self.0.cause == Cause::ServerStopped
    }

    /// The kind of the standard library that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind
    }
}

/// The reason in plain words, without the number that the standard library appends.
/// The table of descriptors, of the process or of the system, is full.
fn lacks_descriptors(error: &io::Error) -> bool {
    let full = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| full.contains(&code))
}

fn reason(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use",
        io::ErrorKind::AddrNotAvailable => "the address is not local",
        io::ErrorKind::PermissionDenied if error.get_ref().is_none() => "permission denied",
        _ => return error.to_string(),
    };
    text.to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.source {
            Some(source) if self.0.message.is_empty() => source.fmt(f),
            _ => f.write_str(&self.0.message),
        }
    }
}

/// The sentence, since this is what `main` shows when it returns an error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// For programs whose own functions return [`io::Error`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.0.kind, error)
    }
}

/// For programs that use `?` on standard I/O beside this library.
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::of_operation(source)
    }
}
