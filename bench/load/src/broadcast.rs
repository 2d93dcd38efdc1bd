//! One publisher, many receivers.
//!
//! Each connection says first what it is: `R` or `P`. A receiver that the server has not noticed yet would
//! miss a message, so the publisher sends until each receiver has one; the measurement begins behind the
//! last of those. From there on one message is under way: the next leaves when all have it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use harness::Result;
use harness::address::Address;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags};

use crate::meter::{Meter, Report};
use crate::readiness::{Number, Readiness};
use crate::{Common, PATIENCE, pattern, socket};

/// How long to wait for receivers to get their first message before the next is sent.
const PROBE: Duration = Duration::from_millis(100);

/// How many first messages are sent.
const PROBES: u32 = 200;

/// Bytes of a message's number.
const HEAD: usize = 8;

/// What to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Bytes of a message
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    bytes: u32,
}

/// Measures; latency is from before the publisher's send to a receiver's last byte.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let mut hall = Hall::open(arguments)?;
    hall.fill()?;
    let mut meter = Meter::begin(&arguments.common)?;
    loop {
        hall.publish()?;
        hall.listen(|bytes, sent, now| meter.count(bytes, sent, now))?;
        if let Some(report) = meter.tick(Instant::now())? {
            return Ok(report);
        }
    }
}

/// The publisher and its receivers.
struct Hall {
    publisher: OwnedFd,
    receivers: Vec<Receiver>,
    readiness: Readiness,
    size: usize,
    /// Number of the next message.
    next: u64,
    /// Those under way, the first of them for the slowest receiver.
    under_way: VecDeque<Published>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Published {
    bytes: Vec<u8>,
    sent: Instant,
    /// Receivers that have it.
    received: usize,
}

#[derive(Debug)]
struct Receiver {
    connection: OwnedFd,
    /// The message that it is in, once it had one.
    number: Option<u64>,
    /// Bytes of it that came; less than its size.
    partial: usize,
}

impl Hall {
    fn open(arguments: &Arguments) -> Result<Self> {
        let address = &arguments.common.address;
        let receivers = (0..arguments.common.connections).map(|_| Receiver::join(address));
        let receivers = receivers.collect::<Result<Vec<_>>>()?;
        let readiness = Readiness::new()?;
        for (place, receiver) in receivers.iter().enumerate() {
            readiness.add(&receiver.connection, place as Number, EventFlags::IN)?;
        }
        let publisher = socket::connect(address)?;
        socket::send_all(&publisher, b"P")?;
        let size = arguments.bytes as usize;
        Ok(Self {
            publisher,
            receivers,
            readiness,
            size,
            next: 0,
            under_way: VecDeque::new(),
            buffer: vec![0; 64 << 10],
        })
    }

    /// Publishes until all receivers have had a message, and waits until all have the last one.
    fn fill(&mut self) -> Result<()> {
        let count = self.receivers.len();
        let mut here = 0;
        for _ in 0..PROBES {
            self.publish()?;
            let begin = Instant::now();
            while begin.elapsed() < PROBE && here < count {
                self.receive(PROBE, |_, _, _| ())?;
                here = self
                    .receivers
                    .iter()
                    .filter(|it| it.number.is_some())
                    .count();
            }
            if here == count {
                let last = self.next;
                // Who came late never gets the first ones.
                let is_behind = |it: &Receiver| it.number != Some(last);
                while self.receivers.iter().any(is_behind) {
                    self.expect_progress(|_, _, _| ())?;
                }
                self.under_way.clear();
                return Ok(());
            }
        }
        Err(format!("only {here} of {count} receivers got anything after {PROBES} messages").into())
    }

    fn publish(&mut self) -> Result<()> {
        let mut bytes = self.next.to_be_bytes().to_vec();
        bytes.extend_from_slice(pattern::message(self.next, self.size - HEAD));
        let sent = Instant::now();
        socket::send_all(&self.publisher, &bytes)?;
        self.next += 1;
        self.under_way.push_back(Published {
            bytes,
            sent,
            received: 0,
        });
        Ok(())
    }

    /// Waits until all have the one message under way, and tells of each that has.
    fn listen(&mut self, mut tell: impl FnMut(usize, Instant, Instant)) -> Result<()> {
        while self
            .under_way
            .front()
            .is_some_and(|it| it.received < self.receivers.len())
        {
            self.expect_progress(&mut tell)?;
        }
        self.under_way.pop_front();
        Ok(())
    }

    fn expect_progress(&mut self, tell: impl FnMut(usize, Instant, Instant)) -> Result<()> {
        if self.receive(PATIENCE, tell)? {
            return Ok(());
        }
        let missing: usize = self
            .under_way
            .iter()
            .map(|it| self.receivers.len() - it.received)
            .sum();
        Err(format!(
            "{missing} deliveries are missing after {}",
            socket::seconds(PATIENCE)
        )
        .into())
    }

    /// Whether anything came.
    fn receive(
        &mut self,
        patience: Duration,
        mut tell: impl FnMut(usize, Instant, Instant),
    ) -> Result<bool> {
        let first = self.next - self.under_way.len() as u64;
        let mut any = false;
        for place in self.readiness.wait(patience)? {
            any = true;
            let receiver = &mut self.receivers[place as usize];
            let mut bytes = match net::recv(
                &receiver.connection,
                &mut self.buffer[..],
                RecvFlags::DONTWAIT,
            ) {
                Ok((0, _)) => return Err(format!("receiver {place}: the server closed").into()),
                Ok((count, _)) => &self.buffer[..count],
                Err(Errno::AGAIN) => continue,
                Err(error) => return Err(socket::failed("receive", error).into()),
            };
            let now = Instant::now();
            while !bytes.is_empty() {
                let number = receiver.number.or_else(|| head(bytes)).unwrap_or(first);
                let published = number
                    .checked_sub(first)
                    .and_then(|it| self.under_way.get_mut(it as usize));
                let Some(published) = published else {
                    return Err(
                        format!("receiver {place} got something when nothing was sent").into(),
                    );
                };
                let expected = &published.bytes[receiver.partial..];
                let count = expected.len().min(bytes.len());
                if expected[..count] != bytes[..count] {
                    return Err(
                        format!("receiver {place} got other bytes than message {number}").into(),
                    );
                }
                bytes = &bytes[count..];
                receiver.number = Some(number);
                receiver.partial += count;
                if receiver.partial == self.size {
                    (receiver.number, receiver.partial) = (Some(number + 1), 0);
                    published.received += 1;
                    tell(self.size, published.sent, now);
                }
            }
        }
        Ok(any)
    }
}

impl Receiver {
    fn join(address: &Address) -> Result<Self> {
        let connection = socket::connect(address)?;
        socket::send_all(&connection, b"R")?;
        Ok(Self {
            connection,
            number: None,
            partial: 0,
        })
    }
}

/// The number of the message that begins here.
fn head(bytes: &[u8]) -> Option<u64> {
    bytes
        .first_chunk::<HEAD>()
        .map(|head| u64::from_be_bytes(*head))
}
