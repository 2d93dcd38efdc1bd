//! Gives every datagram back to its sender. Try it with `nc -u 127.0.0.1 7003`.

use std::net::{SocketAddr, UdpSocket};

use kolk::watcher::{Completions, Operation, Watcher};

/// Datagrams under way at once, those that are awaited and those that are sent: the bound of its memory.
const DATAGRAMS: usize = 64;

fn main() -> kolk::Result<()> {
    let socket = UdpSocket::bind(address())?;
    println!("listening on {}", socket.local_addr()?);
    let mut watcher = Watcher::new()?;
    let socket = watcher.adopt(socket)?;
    for _ in 0..DATAGRAMS {
        watcher.recv_from(socket, ())?; // one wait brings as many as have arrived
    }

    let mut completions = Completions::with_capacity(DATAGRAMS);
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match (done.operation, done.peer().cloned()) {
                (Operation::RecvFrom, Some(peer)) if !done.buffer.is_empty() => {
                    watcher.send_to(socket, (), done.buffer, peer)?; // from where it was received
                }
                // Sent, or lost as datagrams may be: the place is free for the next one.
                _ => watcher.recv_from(socket, ())?,
            }
        }
    }
}

/// The one argument, or the usual address.
fn address() -> SocketAddr {
    let text = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7003".into());
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: watcher_udp_echo [ADDRESS:PORT]");
        std::process::exit(2)
    })
}
