//! TCP and Unix sockets behind one name.

use std::io;

use peer_common::Address;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// A listener of either kind.
pub(crate) trait Accept {
    async fn accept(&self) -> io::Result<impl Stream>;
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<impl Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    async fn accept(&self) -> io::Result<impl Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// The far side of a relay.
pub(crate) enum Outbound {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Outbound {
    pub(crate) async fn connect(to: &Address) -> io::Result<Self> {
        Ok(match to {
            Address::Inet(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
        })
    }
}
