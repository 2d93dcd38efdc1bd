//! Datagrams one by one, and several at once.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use crate::data::{compare, noise};
use crate::{Address, PATIENCE, Result};

/// Payloads in bytes: short, the longest of an Ethernet packet, and one that IP sends in pieces.
const SIZES: [usize; 5] = [1, 64, 512, 1472, 9000];

/// Datagrams on their way at once: few enough for any socket buffer.
const BURST: usize = 32;

pub(crate) fn check(address: &Address) -> Result {
    let Address::Inet(address) = address else {
        return Err("udp has an IP address".into());
    };
    let sockets = [socket()?, socket()?];
    for socket in &sockets {
        socket.connect(address)?;
    }
    let mut buffer = vec![0; 64 * 1024];
    for (number, size) in SIZES.into_iter().enumerate() {
        for (which, socket) in sockets.iter().enumerate() {
            let datagram = noise(size, (2 * number + which) as u64);
            socket.send(&datagram)?;
            let received = socket
                .recv(&mut buffer)
                .map_err(|error| format!("a datagram of {size} bytes: {error}"))?;
            compare("a datagram", &datagram, &buffer[..received])?;
        }
    }
    sockets
        .iter()
        .try_for_each(|socket| burst(socket, &mut buffer))
}

fn socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// In any order.
fn burst(socket: &UdpSocket, buffer: &mut [u8]) -> Result {
    let mut expected = BTreeSet::new();
    for number in 0..BURST {
        // Of several lengths, so that joined ones would be seen.
        let datagram = noise(64 + number % 3, number as u64 + 100);
        socket.send(&datagram)?;
        expected.insert(datagram);
    }
    while !expected.is_empty() {
        let received = socket
            .recv(buffer)
            .map_err(|error| format!("{} of {BURST} are missing: {error}", expected.len()))?;
        if !expected.remove(&buffer[..received]) {
            return Err(format!("a datagram of {received} bytes that nobody sent").into());
        }
    }
    Ok(())
}
