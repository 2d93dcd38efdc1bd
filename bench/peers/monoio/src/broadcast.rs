//! A bounded queue for each receiver, by the channels of `local-sync`, which is written for monoio; a publisher waits
//! where one is full. A receiver has a task that reads, so that its end is seen, and one that writes.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use local_sync::mpsc::bounded::{self, Rx, Tx};
use monoio::io::{
    AsyncReadRent, AsyncReadRentExt, AsyncWriteRent, AsyncWriteRentExt, BufReader, Splitable,
};
use peer_common::{OUTSTANDING, RECEIVE_BUFFER};
use slab::Slab;

use crate::stream::Stream;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Hub {
    receivers: Rc<RefCell<Slab<Tx<Bytes>>>>,
    /// Bytes of a message.
    size: usize,
}

impl Hub {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            receivers: Rc::default(),
            size,
        }
    }

    /// The first byte says what the connection is.
    pub(crate) async fn serve(self, mut stream: impl Stream) -> io::Result<()> {
        match stream.read_u8().await? {
            b'R' => self.receive(stream).await,
            b'P' => self.publish(stream).await,
            _ => Ok(()),
        }
    }

    async fn publish(self, stream: impl Stream) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER, stream);
        loop {
            let (outcome, message) = stream.read_exact(Vec::with_capacity(self.size)).await;
            outcome?;
            let message = Bytes::from(message);
            let mut number = 0;
            // Receivers may come and go while this waits.
            while number < self.receivers.borrow().capacity() {
                let queue = self.receivers.borrow().get(number).cloned();
                if let Some(queue) = queue {
                    // A receiver that has gone is no harm.
                    let _ = queue.send(message.clone()).await;
                }
                number += 1;
            }
        }
    }

    async fn receive(self, stream: impl Stream) -> io::Result<()> {
        let (mut reader, writer) = stream.into_split();
        let (queue, messages) = bounded::channel(OUTSTANDING);
        let number = self.receivers.borrow_mut().insert(queue);
        monoio::spawn(write(messages, writer));
        let mut said = Vec::with_capacity(64);
        // What it says is ignored.
        loop {
            let outcome;
            (outcome, said) = reader.read(said).await;
            if !matches!(outcome, Ok(1..)) {
                break;
            }
        }
        // The writer ends with its queue.
        self.receivers.borrow_mut().remove(number);
        Ok(())
    }
}

async fn write(mut messages: Rx<Bytes>, mut writer: impl AsyncWriteRent) -> io::Result<()> {
    while let Some(message) = messages.recv().await {
        writer.write_all(message).await.0?;
    }
    Ok(())
}
