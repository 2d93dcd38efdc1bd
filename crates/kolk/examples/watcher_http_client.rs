//! Fetches a page over HTTP/1.0: connects, writes a request, reads until the server closes. Each step has a
//! deadline. Try it with `python3 -m http.server 8080`.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kolk::watcher::{Completions, Operation, Request, Watcher};

/// How long the server may take to accept, and how long to say anything.
const STEP: Duration = Duration::from_secs(5);

/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let (host, address, path) = arguments();
    match fetch(&host, address, &path) {
        Ok(count) => {
            eprintln!("{count} bytes");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot fetch http://{host}{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies the answer to standard output.
fn fetch(host: &str, address: SocketAddr, path: &str) -> kolk::Result<usize> {
    let end = Instant::now() + WHOLE;
    let mut watcher = Watcher::new()?;
    // All three are submitted at once: the write and the read wait for the connection.
    let conn = watcher.submit(Request::connect(address, ()).timeout(STEP))?.conn();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").into_bytes();
    watcher.submit(Request::write(conn, (), request).deadline(end))?;
    watcher.submit(Request::read_pooled(conn, ()).timeout(2 * STEP))?;

    let mut count = 0;
    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match (done.operation, done.result?) {
                (Operation::ReadPooled, 0) => return Ok(count),
                (Operation::ReadPooled, length) => {
                    count += length;
                    std::io::stdout().write_all(&done.buffer)?;
                    let limit = end.min(Instant::now() + STEP);
                    watcher.submit(Request::read_pooled(conn, ()).deadline(limit))?;
                }
                _ => {} // connected, or the request is sent
            }
        }
    }
}

/// Host and port, one of its addresses, and the path; or the usual ones.
fn arguments() -> (String, SocketAddr, String) {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let path = arguments.next().unwrap_or_else(|| "/".into());
    let wrong = match host.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) if path.starts_with('/') => return (host, address, path),
        Ok(Some(_)) => format!("{path:?} does not begin with a slash"),
        Ok(None) => format!("{host:?} has no address"),
        Err(error) => format!("{host:?}: {error}"),
    };
    eprintln!("{wrong}; usage: watcher_http_client [HOST:PORT [/PATH]]");
    std::process::exit(2)
}
