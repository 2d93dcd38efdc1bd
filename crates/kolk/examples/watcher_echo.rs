//! Gives every byte back, on the proactor. Try it with `nc 127.0.0.1 7000`.

use bytes::BytesMut;
use kolk::watcher::{Completions, Operation, Watcher};

fn main() -> kolk::Result<()> {
    let listener = std::net::TcpListener::bind(address())?;
    println!("listening on {}", listener.local_addr()?);
    let mut watcher = Watcher::new()?;
    let submitter = watcher.submitter(); // Clone + Send + Sync
    std::thread::spawn(move || -> kolk::Result<()> {
        for stream in listener.incoming() {
            let conn = submitter.adopt(stream?)?; // the watcher owns the socket from here on
            submitter.read(conn, (), BytesMut::with_capacity(4096))?;
        }
        Ok(())
    });
    let mut completions = Completions::with_capacity(256);
    loop {
        watcher.wait(&mut completions, None)?; // a batch; the calling thread is the loop
        for done in completions.drain() {
            match (done.operation, done.result) {
                (Operation::Read, Ok(n)) if n > 0 => watcher.write(done.conn, (), done.buffer)?,
                (Operation::Write, Ok(_)) => watcher.read(done.conn, (), done.buffer.recycle())?,
                _ => watcher.free(done.conn),
            }
        }
    }
}

/// The one argument, or the usual address.
fn address() -> std::net::SocketAddr {
    let text = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".into());
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: watcher_echo [ADDRESS:PORT]");
        std::process::exit(2)
    })
}
