//! Every byte goes back. A connection whose peer does not read keeps the unsent rest, and is not read until that is gone.

use std::io;

use mio::{Registry, Token};
use peer_common::RECEIVE_BUFFER;
use slab::Slab;

use crate::net::{BOTH, Handler, READS_A_TURN, Ready, Stream};

/// All connections.
pub(crate) struct Echo {
    connections: Slab<Connection>,
    /// Shared by all; holds nothing between two events.
    buffer: Box<[u8]>,
}

struct Connection {
    stream: Stream,
    /// Received bytes that the peer's window had no room for. Empty almost always.
    rest: Vec<u8>,
    /// Bytes of `rest` that are sent.
    sent: usize,
}

enum After {
    Open,
    Closed,
    /// Its share of the turn is used up, and bytes are left.
    Again,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            connections: Slab::new(),
            buffer: vec![0; RECEIVE_BUFFER].into(),
        }
    }
}

impl Handler for Echo {
    fn open(&mut self, registry: &Registry, mut stream: Stream) -> io::Result<()> {
        let entry = self.connections.vacant_entry();
        registry.register(&mut stream, Token(entry.key()), BOTH)?;
        entry.insert(Connection {
            stream,
            rest: Vec::new(),
            sent: 0,
        });
        Ok(())
    }

    fn ready(&mut self, registry: &Registry, number: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(number) else {
            return;
        };
        let after = match connection.echo(&mut self.buffer, ready) {
            // Registering once more asks for another edge.
            Ok(After::Again) => registry
                .reregister(&mut connection.stream, Token(number), BOTH)
                .map(|()| After::Open),
            after => after,
        };
        if !matches!(after, Ok(After::Open)) {
            self.connections.remove(number);
        }
    }
}

impl Connection {
    /// Moves what can be moved. An error means that the connection is broken.
    fn echo(&mut self, buffer: &mut [u8], ready: Ready) -> io::Result<After> {
        if !self.rest.is_empty() {
            if !ready.writable || !self.flush()? {
                return Ok(After::Open);
            }
        } else if !ready.readable {
            return Ok(After::Open);
        }
        for _ in 0..READS_A_TURN {
            let received = match self.stream.receive(buffer)? {
                Some(0) => return Ok(After::Closed),
                Some(received) => received,
                None => return Ok(After::Open),
            };
            let sent = self.stream.send(&buffer[..received])?;
            if sent < received {
                self.rest.extend_from_slice(&buffer[sent..received]);
                return Ok(After::Open);
            }
            if received < buffer.len() && !ready.hang_up {
                return Ok(After::Open);
            }
        }
        Ok(After::Again)
    }

    /// Sends on; true once nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        self.sent += self.stream.send(&self.rest[self.sent..])?;
        let done = self.sent == self.rest.len();
        if done {
            self.rest = Vec::new();
            self.sent = 0;
        }
        Ok(done)
    }
}
