//! `peer-may`: one coroutine a connection, on one worker, as may's echo example does. Its sockets only come from its own
//! functions, so the listener's queue and options are set behind their back.

mod broadcast;
mod stream;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use may::go;
use may::net::{TcpStream, UdpSocket};
use may::os::unix::net::UnixStream;
use peer_common::{Address, DATAGRAM_BUFFER, RECEIVE_BUFFER, Result, Scenario, announce};

use crate::broadcast::Hub;
use crate::stream::{Listener, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-may", |scenario| {
        // Who measures says which processor it is to use.
        may::config().set_workers(1).set_worker_pin(false);
        let served = go!(|| serve(scenario).map_err(|error| error.to_string())).join();
        Ok(served.map_err(|_| "a coroutine panicked")??)
    })
}

fn serve(scenario: Scenario) -> Result {
    let address = match &scenario {
        Scenario::Udp { listen } => return udp(*listen),
        Scenario::Echo { listen }
        | Scenario::Broadcast { listen, .. }
        | Scenario::Relay { listen, .. } => listen,
    };
    match stream::listen(address)? {
        Listener::Tcp(listener) => accept(|| listener.accept().map(|(stream, _)| stream), scenario),
        Listener::Unix(listener) => {
            accept(|| listener.accept().map(|(stream, _)| stream), scenario)
        }
    }
}

/// A coroutine for each connection.
fn accept<S: Stream>(next: impl Fn() -> io::Result<S>, scenario: Scenario) -> Result {
    let hub = match scenario {
        Scenario::Broadcast { message, .. } => Some(Arc::new(Hub::new(message))),
        _ => None,
    };
    announce()?;
    loop {
        let Ok(stream) = next() else {
            may::coroutine::sleep(ACCEPT_PAUSE);
            continue;
        };
        // What ends a connection ends its coroutine, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => {
                let to = to.clone();
                go!(move || relay(stream, &to));
            }
            (_, Some(hub)) => {
                let hub = Arc::clone(hub);
                go!(move || hub.serve(stream));
            }
            _ => {
                go!(move || echo(stream));
            }
        }
    }
}

fn echo(mut stream: impl Stream) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let received = stream.read(&mut buffer)?;
        if received == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..received])?;
    }
}

fn relay(inbound: impl Stream, to: &Address) -> io::Result<()> {
    match to {
        Address::Inet(address) => {
            let outbound = TcpStream::connect(address)?;
            outbound.set_nodelay(true)?;
            copy_both_ways(inbound, outbound)
        }
        Address::Unix(path) => copy_both_ways(inbound, UnixStream::connect(path)?),
    }
}

/// A second coroutine for the way back.
fn copy_both_ways<A: Stream, B: Stream>(inbound: A, outbound: B) -> io::Result<()> {
    let (from_client, to_client) = inbound.halves()?;
    let (from_server, to_server) = outbound.halves()?;
    let back = go!(move || copy(from_server, to_client));
    let there = copy(from_client, to_server);
    let back = back
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a coroutine panicked")));
    there.and(back)
}

/// To the end of the stream, and that, too.
fn copy(mut reader: impl Stream, mut writer: impl Stream) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let received = reader.read(&mut buffer)?;
        if received == 0 {
            return writer.shutdown(Shutdown::Write);
        }
        writer.write_all(&buffer[..received])?;
    }
}

fn udp(address: SocketAddr) -> Result {
    let socket = UdpSocket::bind(address)?;
    peer_common::enlarge(socket.inner())?;
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    announce()?;
    loop {
        let (received, from) = socket.recv_from(&mut buffer)?;
        // A datagram that cannot be sent is lost, as on the way.
        let _ = socket.send_to(&buffer[..received], from);
    }
}
