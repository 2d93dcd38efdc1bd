//! TCP and Unix sockets behind one name.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use may::net::{TcpListener, TcpStream};
use may::os::unix::net::{UnixListener, UnixStream};
use peer_common::{Address, make_way, prepare};

/// A connection.
pub(crate) trait Stream: Read + Write + Send + Sized + 'static {
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// The same connection twice: to read by one coroutine and to write by another. May has no other way to do both
    /// at the same time than a second descriptor.
    fn halves(self) -> io::Result<(Self, Self)>;
}

impl Stream for TcpStream {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }

    fn halves(self) -> io::Result<(Self, Self)> {
        Ok((self.try_clone()?, self))
    }
}

impl Stream for UnixStream {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }

    fn halves(self) -> io::Result<(Self, Self)> {
        Ok((self.try_clone()?, self))
    }
}

/// A listener of either kind.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(crate) fn listen(address: &Address) -> io::Result<Listener> {
    Ok(match address {
        Address::Inet(address) => {
            let listener = TcpListener::bind(address)?;
            prepare(listener.inner())?;
            Listener::Tcp(listener)
        }
        Address::Unix(path) => {
            make_way(path)?;
            // With as long a queue as the system allows.
            Listener::Unix(UnixListener::bind(path)?)
        }
    })
}
