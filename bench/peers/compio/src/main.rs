//! `peer-compio`: one task a connection, each with a buffer of its own that it lends to the kernel.

mod broadcast;
mod stream;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::AsyncWriteExt;
use compio::io::util::copy_bidirectional_with_sizes;
use compio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use compio::runtime::Runtime;
use peer_common::{
    Address, DATAGRAM_BUFFER, Listener, RECEIVE_BUFFER, Result, Scenario, announce, listen,
};

use crate::broadcast::Hub;
use crate::stream::{Accept, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-compio", |scenario| {
        Runtime::new()?.block_on(serve(scenario))
    })
}

async fn serve(scenario: Scenario) -> Result {
    let address = match &scenario {
        Scenario::Udp { listen } => return udp(peer_common::udp(*listen)?).await,
        Scenario::Echo { listen }
        | Scenario::Broadcast { listen, .. }
        | Scenario::Relay { listen, .. } => listen,
    };
    // io_uring waits by itself, unless a socket says that nobody waits for it.
    match listen(address)? {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(false)?;
            accept(TcpListener::from_std(listener)?, scenario).await
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(false)?;
            accept(UnixListener::from_std(listener)?, scenario).await
        }
    }
}

/// A task for each connection.
async fn accept(listener: impl Accept, scenario: Scenario) -> Result {
    let hub = match scenario {
        Scenario::Broadcast { message, .. } => Some(Hub::new(message)),
        _ => None,
    };
    announce()?;
    loop {
        let Ok(stream) = listener.accept().await else {
            compio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // What ends a connection ends its task, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => {
                compio::runtime::spawn(relay(stream, to.clone())).detach();
            }
            (_, Some(hub)) => compio::runtime::spawn(hub.clone().serve(stream)).detach(),
            _ => compio::runtime::spawn(echo(stream)).detach(),
        }
    }
}

async fn echo(mut stream: impl Stream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        let received;
        BufResult(received, buffer) = stream.read(buffer).await;
        if received? == 0 {
            return Ok(());
        }
        let sent;
        BufResult(sent, buffer) = stream.write_all(buffer).await;
        sent?;
        buffer.clear();
    }
}

async fn relay(inbound: impl Stream, to: Address) -> io::Result<()> {
    let size = RECEIVE_BUFFER;
    let (there, back) = match to {
        Address::Inet(address) => {
            let outbound = TcpStream::connect(address).await?;
            outbound.set_nodelay(true)?;
            copy_bidirectional_with_sizes(inbound, outbound, size, size).await
        }
        Address::Unix(path) => {
            copy_bidirectional_with_sizes(inbound, UnixStream::connect(path).await?, size, size)
                .await
        }
    };
    there.and(back).map(drop)
}

async fn udp(socket: std::net::UdpSocket) -> Result {
    socket.set_nonblocking(false)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = Vec::with_capacity(DATAGRAM_BUFFER);
    announce()?;
    loop {
        let received;
        BufResult(received, buffer) = socket.recv_from(buffer).await;
        let (received, from) = received?;
        // A datagram that cannot be sent is lost, as on the way.
        let BufResult(_, sent) = socket.send_to(buffer.slice(..received), from).await;
        buffer = sent.into_inner();
        buffer.clear();
    }
}
