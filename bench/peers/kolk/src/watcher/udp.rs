//! Some datagrams are awaited or sent at any time: kolk's example `watcher_udp_echo`.

use std::net::SocketAddr;

use kolk::watcher::{Completions, Operation};
use peer_common::{Result, announce};

use crate::Kernel;

/// Datagrams under way at once, those that are awaited and those that are sent: the bound of its memory.
const DATAGRAMS: usize = 64;

pub(super) fn run(kernel: Kernel, address: SocketAddr) -> Result {
    let mut watcher = kernel.watcher()?;
    let socket = watcher.adopt(peer_common::udp(address)?)?;
    for _ in 0..DATAGRAMS {
        watcher.recv_from(socket, ())?; // one wait brings as many as have arrived
    }
    announce()?;
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
