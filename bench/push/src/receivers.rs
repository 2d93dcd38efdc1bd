//! The clients of the crowd: nearly all read, some never do.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kolk::DriverChoice;
use kolk::watcher::{Completions, Operation, Watcher};
use socket2::{Domain, Socket, Type};

use crate::message::{SIZE, age_us};
use crate::{PATIENCE, Result};

/// Longest wait of one step, so that others can be looked after.
const STEP: Duration = Duration::from_millis(50);

/// Those who read, on one watcher.
pub(crate) struct Readers {
    watcher: Watcher<u32>,
    completions: Completions<u32>,
    /// The number of the message that each gets next.
    next: Vec<u64>,
    /// How old each message was when it had arrived, in microseconds.
    pub(crate) ages: Vec<u32>,
}

impl Readers {
    pub(crate) fn connect(
        address: SocketAddr,
        count: u32,
        messages: u64,
        driver: DriverChoice,
    ) -> Result<Self> {
        let mut watcher = Watcher::builder().driver(driver).build()?;
        for number in 0..count {
            let stream = TcpStream::connect(address)?;
            let conn = watcher.adopt(stream)?;
            watcher.read_exact(conn, number, BytesMut::with_capacity(SIZE))?;
        }
        Ok(Self {
            watcher,
            completions: Completions::with_capacity(1024),
            next: vec![0; count as usize],
            ages: Vec::with_capacity(count as usize * messages as usize),
        })
    }

    /// Takes what comes until all have got all messages. Anything else is an error: an end, a message that is missing,
    /// doubled or changed, or nothing for a while.
    pub(crate) fn receive(&mut self, messages: u64) -> Result<()> {
        let wanted = self.next.len() * messages as usize;
        let mut last = Instant::now();
        while self.ages.len() < wanted {
            if self.watcher.wait(&mut self.completions, Some(STEP))? > 0 {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err(format!(
                    "{} of {wanted} messages came, then nothing",
                    self.ages.len()
                )
                .into());
            }
            for done in self.completions.drain() {
                if done.operation != Operation::ReadExact {
                    continue;
                }
                let (number, next) = (done.context, &mut self.next[done.context as usize]);
                done.result
                    .map_err(|error| format!("receiver {number}: {error}"))?;
                let age = age_us(&done.buffer, *next).ok_or_else(|| {
                    format!("receiver {number} got something else than message {next}")
                })?;
                self.ages.push(age);
                *next += 1;
                if *next < messages {
                    self.watcher
                        .read_exact(done.conn, number, done.buffer.recycle())?;
                }
            }
        }
        Ok(())
    }
}

/// Those who never read, with as little room in the kernel as it allows: their messages are the server's burden.
pub(crate) fn connect_silent(address: SocketAddr, count: u32) -> Result<Vec<Socket>> {
    let connect = |_| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(1)?; // rounded up to the smallest that there is
        socket.set_tcp_mss(536)?; // the other end's send buffer grows with it
        socket.connect(&address.into())?;
        Ok(socket)
    };
    (0..count).map(connect).collect()
}
