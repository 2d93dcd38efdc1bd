//! `peer-monoio`: one task a connection, each with a buffer of its own that it lends to the kernel, as monoio's own
//! echo example does.

mod broadcast;
mod stream;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{TcpListener, TcpStream, UnixListener, UnixStream, udp::UdpSocket};
use monoio::{IoUringDriver, RuntimeBuilder};
use peer_common::{
    Address, DATAGRAM_BUFFER, Listener, RECEIVE_BUFFER, Result, Scenario, announce, listen,
};

use crate::broadcast::Hub;
use crate::stream::{Accept, Stream};

/// Rest after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    peer_common::run("peer-monoio", |scenario| {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .enable_timer()
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
            monoio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // What ends a connection ends its task, and concerns nobody else.
        match (&scenario, &hub) {
            (Scenario::Relay { to, .. }, _) => drop(monoio::spawn(relay(stream, to.clone()))),
            (_, Some(hub)) => drop(monoio::spawn(hub.clone().serve(stream))),
            _ => drop(monoio::spawn(echo(stream))),
        }
    }
}

async fn echo(stream: impl Stream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    copy(&mut reader, &mut writer).await
}

/// To the end of the stream.
async fn copy(reader: &mut impl AsyncReadRent, writer: &mut impl AsyncWriteRent) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    let mut outcome;
    loop {
        (outcome, buffer) = reader.read(buffer).await;
        if outcome? == 0 {
            return Ok(());
        }
        (outcome, buffer) = writer.write_all(buffer).await;
        outcome?;
        buffer.clear();
    }
}

async fn relay(inbound: impl Stream, to: Address) -> io::Result<()> {
    match to {
        Address::Inet(address) => {
            let outbound = TcpStream::connect_addr(address).await?;
            outbound.set_nodelay(true)?;
            copy_both_ways(inbound, outbound).await
        }
        Address::Unix(path) => copy_both_ways(inbound, UnixStream::connect(path).await?).await,
    }
}

async fn copy_both_ways(inbound: impl Stream, outbound: impl Stream) -> io::Result<()> {
    let (mut from_client, mut to_client) = inbound.into_split();
    let (mut from_server, mut to_server) = outbound.into_split();
    let there = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let back = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    let (there, back) = monoio::join!(there, back);
    there.and(back)
}

async fn udp(socket: std::net::UdpSocket) -> Result {
    socket.set_nonblocking(false)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = Vec::with_capacity(DATAGRAM_BUFFER);
    announce()?;
    loop {
        let outcome;
        (outcome, buffer) = socket.recv_from(buffer).await;
        let (received, from) = outcome?;
        // A datagram that cannot be sent is lost, as on the way.
        let (_, sent) = socket.send_to(buffer.slice(..received), from).await;
        buffer = sent.into_inner();
    }
}
