//! TCP and Unix sockets behind one name.

use std::io;

use smol::io::{AsyncRead, AsyncWrite};
use smol::net::unix::{UnixListener, UnixStream};
use smol::net::{TcpListener, TcpStream};

/// A connection; its clones share it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Clone + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Clone + Unpin + 'static> Stream for S {}

/// A listener of either kind.
pub(crate) trait Accept {
    type Stream: Stream;

    async fn accept(&self) -> io::Result<Self::Stream>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}
