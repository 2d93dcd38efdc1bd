//! `peer-smol`: one task a connection on a local executor, which smol's `block_on` runs together with its reactor.

mod broadcast;
mod stream;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use peer_common::{
    Address, DATAGRAM_BUFFER, Listener, RECEIVE_BUFFER, Result, Scenario, announce, listen,
};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::{UnixListener, UnixStream};
use smol::net::{TcpListener, TcpStream, UdpSocket};
use smol::{LocalExecutor, Timer};

use crate::broadcast::Hub;
use crate::stream::{Accept, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-smol", |scenario| {
        let executor = LocalExecutor::new();
        smol::block_on(executor.run(serve(&executor, scenario)))
    })
}

async fn serve(executor: &LocalExecutor<'static>, scenario: Scenario) -> Result {
    let address = match &scenario {
        Scenario::Udp { listen } => return udp(peer_common::udp(*listen)?).await,
        Scenario::Echo { listen }
        | Scenario::Broadcast { listen, .. }
        | Scenario::Relay { listen, .. } => listen,
    };
    match listen(address)? {
        Listener::Tcp(listener) => {
            accept(executor, TcpListener::try_from(listener)?, scenario).await
        }
        Listener::Unix(listener) => {
            accept(executor, UnixListener::try_from(listener)?, scenario).await
        }
    }
}

/// A task for each connection.
async fn accept<L: Accept>(
    executor: &LocalExecutor<'static>,
    listener: L,
    scenario: Scenario,
) -> Result {
    let hub = match scenario {
        Scenario::Broadcast { message, .. } => Some(Hub::new(executor, message)),
        _ => None,
    };
    announce()?;
    loop {
        let Ok(stream) = listener.accept().await else {
            Timer::after(ACCEPT_PAUSE).await;
            continue;
        };
        // What ends a connection ends its task, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => executor.spawn(relay(stream, to.clone())).detach(),
            (_, Some(hub)) => executor.spawn(hub.clone().serve(stream)).detach(),
            _ => executor.spawn(echo(stream)).detach(),
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
    let there = copy(inbound.clone(), outbound.clone());
    let back = copy(outbound, inbound);
    smol::future::try_zip(there, back).await.map(drop)
}

/// To the end of the stream, and that, too. As `smol::io::copy`, whose buffer is smaller.
async fn copy(mut reader: impl Stream, mut writer: impl Stream) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let received = reader.read(&mut buffer).await?;
        if received == 0 {
            return writer.close().await; // our direction only
        }
        writer.write_all(&buffer[..received]).await?;
    }
}

async fn udp(socket: std::net::UdpSocket) -> Result {
    let socket = UdpSocket::try_from(socket)?;
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    announce()?;
    loop {
        let (received, from) = socket.recv_from(&mut buffer).await?;
        // A datagram that cannot be sent is lost, as on the way.
        let _ = socket.send_to(&buffer[..received], from).await;
    }
}
