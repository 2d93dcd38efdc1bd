//! The one error type of the library.

use std::error::Error as StdError;
use std::fmt;
use std::io;

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
pub struct Error {
    message: String,
    kind: io::ErrorKind,
    source: Option<io::Error>,
}

impl Error {
    /// The program or its user asked for something that cannot be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: io::ErrorKind::InvalidInput, source: None }
    }

    /// `tried`, on what, failed with `source`; `advice` says what to do and may be empty.
    pub(crate) fn io(tried: impl fmt::Display, source: io::Error, advice: &str) -> Self {
        let reason = reason(&source);
        let message = if advice.is_empty() {
            format!("{tried}: {reason}")
        } else {
            format!("{tried}: {reason} ({advice})")
        };
        Self { message, kind: source.kind(), source: Some(source) }
    }

    /// Our own fault, or a handler's: not what anybody asked for.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: io::ErrorKind::Other, source: None }
    }

    /// Whether the arguments cannot be used: a malformed address, a size out of range.
    pub fn is_invalid_input(&self) -> bool {
        self.kind == io::ErrorKind::InvalidInput
    }

    /// Whether somebody else has the address.
    pub fn is_address_in_use(&self) -> bool {
        self.kind == io::ErrorKind::AddrInUse
    }

    /// Whether the address does not belong to this machine.
    pub fn is_address_not_available(&self) -> bool {
        self.kind == io::ErrorKind::AddrNotAvailable
    }

    /// Whether rights are missing, also when a sandbox forbids a kernel interface.
    pub fn is_permission_denied(&self) -> bool {
        self.kind == io::ErrorKind::PermissionDenied
    }
}

/// The reason in plain words, without the number that the standard library appends.
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
        f.write_str(&self.message)
    }
}

/// The sentence, since this is what `main` shows when it returns an error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// For programs whose own functions return [`io::Error`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind, error)
    }
}

/// For programs that use `?` on standard I/O beside this library.
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self { message: source.to_string(), kind: source.kind(), source: Some(source) }
    }
}
