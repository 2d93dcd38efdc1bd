//! Publishers' messages go to all receivers from one shared buffer. Only what a receiver's socket has no room for is
//! copied, once for all who need it; from a thousand messages on no publisher is read until that receiver has caught up.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use mio::{Registry, Token};
use peer_common::{OUTSTANDING, RECEIVE_BUFFER};
use slab::Slab;

use crate::net::{BOTH, Handler, READS_A_TURN, Ready, Stream};

/// Pieces of one send.
const PIECES_A_SEND: usize = 64;

/// All connections.
pub(crate) struct Broadcast {
    /// Bytes of a message.
    size: usize,
    connections: Slab<Connection>,
    receivers: Vec<usize>,
    /// Receivers for which as much waits as may.
    full: usize,
    /// Publishers that are not read until nobody is full.
    paused: Vec<usize>,
    /// Shared by all; holds nothing between two events.
    buffer: Box<[u8]>,
}

struct Connection {
    stream: Stream,
    role: Role,
}

enum Role {
    Unknown,
    Receiver(Outbox),
    /// With the beginning of a message.
    Publisher(Vec<u8>),
}

/// What a receiver's socket had no room for.
#[derive(Default)]
struct Outbox {
    pieces: VecDeque<Rc<[u8]>>,
    /// Bytes of the first piece that are sent.
    sent: usize,
    /// Bytes that wait.
    bytes: usize,
}

/// The connection is over.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Broadcast {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            connections: Slab::new(),
            receivers: Vec::new(),
            full: 0,
            paused: Vec::new(),
            buffer: vec![0; RECEIVE_BUFFER].into(),
        }
    }
}

impl Handler for Broadcast {
    fn open(&mut self, registry: &Registry, mut stream: Stream) -> io::Result<()> {
        let entry = self.connections.vacant_entry();
        registry.register(&mut stream, Token(entry.key()), BOTH)?;
        entry.insert(Connection {
            stream,
            role: Role::Unknown,
        });
        Ok(())
    }

    fn ready(&mut self, registry: &Registry, number: usize, ready: Ready) {
        let Some(connection) = self.connections.get(number) else {
            return;
        };
        let is_receiver = matches!(connection.role, Role::Receiver(_));
        let mut outcome = Ok(());
        if is_receiver && ready.writable {
            outcome = self.flush(number);
        }
        if outcome.is_ok() && ready.readable {
            // The buffer is lent for the time of the event: messages lie in it while they are sent.
            let mut buffer = std::mem::take(&mut self.buffer);
            outcome = self.receive(registry, number, &mut buffer, ready.hang_up);
            self.buffer = buffer;
        }
        if outcome.is_err() {
            self.remove(number);
        }
        self.resume(registry);
    }
}

impl Broadcast {
    fn receive(
        &mut self,
        registry: &Registry,
        number: usize,
        buffer: &mut [u8],
        to_the_end: bool,
    ) -> Result<(), Gone> {
        for _ in 0..READS_A_TURN {
            let connection = &mut self.connections[number];
            if self.full > 0 && matches!(connection.role, Role::Publisher(_)) {
                self.paused.push(number);
                return Ok(());
            }
            let received = match connection.stream.receive(buffer)? {
                Some(0) => return Err(Gone),
                Some(received) => received,
                None => return Ok(()),
            };
            let mut bytes = &buffer[..received];
            if let (Role::Unknown, [first, rest @ ..]) = (&connection.role, bytes) {
                connection.role = match first {
                    b'R' => {
                        self.receivers.push(number);
                        Role::Receiver(Outbox::default())
                    }
                    b'P' => Role::Publisher(Vec::new()),
                    _ => return Err(Gone),
                };
                bytes = rest;
            }
            // What receivers say is ignored.
            if let Role::Publisher(_) = connection.role {
                self.take_messages(number, bytes);
            }
            if received < buffer.len() && !to_the_end {
                return Ok(());
            }
        }
        let stream = &mut self.connections[number].stream;
        Ok(registry.reregister(stream, Token(number), BOTH)?)
    }

