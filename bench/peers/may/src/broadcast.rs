//! A publisher's coroutine writes to one receiver after the other: where one's socket is full, it waits, and nobody
//! misses a message. A receiver needs no coroutine.

use std::io::{self, BufReader, Read};

use may::sync::Mutex;
use peer_common::RECEIVE_BUFFER;

use crate::stream::Stream;

/// What all connections share.
pub(crate) struct Hub<S> {
    receivers: Mutex<Vec<S>>,
    /// Bytes of a message.
    size: usize,
}

impl<S: Stream> Hub<S> {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            receivers: Mutex::new(Vec::new()),
            size,
        }
    }

    /// The first byte says what the connection is.
    pub(crate) fn serve(&self, mut stream: S) -> io::Result<()> {
        let mut role = [0];
        stream.read_exact(&mut role)?;
        match &role {
            b"R" => {
                self.receivers.lock().map_err(poisoned)?.push(stream);
                Ok(())
            }
            b"P" => self.publish(stream),
            _ => Ok(()),
        }
    }

    fn publish(&self, stream: S) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER, stream);
        let mut message = vec![0; self.size];
        loop {
            stream.read_exact(&mut message)?;
            // Who cannot be written to has gone.
            self.receivers
                .lock()
                .map_err(poisoned)?
                .retain_mut(|receiver| receiver.write_all(&message).is_ok());
        }
    }
}

fn poisoned<E>(_: E) -> io::Error {
    io::Error::other("a coroutine panicked while it wrote to all")
}
