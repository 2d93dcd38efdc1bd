//! `peer-tokio`: one task a connection on the current-thread runtime, as tokio's tutorial and its examples write
//! servers.

mod broadcast;
mod stream;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use peer_common::{DATAGRAM_BUFFER, Listener, RECEIVE_BUFFER, Result, Scenario, announce, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

use crate::broadcast::Hub;
use crate::stream::{Accept, Outbound, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-tokio", |scenario| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(serve(scenario))
    })
}

async fn serve(scenario: Scenario) -> Result {
    let address = match &scenario {
        Scenario::Udp { listen } => return udp(peer_common::udp(*listen)?).await,
        Scenario::Echo { listen }
        | Scenario::Broadcast { listen, .. }
        | Scenario::Relay { listen, .. } => listen,
    };
    match listen(address)? {
        Listener::Tcp(listener) => accept(TcpListener::from_std(listener)?, scenario).await,
        Listener::Unix(listener) => accept(UnixListener::from_std(listener)?, scenario).await,
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
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // What ends a connection ends its task, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => drop(tokio::spawn(relay(stream, to.clone()))),
            (_, Some(hub)) => drop(tokio::spawn(hub.clone().serve(stream))),
            _ => drop(tokio::spawn(echo(stream))),
        }
    }
}

async fn echo(mut stream: impl Stream) -> io::Result<()> {
    // Not filled with zeros: memory that no message has needed yet stays with the system.
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    while stream.read_buf(&mut buffer).await? > 0 {
        stream.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}

async fn relay(mut inbound: impl Stream, to: peer_common::Address) -> io::Result<()> {
    let size = RECEIVE_BUFFER;
    match Outbound::connect(&to).await? {
        Outbound::Tcp(mut outbound) => {
            copy_bidirectional_with_sizes(&mut inbound, &mut outbound, size, size).await
        }
        Outbound::Unix(mut outbound) => {
            copy_bidirectional_with_sizes(&mut inbound, &mut outbound, size, size).await
        }
    }
    .map(drop)
}

async fn udp(socket: std::net::UdpSocket) -> Result {
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    announce()?;
    loop {
        let (received, from) = socket.recv_from(&mut buffer).await?;
        // A datagram that cannot be sent is lost, as on the way.
        let _ = socket.send_to(&buffer[..received], from).await;
    }
}
