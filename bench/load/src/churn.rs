//! Connections that come, exchange one message and go: always `connections` of them at a time.

use std::os::fd::OwnedFd;
use std::time::Instant;

use harness::Result;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::meter::{Meter, Report};
use crate::readiness::{Number, Readiness};
use crate::{Common, PATIENCE, pattern, socket};

/// What to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Bytes of the message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    bytes: u32,
}

/// One connection of the moment.
#[derive(Debug)]
struct Visit {
    connection: OwnedFd,
    began: Instant,
    message: &'static [u8],
    /// Bytes of the message that have been sent; those that came back are no more.
    sent: usize,
    back: usize,
}

/// Measures; latency is that of a whole visit, from before the connect to the last byte.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let mut readiness = Readiness::new()?;
    let mut next = 0;
    let mut visit = |readiness: &Readiness, place: Number| -> Result<Visit> {
        next += 1;
        Visit::begin(arguments, readiness, place, next)
    };
    let places = 0..Number::from(arguments.common.connections);
    let mut visits = places
        .map(|place| visit(&readiness, place))
        .collect::<Result<Vec<_>>>()?;
    let mut meter = Meter::begin(&arguments.common)?;
    let mut buffer = vec![0; arguments.bytes as usize + 1];
    let mut ready = Vec::new();
    loop {
        ready.extend(readiness.wait(PATIENCE)?);
        if ready.is_empty() {
            return Err(format!("no answer for {}", socket::seconds(PATIENCE)).into());
        }
        for place in ready.drain(..) {
            let current = &mut visits[place as usize];
            if current.go_on(&readiness, place, &mut buffer)? {
                meter.count(arguments.bytes as usize, current.began, Instant::now());
                // The connection before it is closed here.
                *current = visit(&readiness, place)?;
            }
        }
        if let Some(report) = meter.tick(Instant::now())? {
            return Ok(report);
        }
    }
}

impl Visit {
    fn begin(
        arguments: &Arguments,
        readiness: &Readiness,
        place: Number,
        number: u64,
    ) -> Result<Self> {
        let began = Instant::now();
        let connection = socket::start_connecting(&arguments.common.address, number)
            .map_err(|error| format!("cannot connect to {}: {error}", arguments.common.address))?;
        let message = pattern::message(number, arguments.bytes as usize);
        let mut visit = Self {
            connection,
            began,
            message,
            sent: 0,
            back: 0,
        };
        // Over loopback the handshake is over when `connect` returns, and the message can leave at once.
        visit.send()?;
        readiness.add(&visit.connection, place, visit.interest())?;
        Ok(visit)
    }

    /// Sends and receives what it can; true when all of the message is back.
    fn go_on(&mut self, readiness: &Readiness, place: Number, buffer: &mut [u8]) -> Result<bool> {
        if self.sent < self.message.len() {
            self.send()?;
            readiness.change(&self.connection, place, self.interest())?;
        }
        match net::recv(&self.connection, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => Err("the server closed before it answered".into()),
            Ok((count, _)) => {
                let expected = &self.message[self.back..self.sent];
                if expected.get(..count) != Some(&buffer[..count]) {
                    return Err("other bytes came back than were sent".into());
                }
                self.back += count;
                Ok(self.back == self.message.len())
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(socket::failed("receive", error).into()),
        }
    }

    fn send(&mut self) -> Result<()> {
        match net::send(
            &self.connection,
            &self.message[self.sent..],
            SendFlags::NOSIGNAL,
        ) {
            Ok(count) => self.sent += count,
            // Not connected yet, or no room.
            Err(Errno::AGAIN | Errno::NOTCONN) => {}
            Err(error) => return Err(socket::failed("send", error).into()),
        }
        Ok(())
    }

    fn interest(&self) -> EventFlags {
        if self.sent < self.message.len() {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        }
    }
}
