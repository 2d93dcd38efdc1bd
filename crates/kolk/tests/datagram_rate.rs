//! Datagrams at a steady rate from many peers, in a process of its own: nobody else's turns are in between.

mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::server::{Action, Conn, Datagram, DatagramSocket, Handler, Input, Stats};
use support::{PATIENCE, server, until};

const PEERS: usize = 1000;
const SIZE: usize = 512;
/// Sent by as many peers, one after the other, every 5 ms: 20 000 a second.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(5);
const ROUNDS: u32 = 40;

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        socket.send_to(&datagram.from, datagram.bytes).expect("the queue has room for a turn");
    }

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
        Action::Close
    }
}

/// One peer, which knows what it is to hear.
struct Peer {
    socket: UdpSocket,
    sent: u32,
    heard: u32,
}

impl Peer {
    fn payload(number: usize, round: u32) -> [u8; SIZE] {
        let mut payload = [(number ^ round as usize) as u8; SIZE];
        payload[..4].copy_from_slice(&(number as u32).to_le_bytes());
        payload[4..8].copy_from_slice(&round.to_le_bytes());
        payload
    }

    fn send(&mut self, number: usize) {
        let payload = Self::payload(number, self.sent);
        assert_eq!(self.socket.send(&payload).expect("the kernel has room"), SIZE);
        self.sent += 1;
    }

    /// Every answer is whole, in order, and to what this peer has sent.
    fn hear(&mut self, number: usize) {
        let mut bytes = [0; SIZE + 1];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            assert!(
                bytes[..len] == Self::payload(number, self.heard),
                "peer {number}: not number {}",
                self.heard
            );
            self.heard += 1;
        }
    }
}

/// Answers the time that sending took, and the server's counters.
fn lose_nothing(driver: DriverKind) -> (Duration, Stats) {
    let running =
        server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(|_| Echo).expect("a free port");
    let address = running.addresses()[0].trim_start_matches("udp://").to_owned();
    let mut peers: Vec<_> = (0..PEERS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            socket.connect(&address).expect("an address");
            socket.set_nonblocking(true).expect("a socket");
            Peer { socket, sent: 0, heard: 0 }
        })
        .collect();
    let begin = Instant::now();
    let mut next = begin;
    for _ in 0..ROUNDS {
        for first in (0..PEERS).step_by(BATCH) {
            for (number, peer) in peers.iter_mut().enumerate().skip(first).take(BATCH) {
                peer.hear(number);
                peer.send(number);
            }
            // Who is late does not hurry: a burst would be another rate.
            next = (next + PAUSE).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    let took = begin.elapsed();
    let give_up = Instant::now() + PATIENCE;
    for (number, peer) in peers.iter_mut().enumerate() {
        while peer.heard < peer.sent {
            assert!(Instant::now() < give_up, "peer {number} has heard {} of {}", peer.heard, peer.sent);
            peer.hear(number);
            std::thread::yield_now();
        }
    }
    let all = PEERS as u64 * u64::from(ROUNDS);
    until("all are counted", || running.stats().datagrams_sent == all);
    let stats = running.stats();
    assert_eq!((stats.datagrams_received, stats.datagrams_dropped, stats.datagram_errors), (all, 0, 0));
    (took, stats)
}

#[test]
fn r21_a_thousand_peers_lose_nothing() {
    for driver in [DriverKind::IoUring, DriverKind::Epoll] {
        let (took, stats) = lose_nothing(driver);
        let rate = stats.datagrams_received as f64 / took.as_secs_f64();
        let batch = (stats.datagrams_received + stats.datagrams_sent) as f64 / stats.datagram_calls as f64;
        println!("{driver}: {rate:.0} datagrams/s, {batch:.1} a system call, {} turns", stats.turns);
        assert!(batch > 1.0, "{stats:?}");
    }
}
