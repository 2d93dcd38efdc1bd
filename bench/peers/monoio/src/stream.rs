//! TCP and Unix sockets behind one name.

use std::io;

use monoio::io::{AsyncReadRent, AsyncWriteRent, Split};
use monoio::net::{TcpListener, UnixListener};

/// A connection.
pub(crate) trait Stream: AsyncReadRent + AsyncWriteRent + Split + 'static {}

impl<S: AsyncReadRent + AsyncWriteRent + Split + 'static> Stream for S {}

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
