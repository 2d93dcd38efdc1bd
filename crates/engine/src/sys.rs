//! The one place where -1 becomes an [`io::Error`](std::io::Error).

/// Calls a libc function and turns -1 into the error that `errno` names.
///
/// The macro expands to the bare call, so each use stands in an `unsafe` block of its own with its own
/// SAFETY comment.
macro_rules! syscall {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        let result = libc::$function($($argument),*);
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}

pub(crate) use syscall;
