//! Groups of receivers: multicast of IPv4 and IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use socket2::{InterfaceIndexOrAddress, SockRef};

/// Receive what is sent to `group` as well (`IP_ADD_MEMBERSHIP`, ip(7); `IPV6_ADD_MEMBERSHIP`, ipv6(7)), on the
/// interface of this number; 0 leaves the choice to the kernel.
///
/// # Errors
///
/// What setsockopt(2) says; `InvalidInput` for an address that is no group.
pub fn join_multicast(fd: BorrowedFd<'_>, group: IpAddr, interface: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    match check(group)? {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &of_v4(interface)),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, interface),
    }
}

/// Do not receive what is sent to `group` any more.
///
/// # Errors
///
/// As [`join_multicast`]; `EADDRNOTAVAIL` if it was not joined there.
pub fn leave_multicast(fd: BorrowedFd<'_>, group: IpAddr, interface: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    match check(group)? {
        IpAddr::V4(group) => socket.leave_multicast_v4_n(&group, &of_v4(interface)),
        IpAddr::V6(group) => socket.leave_multicast_v6(&group, interface),
    }
}

fn check(group: IpAddr) -> io::Result<IpAddr> {
    if group.is_multicast() {
        return Ok(group);
    }
    let message = format!("{group} is no multicast group: use 224.0.0.0/4 or ff00::/8");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn of_v4(interface: u32) -> InterfaceIndexOrAddress {
    match interface {
        0 => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
        index => InterfaceIndexOrAddress::Index(index),
    }
}
