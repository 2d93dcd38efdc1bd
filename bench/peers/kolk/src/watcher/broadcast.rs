//! A write of the same shared bytes for each receiver. From a thousand messages on that one of them has not taken, no
//! publisher is read.

use bytes::{Bytes, BytesMut};
use kolk::ConnId;
use kolk::watcher::{Completion, Completions, Operation, Watcher};
use peer_common::OUTSTANDING;
use slab::Slab;

/// Number of a connection among those of the broadcast.
type Number = usize;

/// What accepts belong to: no connection.
pub(super) const LISTENER: Number = usize::MAX;

pub(super) struct Broadcast {
    /// Bytes of a message.
    size: usize,
    conns: Slab<Conn>,
    receivers: Vec<Number>,
    /// Receivers for which as much waits as may.
    full: usize,
    /// Publishers that are not read until nobody is full.
    paused: Vec<Number>,
}

struct Conn {
    id: ConnId,
    role: Role,
}

enum Role {
    Unknown,
    /// With the bytes whose write is not complete.
    Receiver(usize),
    /// With the beginning of a message.
    Publisher(BytesMut),
}

impl Broadcast {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            conns: Slab::new(),
            receivers: Vec::new(),
            full: 0,
            paused: Vec::new(),
        }
    }

    pub(super) fn run(mut self, watcher: &mut Watcher<Number>) -> kolk::Result<()> {
        let mut completions = Completions::default();
        loop {
            watcher.wait(&mut completions, None)?;
            for done in completions.drain() {
                self.go_on(watcher, done)?;
            }
            if self.full == 0 {
                for publisher in std::mem::take(&mut self.paused) {
                    self.read(watcher, publisher)?;
                }
            }
        }
    }

    fn go_on(
        &mut self,
        watcher: &mut Watcher<Number>,
        done: Completion<Number>,
    ) -> kolk::Result<()> {
        let number = done.context;
        if done.operation == Operation::Accept {
            return match done.accepted() {
                Some(id) => {
                    let number = self.conns.insert(Conn {
                        id,
                        role: Role::Unknown,
                    });
                    watcher.read_pooled(id, number)
                }
                None => Ok(()), // no slot is free: the peer was turned away
            };
        }
        if self
            .conns
            .get(number)
            .is_none_or(|conn| conn.id != done.conn)
        {
            return Ok(()); // it was removed meanwhile, and somebody else may have its number
        }
        match (done.operation, done.result) {
            (Operation::Write, Ok(written)) => self.wrote(number, written),
            (Operation::ReadPooled, Ok(1..)) => {
                if self.received(watcher, number, done.buffer.into_bytes())? {
                    self.read(watcher, number)?;
                } else {
                    self.remove(watcher, number);
                }
            }
            _ => self.remove(watcher, number),
        }
        Ok(())
    }

    /// Reads on, or later if a publisher has to wait. No buffer is bound meanwhile.
    fn read(&mut self, watcher: &mut Watcher<Number>, number: Number) -> kolk::Result<()> {
        match self.conns.get(number) {
            Some(Conn {
                role: Role::Publisher(_),
                ..
            }) if self.full > 0 => {
                self.paused.push(number);
                Ok(())
            }
            Some(conn) => watcher.read_pooled(conn.id, number),
            None => Ok(()),
        }
    }

    /// False if the peer does not say what it is.
    fn received(
        &mut self,
        watcher: &mut Watcher<Number>,
        number: Number,
        mut bytes: Bytes,
    ) -> kolk::Result<bool> {
        let conn = &mut self.conns[number];
        if let Role::Unknown = conn.role {
            conn.role = match bytes.split_to(1)[0] {
                b'R' => {
                    self.receivers.push(number);
                    Role::Receiver(0)
                }
                b'P' => Role::Publisher(BytesMut::new()),
                _ => return Ok(false),
            };
        }
        // What receivers say is ignored.
        let Role::Publisher(begun) = &mut conn.role else {
            return Ok(true);
        };
        if !begun.is_empty() {
            begun.extend_from_slice(&bytes);
            bytes = begun.split().freeze();
        }
        let messages = bytes.split_to(bytes.len() - bytes.len() % self.size);
        begun.extend_from_slice(&bytes);
        self.publish(watcher, &messages)?;
        Ok(true)
    }

    /// Writes whole messages to all receivers.
    fn publish(&mut self, watcher: &mut Watcher<Number>, messages: &Bytes) -> kolk::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let most = self.size * OUTSTANDING;
        for &number in &self.receivers {
            let Conn {
                id,
                role: Role::Receiver(waiting),
            } = &mut self.conns[number]
            else {
                continue;
            };
            watcher.write(*id, number, messages.clone())?; // another reference, no copy
            self.full += usize::from(*waiting < most && *waiting + messages.len() >= most);
            *waiting += messages.len();
        }
        Ok(())
    }

    fn wrote(&mut self, number: Number, written: usize) {
        if let Role::Receiver(waiting) = &mut self.conns[number].role {
            let most = self.size * OUTSTANDING;
            self.full -= usize::from(*waiting >= most && *waiting - written < most);
            *waiting -= written;
        }
    }

    fn remove(&mut self, watcher: &mut Watcher<Number>, number: Number) {
        let conn = self.conns.remove(number);
        watcher.free(conn.id);
        if let Role::Receiver(waiting) = conn.role {
            self.receivers.retain(|&receiver| receiver != number);
            self.full -= usize::from(waiting >= self.size * OUTSTANDING);
        }
    }
}
