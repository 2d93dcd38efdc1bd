//! `peer-glommio`: one task a connection on one executor. Listeners only come from glommio's own functions, which let
//! 1024 connections wait on TCP and 128 on a Unix socket.

mod broadcast;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use glommio::{LocalExecutorBuilder, Placement};
use peer_common::{Address, DATAGRAM_BUFFER, RECEIVE_BUFFER, Result, Scenario, announce, make_way};

use crate::broadcast::Hub;
use crate::stream::{Accept, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-glommio", |scenario| {
        // Who measures says which processor it is to use.
        let executor = LocalExecutorBuilder::new(Placement::Unbound).make()?;
        executor.run(serve(scenario))
    })
}

async fn serve(scenario: Scenario) -> Result {
    let address = match &scenario {
        Scenario::Udp { listen } => return udp(*listen).await,
        Scenario::Echo { listen }
        | Scenario::Broadcast { listen, .. }
        | Scenario::Relay { listen, .. } => listen,
    };
    match address {
        Address::Inet(address) => accept(TcpListener::bind(address)?, scenario).await,
        Address::Unix(path) => {
            make_way(path)?;
            accept(UnixListener::bind(path)?, scenario).await
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
            glommio::timer::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // What ends a connection ends its task, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => {
                drop(glommio::spawn_local(relay(stream, to.clone())).detach());
            }
            (_, Some(hub)) => drop(glommio::spawn_local(hub.clone().serve(stream)).detach()),
            _ => drop(glommio::spawn_local(echo(stream)).detach()),
        }
    }
}

async fn echo(mut stream: impl Stream) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..received]).await?;
    }
}

async fn relay(inbound: impl Stream, to: Address) -> io::Result<()> {
    match to {
        Address::Inet(address) => {
            let outbound = TcpStream::connect(address).await?;
            outbound.set_nodelay(true)?;
            copy_both_ways(inbound, outbound).await
        }
        Address::Unix(path) => copy_both_ways(inbound, UnixStream::connect(path).await?).await,
    }
}

async fn copy_both_ways(inbound: impl Stream, outbound: impl Stream) -> io::Result<()> {
    let (from_client, to_client) = futures_lite::io::split(inbound);
    let (from_server, to_server) = futures_lite::io::split(outbound);
    futures_lite::future::try_zip(copy(from_client, to_server), copy(from_server, to_client))
        .await
        .map(drop)
}

/// To the end of the stream, and that, too.
async fn copy(
    mut reader: impl futures_lite::AsyncRead + Unpin,
    mut writer: impl futures_lite::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let received = reader.read(&mut buffer).await?;
        if received == 0 {
            return writer.close().await; // our direction only
        }
        writer.write_all(&buffer[..received]).await?;
    }
}

async fn udp(address: SocketAddr) -> Result {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    announce()?;
    loop {
        let (received, from) = socket.recv_from(&mut buffer).await?;
        // A datagram that cannot be sent is lost, as on the way.
        let _ = socket.send_to(&buffer[..received], from).await;
    }
}
