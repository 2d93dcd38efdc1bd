//! A socket that left its server.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use kolk_engine::buffer::Lease;
use kolk_engine::driver::Socket;

/// What [`Action::Detach`](super::Action::Detach) took out of the server, for
/// [`Handler::on_detach`](super::Handler::on_detach).
///
/// The socket is non-blocking, as the server used it: call `set_nonblocking(false)` to go on with blocking calls.
#[derive(Debug)]
pub struct Detached {
    socket: Socket,
    unread: Lease,
}

impl Detached {
    pub(super) fn new(socket: Socket, mut unread: Lease) -> Self {
        unread.make_private();
        Self { socket, unread }
    }

    /// Bytes that arrived and that the handler has not consumed; they come before what the socket gives.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// The socket as a TCP stream.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a connection of the simulated kernel, which has no descriptor.
    pub fn into_tcp_stream(self) -> io::Result<TcpStream> {
        self.into_fd().map(TcpStream::from)
    }

    /// The socket as a Unix stream.
    ///
    /// # Errors
    ///
    /// As [`into_tcp_stream`](Self::into_tcp_stream).
    pub fn into_unix_stream(self) -> io::Result<UnixStream> {
        self.into_fd().map(UnixStream::from)
    }

    /// The socket's descriptor.
    ///
    /// # Errors
    ///
    /// As [`into_tcp_stream`](Self::into_tcp_stream).
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self.socket {
            Socket::Descriptor(fd) => Ok(fd),
            Socket::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
