//! One peer that sends runs of equal datagrams as one (UDP_SEGMENT), and takes them so (UDP_GRO).
//!
//! The datagrams are numbered. Over loopback none overtakes another, so a number that is skipped is lost.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use harness::Result;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::{Arguments, LOOK, LOST, RECEIVE_BUFFER};
use crate::meter::{Meter, Report};
use crate::pattern;

/// Bytes of a datagram's number.
const HEAD: usize = 8;

/// Most bytes and datagrams that the kernel takes as one.
const RUN_BYTES: usize = 65_000;
const RUN_DATAGRAMS: usize = 64;

pub(super) fn run(arguments: &Arguments, server: SocketAddrV4) -> Result<Report> {
    let mut flow = Flow::open(arguments, server)?;
    let mut meter = Meter::begin(&arguments.common)?;
    loop {
        flow.send()?;
        flow.receive(&mut meter)?;
        if let Some(report) = meter.tick(Instant::now())? {
            return Ok(report);
        }
    }
}

/// ```text
///  ├── back or lost ──┼── under way ──┤
///                     first           first + sent.len()
/// ```
#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    size: usize,
    window: usize,
    /// Datagrams that leave together.
    run: usize,
    first: u64,
    /// When each that is under way left.
    sent: VecDeque<Instant>,
    out: Vec<u8>,
    back: Vec<u8>,
}

impl Flow {
    fn open(arguments: &Arguments, server: SocketAddrV4) -> Result<Self> {
        let (size, window) = (arguments.bytes as usize, arguments.window as usize);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(LOOK))?;
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &(size as i32))
            .and_then(|()| setsockopt(&socket, sockopt::UdpGroSegment, &true))
            .map_err(|error| {
                format!("cannot send datagrams in runs: {error} (Linux 5.0 and newer can)")
            })?;
        let run = (window / 2)
            .clamp(1, RUN_DATAGRAMS)
            .min((RUN_BYTES / size).max(1));
        let (out, back) = (Vec::with_capacity(RUN_BYTES), vec![0; 64 << 10]);
        Ok(Self {
            socket,
            size,
            window,
            run,
            first: 0,
            sent: VecDeque::new(),
            out,
            back,
        })
    }

    /// Fills the window, run by run.
    fn send(&mut self) -> Result<()> {
        while self.sent.len() + self.run <= self.window {
            let next = self.first + self.sent.len() as u64;
            self.out.clear();
            for number in next..next + self.run as u64 {
                self.out.extend_from_slice(&number.to_be_bytes());
                self.out
                    .extend_from_slice(pattern::message(number, self.size - HEAD));
            }
            let now = Instant::now();
            self.socket
                .send(&self.out)
                .map_err(|error| format!("cannot send: {error}"))?;
            self.sent.extend(std::iter::repeat_n(now, self.run));
        }
        Ok(())
    }

    fn receive(&mut self, meter: &mut Meter) -> Result<()> {
        let count = match self.socket.recv(&mut self.back) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.sent.front().is_some_and(|sent| sent.elapsed() > LOST) {
                    self.skip(self.sent.len(), meter);
                }
                return Ok(());
            }
            Err(error) => return Err(format!("cannot receive: {error}").into()),
        };
        let now = Instant::now();
        for start in (0..count).step_by(self.size) {
            let datagram = &self.back[start..count.min(start + self.size)];
            let Some((head, body)) = datagram.split_first_chunk::<HEAD>() else {
                return Err("a datagram came back shorter".into());
            };
            let number = u64::from_be_bytes(*head);
            if body != pattern::message(number, self.size - HEAD) {
                return Err("a datagram came back with other bytes".into());
            }
            match number.checked_sub(self.first) {
                // Given up before it came.
                None => continue,
                Some(skipped) if skipped < self.sent.len() as u64 => {
                    self.skip(skipped as usize, meter);
                }
                Some(_) => return Err("a datagram came that was not sent".into()),
            }
            self.first += 1;
            if let Some(sent) = self.sent.pop_front() {
                meter.count(self.size, sent, now);
            }
        }
        Ok(())
    }

    /// The first `count` under way are lost.
    fn skip(&mut self, count: usize, meter: &mut Meter) {
        self.first += count as u64;
        self.sent.drain(..count);
        meter.count_lost(count as u64);
    }
}
