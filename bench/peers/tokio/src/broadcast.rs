//! Publishers and receivers around one `tokio::sync::broadcast` channel: the shape of mini-redis.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use peer_common::{OUTSTANDING, RECEIVE_BUFFER};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::broadcast::Sender;

use crate::stream::Stream;

/// The channel makes receivers lag rather than senders wait, so a publisher looks at its length; this often while
/// the slowest receiver is behind.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Hub {
    messages: Sender<Bytes>,
    /// Bytes of a message.
    size: usize,
}

impl Hub {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            messages: Sender::new(OUTSTANDING),
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
            let mut message = vec![0; self.size];
            stream.read_exact(&mut message).await?;
            while self.messages.len() >= OUTSTANDING {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            // Without receivers it goes nowhere.
            let _ = self.messages.send(message.into());
        }
    }

    async fn receive(self, mut stream: impl Stream) -> io::Result<()> {
        let mut messages = self.messages.subscribe();
        let mut said = [0; 64];
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) => stream.write_all(&message).await?,
                    Err(error) => return Err(io::Error::other(error)),
                },
                received = stream.read(&mut said) => if received? == 0 {
                    return Ok(());
                },
            }
        }
    }
}
