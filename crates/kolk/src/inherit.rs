//! Listening sockets that somebody else has bound: a service manager, or the process that this one replaces.
//!
//! A server that is replaced must not close its listeners before its successor has them: whoever connects in
//! between is refused, and whoever waited to be accepted is reset. So the successor gets the very same
//! sockets, and the kernel's queue of waiting connections with them.
//!
//! ```text
//!  predecessor ── ServerHandle::hand_over ──► UnixStream ──► receive ── Builder::inherit ──► successor
//!  systemd ────── LISTEN_FDS, LISTEN_PID ───────────► from_environment ──┘
//! ```
//!
//! # Examples
//!
//! A server that runs by itself, and under a service manager on the sockets that it passes:
//!
//! ```no_run
//! use kolk::inherit;
//! # use kolk::server::{Action, Conn, Handler, Input, Server};
//! # struct Echo;
//! # impl Handler for Echo {
//! #     type Session = ();
//! #     fn on_open(&mut self, _: &mut Conn<'_>) {}
//! #     fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action { Action::Close }
//! # }
//!
//! let mut server = Server::builder();
//! let passed = inherit::from_environment()?;
//! if passed.is_empty() {
//!     server = server.listen("tcp://:7000");
//! }
//! server.inherit(passed).run(|_loop| Echo)?;
//! # Ok::<(), kolk::Error>(())
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use kolk_engine::driver::Socket;
use kolk_engine::socket;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::error::{Error, Result};
use crate::watcher::IntoSocket;

/// Sockets in one message: the kernel takes at most 253 (`SCM_MAX_FD`, unix(7)).
const SOCKETS_PER_MESSAGE: usize = 64;

/// Most sockets that are passed: the listeners of a server with many loops and addresses. More are a mistake,
/// or an attack.
const SOCKETS_MAX: usize = 1 << 16;

/// A bound socket of somebody else: a listener, or a datagram socket.
#[derive(Debug)]
pub struct Inherited {
    name: String,
    pub(crate) socket: Socket,
    /// The socket's file is to be removed when the server has stopped.
    pub(crate) owns_path: bool,
}

impl Inherited {
    /// A socket that the program has bound itself.
    pub fn new(socket: impl IntoSocket) -> Self {
        Self { name: String::new(), socket: socket.into_socket(), owns_path: false }
    }

    /// What the service manager calls it (`FileDescriptorName=`, systemd.socket(5)); empty if it has no name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The sockets that a service manager has started this process with, by the protocol of sd_listen_fds(3): the
/// environment variables `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`.
///
/// Empty where nothing was passed, or it was passed to another process; and empty the second time, because the
/// sockets have one owner. Any thread may call it.
///
/// # Errors
///
/// `LISTEN_FDS` is no number, or announces a descriptor that is not open.
pub fn from_environment() -> Result<Vec<Inherited>> {
    let passed = socket::inherited()
        .map_err(|error| Error::io("cannot take over the sockets that were passed", error, ""))?;
    let inherited = |passed: socket::Inherited| Inherited {
        name: passed.name,
        socket: Socket::from(passed.fd),
        owns_path: false,
    };
    Ok(passed.into_iter().map(inherited).collect())
}

/// Receives the sockets that the peer sends with [`send`], or a server with
/// [`ServerHandle::hand_over`](crate::server::ServerHandle::hand_over). Blocks until all are there; set a read
/// timeout on the stream where the peer is not to be trusted to be quick.
///
/// Whoever can write to the stream decides what this process serves: keep the path of its listener in a
/// directory that only the right user may enter.
///
/// # Errors
///
/// The peer sends something else, or ends before all are there; too few descriptors.
pub fn receive(from: &UnixStream) -> Result<Vec<Inherited>> {
    let failed = |error| Error::io("cannot receive sockets", error, "");
    let count = receive_count(from).map_err(failed)?;
    let mut sockets = Vec::new();
    while sockets.len() < count {
        receive_some(from, &mut sockets).map_err(failed)?;
    }
    let inherited = |fd| Inherited { name: String::new(), socket: Socket::Descriptor(fd), owns_path: true };
    Ok(sockets.into_iter().map(inherited).collect())
}

/// Sends bound sockets to the peer, which has them from [`receive`]; both processes have them then. Blocks until
/// they are sent.
///
/// # Errors
///
/// What sendmsg(2) says; [`is_invalid_input`](Error::is_invalid_input) for more than 65 536.
///
/// # Examples
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::os::unix::net::UnixStream;
///
/// use kolk::inherit;
///
/// let (old, new) = UnixStream::pair()?;
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// inherit::send(&old, [&listener])?;
///
/// let mut passed = inherit::receive(&new)?;
/// assert_eq!(passed.len(), 1);
/// # Ok::<(), kolk::Error>(())
/// ```
pub fn send<S: AsFd>(to: &UnixStream, sockets: impl IntoIterator<Item = S>) -> Result<()> {
    let sockets: Vec<S> = sockets.into_iter().collect();
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    if fds.len() > SOCKETS_MAX {
        let count = fds.len();
        return Err(Error::invalid(format!("{count} sockets are too many to send: at most {SOCKETS_MAX}")));
    }
    send_all(to, &fds).map_err(|error| Error::io("cannot send sockets", error, ""))
}

/// First their number, then the sockets, each message with one byte of its own: without any byte the kernel sends
/// nothing.
fn send_all(to: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    io::Write::write_all(&mut &*to, &(fds.len() as u32).to_le_bytes())?;
    for some in fds.chunks(SOCKETS_PER_MESSAGE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(some));
        debug_assert!(fits, "the space is for as many");
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| sendmsg(to, &[IoSlice::new(&[0])], &mut control, flags))?;
    }
    Ok(())
}

