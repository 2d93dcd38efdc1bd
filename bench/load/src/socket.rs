//! Stream sockets, as the loads need them.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use harness::Result;
use harness::address::Address;
use nix::sys::socket::{setsockopt, sockopt as nix_option};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::PATIENCE;

/// Source addresses that take turns: each has its own ports, and a port that was closed a moment ago is
/// not used again at once.
const SOURCES: u64 = 8;

/// A socket that blocks, but not for ever, and is connected.
pub(crate) fn connect(address: &Address) -> Result<OwnedFd> {
    let socket = open(address, SocketFlags::CLOEXEC).and_then(|socket| {
        for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
        }
        connect_to(&socket, address)?;
        Ok(socket)
    });
    socket.map_err(|error| format!("cannot connect to {address}: {error}").into())
}

/// A socket that does not block, on its way to being connected: connection number `number`.
pub(crate) fn start_connecting(address: &Address, number: u64) -> rustix::io::Result<OwnedFd> {
    let socket = open(address, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    if let Address::Ip(SocketAddr::V4(to)) = address
        && to.ip().is_loopback()
    {
        // The port is chosen when the destination is known, so it may serve several of them.
        setsockopt(&socket, nix_option::IpBindAddressNoPort, &true)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8);
        net::bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match connect_to(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn open(address: &Address, flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        Address::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    if matches!(address, Address::Ip(_)) {
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    Ok(socket)
}

fn connect_to(socket: &OwnedFd, address: &Address) -> rustix::io::Result<()> {
    match address {
        Address::Ip(address) => net::connect(socket, address),
        Address::Unix(path) => net::connect(socket, &SocketAddrUnix::new(path)?),
    }
}

/// Sends all of it on a socket that blocks.
pub(crate) fn send_all(socket: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let sent = net::send(&socket, bytes, SendFlags::NOSIGNAL)
            .map_err(|error| failed("send", error))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Receives as many bytes as `expected` has, on a socket that blocks, and compares them.
pub(crate) fn expect(socket: impl AsFd, expected: &[u8]) -> Result<()> {
    let mut received = vec![0; expected.len()];
    let mut filled = 0;
    while filled < received.len() {
        match net::recv(&socket, &mut received[filled..], RecvFlags::empty()) {
            Ok((0, _)) => return Err("the server closed the connection".into()),
            Ok((count, _)) => filled += count,
            Err(error) => return Err(failed("receive", error).into()),
        }
    }
    if received == expected {
        Ok(())
    } else {
        Err("other bytes came back than were sent".into())
    }
}

/// Waits for the end of the stream, on a socket that blocks.
pub(crate) fn expect_end(socket: impl AsFd) -> Result<()> {
    match net::recv(&socket, &mut [0; 1], RecvFlags::empty()) {
        Ok((0, _)) => Ok(()),
        Ok(_) => Err("bytes came where the end of the stream was expected".into()),
        Err(error) => Err(failed("receive the end of the stream", error).into()),
    }
}

/// Whether its calls wait.
pub(crate) fn set_blocking(socket: impl AsFd, blocking: bool) -> Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, !blocking)?)
}

/// What a call said, and what it means where that is a riddle.
pub(crate) fn failed(what: &str, error: Errno) -> String {
    match error {
        Errno::AGAIN => format!("cannot {what}: nothing moved for {}", seconds(PATIENCE)),
        error => format!("cannot {what}: {error}"),
    }
}

/// For messages.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
