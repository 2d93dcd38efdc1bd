//! What a server listens on: how it is described, and one socket of it.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use kolk_engine::driver::Socket;
use kolk_engine::socket::SocketOptions;
use kolk_engine::token::ConnId;

use super::balance::Balance;
use super::limits::{ACCEPTORS_MAX, CONNECT_TIMEOUT, EVENT_LOOPS_MAX};
use super::{Builder, Conn};
use crate::error::{Error, Result};
use crate::inherit::Inherited;
use crate::listener::Bound;
use crate::watcher::IntoSocket;

/// How connections come to be.
#[derive(Clone, Debug)]
pub(super) struct SocketSettings {
    /// Of connections that are accepted, and of datagram sockets.
    pub(super) accepted: SocketOptions,
    /// Of those that are made; `None`: the same.
    pub(super) outbound: Option<SocketOptions>,
    pub(super) connect_timeout: Duration,
    pub(super) acceptors: usize,
    pub(super) balance: Balance,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            accepted: SocketOptions::new().nodelay(true),
            outbound: None,
            connect_timeout: CONNECT_TIMEOUT,
            acceptors: 0,
            balance: Balance::default(),
        }
    }
}

impl SocketSettings {
    pub(super) fn outbound(&self) -> &SocketOptions {
        self.outbound.as_ref().unwrap_or(&self.accepted)
    }
}

/// Who accepts, and what connections are like.
impl Builder {
    /// Number of acceptors: threads that do nothing but accept, and hand each connection to one of the loops, as
    /// [`balance`](Self::balance) says. Default: none.
    ///
    /// | | none: each loop accepts for itself | one or more acceptors |
    /// |---|---|---|
    /// | who chooses the loop | the kernel, by a hash of both addresses (`SO_REUSEPORT`) | the policy |
    /// | a new connection costs | nothing more | a message to another thread, and its wake-up when it sleeps |
    /// | a storm of connections | delays those that are served | delays nobody who is served |
    /// | few long connections | chance decides: of 8 on 4 loops, one loop has 4 or more in 45 of 100 cases | even, with [`Balance::LeastConnections`] |
    /// | Unix sockets | all loops wait at one listener; whoever wakes first accepts | as above |
    ///
    /// Several acceptors have a listener each (`SO_REUSEPORT`); one of them does little more than the kernel's own part of an accept.
    pub fn acceptors(mut self, count: usize) -> Self {
        self.settings.sockets.acceptors = count;
        self
    }

    /// How connections are spread over the loops. It needs an acceptor, and brings one if there is none.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.settings.sockets.balance = balance;
        self.settings.sockets.acceptors = self.settings.sockets.acceptors.max(1);
        self
    }

    /// Options of the connections that are accepted, and of datagram sockets; those of an
    /// [address](crate::ListenAddress) come before them. They are set on the listeners, and what these accept
    /// has them without a further system call. Default: [`nodelay`](SocketOptions::nodelay), which stays unless
    /// the options say otherwise.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.sockets.accepted = options.or(&self.settings.sockets.accepted);
        self
    }

    /// Options of [outbound](super::Connect) connections, unless they have their own. Default: those of accepted
    /// ones.
    pub fn outbound_options(mut self, options: SocketOptions) -> Self {
        self.settings.sockets.outbound = Some(options.or(&SocketOptions::new().nodelay(true)));
        self
    }

    /// Time that an [outbound](super::Connect) connection has to be made, unless it has its own. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.sockets.connect_timeout = timeout;
        self
    }

    /// Serves on sockets that somebody else has bound; see [`inherit`](crate::inherit).
    ///
    /// Those that have an address which is also [listened](Self::listen) on are used instead of binding it; all
    /// others are further addresses behind those that were given.
    pub fn inherit(mut self, sockets: impl IntoIterator<Item = Inherited>) -> Self {
        self.inherited.extend(sockets);
        self
    }

    /// Serves on a listener or datagram socket that the program has bound itself, with options that are not here.
    ///
    /// # Examples
    ///
    /// ```
    /// use kolk::server::Server;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let server = Server::builder().listen_on(listener);
    /// # let _ = server;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn listen_on(self, socket: impl IntoSocket) -> Self {
        self.inherit([Inherited::new(socket)])
    }

    pub(super) fn check_acceptors(&self, loops: usize) -> Result<usize> {
        match self.settings.sockets.acceptors {
            count if count > ACCEPTORS_MAX => {
                Err(Error::invalid(format!("{count} acceptors cannot be: use 0 to {ACCEPTORS_MAX}")))
            }
            count => {
                debug_assert!(loops <= EVENT_LOOPS_MAX);
                Ok(count)
            }
        }
    }
}

/// The socket of one connection.
impl Conn<'_> {
    /// The descriptor, to ask for or to set what is not here; `None` on the simulated kernel. Reading, writing
    /// or closing it would take bytes away from the server, or put them between its own.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.event_loop.socket(self.id)?.as_fd()
    }

    /// Sets options of this connection alone.
    ///
    /// # Errors
    ///
    /// The first option that the kernel refuses, with its name and value;
    /// [`is_not_connected`](Error::is_not_connected) when the connection is gone.
    pub fn set_options(&mut self, options: &SocketOptions) -> Result<()> {
        let socket = self.event_loop.socket(self.id).ok_or_else(Error::not_connected)?;
        match socket.as_fd() {
            Some(fd) => options.set_on(&fd).map_err(Error::of_operation),
            None => Ok(()),
        }
    }
}

/// A listener of one loop or acceptor.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) conn: ConnId,
    /// Index of the address.
    pub(super) address: u16,
    /// What the kernel does not pass on from the listener to a connection.
    not_passed_on: Option<SocketOptions>,
}

impl Listening {
    /// Takes over a listener and accepts on it.
    pub(super) fn begin(event_loop: &mut kolk_engine::Core, bound: Bound) -> io::Result<Self> {
        let Bound { socket, address, not_passed_on, .. } = bound;
        let conn = event_loop.attach(socket)?;
        event_loop.accept(conn)?;
        Ok(Self { conn, address, not_passed_on })
    }

    /// Sets what an accepted connection does not have from its listener.
    pub(super) fn prepare(&self, socket: &Socket) {
        if let (Some(options), Some(fd)) = (&self.not_passed_on, socket.as_fd()) {
            // The listener took the same options, so this fails only on a connection that is gone already.
            let _ = options.set_on(&fd);
        }
    }
}
