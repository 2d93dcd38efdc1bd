//! Datagram sockets: messages with addresses, no promise of delivery.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::world::{Endpoint, Event, Kind, SocketId, World, errno};
use crate::clock::Timestamp;
use crate::op::Interest;
use crate::socket::Address;

/// Longest payload of a UDP datagram over IPv4: 65 535 bytes less the IP and UDP headers.
const DATAGRAM_MAX: usize = 65_507;

/// A datagram socket.
#[derive(Debug)]
pub(super) struct DatagramEnd {
    /// Arrived and not yet received. Their number is bounded by `SimConfig::datagram_queue`.
    pub(super) queue: VecDeque<Message>,
    /// Only peer, after a connect.
    remote: Option<Address>,
    /// No datagram overtakes another on its way to the same socket.
    last_arrival: Timestamp,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) from: Address,
    pub(super) bytes: Bytes,
}

impl World {
    pub(super) fn bind_datagrams(&mut self, address: &Address) -> SocketId {
        let address = self.bind(address);
        let end = DatagramEnd { queue: VecDeque::new(), remote: None, last_arrival: self.now() };
        let id = self.insert(address.clone(), Kind::Datagram(end));
        if address != Address::Unnamed {
            let before = self.datagrams.insert(address, id);
            assert!(before.is_none(), "a datagram socket is bound to this address already");
        }
        id
    }

    /// Sets the only peer; `false` if this is no datagram socket.
    pub(super) fn connect_datagrams(&mut self, id: SocketId, address: &Address) -> bool {
        match self.datagram_mut(id) {
            Ok(end) => {
                end.remote = Some(address.clone());
                true
            }
            Err(_) => false,
        }
    }

    /// Sends one datagram, sendto(2). It is lost if nobody has the address.
    pub(super) fn send_to(&mut self, id: SocketId, to: Option<&Address>, bytes: &Bytes) -> io::Result<()> {
        let end = self.datagram_mut(id)?;
        let to = to.cloned().or_else(|| end.remote.clone()).ok_or_else(|| errno(libc::EDESTADDRREQ))?;
        if bytes.len() > DATAGRAM_MAX {
            return Err(errno(libc::EMSGSIZE));
        }
        let from = self.endpoint(id).map_or(Address::Unnamed, |endpoint| endpoint.local.clone());
        let lost = self.random.chance(self.config.datagram_loss);
        let receiver = self.datagrams.get(&to).copied().filter(|_| !lost);
        if let Some(receiver) = receiver {
            self.dispatch(receiver, Message { from, bytes: bytes.clone() });
        }
        Ok(())
    }

    fn dispatch(&mut self, receiver: SocketId, message: Message) {
        let at = self.arrival();
        let Ok(end) = self.datagram_mut(receiver) else {
            return;
        };
        end.last_arrival = end.last_arrival.max(at);
        let at = end.last_arrival;
        self.schedule(at, Event::Deliver(receiver, message));
    }

    /// A datagram arrives; a full queue or a socket that is connected elsewhere drops it.
    pub(super) fn deliver(&mut self, id: SocketId, message: Message) {
        let room = self.config.datagram_queue;
        let Ok(end) = self.datagram_mut(id) else {
            return;
        };
        let wanted = end.remote.as_ref().is_none_or(|remote| *remote == message.from);
        if wanted && end.queue.len() < room {
            end.queue.push_back(message);
            self.notify(id, Interest::READABLE);
        }
    }

    /// Takes the next datagram, recvfrom(2).
    pub(super) fn receive_from(&mut self, id: SocketId) -> io::Result<Message> {
        self.datagram_mut(id)?.queue.pop_front().ok_or_else(|| errno(libc::EAGAIN))
    }

    /// Bytes of the next datagram.
    pub(super) fn next_datagram(&mut self, id: SocketId) -> Option<usize> {
        self.datagram_mut(id).ok()?.queue.front().map(|message| message.bytes.len())
    }

    fn datagram_mut(&mut self, id: SocketId) -> io::Result<&mut DatagramEnd> {
        match self.endpoint_mut(id) {
            Some(Endpoint { kind: Kind::Datagram(end), .. }) => Ok(end),
            _ => Err(errno(libc::EINVAL)),
        }
    }
}
