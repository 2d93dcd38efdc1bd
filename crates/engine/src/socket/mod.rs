//! Sockets of the operating system: making them, their addresses, their options.

mod address;
mod inherit;
mod multicast;
mod options;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{SockRef, Type};

use crate::sys::syscall;

pub use address::{Address, UNIX_PATH_MAX, interface_index};
pub use inherit::{Inherited, inherited};
pub use multicast::{join_multicast, leave_multicast};
pub use options::{Keepalive, SocketOptions};

/// Options of a socket that is bound: a listener, or a datagram socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel clamps it to `net.core.somaxconn`.
    pub backlog: i32,
    /// Bind an address although others have it (`SO_REUSEADDR`, socket(7)); `None` is yes for a listener, for
    /// which they are connections that linger there, and no for a datagram socket, for which they are
    /// others that say the same, as receivers of a multicast group do.
    pub reuse_address: Option<bool>,
    /// Let several sockets share one address, the kernel spreading connections or datagrams over them
    /// (`SO_REUSEPORT`, socket(7)). TCP and UDP only.
    pub reuse_port: bool,
    /// Accept IPv6 only on an IPv6 address (`IPV6_V6ONLY`, ipv6(7)); `None` leaves the system's choice.
    pub only_v6: Option<bool>,
    /// Connections whose first bytes may come with the SYN (`TCP_FASTOPEN`, tcp(7)): as many as may be in
    /// the handshake at one time; `None`: that is not allowed.
    pub fast_open: Option<u32>,
    /// Wait for a connection's first bytes, at most this long, before it is accepted (`TCP_DEFER_ACCEPT`,
    /// tcp(7)); whole seconds, rounded up.
    pub defer_accept: Option<Duration>,
    /// What accepted connections are to have: Linux passes on what the listener has.
    pub socket: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_address: None,
            reuse_port: false,
            only_v6: None,
            fast_open: None,
            defer_accept: None,
            socket: SocketOptions::default(),
        }
    }
}

/// A stream socket that listens on `address`.
///
/// # Errors
///
/// What socket(2), bind(2) and listen(2) say; for an option that the kernel refuses, its name.
pub fn listen(address: &Address, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Address::Inet(inet) = address {
        socket.set_reuse_address(options.reuse_address.unwrap_or(true))?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let (true, Some(only_v6)) = (inet.is_ipv6(), options.only_v6) {
            socket.set_only_v6(only_v6)?;
        }
        options.set_for_listener(&socket)?;
    }
    options.socket.apply(SockRef::from(&socket))?;
    socket.bind(&address.to_sock_addr()?)?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// A datagram socket bound to `address`.
///
/// # Errors
///
/// What socket(2) and bind(2) say; for an option that the kernel refuses, its name.
pub fn bind_datagram(address: &Address, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(address.domain(), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if let Address::Inet(inet) = address {
        socket.set_reuse_address(options.reuse_address.unwrap_or(false))?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let (true, Some(only_v6)) = (inet.is_ipv6(), options.only_v6) {
            socket.set_only_v6(only_v6)?;
        }
    }
    options.socket.apply(SockRef::from(&socket))?;
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

/// Sets the options of a connection that is about to be made, and binds it to the local address `from`.
pub(crate) fn prepare_connect(
    fd: BorrowedFd<'_>,
    from: Option<&Address>,
    options: &SocketOptions,
) -> io::Result<()> {
    options.set_for_connect(&fd)?;
    match from {
        Some(from) => SockRef::from(&fd).bind(&from.to_sock_addr()?),
        None => Ok(()),
    }
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

/// Whether the kernel cuts long datagrams of this socket apart (`UDP_SEGMENT`, udp(7)): UDP, from Linux 4.18.
pub fn knows_segmentation(fd: BorrowedFd<'_>) -> bool {
    let (mut size, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    let value = (&raw mut size).cast();
    // SAFETY: the option is one int, and `len` says so.
    unsafe { syscall!(getsockopt(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, &raw mut len)) }
        .is_ok()
}

/// Let the kernel join datagrams of one sender (`UDP_GRO`, udp(7)): UDP, from Linux 5.0. See
/// [`InDatagram::segment_size`](crate::op::InDatagram::segment_size).
///
/// # Errors
///
/// What setsockopt(2) says, such as `ENOPROTOOPT` of a socket or kernel that does not know it.
pub fn join_received(fd: BorrowedFd<'_>, join: bool) -> io::Result<()> {
    options::set_int(&fd, libc::SOL_UDP, libc::UDP_GRO, join.into())
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
