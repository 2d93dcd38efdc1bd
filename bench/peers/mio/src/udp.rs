//! Datagrams go back one by one: mio has no calls for several.

use std::io::ErrorKind;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Events, Poll, Token};
use peer_common::{DATAGRAM_BUFFER, Result, announce};

use crate::net::{BOTH, EVENTS};

/// Binds and serves for ever.
pub(crate) fn run(address: SocketAddr) -> Result {
    let mut poll = Poll::new()?;
    let mut socket = UdpSocket::from_std(peer_common::udp(address)?);
    poll.registry().register(&mut socket, Token(0), BOTH)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut echo = Echo {
        socket,
        buffer: vec![0; DATAGRAM_BUFFER].into(),
        waiting: None,
    };
    announce()?;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
            Ok(()) => echo.echo(),
        }
    }
}

struct Echo {
    socket: UdpSocket,
    buffer: Box<[u8]>,
    /// A datagram in `buffer` for which the socket had no room: its length and receiver.
    waiting: Option<(usize, SocketAddr)>,
}

impl Echo {
    /// Until there is nothing to receive, or no room to send.
    fn echo(&mut self) {
        loop {
            if let Some((len, to)) = self.waiting {
                match self.socket.send_to(&self.buffer[..len], to) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    // A datagram that cannot be sent is lost, as on the way.
                    _ => self.waiting = None,
                }
            }
            match self.socket.recv_from(&mut self.buffer) {
                Ok(received) => self.waiting = Some(received),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier datagram, or a signal.
                Err(_) => {}
            }
        }
    }
}
