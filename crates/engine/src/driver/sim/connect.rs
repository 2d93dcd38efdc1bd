//! Listeners and connects.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::stream::Link;
use super::world::{Event, Kind, Route, SocketId, World, errno};
use crate::op::Interest;
use crate::socket::Address;

/// What an accept may fail with although nothing is wrong with the listener, accept(2).
const ACCEPT_ERRORS: [i32; 4] = [libc::ECONNABORTED, libc::EMFILE, libc::ENFILE, libc::ENOBUFS];

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// Connected and not yet accepted, oldest first. Their number is at most `limit`.
    pub(super) backlog: VecDeque<SocketId>,
    limit: usize,
}

impl World {
    /// A listener; several may share an address, as with `SO_REUSEPORT`.
    pub(super) fn listen(&mut self, address: &Address) -> SocketId {
        let address = self.bind(address);
        let listener = Listener { backlog: VecDeque::new(), limit: self.config.backlog };
        let id = self.insert(address.clone(), Kind::Listener(listener));
        self.listeners.entry(address).or_default().push(id);
        id
    }

    pub(super) fn close_listener(&mut self, id: SocketId, address: &Address, listener: Listener) {
        if let Some(sharing) = self.listeners.get_mut(address) {
            sharing.retain(|&other| other != id);
            if sharing.is_empty() {
                self.listeners.remove(address);
            }
        }
        for waiting in listener.backlog {
            self.abort(waiting);
        }
    }

    /// Takes a connection off the backlog, accept(2). An error does not cost one.
    pub(super) fn accept(&mut self, id: SocketId) -> io::Result<SocketId> {
        let pending = !self.listener_mut(id)?.backlog.is_empty();
        if pending && self.random.chance(self.config.accept_errors) {
            return Err(errno(ACCEPT_ERRORS[self.random.below(ACCEPT_ERRORS.len())]));
        }
        self.accept_unhindered(id)
    }

    pub(super) fn accept_unhindered(&mut self, id: SocketId) -> io::Result<SocketId> {
        self.listener_mut(id)?.backlog.pop_front().ok_or_else(|| errno(libc::EAGAIN))
    }

    fn listener_mut(&mut self, id: SocketId) -> io::Result<&mut Listener> {
        match self.endpoint_mut(id).map(|endpoint| &mut endpoint.kind) {
            Some(Kind::Listener(listener)) => Ok(listener),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    /// Starts a connect, connect(2). What came of it is said by [`connected`](Self::connected).
    pub(super) fn start_connect(&mut self, id: SocketId, address: &Address) -> io::Result<()> {
        if self.connect_datagrams(id, address) {
            return Ok(());
        }
        let stream = self.stream_mut(id).map_err(|_| errno(libc::EINVAL))?;
        match stream.link {
            Link::Fresh => stream.link = Link::Connecting,
            Link::Connecting => return Err(errno(libc::EALREADY)),
            Link::Connected { .. } | Link::Reset => return Err(errno(libc::EISCONN)),
        }
        stream.error = None;
        let at = self.arrival();
        self.schedule(at, Event::Knock(id, address.clone()));
        Ok(())
    }

    /// What came of a connect; `WouldBlock` while it is under way.
    pub(super) fn connected(&mut self, id: SocketId) -> io::Result<()> {
        // A datagram socket has no handshake.
        let Ok(stream) = self.stream_mut(id) else {
            return Ok(());
        };
        match stream.link {
            Link::Connecting => Err(errno(libc::EAGAIN)),
            Link::Connected { .. } => Ok(()),
            Link::Fresh | Link::Reset => Err(errno(stream.error.take().unwrap_or(libc::ECONNABORTED))),
        }
    }

    /// A connect reaches `address`.
    pub(super) fn knock(&mut self, client: SocketId, address: &Address) {
        if self.routes.get(address) == Some(&Route::Blackhole) {
            return;
        }
        match self.find_listener(address) {
            Ok(listener) => self.establish(client, listener),
            Err(_) => self.refuse(client),
        }
    }

    /// Connects a client of the outside world at once.
    pub(super) fn connect_outside(&mut self, address: &Address) -> io::Result<SocketId> {
        let listener = self.find_listener(address)?;
        let client = self.open_stream();
        self.establish(client, listener);
        Ok(client)
    }

    /// A listener that has room for one more. With several at one address the seed spreads the load.
    fn find_listener(&mut self, address: &Address) -> io::Result<SocketId> {
        match self.routes.get(address) {
            Some(Route::Blackhole) => return Err(errno(libc::ETIMEDOUT)),
            Some(Route::Refused) => return Err(errno(libc::ECONNREFUSED)),
            None => {}
        }
        let Some(sharing) = self.listeners.get(address) else {
            return Err(errno(libc::ECONNREFUSED));
        };
        let chosen = sharing[self.random.below(sharing.len())];
        let listener = self.listener_mut(chosen)?;
        if listener.backlog.len() >= listener.limit {
            return Err(errno(libc::ECONNREFUSED));
        }
        Ok(chosen)
    }

    /// Connects `client`, if it is still there, to a new socket in the listener's backlog.
    fn establish(&mut self, client: SocketId, listener: SocketId) {
        let Some(address) = self.endpoint(listener).map(|listener| listener.local.clone()) else {
            return;
        };
        let from = self.client_address(&address);
        let Some(endpoint) = self.endpoint_mut(client) else {
            return;
        };
        endpoint.local = from.clone();
        let server = self.insert_stream(address, Link::Connected { peer: client, address: from });
        self.link(client, server);
        if let Ok(listener) = self.listener_mut(listener) {
            listener.backlog.push_back(server);
        }
        self.notify(listener, Interest::READABLE);
    }

    fn client_address(&mut self, server: &Address) -> Address {
        match server {
            Address::Inet(inet) => self.bind(&SocketAddr::new(inet.ip(), 0).into()),
            _ => Address::Unnamed,
        }
    }

    fn refuse(&mut self, client: SocketId) {
        let Ok(stream) = self.stream_mut(client) else {
            return;
        };
        stream.link = Link::Fresh;
        stream.error = Some(libc::ECONNREFUSED);
        self.notify(client, Interest { readable: true, writable: true });
    }
}
