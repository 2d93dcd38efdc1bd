//! One connection, as its handler sees it for one callback.

use std::net::SocketAddr;

use kolk_engine::EventLoop;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::ConnId;

use super::running::Command;

/// One connection, for the time of one callback.
///
/// To speak of it later or elsewhere, keep its [`id`](Self::id).
#[derive(Debug)]
pub struct Conn<'a> {
    pub(super) event_loop: &'a mut EventLoop<Command>,
    pub(super) id: ConnId,
    pub(super) listener: usize,
    pub(super) bytes_sent: &'a mut u64,
}

impl Conn<'_> {
    /// The name of the connection; it stays harmless when the connection is gone.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Which address the connection came from: counted from zero, in the order in which they were given
    /// to [`Builder::listen`](super::Builder::listen).
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// The peer's address; `None` for a Unix socket and when the peer has gone.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.event_loop.socket(self.id)?.peer_address().ok()?.as_inet()
    }

    /// Our own address; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.event_loop.socket(self.id)?.local_address().ok()?.as_inet()
    }

    /// Queues bytes that are kept by reference: `Bytes`, `Vec<u8>`, static slices and strings, what
    /// [`Input::take`](super::Input::take) gave. Up to 512 bytes are copied instead, which is cheaper.
    ///
    /// All writes of one turn leave in one send. On a connection that is closing they go nowhere.
    #[inline]
    pub fn write(&mut self, chunk: impl Into<Chunk>) {
        let chunk = chunk.into();
        let len = chunk.len();
        if self.event_loop.write(self.id, chunk).is_ok() {
            *self.bytes_sent += len;
        }
    }

    /// Queues a copy of `bytes`.
    #[inline]
    pub fn write_copy(&mut self, bytes: &[u8]) {
        if self.event_loop.write_copy(self.id, bytes).is_ok() {
            *self.bytes_sent += bytes.len() as u64;
        }
    }
}
