//! The clients of the crowd: nearly all read, some never do.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

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
    receivers: Vec<Receiver>,
    /// How old each message was when it had arrived, in microseconds.
    pub(crate) ages: Vec<u32>,
}

/// What one of them is to get.
#[derive(Clone, Default)]
struct Receiver {
    /// The number of its next message.
    next: u64,
    /// What has arrived of that.
    part: Vec<u8>,
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
            watcher.read_pooled(conn, number)?;
        }
        Ok(Self {
            watcher,
            completions: Completions::with_capacity(1024),
            receivers: vec![Receiver::default(); count as usize],
            ages: Vec::with_capacity(count as usize * messages as usize),
        })
    }

    /// Takes what comes until all have got all messages. Anything else is an error: an end, a message that is missing,
    /// doubled or changed, or nothing for a while.
    pub(crate) fn receive(&mut self, messages: u64) -> Result<()> {
        let wanted = self.receivers.len() * messages as usize;
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
                if done.operation != Operation::ReadPooled {
                    continue;
                }
                let number = done.context;
                match done.result {
                    Ok(0) => return Err(format!("receiver {number}: its stream ended").into()),
                    Ok(_) => {}
                    Err(error) => return Err(format!("receiver {number}: {error}").into()),
                }
                let receiver = &mut self.receivers[number as usize];
                receiver
                    .take(&done.buffer, &mut self.ages)
                    .map_err(|error| format!("receiver {number} {error}"))?;
                if receiver.next < messages {
                    self.watcher.read_pooled(done.conn, number)?;
                }
            }
        }
        Ok(())
    }
}

impl Receiver {
    /// Takes what arrived: some messages and a part of one, or more of that.
    fn take(&mut self, bytes: &[u8], ages: &mut Vec<u32>) -> std::result::Result<(), String> {
        let mut part = std::mem::take(&mut self.part);
        let joined = !part.is_empty();
        if joined {
            part.extend_from_slice(bytes);
        }
        let messages = if joined { &part } else { bytes }.chunks_exact(SIZE);
        self.part = messages.remainder().to_vec();
        for message in messages {
            let age = age_us(message, self.next);
            ages.push(age.ok_or_else(|| format!("got something else than message {}", self.next))?);
            self.next += 1;
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
