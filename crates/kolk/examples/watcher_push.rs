//! Sends every second the same bytes to everybody. Try it with several `nc 127.0.0.1 7001`.
//!
//! A message is encoded once, and all receivers share its memory. Whoever has not taken the last message yet
//! is left out of the next one: a slow receiver holds one message, and delays nobody.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use kolk::ConnId;
use kolk::watcher::{Completions, Operation, Watcher};

/// Length of a message in bytes: enough to be sent from where it lies. Shorter ones than 512 are copied.
const SIZE: usize = 1024;

/// Whether a receiver has a message that is not sent yet.
#[derive(Clone, Copy, PartialEq)]
enum Receiver {
    Free,
    Busy,
}

fn main() -> kolk::Result<()> {
    let listener = TcpListener::bind(address())?;
    println!("listening on {}", listener.local_addr()?);
    let mut watcher = Watcher::new()?;
    let listener = watcher.adopt(listener)?;
    watcher.accept(listener, ())?;
    watcher.interval(Duration::from_secs(1), ())?;

    let mut receivers = HashMap::new();
    let mut completions = Completions::default();
    for beat in 1.. {
        let message = Bytes::from(format!("{:>1$}\n", format!("beat {beat}"), SIZE - 1));
        while !wait_for_beat(&mut watcher, &mut completions, &mut receivers)? {}
        for (&conn, receiver) in receivers.iter_mut().filter(|(_, receiver)| **receiver == Receiver::Free) {
            watcher.write(conn, (), message.clone())?; // another reference, no copy
            *receiver = Receiver::Busy;
        }
    }
    Ok(())
}

/// Handles completions one after the other, and says whether the last was a beat of the interval.
fn wait_for_beat(
    watcher: &mut Watcher,
    completions: &mut Completions,
    receivers: &mut HashMap<ConnId, Receiver>,
) -> kolk::Result<bool> {
    watcher.wait(completions, None)?;
    while let Some(done) = completions.pop() {
        match (done.operation, &done.result) {
            (Operation::Interval, _) => return Ok(true),
            (Operation::Accept, _) => {
                if let Some(conn) = done.accepted() {
                    receivers.insert(conn, Receiver::Free);
                    watcher.read_pooled(conn, ())?; // no buffer is bound; it tells when the peer goes
                }
            }
            // The other direction may have ended before, in the same batch: then it is no receiver any more.
            (Operation::Write, Ok(_)) => {
                receivers.entry(done.conn).and_modify(|receiver| *receiver = Receiver::Free);
            }
            (Operation::ReadPooled, Ok(1..)) => {
                if receivers.contains_key(&done.conn) {
                    watcher.read_pooled(done.conn, ())?; // what it said is ignored
                }
            }
            _ => {
                receivers.remove(&done.conn);
                watcher.free(done.conn);
            }
        }
    }
    Ok(false)
}

/// The one argument, or the usual address.
fn address() -> SocketAddr {
    let text = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".into());
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: watcher_push [ADDRESS:PORT]");
        std::process::exit(2)
    })
}
