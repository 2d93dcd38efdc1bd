//! Where a server listens.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Result;

/// An address of this machine. Written as the peers read it: `127.0.0.1:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP or UDP.
    Ip(SocketAddr),
    /// A Unix stream socket; its file is removed with the last clone's owner by the server, not by us.
    Unix(PathBuf),
}

impl Address {
    /// A TCP port of the loopback that was free a moment ago. Whoever takes it in between makes the
    /// server's start fail.
    ///
    /// # Errors
    ///
    /// The kernel has none.
    pub fn free_tcp() -> Result<Self> {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
        Ok(Self::Ip(bound.map_err(|error| {
            format!("cannot find a free TCP port: {error}")
        })?))
    }

    /// The same for UDP.
    ///
    /// # Errors
    ///
    /// The kernel has none.
    pub fn free_udp() -> Result<Self> {
        let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
        Ok(Self::Ip(bound.map_err(|error| {
            format!("cannot find a free UDP port: {error}")
        })?))
    }

    /// A path in the folder for temporary files that no other run uses.
    pub fn free_unix() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kolk-bench-{}-{number}.sock", std::process::id());
        Self::Unix(std::env::temp_dir().join(name))
    }

    /// As the `kolk` command writes it: `tcp://IP:PORT` or `unix://PATH`.
    pub fn url(&self) -> String {
        match self {
            Self::Ip(address) => format!("tcp://{address}"),
            Self::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// Removes the file of a Unix socket whose server left it behind.
    pub fn remove_file(&self) {
        if let Self::Unix(path) = self {
            // Most servers have removed it themselves.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        text.parse()
            .map(Self::Ip)
            .map_err(|_| format!("{text:?} is no address: write 127.0.0.1:PORT or unix:PATH"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["127.0.0.1:7000", "unix:/run/echo.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in ["", "7000", "localhost:7000", "unix:", "tcp://127.0.0.1:1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn free_addresses_differ() {
        assert_ne!(Address::free_unix(), Address::free_unix());
        assert!(matches!(Address::free_tcp(), Ok(Address::Ip(it)) if it.port() > 0));
        assert!(matches!(Address::free_udp(), Ok(Address::Ip(it)) if it.port() > 0));
    }
}
