//! What inherited sockets are, and which of them belong together.

use std::io;

use kolk_engine::driver::Socket;
use kolk_engine::socket::Address;
use socket2::{SockRef, Type};

use crate::address::{AddressOptions, ListenAddress, Scheme};
use crate::error::{Error, Result};
use crate::inherit::Inherited;

/// Sockets of one address: those of a predecessor's loops share a port, and each has connections waiting.
pub(super) struct Group {
    pub(super) address: ListenAddress,
    /// At least one.
    pub(super) sockets: Vec<Socket>,
    pub(super) owns_path: bool,
}

/// In the order in which their first sockets were given.
pub(super) struct Groups(Vec<Group>);

impl Groups {
    /// # Errors
    ///
    /// A socket on which nobody can be served.
    pub(super) fn of(sockets: Vec<Inherited>) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        for Inherited { socket, owns_path, .. } in sockets {
            let address = identify(&socket)
                .map_err(|error| Error::io("cannot serve an inherited socket", error, ""))?;
            let known = |group: &&mut Group| {
                (group.address.scheme, &group.address.address) == (address.scheme, &address.address)
            };
            match groups.iter_mut().find(known) {
                Some(group) => group.sockets.push(socket),
                None => groups.push(Group { address, sockets: vec![socket], owns_path }),
            }
        }
        Ok(Self(groups))
    }

    /// Those of an address that is to be listened on, which then need not be bound.
    pub(super) fn take(&mut self, asked: &ListenAddress) -> Option<Group> {
        let same = |group: &Group| {
            group.address.address == asked.address
                && group.address.scheme.is_datagram() == asked.scheme.is_datagram()
        };
        let mut group = self.0.remove(self.0.iter().position(same)?);
        group.address = asked.clone();
        Some(group)
    }

    /// Those that no address has asked for.
    pub(super) fn rest(self) -> Vec<Group> {
        self.0
    }
}

fn identify(socket: &Socket) -> io::Result<ListenAddress> {
    let address = socket.local_address()?;
    let is_datagram = match socket.as_fd() {
        None => false,
        Some(fd) => match SockRef::from(&fd).r#type()? {
            Type::DGRAM => true,
            Type::STREAM if SockRef::from(&fd).is_listener()? => false,
            _ => {
                let message = format!("the socket at {address} neither listens nor takes datagrams");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        },
    };
    let scheme = match (&address, is_datagram) {
        (Address::Inet(_), false) => Scheme::Tcp,
        (Address::Inet(_), true) => Scheme::Udp,
        (_, false) => Scheme::Unix,
        (_, true) => Scheme::Unixgram,
    };
    Ok(ListenAddress { scheme, address, options: AddressOptions::default() })
}
