//! Sockets on their way into the watcher, and out of it again.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use kolk_engine::buffer::Lease;
use kolk_engine::driver::{SimSocket, Socket};
use kolk_engine::op::Interest;
use socket2::{SockRef, Type};

use crate::error::{Error, Result};

/// What a watcher can adopt: any socket of the standard library, or a descriptor of whatever kind that can be
/// waited for.
pub trait IntoSocket {
    /// Gives the descriptor away.
    fn into_socket(self) -> Socket;
}

macro_rules! into_socket {
    ($($type:ty),+ $(,)?) => {
        $(impl IntoSocket for $type {
            fn into_socket(self) -> Socket {
                OwnedFd::from(self).into()
            }
        })+
    };
}

into_socket!(
    TcpStream,
    TcpListener,
    UdpSocket,
    UnixStream,
    UnixListener,
    UnixDatagram,
    OwnedFd,
    socket2::Socket
);

impl IntoSocket for Socket {
    fn into_socket(self) -> Socket {
        self
    }
}

/// For tests on the simulated kernel.
impl IntoSocket for SimSocket {
    fn into_socket(self) -> Socket {
        self.into()
    }
}

/// A socket that left its watcher, by [`Watcher::detach`](super::Watcher::detach).
#[derive(Debug)]
pub struct Detached<S> {
    /// The socket, in the form that was asked for.
    pub socket: S,
    /// Bytes that were received and that no read has asked for: those behind the delimiter of the last
    /// [`read_until`](super::Watcher::read_until).
    pub unread: Lease,
}

/// What a descriptor is, and so what can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Datagram,
    Listener,
    /// No socket: it can be watched only.
    Plain,
    /// Simulated: whatever it is asked for.
    Any,
}

impl Kind {
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Any)
    }

    pub(super) fn is_datagram(self) -> bool {
        matches!(self, Self::Datagram | Self::Any)
    }

    pub(super) fn is_listener(self) -> bool {
        matches!(self, Self::Listener | Self::Any)
    }

    /// For an error message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stream => "a stream",
            Self::Datagram => "a datagram socket",
            Self::Listener => "a listener",
            Self::Plain => "no socket",
            Self::Any => "a simulated socket",
        }
    }
}

/// What the kernel says a socket is, and the socket.
///
/// # Errors
///
/// A descriptor that is closed, or that is always ready and so cannot be waited for: a file or a directory.
pub(super) fn identify(socket: Socket) -> Result<(Socket, Kind)> {
    let Socket::Descriptor(fd) = socket else { return Ok((socket, Kind::Any)) };
    match kind_of(&fd) {
        Ok(kind) => Ok((fd.into(), kind)),
        Err(error) if is_closed(&error) => {
            // Nothing is left to close, and closing it again could hit a stranger.
            let _ = fd.into_raw_fd();
            Err(Error::io("cannot adopt a descriptor", error, "it was closed before"))
        }
        Err(error) => Err(Error::io("cannot adopt a descriptor", error, "")),
    }
}

/// As [`identify`], all or none.
pub(super) fn identify_all<S: IntoSocket, T>(
    sockets: impl IntoIterator<Item = (S, Interest, T)>,
) -> Result<Vec<(Socket, Kind, Interest, T)>> {
    let identified = sockets.into_iter().map(|(socket, interest, context)| {
        let (socket, kind) = identify(socket.into_socket())?;
        Ok((socket, kind, interest, context))
    });
    identified.collect()
}

fn kind_of(fd: &OwnedFd) -> io::Result<Kind> {
    let socket = SockRef::from(fd);
    match socket.r#type() {
        Ok(Type::STREAM | Type::SEQPACKET) if socket.is_listener()? => Ok(Kind::Listener),
        Ok(Type::STREAM) => Ok(Kind::Stream),
        Ok(Type::DGRAM) => Ok(Kind::Datagram),
        Ok(kind) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("it is a socket of type {}, neither stream nor datagram", i32::from(kind)),
        )),
        Err(error) if is_closed(&error) => Err(error),
        Err(_) => plain_kind(fd),
    }
}

fn plain_kind(fd: &OwnedFd) -> io::Result<Kind> {
    let metadata = File::from(fd.as_fd().try_clone_to_owned()?).metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        let message = "a regular file or directory is always ready and cannot be watched: read it as a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(Kind::Plain)
}

/// `EBADF` of errno(3).
fn is_closed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error())
}
