//! `limit-epoll`: the smallest honest echo server on epoll.
//!
//! One thread, one hot buffer. Edge-triggered: one `recv` and one `send` for a message, and
//! `epoll_wait` once for a batch of them. A connection whose peer does not read keeps the unsent
//! rest and is not read until that rest is gone.
//!
//! ```text
//! epoll_wait -> for each ready connection
//!                 flush the rest, if any      still a rest: wait for OUT
//!                 recv -> hot buffer -> send  short send: keep the rest, wait for OUT
//!                 until the socket is drained
//! ```

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use clap::Parser;
use limits::{ACCEPT_PAUSE_MS, Options, Service, check, close, finish};

/// Bytes of the hot buffer: large enough for a big message, small enough for the L2 cache.
const HOT_BUFFER: usize = 64 * 1024;

/// Events taken by one `epoll_wait`.
const EVENTS: usize = 512;

/// Connections accepted in one turn; the listener is level-triggered and reports the others again.
const ACCEPTS_A_TURN: usize = 256;

/// Full buffers that one connection may move in a turn before the others get theirs.
const READS_A_TURN: usize = 16;

/// Edge-triggered interest, registered once and never changed.
const INTEREST: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
const WRITABLE: u32 = libc::EPOLLOUT as u32;
const HANG_UP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// The smallest honest echo server on epoll.
#[derive(Parser)]
#[command(name = "limit-epoll")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    finish("limit-epoll", run(&arguments.options))
}

fn run(options: &Options) -> io::Result<()> {
    let service = Service::open(options)?;
    let mut echo = Echo::new(&service)?;
    service.announce()?;
    echo.run()
}

struct Echo {
    epoll: OwnedFd,
    listener: RawFd,
    stop: RawFd,
    /// The listener rests: descriptors ran out.
    accept_paused: bool,
    /// Shared by all connections; holds nothing between two events.
    hot: Box<[u8]>,
    /// Indexed by descriptor.
    rests: Vec<Rest>,
}

/// Received bytes that the peer's window had no room for. Empty almost always.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    /// 0 <= sent <= bytes.len(); equal only while `bytes` is empty.
    sent: usize,
}

/// What is left of a connection after an event.
enum After {
    Open,
    Closed,
}

impl Echo {
    fn new(service: &Service) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer, and a successful one returns a descriptor that
        // belongs to nobody else.
        let epoll =
            unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let echo = Self {
            epoll,
            listener: service.listener.as_raw_fd(),
            stop: service.stop.as_raw_fd(),
            accept_paused: false,
            hot: vec![0; HOT_BUFFER].into_boxed_slice(),
            rests: Vec::new(),
        };
        set_nonblocking(echo.listener)?;
        echo.control(libc::EPOLL_CTL_ADD, echo.listener, libc::EPOLLIN as u32)?;
        echo.control(libc::EPOLL_CTL_ADD, echo.stop, libc::EPOLLIN as u32)?;
        Ok(echo)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            let ready = self.wait(&mut events)?;
            for event in &events[..ready] {
                let fd = event.u64 as RawFd;
                if fd == self.listener {
                    self.accept()?;
                } else if fd == self.stop {
                    return Ok(());
                } else if !matches!(self.echo(fd, event.events), Ok(After::Open)) {
                    self.rests[fd as usize] = Rest::default();
                    close(fd);
                }
            }
        }
    }

    fn wait(&mut self, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        let pause = if self.accept_paused {
            ACCEPT_PAUSE_MS as libc::c_int
        } else {
            -1
        };
        // SAFETY: the pointer and the length are those of one live, writable slice.
        let ready = check(unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                pause,
            )
        });
        if self.accept_paused {
            self.accept_paused = false;
            self.control(libc::EPOLL_CTL_MOD, self.listener, libc::EPOLLIN as u32)?;
        }
        match ready {
            Ok(ready) => Ok(ready as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_A_TURN {
            // SAFETY: null pointers tell accept4 that the peer's address is not wanted.
            let accepted = check(unsafe {
                libc::accept4(
                    self.listener,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                )
            });
            match accepted {
                Ok(fd) => self.open(fd),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(()),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        self.accept_paused = true;
                        return self.control(libc::EPOLL_CTL_MOD, self.listener, 0);
                    }
                    // The connection died in the queue, or a signal came: the next one.
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn open(&mut self, fd: RawFd) {
        if self.rests.len() <= fd as usize {
            self.rests.resize_with(fd as usize + 1, Rest::default);
        }
        if self.control(libc::EPOLL_CTL_ADD, fd, INTEREST).is_err() {
            close(fd);
        }
    }

    /// Moves what can be moved. An error means that the connection is broken.
    fn echo(&mut self, fd: RawFd, events: u32) -> io::Result<After> {
        let rest = &mut self.rests[fd as usize];
        if !rest.bytes.is_empty() {
            if events & (WRITABLE | HANG_UP) == 0 || !rest.flush(fd)? {
                return Ok(After::Open);
            }
        } else if events & !WRITABLE == 0 {
            return Ok(After::Open);
        }
        for _ in 0..READS_A_TURN {
            let received = match receive(fd, &mut self.hot) {
                Ok(0) => return Ok(After::Closed),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(After::Open),
                Err(error) => return Err(error),
            };
            let sent = send(fd, &self.hot[..received])?;
            if sent < received {
                // The kernel marked the socket as out of space: an OUT edge will come.
                rest.bytes.extend_from_slice(&self.hot[sent..received]);
                return Ok(After::Open);
            }
            // A short receive drained the socket; what arrives later makes an edge of its own.
            // Only an end of stream that this event has already told would make none.
            if received < self.hot.len() && events & HANG_UP == 0 {
                return Ok(After::Open);
            }
        }
        // The turn is used up with bytes left: setting the interest again asks for another edge.
        self.control(libc::EPOLL_CTL_MOD, fd, INTEREST)?;
        Ok(After::Open)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: fd as u64,
        };
        // SAFETY: `event` is valid for the time of the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })
            .map(drop)
    }
}

impl Rest {
    /// Sends on; true once nothing is left.
    fn flush(&mut self, fd: RawFd) -> io::Result<bool> {
        self.sent += send(fd, &self.bytes[self.sent..])?;
        debug_assert!(self.sent <= self.bytes.len());
        if self.sent < self.bytes.len() {
            return Ok(false);
        }
        *self = Self::default();
        Ok(true)
    }
}

/// Receives once; a signal does not count as an answer.
fn receive(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of one live, writable slice.
        let received = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), 0) };
        if received >= 0 {
            return Ok(received as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends once; 0 when the socket has no room.
fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of one live slice.
        let sent =
            unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(0),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with these commands takes no pointer.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)).map(drop)
    }
}
