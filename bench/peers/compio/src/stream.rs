//! TCP and Unix sockets behind one name.

use std::io;

use compio::io::util::Splittable;
use compio::io::{AsyncRead, AsyncWrite};
use compio::net::{TcpListener, UnixListener};

/// A connection; its clones share it.
pub(crate) trait Stream:
    AsyncRead + AsyncWrite + Splittable<ReadHalf: AsyncRead, WriteHalf: AsyncWrite> + Clone + 'static
{
}

impl<S> Stream for S where
    S: AsyncRead
        + AsyncWrite
        + Splittable<ReadHalf: AsyncRead, WriteHalf: AsyncWrite>
        + Clone
        + 'static
{
}

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
