//! A blocking handshake with the standard library, then the connection goes to a watcher with what was learnt
//! as its context. Try it with `nc 127.0.0.1 7004`, and say `HELLO` and a name.
//!
//! The same way serves a handshake that a library for blocking streams does: adopt the socket once it is over.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kolk::watcher::{Buffer, Completions, Operation, Submitter, Watcher};

/// Most bytes of one line.
const LINE: usize = 1024;

/// How long a client may take to say the next byte of its greeting.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of a client, which comes back with each of its operations.
type Name = Arc<str>;

fn main() -> kolk::Result<()> {
    let listener = TcpListener::bind(address())?;
    println!("listening on {}", listener.local_addr()?);
    let mut watcher = Watcher::new()?;
    let submitter = watcher.submitter();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let submitter = submitter.clone();
            // A thread for as long as the handshake takes, so that a slow client delays nobody.
            std::thread::spawn(move || welcome(stream, &submitter));
        }
    });

    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match (done.operation, done.result) {
                (Operation::ReadUntil, Ok(1..)) => {
                    let name = Buffer::from(format!("{}: ", done.context).into_bytes());
                    watcher.write_vectored(done.conn, done.context, vec![name, done.buffer])?;
                }
                (Operation::Write, Ok(_)) => watcher.read_until(done.conn, done.context, "\n", LINE)?,
                _ => watcher.free(done.conn),
            }
        }
    }
}

/// Shakes hands, and gives the connection to the watcher.
fn welcome(stream: TcpStream, submitter: &Submitter<Name>) -> kolk::Result<()> {
    let name = shake_hands(&stream)?;
    let conn = submitter.adopt(stream)?; // from here on it is the watcher's
    submitter.read_until(conn, name, "\n", LINE)
}

/// Waits for `HELLO name`, and answers it. Takes nothing behind that line: it is for the watcher to read.
fn shake_hands(mut stream: &TcpStream) -> io::Result<Name> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < LINE {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend_from_slice(&byte);
    }
    let line = String::from_utf8_lossy(&line);
    let Some(name) = line.strip_prefix("HELLO ") else {
        stream.write_all(b"SAY HELLO\n")?;
        return Err(io::ErrorKind::InvalidData.into());
    };
    stream.write_all(b"WELCOME\n")?;
    Ok(name.trim_end().into())
}

/// The one argument, or the usual address.
fn address() -> SocketAddr {
    let text = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7004".into());
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: watcher_handshake [ADDRESS:PORT]");
        std::process::exit(2)
    })
}