fn receive_count(from: &UnixStream) -> io::Result<usize> {
    let mut count = [0; 4];
    io::Read::read_exact(&mut &*from, &mut count)?;
    match u32::from_le_bytes(count) as usize {
        count if count <= SOCKETS_MAX => Ok(count),
        count => {
            let message = format!("the peer announces {count} sockets, which is no number that we send");
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

/// One message with sockets.
fn receive_some(from: &UnixStream, sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    let before = sockets.len();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            sockets.extend(fds);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        let message = "not all sockets fit the descriptor table: raise `ulimit -n`";
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
    }
    if sockets.len() == before {
        let message = "the peer ended, or sent something else, before all sockets were there";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn local_address(inherited: &Inherited) -> String {
        inherited.socket.local_address().expect("bound").to_string()
    }

    #[test]
    fn r26_sockets_pass_through_a_unix_socket() {
        let (old, new) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets: Vec<_> = (0..150).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> =
            sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
        let mut waiting = TcpStream::connect(address).unwrap();
        send(&old, [&listener]).unwrap();
        send(&old, &sockets).unwrap();
        drop((listener, sockets));
        let mut passed = receive(&new).unwrap();
        assert_eq!(local_address(&passed[0]), address.to_string());
        let passed_sockets = receive(&new).unwrap();
        assert_eq!(passed_sockets.iter().map(local_address).collect::<Vec<_>>(), addresses);
        // Who waited to be accepted still does.
        let Socket::Descriptor(fd) = passed.remove(0).socket else { panic!("a real one") };
        let mut accepted = TcpListener::from(fd).accept().unwrap().0;
        waiting.write_all(b"still here").unwrap();
        drop(waiting);
        let mut text = String::new();
        io::Read::read_to_string(&mut accepted, &mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[test]
    fn r26_a_peer_that_sends_something_else_is_an_error() {
        let (mut old, new) = UnixStream::pair().unwrap();
        old.write_all(&[255; 4]).unwrap();
        let error = receive(&new).unwrap_err().to_string();
        assert!(error.contains("4294967295 sockets"), "{error}");
        old.write_all(&[2, 0, 0, 0, 1]).unwrap();
        let error = receive(&new).unwrap_err().to_string();
        assert!(error.contains("before all sockets were there"), "{error}");
        drop(old);
        assert!(receive(&new).unwrap_err().is_unexpected_eof());
    }
}
