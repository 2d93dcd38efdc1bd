//! A bounded local channel of glommio for each receiver; a publisher waits where one is full. A receiver has a task that
//! reads, so that its end is seen, and one that writes.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_lite::AsyncWrite;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use peer_common::{OUTSTANDING, RECEIVE_BUFFER};
use slab::Slab;

use crate::stream::Stream;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Hub {
    receivers: Rc<RefCell<Slab<Rc<LocalSender<Bytes>>>>>,
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
        let mut role = [0];
        stream.read_exact(&mut role).await?;
        match &role {
            b"R" => self.receive(stream).await,
            b"P" => self.publish(stream).await,
            _ => Ok(()),
        }
    }

    async fn publish(self, stream: impl Stream) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER, stream);
        loop {
            let mut message = vec![0; self.size];
            stream.read_exact(&mut message).await?;
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
        let (mut reader, writer) = futures_lite::io::split(stream);
        let (queue, messages) = local_channel::new_bounded(OUTSTANDING);
        let number = self.receivers.borrow_mut().insert(Rc::new(queue));
        glommio::spawn_local(write(messages, writer)).detach();
        let mut said = [0; 64];
        // What it says is ignored.
        while matches!(reader.read(&mut said).await, Ok(1..)) {}
        // The writer ends with its queue.
        self.receivers.borrow_mut().remove(number);
        Ok(())
    }
}

async fn write(
    messages: LocalReceiver<Bytes>,
    mut writer: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(message) = messages.recv().await {
        writer.write_all(&message).await?;
    }
    Ok(())
}
