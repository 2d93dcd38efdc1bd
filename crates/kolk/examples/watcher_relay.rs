//! A TCP proxy: copies between whoever connects and a target. Try it with an echo server on port 7000 and
//! `nc 127.0.0.1 7002`.
//!
//! Each direction is as fast as its slower side and holds the bytes of one receive, however much is sent. The
//! end of one side's stream is passed on, and the other direction goes on.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use kolk::ConnId;
use kolk::watcher::{Completions, Operation, Request, Watcher};

/// What an operation is for.
#[derive(Clone, Copy)]
enum Context {
    Listener,
    /// Who connected to us, and whom we connected it to.
    Pair(ConnId, ConnId),
}

fn main() -> kolk::Result<()> {
    let [own, target] = addresses();
    let listener = TcpListener::bind(own)?;
    println!("listening on {}", listener.local_addr()?);
    let mut watcher = Watcher::new()?;
    let listener = watcher.adopt(listener)?;
    watcher.accept(listener, Context::Listener)?;

    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match (done.operation, done.context) {
                (Operation::Accept, _) => {
                    if let Some(client) = done.accepted() {
                        begin(&mut watcher, client, target)?;
                    }
                }
                (Operation::Relay, Context::Pair(client, server)) => {
                    let (there, back) = done.relayed().unwrap_or_default();
                    println!("{there} bytes there, {back} bytes back");
                    watcher.free(client);
                    watcher.free(server);
                }
                _ => {
                    if let Err(error) = done.result {
                        eprintln!("{error}");
                    }
                }
            }
        }
    }
}

/// Connects to the target; the relay waits for that, and ends if it fails.
fn begin(watcher: &mut Watcher<Context>, client: ConnId, target: SocketAddr) -> kolk::Result<()> {
    let connect = Request::connect(target, Context::Listener).timeout(Duration::from_secs(5));
    let server = watcher.submit(connect)?.conn();
    if watcher.relay(client, server, Context::Pair(client, server)).is_err() {
        watcher.free(client); // the target refused at once
    }
    Ok(())
}

/// The two arguments, or the usual addresses.
fn addresses() -> [SocketAddr; 2] {
    let mut arguments = std::env::args().skip(1);
    ["127.0.0.1:7002", "127.0.0.1:7000"].map(|usual| {
        let text = arguments.next().unwrap_or_else(|| usual.into());
        text.parse().unwrap_or_else(|error| {
            eprintln!("{text:?}: {error}; usage: watcher_relay [ADDRESS:PORT [TARGET:PORT]]");
            std::process::exit(2)
        })
    })
}
