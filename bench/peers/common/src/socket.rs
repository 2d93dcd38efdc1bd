//! Sockets as every peer gets them, so that none has a longer queue or another option than the others.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::Address;

/// Connections that may wait for `accept`: a load of thousands opens them all at once.
const BACKLOG: i32 = 4096;

/// What the kernel is asked to keep of datagrams that arrive, as kolk asks by itself; it grants no more than
/// `net.core.rmem_max`.
const DATAGRAM_RECEIVE_BUFFER: usize = 4 << 20;

/// A listening socket. Non-blocking.
#[derive(Debug)]
pub enum Listener {
    /// Accepted connections inherit `TCP_NODELAY`.
    Tcp(TcpListener),
    /// Of a path.
    Unix(UnixListener),
}

/// Listens. A socket that an earlier peer left at a Unix path is replaced.
///
/// # Errors
///
/// Says on which address.
pub fn listen(address: &Address) -> io::Result<Listener> {
    bind_stream(address).map_err(|error| context(format!("cannot listen on {address}"), error))
}

/// A bound UDP socket. Non-blocking.
///
/// # Errors
///
/// Says on which address.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    bind_udp(address).map_err(|error| context(format!("cannot bind udp {address}"), error))
}

/// A stream socket that connects, or has connected: non-blocking, with `TCP_NODELAY`.
///
/// # Errors
///
/// Says to which address.
pub fn connect(address: &Address) -> io::Result<Socket> {
    begin(address).map_err(|error| context(format!("cannot connect to {address}"), error))
}

fn bind_stream(address: &Address) -> io::Result<Listener> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    match address {
        Address::Unix(path) => make_way(path)?,
        Address::Inet(_) => {
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit the option: no system call for each of them.
            socket.set_tcp_nodelay(true)?;
        }
    }
    socket.bind(&address.to_sock_addr()?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(match address {
        Address::Inet(_) => Listener::Tcp(socket.into()),
        Address::Unix(_) => Listener::Unix(socket.into()),
    })
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(DATAGRAM_RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn begin(address: &Address) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if matches!(address, Address::Inet(_)) {
        socket.set_tcp_nodelay(true)?;
    }
    match socket.connect(&address.to_sock_addr()?) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(socket),
    }
}

/// Gives a listening TCP socket that a peer had to bind by itself the queue and the option of the others.
///
/// # Errors
///
/// What the kernel says.
pub fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)
}

/// Gives a UDP socket that a peer had to bind by itself the receive buffer of the others.
///
/// # Errors
///
/// What the kernel says.
pub fn enlarge(socket: &UdpSocket) -> io::Result<()> {
    SockRef::from(socket).set_recv_buffer_size(DATAGRAM_RECEIVE_BUFFER)
}

/// Removes a socket that an earlier peer left, and nothing else, from the path.
///
/// # Errors
///
/// It cannot be removed.
pub fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()),
    }
}

fn context(what: String, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
