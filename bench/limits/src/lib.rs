//! What both limit programs share and no measurement sees: arguments, the listener, the
//! processor, the stop signal. The loops themselves are in `bin/`, one file each.

pub mod buffers;
pub mod gather;
pub mod ring;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

/// Connections that may wait for `accept`: a load of 1000 opens them all at once.
const BACKLOG: libc::c_int = 4096;

/// How long the listener rests after `accept` ran out of descriptors or memory, in milliseconds.
pub const ACCEPT_PAUSE_MS: u32 = 100;

/// The arguments of both programs.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// TCP address to listen on; port 0 lets the kernel choose
    #[arg(long, value_name = "IP:PORT", required_unless_present = "unix")]
    listen: Option<SocketAddr>,
    /// Path of a Unix socket to listen on; removed at exit
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    unix: Option<PathBuf>,
    /// Processor to run on
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
}

/// A listening socket and the signals that end the program.
#[derive(Debug)]
pub struct Service {
    /// Blocking, with `TCP_NODELAY` for the connections that it accepts.
    pub listener: OwnedFd,
    /// A signalfd that becomes readable at SIGTERM or SIGINT.
    pub stop: OwnedFd,
    address: String,
    path: Option<PathBuf>,
}

impl Service {
    /// Pins the calling thread and opens the listener.
    ///
    /// # Errors
    ///
    /// Says what was tried and on which address.
    pub fn open(options: &Options) -> io::Result<Self> {
        if let Some(cpu) = options.cpu {
            pin(cpu).map_err(|error| context(&format!("cannot run on processor {cpu}"), error))?;
        }
        raise_descriptor_limit();
        let (listener, address) = match (&options.listen, &options.unix) {
            (Some(address), _) => listen_tcp(*address)
                .map_err(|error| context(&format!("cannot listen on {address}"), error))?,
            (None, Some(path)) => {
                let listener = UnixListener::bind(path).map_err(|error| {
                    context(&format!("cannot listen on {}", path.display()), error)
                })?;
                (OwnedFd::from(listener), path.display().to_string())
            }
            (None, None) => unreachable!("clap asks for one of --listen and --unix"),
        };
        let service = Self {
            listener,
            stop: stop_signals()?,
            address,
            path: options.unix.clone(),
        };
        // SAFETY: `listen` takes no pointer; on a listening socket it only changes the backlog.
        check(unsafe { libc::listen(service.listener.as_raw_fd(), BACKLOG) })?;
        Ok(service)
    }

    /// Whether the listener is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.path.is_some()
    }

    /// Tells whoever started the program that clients may connect.
    ///
    /// # Errors
    ///
    /// Those of writing to standard output.
    pub fn announce(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "listening on {}", self.address)?;
        out.flush()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: at worst the next start says that the path is in use.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Turns the outcome of a program into its exit status.
pub fn finish(program: &str, outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes an error say what was tried.
pub fn context(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The result of a system call: -1 becomes the error in `errno`.
///
/// # Errors
///
/// Whatever `errno` holds.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Closes a descriptor that the kernel gave to a loop.
pub fn close(fd: RawFd) {
    // SAFETY: both loops call this once for a connection, when nothing refers to it any more.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn listen_tcp(address: SocketAddr) -> io::Result<(OwnedFd, String)> {
    // The standard library sets SO_REUSEADDR.
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?.to_string();
    let on: libc::c_int = 1;
    // Accepted sockets inherit the option: no system call for each of them.
    // SAFETY: `on` is a c_int that outlives the call, and its size is what is passed.
    check(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    })?;
    Ok((OwnedFd::from(listener), address))
}

fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a cpu_set_t of zeros is a valid empty set, `cpu` was checked to be inside it, and
    // the set outlives the call that reads it.
    check(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    })
    .map(drop)
}

/// Lifts the soft limit of descriptors to the hard one; a refusal only means fewer connections.
fn raise_descriptor_limit() {
    // SAFETY: `limit` is a valid rlimit that outlives both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Blocks SIGTERM and SIGINT and returns a descriptor that becomes readable instead.
fn stop_signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before it is used and outlives the calls; the
    // descriptor of a successful signalfd belongs to nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