    /// Sends the messages that are whole, and keeps the rest.
    fn take_messages(&mut self, number: usize, bytes: &[u8]) {
        let Role::Publisher(begun) = &mut self.connections[number].role else {
            return;
        };
        if begun.is_empty() {
            let whole = bytes.len() - bytes.len() % self.size;
            begun.extend_from_slice(&bytes[whole..]);
            return self.publish(&bytes[..whole]);
        }
        begun.extend_from_slice(bytes);
        if begun.len() < self.size {
            return;
        }
        let mut messages = std::mem::take(begun);
        *begun = messages.split_off(messages.len() - messages.len() % self.size);
        self.publish(&messages);
    }

    /// Sends whole messages to all receivers.
    fn publish(&mut self, messages: &[u8]) {
        if messages.is_empty() {
            return;
        }
        let most = self.size * OUTSTANDING;
        let mut shared = None;
        let mut gone = Vec::new();
        for &number in &self.receivers {
            let Connection {
                stream,
                role: Role::Receiver(outbox),
            } = &mut self.connections[number]
            else {
                continue;
            };
            let mut sent = 0;
            if outbox.pieces.is_empty() {
                match stream.send(messages) {
                    Ok(count) => sent = count,
                    Err(_) => {
                        gone.push(number);
                        continue;
                    }
                }
            }
            if sent < messages.len() {
                let was_full = outbox.bytes >= most;
                outbox.push(
                    Rc::clone(shared.get_or_insert_with(|| Rc::from(messages))),
                    sent,
                );
                self.full += usize::from(!was_full && outbox.bytes >= most);
            }
        }
        gone.into_iter().for_each(|number| self.remove(number));
    }

    /// A receiver has room again.
    fn flush(&mut self, number: usize) -> Result<(), Gone> {
        let most = self.size * OUTSTANDING;
        let Connection {
            stream,
            role: Role::Receiver(outbox),
        } = &mut self.connections[number]
        else {
            return Ok(());
        };
        let was_full = outbox.bytes >= most;
        let flushed = outbox.flush(stream);
        self.full -= usize::from(was_full && outbox.bytes < most);
        Ok(flushed?)
    }

    /// Publishers go on once nobody is full.
    fn resume(&mut self, registry: &Registry) {
        if self.full > 0 {
            return;
        }
        for number in std::mem::take(&mut self.paused) {
            // Their edge is gone: registering once more asks for another.
            if let Some(connection) = self.connections.get_mut(number)
                && registry
                    .reregister(&mut connection.stream, Token(number), BOTH)
                    .is_err()
            {
                self.remove(number);
            }
        }
    }

    fn remove(&mut self, number: usize) {
        if let Some(connection) = self.connections.try_remove(number)
            && let Role::Receiver(outbox) = connection.role
        {
            self.receivers.retain(|&receiver| receiver != number);
            self.full -= usize::from(outbox.bytes >= self.size * OUTSTANDING);
        }
    }
}

impl Outbox {
    fn push(&mut self, piece: Rc<[u8]>, sent: usize) {
        self.bytes += piece.len() - sent;
        if self.pieces.is_empty() {
            self.sent = sent;
        }
        self.pieces.push_back(piece);
    }

    /// Sends until nothing is left, or there is no room.
    fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_A_SEND];
            let mut offered = 0;
            let count = self.pieces.len().min(PIECES_A_SEND);
            for (at, (slice, piece)) in slices.iter_mut().zip(&self.pieces).enumerate() {
                let piece = if at == 0 { &piece[self.sent..] } else { piece };
                offered += piece.len();
                *slice = IoSlice::new(piece);
            }
            let sent = stream.send_vectored(&slices[..count])?;
            self.consume(sent);
            if sent < offered {
                return Ok(());
            }
        }
        Ok(())
    }

    fn consume(&mut self, sent: usize) {
        self.bytes -= sent;
        self.sent += sent;
        while let Some(first) = self.pieces.front()
            && first.len() <= self.sent
        {
            self.sent -= first.len();
            self.pieces.pop_front();
        }
    }
}
