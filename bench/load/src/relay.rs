//! Streams through a relay: we are both ends.
//!
//! ```text
//!  source ──── sendfile of the pattern ───► relay ───► sink: every byte compared
//!  half-close ─────────────────────────────────────► end of stream, close
//!  end of stream ◄──────────────────────────────────┘
//! ```
//!
//! The pattern is sent from a file in memory, so the source copies nothing: what is left is one copy and one
//! comparison in the sink, less than the two copies of a relay.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use harness::Result;
use harness::address::Address;
use rustix::event::epoll::EventFlags;
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, sockopt};

use crate::meter::{Meter, Report};
use crate::readiness::{Number, Readiness};
use crate::{Common, PATIENCE, pattern, socket};

/// Most bytes of one send, and of one receive.
const SEND: usize = 64 << 10;
const RECEIVE: usize = 128 << 10;

/// What to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Where the relay sends what it receives: we listen there
    #[arg(long, value_name = "IP:PORT")]
    to: SocketAddr,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let mut ends = Ends::open(arguments)?;
    let mut meter = Meter::begin(&arguments.common)?;
    let report = loop {
        ends.turn(PATIENCE, &mut meter)?;
        if let Some(report) = meter.tick(Instant::now())? {
            break report;
        }
    };
    ends.finish(&mut meter)?;
    Ok(report)
}

/// Both ends of all streams.
///
/// Sources have the numbers 0..n, sinks those from n on.
struct Ends {
    readiness: Readiness,
    pattern: OwnedFd,
    sources: Vec<Source>,
    sinks: Vec<Sink>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Source {
    connection: OwnedFd,
    sent: u64,
    /// Our direction has ended.
    is_shut: bool,
}

#[derive(Debug)]
struct Sink {
    connection: OwnedFd,
    stream: usize,
    received: u64,
    is_over: bool,
}

impl Ends {
    /// Connects the streams one after the other: the connection that the relay makes next is the other end.
    fn open(arguments: &Arguments) -> Result<Self> {
        let listener = listen(arguments.to)
            .map_err(|error| format!("cannot listen on {}: {error}", arguments.to))?;
        let pattern = memfd_create("pattern", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&pattern, pattern::bytes())?;
        let mut ends = Self {
            readiness: Readiness::new()?,
            pattern,
            sources: Vec::new(),
            sinks: Vec::new(),
            buffer: vec![0; RECEIVE],
        };
        for number in 0..arguments.common.connections as usize {
            ends.open_stream(&arguments.common.address, &listener, number)?;
        }
        let count = ends.sources.len();
        for (number, source) in ends.sources.iter().enumerate() {
            socket::set_blocking(&source.connection, false)?;
            ends.readiness
                .add(&source.connection, number as Number, EventFlags::OUT)?;
        }
        for (place, sink) in ends.sinks.iter().enumerate() {
            ends.readiness
                .add(&sink.connection, (count + place) as Number, EventFlags::IN)?;
        }
        Ok(ends)
    }

    fn open_stream(&mut self, relay: &Address, listener: &OwnedFd, number: usize) -> Result<()> {
        let connection = socket::connect(relay)?;
        let head = (number as u64).to_be_bytes();
        socket::send_all(&connection, &head)?;
        let other = net::accept_with(listener, SocketFlags::CLOEXEC)
            .map_err(|error| socket::failed("accept the relay's connection", error))?;
        sockopt::set_socket_timeout(&other, sockopt::Timeout::Recv, Some(PATIENCE))?;
        socket::expect(&other, &head).map_err(|error| format!("stream {number}: {error}"))?;
        self.sources.push(Source {
            connection,
            sent: 0,
            is_shut: false,
        });
        self.sinks.push(Sink {
            connection: other,
            stream: number,
            received: 0,
            is_over: false,
        });
        Ok(())
    }

    /// Sends and receives what can be.
    fn turn(&mut self, patience: Duration, meter: &mut Meter) -> Result<()> {
        let mut any = false;
        for number in self.readiness.wait(patience)? {
            any = true;
            let number = number as usize;
            match number.checked_sub(self.sources.len()) {
                None => self.sources[number].send(&self.pattern, number)?,
                Some(place) => meter.count_bytes(self.sinks[place].receive(&mut self.buffer)?),
            }
        }
        if any {
            Ok(())
        } else {
            Err(format!("nothing moved for {}", socket::seconds(patience)).into())
        }
    }

    /// Ends the streams: what was sent arrives, then the end, and then the end of the way back.
    fn finish(&mut self, meter: &mut Meter) -> Result<()> {
        for (number, source) in self.sources.iter_mut().enumerate() {
            source.is_shut = true;
            net::shutdown(&source.connection, Shutdown::Write)?;
            // Level-triggered, a socket that can be written to would always be ready.
            self.readiness
                .change(&source.connection, number as Number, EventFlags::empty())?;
        }
        let begin = Instant::now();
        while self.sinks.iter().any(|sink| !sink.is_over) {
            self.turn(PATIENCE, meter)?;
            if begin.elapsed() > 2 * PATIENCE {
                return Err("the relay does not pass the end of the streams on".into());
            }
        }
        for sink in self.sinks.drain(..) {
            let sent = self.sources[sink.stream].sent;
            if sink.received != sent {
                return Err(format!(
                    "stream {}: {} of {sent} bytes arrived",
                    sink.stream, sink.received
                )
                .into());
            }
        }
        for source in &self.sources {
            socket::set_blocking(&source.connection, true)?;
            socket::expect_end(&source.connection)?;
        }
        Ok(())
    }
}

impl Source {
    /// One piece: the sinks are looked after in between.
    fn send(&mut self, pattern: &OwnedFd, number: usize) -> Result<()> {
        // Both directions over, it is ready for ever.
        if self.is_shut {
            return Ok(());
        }
        let mut offset = place(number, self.sent) as u64;
        match sendfile(&self.connection, pattern, Some(&mut offset), SEND) {
            Ok(sent) => self.sent += sent as u64,
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(socket::failed("send", error).into()),
        }
        Ok(())
    }
}

impl Sink {
    /// Bytes that came.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // At the end of its stream a socket is ready for ever.
        if self.is_over {
            return Ok(0);
        }
        let count = match net::recv(&self.connection, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.is_over = true;
                net::shutdown(&self.connection, Shutdown::Write)?;
                0
            }
            Ok((count, _)) => count,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(socket::failed("receive", error).into()),
        };
        let start = place(self.stream, self.received);
        if buffer[..count] != pattern::bytes()[start..start + count] {
            return Err(
                format!("stream {}: other bytes arrived than were sent", self.stream).into(),
            );
        }
        self.received += count as u64;
        Ok(count)
    }
}

/// Where in the pattern the byte `position` of a stream is: each stream begins elsewhere.
fn place(stream: usize, position: u64) -> usize {
    ((stream as u64 * 4097 + position) % pattern::PERIOD as u64) as usize
}

fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let listener = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(PATIENCE))?;
    net::bind(&listener, &address)?;
    net::listen(&listener, 1024)?;
    Ok(listener)
}
