//! The other end of a loop's sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use kolk_engine::driver::{SimNet, SimPeer, SimPeerListener, Socket};
use kolk_engine::socket::Address;

use super::Family;

/// The other end of a stream: non-blocking, on the loop's own thread.
#[derive(Debug)]
pub(crate) enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
    Sim(SimPeer),
}

impl Peer {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Self::Tcp(stream)
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Self::Unix(stream)
    }

    /// Reads what has arrived, up to `most` bytes; says how the stream ended, if it did.
    pub(crate) fn read_some(&mut self, bytes: &mut Vec<u8>, most: usize) -> Option<io::Result<()>> {
        let mut buffer = [0; 16 * 1024];
        let end = bytes.len() + most;
        while bytes.len() < end {
            let room = buffer.len().min(end - bytes.len());
            match self.read(&mut buffer[..room]) {
                Ok(0) => return Some(Ok(())),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Reads all that has arrived.
    pub(crate) fn read_available(&mut self, bytes: &mut Vec<u8>) -> Option<io::Result<()>> {
        self.read_some(bytes, usize::MAX / 2)
    }

    /// Writes what there is room for, and answers how much that was.
    #[track_caller]
    pub(crate) fn write_available(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the peer cannot write: {error}"),
            }
        }
        written
    }

    /// Reads to the end of the stream as fast as it can, for a thread of its own; how many bytes that were.
    pub(crate) fn read_blocking(self) -> u64 {
        let (mut tcp, mut unix);
        let stream: &mut dyn Read = match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false).expect("a socket can be made blocking");
                tcp = stream;
                &mut tcp
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(false).expect("a socket can be made blocking");
                unix = stream;
                &mut unix
            }
            Self::Sim(_) => panic!("a simulated stream does not block"),
        };
        let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0);
        loop {
            match stream.read(&mut buffer).expect("the stream ends in a FIN") {
                0 => return bytes,
                count => bytes += count as u64,
            }
        }
    }

    pub(crate) fn shutdown_write(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write).expect("a connected stream"),
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Write).expect("a connected stream"),
            Self::Sim(peer) => peer.shutdown_write(),
        }
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        match self {
            Self::Tcp(stream) => Socket::from(OwnedFd::from(stream)).set_reset_on_close().expect("TCP"),
            Self::Unix(_) => panic!("a Unix stream knows no reset"),
            Self::Sim(peer) => peer.reset(),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Sim(peer) => peer.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Sim(peer) => peer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who listens for the connects that a loop makes.
pub(crate) enum PeerListener {
    Tcp(TcpListener),
    Unix(UnixListener),
    Sim(SimPeerListener),
}

impl PeerListener {
    /// The connection that waits; there must be one.
    #[track_caller]
    pub(crate) fn accept(&self) -> Peer {
        match self {
            Self::Tcp(listener) => Peer::tcp(listener.accept().expect("a connection waits").0),
            Self::Unix(listener) => Peer::unix(listener.accept().expect("a connection waits").0),
            Self::Sim(listener) => Peer::Sim(listener.accept().expect("a connection waits")),
        }
    }
}

/// An address where nobody listens yet.
pub(crate) fn fresh_address(family: Family) -> Address {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    match family {
        Family::Tcp => Address::Inet(loopback()),
        Family::Simulated => Address::Inet(([10, 0, 0, 1], 0).into()),
        Family::Unix => {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            Address::Abstract(format!("kolk-contract-{}-{number}", process::id()).into_bytes().into())
        }
    }
}

pub(super) fn unix_address(address: &Address) -> UnixAddr {
    let Address::Abstract(name) = address else { panic!("{address} is no abstract address") };
    UnixAddr::from_abstract_name(name).expect("a short name")
}

/// Makes connected streams. On TCP all of them by one listener: one a pair would use up the ports of this
/// machine, which rest for a minute after each connection.
pub(crate) struct Pairs {
    family: Family,
    net: Option<SimNet>,
    listener: Option<TcpListener>,
}

impl Pairs {
    pub(super) fn new(family: Family, net: Option<&SimNet>) -> Self {
        Self { family, net: net.cloned(), listener: None }
    }

    /// An end for a loop, in the blocking mode that std gives it, and the other end.
    #[track_caller]
    pub(super) fn make(&mut self) -> (Socket, Peer) {
        match self.family {
            Family::Tcp => {
                let listener =
                    self.listener.get_or_insert_with(|| TcpListener::bind(loopback()).expect("a free port"));
                let address = listener.local_addr().expect("a bound socket");
                let far = TcpStream::connect(address).expect("somebody listens");
                let (near, _) = listener.accept().expect("a connection waits");
                (OwnedFd::from(near).into(), Peer::tcp(far))
            }
            Family::Unix => {
                let (near, far) = UnixStream::pair().expect("two descriptors");
                (OwnedFd::from(near).into(), Peer::unix(far))
            }
            Family::Simulated => {
                let (near, far) = self.net.as_ref().expect("a simulated world has a network").pair();
                (near.into(), Peer::Sim(far))
            }
        }
    }
}

/// A loopback address of this process's own, any port. Connections leave from 127.0.0.1, whose ports rest for a
/// minute after each: a listener there could find all of them taken.
fn loopback() -> SocketAddr {
    let [.., high, low] = process::id().to_be_bytes();
    ([127, 1, high, low], 0).into()
}
