//! TCP and Unix sockets behind one name.

use std::io;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, UnixListener};

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Stream for S {}

/// A listener of either kind.
pub(crate) trait Accept {
    async fn accept(&self) -> io::Result<impl Stream>;
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<impl Stream> {
        let stream = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Accept for UnixListener {
    async fn accept(&self) -> io::Result<impl Stream> {
        Ok(self.accept().await?)
    }
}
