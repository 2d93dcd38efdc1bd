//! Opens connections at a pace that the listener can follow.
//!
//! A listener keeps only so many connections that nobody has accepted yet (its backlog). Past it, a Unix
//! socket refuses at once, and TCP drops packets: the attempt takes seconds, or seems to succeed and the
//! server never hears of it. That a connect succeeded does not say that the server accepted it, so each
//! connection sends a first message, and only a few hundred at one time wait for its answer.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use kolk_engine::clock::Timestamp;
use kolk_engine::driver::Socket;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, EventLoop, socket};

use crate::failure::{Failure, reason};
use crate::load::target::Target;
use crate::system::{self, DESCRIPTOR_ADVICE};

/// Connections under way at one time: far below a backlog of 4096, even with several threads.
const IN_FLIGHT: u32 = 256;

/// Pause after a full backlog: time for a server to accept some hundreds.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Longest time without a first answer: TCP repeats a dropped attempt after 1, 2 and 4 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a number of connections to one target.
#[derive(Debug)]
pub(crate) struct Dialer {
    target: Target,
    /// Connections to begin yet.
    wanted: u32,
    /// Connections begun and not settled; at most [`IN_FLIGHT`].
    in_flight: u32,
    /// Set while the backlog is full: when to go on.
    resume_at: Option<Timestamp>,
    /// When the last connection was settled, or the first was asked for.
    progress_at: Timestamp,
}

impl Dialer {
    /// Opens nothing until [`add`](Self::add) says how many.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, wanted: 0, in_flight: 0, resume_at: None, progress_at: Timestamp::ZERO }
    }

    /// Asks for `count` connections more.
    pub(crate) fn add(&mut self, count: u32, now: Timestamp) {
        self.wanted += count;
        self.progress_at = now;
    }

    /// Whether every connection that was asked for is settled.
    pub(crate) fn is_done(&self) -> bool {
        self.wanted == 0 && self.in_flight == 0
    }

    /// When to call [`dial`](Self::dial) again if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.resume_at.or_else(|| (!self.is_done()).then_some(self.progress_at + PATIENCE))
    }

    /// Begins as many connections as may be under way. Call it once a turn.
    ///
    /// # Errors
    ///
    /// An attempt that no repetition can mend, or none succeeding for [`PATIENCE`].
    pub(crate) fn dial<M>(&mut self, events: &mut EventLoop<M>) -> Result<(), Failure> {
        let now = events.now();
        if !self.is_done() && now > self.progress_at + PATIENCE {
            return Err(self.explain(&io::ErrorKind::TimedOut.into()));
        }
        if self.resume_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        self.resume_at = None;
        while self.wanted > 0 && self.in_flight < IN_FLIGHT && self.resume_at.is_none() {
            match events.connect(self.target.address()) {
                Ok(_) => {
                    self.wanted -= 1;
                    self.in_flight += 1;
                }
                Err(error) => self.pause_or_fail(&error, now)?,
            }
        }
        Ok(())
    }

    /// Takes note of a connect's end. `true`: the connection receives, and is to send its first message.
    ///
    /// # Errors
    ///
    /// The attempt failed and no repetition can mend it.
    pub(crate) fn connected<M>(
        &mut self,
        events: &mut EventLoop<M>,
        conn: ConnId,
        result: io::Result<()>,
    ) -> Result<bool, Failure> {
        let Err(error) = result.and_then(|()| start_receiving(events, conn)) else { return Ok(true) };
        events.close(conn, Close::Discard);
        self.in_flight -= 1;
        self.wanted += 1;
        self.pause_or_fail(&error, events.now())?;
        Ok(false)
    }

    /// Takes note that a connection had its first answer, or was lost before.
    pub(crate) fn settled(&mut self, now: Timestamp) {
        self.in_flight -= 1;
        self.progress_at = now;
    }

    fn pause_or_fail(&mut self, error: &io::Error, now: Timestamp) -> Result<(), Failure> {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(self.explain(error));
        }
        self.resume_at = Some(now + BACKLOG_PAUSE);
        Ok(())
    }

    fn explain(&self, error: &io::Error) -> Failure {
        explain(&self.target, error)
    }
}

fn start_receiving<M>(events: &mut EventLoop<M>, conn: ConnId) -> io::Result<()> {
    if let Some(fd) = events.socket(conn).and_then(Socket::as_fd) {
        socket::set_nodelay(fd, true)?;
    }
    events.receive(conn)
}

/// Why no connection can be had, and what to do.
fn explain(target: &Target, error: &io::Error) -> Failure {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, NotFound, PermissionDenied, TimedOut};
    let what = format!("cannot connect to {target}");
    let why = reason(error);
    match error.kind() {
        ConnectionRefused | NotFound => Failure::runtime(format!(
            "{what}: {why} (no server listens there: start one with `kolk serve echo --listen \
             {target}`)"
        )),
        TimedOut => Failure::runtime(format!(
            "{what}: no message on a new connection was answered for {} s (is it an echo server? is it \
             overloaded, out of descriptors, or behind a firewall?)",
            PATIENCE.as_secs()
        )),
        AddrNotAvailable => Failure::usage(format!("{what}: {why} ({PORT_ADVICE})")),
        PermissionDenied => Failure::usage(format!(
            "{what}: {why} (this user may not write to the socket, or a firewall forbids it)"
        )),
        _ if out_of_descriptors(error) => {
            let limit = system::raise_descriptor_limit().soft();
            Failure::usage(format!("{what}: {why}, the limit is {limit} ({DESCRIPTOR_ADVICE})"))
        }
        _ => Failure::runtime(format!("{what}: {why}")),
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

const PORT_ADVICE: &str = "\
    every connection from one host to one address takes a source port: widen the range with \
    `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`, let the server listen on several \
    ports and load each, or use a Unix socket";

/// The message for more connections than source ports.
pub(crate) fn too_few_ports(target: &Target, connections: u32, ports: &RangeInclusive<u16>) -> String {
    format!(
        "cannot open {connections} connections to {target}: net.ipv4.ip_local_port_range is \
         {}..{}, {} ports ({PORT_ADVICE})",
        ports.start(),
        ports.end(),
        ports.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_says_what_to_do() {
        let target = Target::parse("tcp://127.0.0.1:7000").unwrap();
        let cases = [
            (io::ErrorKind::ConnectionRefused.into(), 1, "kolk serve echo --listen tcp://127.0.0.1:7000"),
            (io::ErrorKind::TimedOut.into(), 1, "answered for 10 s"),
            (io::ErrorKind::AddrNotAvailable.into(), 2, "ip_local_port_range"),
            (io::ErrorKind::PermissionDenied.into(), 2, "may not write to the socket"),
            (io::Error::from(rustix::io::Errno::MFILE), 2, "ulimit -Hn"),
            (io::ErrorKind::NetworkUnreachable.into(), 1, "cannot connect to tcp://127.0.0.1:7000"),
        ];
        for (error, status, advice) in cases {
            let failure = explain(&target, &error);
            assert_eq!(failure.status(), status, "{failure}");
            assert!(failure.to_string().contains(advice), "{failure}");
        }
    }

    #[test]
    fn too_few_ports_are_counted() {
        let target = Target::parse("tcp://127.0.0.1:7000").unwrap();
        let message = too_few_ports(&target, 30_000, &(32_768..=60_999));
        assert!(message.contains("32768..60999, 28232 ports"), "{message}");
    }
}
