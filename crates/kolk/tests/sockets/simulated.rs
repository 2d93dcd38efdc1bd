//! What needs no real kernel, in simulated storms: a failure prints its seed.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kolk::server::{
    Action, Builder, CloseReason, Conn, Connect, Datagram, DatagramSocket, Handler, Input, Origin, Server,
};
use kolk::{Address, DriverChoice};
use kolk_engine::driver::{SimConfig, SimNet, SimPeer};

use crate::support::PATIENCE;

/// Storms in which each test runs; `KOLK_SEED` names a single one.
const SEEDS: u64 = 40;

fn in_storms(test: impl Fn(SimNet)) {
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        println!("KOLK_SEED={seed}");
        test(SimNet::new(SimConfig::stormy(seed)));
    }
}

fn server(net: &SimNet) -> Builder {
    Server::builder().driver(DriverChoice::Sim(net.clone())).stop_on_signals(false).event_loops(1)
}

fn host(last: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, last], port).into()
}

#[track_caller]
fn until<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Reads exactly so many bytes.
#[track_caller]
fn read(peer: &mut SimPeer, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    until("bytes", || {
        let mut piece = vec![0; count - bytes.len()];
        if let Ok(read) = peer.read(&mut piece) {
            assert!(read > 0, "the stream has ended after {} of {count} bytes", bytes.len());
            bytes.extend_from_slice(&piece[..read]);
        }
        (bytes.len() == count).then_some(())
    });
    bytes
}

#[track_caller]
fn write(peer: &mut SimPeer, bytes: &[u8]) {
    let mut written = 0;
    until("room", || {
        written += peer.write(&bytes[written..]).unwrap_or(0);
        (written == bytes.len()).then_some(())
    });
}

/// Greets whom it connects to, gives bytes and datagrams back, and tells how connections end.
struct Witness(Sender<String>);

impl Handler for Witness {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>) {
        if matches!(conn.origin(), Origin::Outbound { .. }) {
            conn.write("greeting");
        }
    }

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }

    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        socket.send_to(&datagram.from, datagram.bytes).expect("the queue has room");
    }

    fn on_close(&mut self, _: (), _: &mut Conn<'_>, reason: CloseReason) {
        let _ = self.0.send(reason.to_string());
    }
}

fn witness() -> (impl Fn(usize) -> Witness + Send + Sync + 'static, Receiver<String>) {
    let (sender, closes) = channel();
    (move |_| Witness(sender.clone()), closes)
}

#[test]
fn r19_a_connection_is_made_or_fails_in_any_storm() {
    in_storms(|net| {
        let (make, closes) = witness();
        let next = || closes.recv_timeout(PATIENCE).expect("it closes");
        let running = server(&net).listen("tcp://10.0.0.1:80").start(make).expect("a free address");
        let target = net.listen_outside(&Address::Inet(host(2, 90)));
        net.refuse(&Address::Inet(host(3, 90)));
        net.blackhole(&Address::Inet(host(4, 90)));
        for _ in 0..3 {
            running.handle().connect(host(2, 90)).expect("it begins");
            let mut peer = until("the connection", || target.accept());
            assert_eq!(read(&mut peer, 8), b"greeting");
            write(&mut peer, &[7; 3000]);
            assert_eq!(read(&mut peer, 3000), [7; 3000]);
            peer.shutdown_write();
            assert_eq!(next(), "closed by the peer");
        }
        running.handle().connect(host(3, 90)).expect("it begins");
        assert!(next().starts_with("cannot connect: "));
        let connect = Connect::to(host(4, 90)).timeout(Duration::from_secs(3));
        running.handle().connect(connect).expect("it begins");
        assert_eq!(next(), "cannot connect: the connection was not made in time");
    });
}

#[test]
fn r20_a_socket_is_enrolled_in_any_storm() {
    in_storms(|net| {
        let (make, closes) = witness();
        let running = server(&net).listen("tcp://10.0.0.1:80").start(make).expect("a free address");
        let (socket, mut peer) = net.pair();
        running.handle().enroll(socket, 0).expect("slots are free");
        write(&mut peer, b"hello");
        assert_eq!(read(&mut peer, 5), b"hello");
        peer.reset();
        assert_eq!(closes.recv_timeout(PATIENCE).expect("it closes"), "reset by the peer");
    });
}

#[test]
fn r21_datagrams_come_and_go_whole_in_any_storm() {
    in_storms(|net| {
        let running = server(&net).listen("udp://10.0.0.1:53").start(witness().0).expect("a free address");
        let to = Address::Inet(host(1, 53));
        let peers: Vec<_> = (2..7).map(|last| net.datagram_peer(&Address::Inet(host(last, 1000)))).collect();
        for round in 0..10u8 {
            for (number, peer) in peers.iter().enumerate() {
                for len in [0, 1, 700, 1400] {
                    peer.send_to(&vec![round; number + len], &to).expect("it fits a packet");
                }
            }
            // What one sends is not overtaken by what it sends later, and the simulated queue is long enough.
            for (number, peer) in peers.iter().enumerate() {
                for len in [0, 1, 700, 1400] {
                    let (bytes, from) = until("an answer", || peer.recv_from().ok());
                    assert_eq!((from, bytes.to_vec()), (to.clone(), vec![round; number + len]));
                }
            }
        }
        let stats =
            until("all are counted", || Some(running.stats()).filter(|stats| stats.datagrams_sent == 200));
        assert_eq!((stats.datagrams_received, stats.datagrams_dropped), (200, 0));
    });
}
