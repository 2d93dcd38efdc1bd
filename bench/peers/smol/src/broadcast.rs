//! The shape of smol's example `chat-server`: connections tell a dispatcher what happens, and it writes to one receiver
//! after the other. Where one's socket is full, it waits, so nobody misses a message.

use std::collections::HashMap;
use std::io;

use peer_common::{OUTSTANDING, RECEIVE_BUFFER};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::stream::Stream;

/// What happens. A connection is named by the number that it got from the dispatcher's side.
enum Event<S> {
    Join(u64, S),
    Leave(u64),
    Message(Vec<u8>),
}

/// What all connections share.
pub(crate) struct Hub<S> {
    events: Sender<Event<S>>,
    /// Bytes of a message.
    size: usize,
    /// Of the next connection.
    number: std::rc::Rc<std::cell::Cell<u64>>,
}

// A derived one would ask the same of `S`.
impl<S> Clone for Hub<S> {
    fn clone(&self) -> Self {
        Self {
            events: self.events.clone(),
            size: self.size,
            number: self.number.clone(),
        }
    }
}

impl<S: Stream> Hub<S> {
    pub(crate) fn new(executor: &LocalExecutor<'static>, size: usize) -> Self {
        let (events, happened) = bounded(OUTSTANDING);
        executor.spawn(dispatch(happened)).detach();
        Self {
            events,
            size,
            number: std::rc::Rc::default(),
        }
    }

    /// The first byte says what the connection is.
    pub(crate) async fn serve(self, mut stream: S) -> io::Result<()> {
        let mut role = [0];
        stream.read_exact(&mut role).await?;
        match &role {
            b"R" => self.receive(stream).await,
            b"P" => self.publish(stream).await,
            _ => Ok(()),
        }
    }

    async fn publish(self, stream: S) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER, stream);
        loop {
            let mut message = vec![0; self.size];
            stream.read_exact(&mut message).await?;
            self.tell(Event::Message(message)).await?;
        }
    }

    async fn receive(self, mut stream: S) -> io::Result<()> {
        let number = self.number.replace(self.number.get() + 1);
        self.tell(Event::Join(number, stream.clone())).await?;
        let mut said = [0; 64];
        // What it says is ignored.
        while matches!(stream.read(&mut said).await, Ok(1..)) {}
        self.tell(Event::Leave(number)).await
    }

    async fn tell(&self, event: Event<S>) -> io::Result<()> {
        self.events
            .send(event)
            .await
            .map_err(|_| io::Error::other("the dispatcher has ended"))
    }
}

async fn dispatch<S: Stream>(happened: Receiver<Event<S>>) {
    let mut receivers = HashMap::new();
    while let Ok(event) = happened.recv().await {
        match event {
            Event::Join(number, stream) => drop(receivers.insert(number, stream)),
            Event::Leave(number) => drop(receivers.remove(&number)),
            Event::Message(message) => {
                for stream in receivers.values_mut() {
                    // Who cannot be written to tells that it leaves.
                    let _ = stream.write_all(&message).await;
                }
            }
        }
    }
}
