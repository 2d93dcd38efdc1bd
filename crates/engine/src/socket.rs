//! Sockets of the operating system: making them, their addresses, their options.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Type};

use crate::sys::syscall;

/// Where a socket is bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Inet(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
    /// A name in Linux's abstract namespace, without its leading zero byte.
    Abstract(Box<[u8]>),
    /// A Unix socket that was never bound.
    Unnamed,
}

impl Address {
    /// The IP address and port, unless it is a Unix address.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }

    fn domain(&self) -> Domain {
        match self {
            Self::Inet(address) => Domain::for_address(*address),
            _ => Domain::UNIX,
        }
    }

    /// The kernel's form of the address.
    pub(crate) fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Inet(address) => Ok((*address).into()),
            Self::Unix(path) => unix_sock_addr(path),
            Self::Abstract(name) => {
                let mut bytes = vec![0];
                bytes.extend_from_slice(name);
                SockAddr::unix(OsStr::from_bytes(&bytes))
            }
            Self::Unnamed => Err(io::Error::new(io::ErrorKind::InvalidInput, "the address has no name")),
        }
    }

    pub(crate) fn from_sock_addr(address: &SockAddr) -> Self {
        if let Some(inet) = address.as_socket() {
            Self::Inet(inet)
        } else if let Some(path) = address.as_pathname() {
            Self::Unix(path.to_owned())
        } else if let Some(name) = address.as_abstract_namespace() {
            Self::Abstract(name.into())
        } else {
            Self::Unnamed
        }
    }
}

fn unix_sock_addr(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| {
        let len = path.as_os_str().len();
        let message =
            format!("the path has {len} bytes; a Unix socket address takes at most {UNIX_PATH_MAX}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Longest path of a Unix socket in bytes: `sun_path` less its closing zero, unix(7).
pub const UNIX_PATH_MAX: usize = 107;

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Self::Unnamed => f.write_str("(unnamed)"),
        }
    }
}

/// Options of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel clamps it to `net.core.somaxconn`.
    pub backlog: i32,
    /// Let several listeners share one address, the kernel spreading connections over them
    /// (`SO_REUSEPORT`, socket(7)). TCP and UDP only.
    pub reuse_port: bool,
    /// Accept IPv6 only on an IPv6 address (`IPV6_V6ONLY`, ipv6(7)); `None` leaves the system's choice.
    pub only_v6: Option<bool>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, reuse_port: false, only_v6: None }
    }
}

/// A stream socket that listens on `address`.
///
/// # Errors
///
/// What socket(2), bind(2) and listen(2) say.
pub fn listen(address: &Address, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Address::Inet(inet) = address {
        socket.set_reuse_address(true)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let (true, Some(only_v6)) = (inet.is_ipv6(), options.only_v6) {
            socket.set_only_v6(only_v6)?;
        }
    }
    socket.bind(&address.to_sock_addr()?)?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// A datagram socket bound to `address`.
///
/// # Errors
///
/// What socket(2) and bind(2) say.
pub fn bind_datagram(address: &Address, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(address.domain(), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if reuse_port && matches!(address, Address::Inet(_)) {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.to_sock_addr()?)?;
    Ok(socket.into())
}

/// An unconnected stream socket of the kind that can connect to `address`.
///
/// # Errors
///
/// What socket(2) says, such as a full descriptor table.
pub fn stream_for(address: &Address) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The address `fd` is bound to, getsockname(2).
///
/// # Errors
///
/// What the system call says.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).local_addr().map(|address| Address::from_sock_addr(&address))
}

/// The address `fd` is connected to, getpeername(2).
///
/// # Errors
///
/// What the system call says; `NotConnected` when the peer has gone.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).peer_addr().map(|address| Address::from_sock_addr(&address))
}

/// Send small segments at once (`TCP_NODELAY`, tcp(7)). No effect on a socket that is not TCP.
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    match SockRef::from(&fd).set_tcp_nodelay(on) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Make the close of `fd` reset the connection (`SO_LINGER` of zero seconds, socket(7)).
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// Whether `fd` listens for connections (`SO_ACCEPTCONN`, socket(7)).
///
/// # Errors
///
/// `ENOTSOCK` when it is no socket.
pub fn is_listener(fd: BorrowedFd<'_>) -> io::Result<bool> {
    SockRef::from(&fd).is_listener()
}

/// Whether accept(2) failed only because the waiting connection was lost: the next one may do better
/// at once, as that page advises for these errors.
pub(crate) fn is_lost_in_accept(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// Bytes of a stream that the peer's kernel has not acknowledged, `SIOCOUTQ` of tcp(7) and unix(7).
pub(crate) fn unsent(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request, also known as TIOCOUTQ, writes one int.
    unsafe { syscall!(ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count)) }?;
    Ok(count.max(0) as usize)
}

/// End our direction of a stream, shutdown(2). A peer that has gone already is no error.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// The number of a network interface, if_nametoindex(3); `None` if there is none of that name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a string that ends in a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
