//! Bytes that do not repeat, and streams with a limit on each wait.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use crate::{Address, PATIENCE, Result};

/// `len` bytes that look random, the same for the same seed (xorshift64).
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A blocking stream of either kind. A wait that is too long is an error.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn connect(to: &Address) -> Result<Self> {
        let stream = match to {
            Address::Inet(address) => Self::Tcp(TcpStream::connect_timeout(address, PATIENCE)?),
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        };
        stream.be_patient()?;
        Ok(stream)
    }

    pub(crate) fn be_patient(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))
            }
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Everything to the end of the stream, at most one byte more than `most`.
    pub(crate) fn read_all(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(most);
        let outcome = self.take(most as u64 + 1).read_to_end(&mut bytes);
        match outcome {
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("after {} bytes of {most}: {error}", bytes.len()).into()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails where bytes differ, and says where.
pub(crate) fn compare(what: &str, expected: &[u8], got: &[u8]) -> Result {
    if expected == got {
        return Ok(());
    }
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (wanted, len) = (expected.len(), got.len());
    Err(
        format!("{what}: {len} bytes instead of {wanted}, and from byte {same} on not the same")
            .into(),
    )
}
