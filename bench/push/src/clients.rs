//! Many connections that ask, are answered, and wait: on one watcher.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kolk::ConnId;
use kolk::watcher::{Completion, Completions, Operation, Watcher};
use socket2::{Domain, Socket, Type};

use crate::{Driver, PATIENCE, Result};

/// What the kernel keeps of what a client has not read. It would keep more and more for one that reads fast.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// Longest wait of one step.
const STEP: Duration = Duration::from_millis(50);

pub(crate) struct Clients {
    watcher: Watcher<u32>,
    completions: Completions<u32>,
    pub(crate) conns: Vec<ConnId>,
}

impl Clients {
    pub(crate) fn connect(address: SocketAddr, count: u32, driver: Driver) -> Result<Self> {
        let mut clients = Self {
            watcher: Watcher::builder().driver(driver.choice()).build()?,
            completions: Completions::with_capacity(1024),
            conns: Vec::new(),
        };
        clients.add(address, count)?;
        Ok(clients)
    }

    /// Connects so many more.
    pub(crate) fn add(&mut self, address: SocketAddr, count: u32) -> Result<()> {
        for _ in 0..count {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.connect(&address.into())?;
            self.conns
                .push(self.watcher.adopt(TcpStream::from(socket))?);
        }
        Ok(())
    }

    /// Sends the same to the server on each connection, and answers what came back on each: so many bytes.
    pub(crate) fn ask(&mut self, bytes: &'static [u8], answer: usize) -> Result<Vec<Bytes>> {
        for (number, &conn) in self.conns.iter().enumerate() {
            self.watcher
                .write(conn, number as u32, Bytes::from_static(bytes))?;
        }
        self.receive(answer)
    }

    /// Reads so many bytes on each connection.
    pub(crate) fn receive(&mut self, count: usize) -> Result<Vec<Bytes>> {
        for (number, &conn) in self.conns.iter().enumerate() {
            self.watcher
                .read_exact(conn, number as u32, BytesMut::with_capacity(count))?;
        }
        let mut answers = vec![Bytes::new(); self.conns.len()];
        let mut missing = answers.len();
        self.until(|done| {
            if done.operation == Operation::ReadExact {
                done.result?;
                answers[done.context as usize] = done.buffer.into_bytes();
                missing -= 1;
            }
            Ok(missing == 0)
        })?;
        Ok(answers)
    }

    /// Waits until the server has ended every connection; how long after `begin` each of them ended.
    pub(crate) fn wait_for_ends(&mut self, begin: Instant) -> Result<Vec<Duration>> {
        for (number, &conn) in self.conns.iter().enumerate() {
            self.watcher.read_pooled(conn, number as u32)?;
        }
        let mut ends = Vec::new();
        let mut gone = Vec::new();
        let wanted = self.conns.len();
        while ends.len() < wanted {
            self.until(|done| {
                if done.operation == Operation::Write {
                    return Ok(false);
                }
                if done.result? > 0 {
                    return Err("the server sends something".into());
                }
                ends.push(begin.elapsed());
                gone.push(done.conn);
                Ok(true)
            })?;
            gone.drain(..).for_each(|conn| self.watcher.free(conn));
        }
        Ok(ends)
    }

    /// Gives completions to `take` until it has enough; nothing for long is an error.
    fn until(&mut self, mut take: impl FnMut(Completion<u32>) -> Result<bool>) -> Result<()> {
        let mut last = Instant::now();
        let mut enough = false;
        while !enough {
            if self.watcher.wait(&mut self.completions, Some(STEP))? > 0 {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err("nothing comes any more".into());
            }
            for done in self.completions.drain() {
                enough |= take(done)?;
            }
        }
        Ok(())
    }
}
