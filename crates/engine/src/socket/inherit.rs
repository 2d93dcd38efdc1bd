//! Sockets that the process was started with, as a service manager passes them.

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::syscall;

/// The first descriptor that is passed: those below are standard input, output and error.
const FIRST: RawFd = 3;

/// Most descriptors that are believed to be passed: more than any system allows to be open.
const MOST: usize = 1 << 20;

/// A socket that the process was started with.
#[derive(Debug)]
pub struct Inherited {
    /// The name that the service manager has given it; empty if none.
    pub name: String,
    /// The socket, closed on drop and on exec.
    pub fd: OwnedFd,
}

/// Takes over the sockets that the process was started with, by the protocol of sd_listen_fds(3): the environment
/// says in `LISTEN_PID` for whom they are, in `LISTEN_FDS` how many, and in `LISTEN_FDNAMES` how they are called.
///
/// None where nothing was passed or it was passed to another process, and none the second time.
///
/// # Errors
///
/// A number that is none, or a descriptor that is not open.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| env::var(name).unwrap_or_default();
    let count = announced(&variable("LISTEN_PID"), &variable("LISTEN_FDS"), process::id())?;
    if count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut sockets = Vec::with_capacity(count);
    for number in FIRST..FIRST + count as RawFd {
        let fd = take(number)?;
        sockets.push(Inherited { name: names.next().unwrap_or_default().to_owned(), fd });
    }
    Ok(sockets)
}

/// How many descriptors were passed to the process `own`.
fn announced(for_whom: &str, count: &str, own: u32) -> io::Result<usize> {
    if for_whom.is_empty() || count.is_empty() || for_whom.parse() != Ok(own) {
        return Ok(0);
    }
    count.parse().ok().filter(|&count| count <= MOST).ok_or_else(|| {
        let message = format!("LISTEN_FDS is {count:?}, and not a number of descriptors");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: nothing is done with the number but to ask whether it is open.
    let open = unsafe { syscall!(fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC)) };
    open.map_err(|error| {
        let message = format!("LISTEN_FDS announces descriptor {number}, which is not open: {error}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    // SAFETY: it is open, as the call above has shown; by the protocol it is ours, and `TAKEN` lets nobody
    // take it twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_to_another_process_is_not_ours() {
        assert_eq!(announced("", "", 7).unwrap(), 0);
        assert_eq!(announced("8", "2", 7).unwrap(), 0);
        assert_eq!(announced("self", "2", 7).unwrap(), 0);
        assert_eq!(announced("7", "2", 7).unwrap(), 2);
        assert_eq!(announced("7", "0", 7).unwrap(), 0);
    }

    #[test]
    fn a_number_that_is_none_is_named() {
        for wrong in ["two", "-1", "9999999999"] {
            let error = announced("7", wrong, 7).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_named() {
        let error = take(1_000_000).unwrap_err().to_string();
        assert!(error.contains("descriptor 1000000"), "{error}");
    }
}
