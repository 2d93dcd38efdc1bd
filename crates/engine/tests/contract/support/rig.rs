//! A loop, and a record of all that it reported.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kolk_engine::buffer::{DatagramQueue, Lease};
use kolk_engine::clock::Timestamp;
use kolk_engine::driver::{DriverConfig, SimNet, Socket};
use kolk_engine::op::{InDatagram, Interest, OutDatagram};
use kolk_engine::socket::{self, Address, ListenOptions};
use kolk_engine::timer::TimerId;
use kolk_engine::token::ConnId;
use kolk_engine::{Config, Event, EventLoop};

use super::peer::{Pairs, Peer, PeerListener, fresh_address, unix_address};
use super::{Family, PATIENCE, WAIT, World};

/// A loop, the world around it, and a record of all that it reported.
pub(crate) struct Rig {
    pub(crate) event_loop: EventLoop<u64>,
    pub(crate) family: Family,
    pub(crate) net: Option<SimNet>,
    pub(crate) messages: Vec<u64>,
    /// Timers that fired, with the loop's time.
    pub(crate) fired: Vec<(TimerId, u64, Timestamp)>,
    /// Leases are kept instead of dropped once their bytes are recorded.
    pub(crate) hoards: bool,
    pairs: Pairs,
    records: HashMap<ConnId, Record>,
}

/// What was reported of one socket.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) bytes: Vec<u8>,
    /// How receives into the loop's buffers ended; the end of the stream is `Ok`.
    pub(crate) receive_ends: Vec<io::Result<()>>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) received_into: Vec<(BytesMut, io::Result<usize>)>,
    pub(crate) accepted: Vec<Socket>,
    pub(crate) accept_failures: Vec<(io::Error, Duration)>,
    /// How often accepting was ended.
    pub(crate) accept_ends: usize,
    pub(crate) connected: Vec<io::Result<()>>,
    pub(crate) send_failures: Vec<io::Error>,
    pub(crate) datagrams: Vec<InDatagram>,
    pub(crate) datagram_ends: Vec<io::Error>,
    pub(crate) sent: Vec<(u64, io::Result<()>)>,
    pub(crate) sent_to: Vec<(Box<OutDatagram>, io::Result<()>)>,
    pub(crate) sent_datagrams: Vec<(Box<DatagramQueue>, io::Result<()>)>,
    pub(crate) ready: Vec<io::Result<Interest>>,
    pub(crate) is_closed: bool,
}

impl Rig {
    pub(crate) fn new(world: World) -> Self {
        Self::with_config(world, DriverConfig::default())
    }

    #[track_caller]
    pub(crate) fn with_config(world: World, driver_config: DriverConfig) -> Self {
        Self::with(world, Config { driver_config, ..Config::default() })
    }

    /// A rig whose loop is configured so, but for its driver.
    #[track_caller]
    pub(crate) fn with(world: World, config: Config) -> Self {
        let net = world.net();
        let config = Config { driver: world.choice(net.as_ref()), ..config };
        let event_loop = EventLoop::new(&config).expect("the kernel offers this driver");
        assert_eq!(event_loop.driver_kind(), world.driver);
        Self {
            event_loop,
            family: world.family,
            pairs: Pairs::new(world.family, net.as_ref()),
            net,
            messages: Vec::new(),
            fired: Vec::new(),
            hoards: false,
            records: HashMap::new(),
        }
    }

    // Sockets.

    /// A connected stream: the loop's name of its end, and the other end.
    #[track_caller]
    pub(crate) fn pair(&mut self) -> (ConnId, Peer) {
        let (near, far) = self.pairs.make();
        (self.event_loop.attach(near).expect("a socket can be attached"), far)
    }

    /// A listener that the loop accepts on.
    #[track_caller]
    pub(crate) fn listen(&mut self) -> (ConnId, Address) {
        let address = fresh_address(self.family);
        let listener: Socket = match &self.net {
            Some(net) => net.listen(&address).into(),
            None => socket::listen(&address, &ListenOptions::default()).expect("a fresh address").into(),
        };
        let address = listener.local_address().expect("a bound socket");
        let conn = self.event_loop.attach(listener).expect("a listener can be attached");
        self.event_loop.accept(conn).expect("a fresh name");
        (conn, address)
    }

    /// A connection from outside.
    #[track_caller]
    pub(crate) fn dial(&self, address: &Address) -> Peer {
        match (&self.net, address) {
            (Some(net), _) => Peer::Sim(net.connect(address).expect("somebody listens")),
            (None, Address::Inet(inet)) => Peer::tcp(TcpStream::connect(inet).expect("somebody listens")),
            (None, _) => {
                Peer::unix(UnixStream::connect_addr(&unix_address(address)).expect("somebody listens"))
            }
        }
    }

    /// A listener outside.
    #[track_caller]
    pub(crate) fn listen_outside(&self) -> (PeerListener, Address) {
        let address = fresh_address(self.family);
        match &self.net {
            Some(net) => {
                let listener = net.listen_outside(&address);
                let address = listener.local_address();
                (PeerListener::Sim(listener), address)
            }
            None => {
                let fd = socket::listen(&address, &ListenOptions::default()).expect("a fresh address");
                let address = socket::local_address(fd.as_fd()).expect("bound");
                let listener = match self.family {
                    Family::Tcp => PeerListener::Tcp(fd.into()),
                    _ => PeerListener::Unix(fd.into()),
                };
                (listener, address)
            }
        }
    }

    /// A datagram socket of the loop.
    #[track_caller]
    pub(crate) fn datagram(&mut self) -> (ConnId, Address) {
        let address = fresh_address(self.family);
        let socket: Socket = match &self.net {
            Some(net) => net.datagram(&address).into(),
            None => {
                socket::bind_datagram(&address, &ListenOptions::default()).expect("a fresh address").into()
            }
        };
        let address = socket.local_address().expect("a bound socket");
        (self.event_loop.attach(socket).expect("a socket can be attached"), address)
    }

    // Turns.

    /// One turn that waits a moment at most, and a record of what it brought.
    #[track_caller]
    pub(crate) fn turn(&mut self) {
        self.turn_until(self.event_loop.now() + WAIT);
    }

    /// One turn that waits until `deadline` at most, and a record of what it brought.
    #[track_caller]
    pub(crate) fn turn_until(&mut self, deadline: Timestamp) {
        self.event_loop.turn(Some(deadline)).expect("the driver goes on");
        while let Some(event) = self.event_loop.next_event() {
            self.note(event);
        }
    }

    /// Turns until `done` says so.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done(self) {
            let stats = self.event_loop.stats();
            assert!(Instant::now() < give_up, "never came: {what}; {stats:?}");
            self.turn();
        }
    }

    /// Turns until nothing more can come: what was submitted is in flight, and has nothing to complete it.
    pub(crate) fn settle(&mut self) {
        for _ in 0..5 {
            self.turn();
        }
    }

    #[track_caller]
    fn note(&mut self, event: Event<u64>) {
        match event {
            Event::Message(message) => self.messages.push(message),
            Event::Timer(timer, payload) => self.fired.push((timer, payload, self.event_loop.now())),
            Event::Accepted(conn, socket) => self.open(conn).accepted.push(socket),
            Event::AcceptFailed(conn, error, pause) => self.open(conn).accept_failures.push((error, pause)),
            Event::AcceptEnded(conn) => self.open(conn).accept_ends += 1,
            Event::Connected(conn, result) => self.open(conn).connected.push(result),
            Event::Received(conn, Ok(lease)) if lease.is_empty() => self.open(conn).receive_ends.push(Ok(())),
            Event::Received(conn, Ok(lease)) => {
                let hoards = self.hoards;
                let record = self.open(conn);
                record.bytes.extend_from_slice(&lease);
                record.leases.extend(hoards.then_some(lease));
            }
            Event::Received(conn, Err(error)) => self.open(conn).receive_ends.push(Err(error)),
            Event::ReceivedInto(conn, buffer, result) => self.open(conn).received_into.push((buffer, result)),
            Event::Datagram(conn, Ok(datagram)) => self.open(conn).datagrams.push(datagram),
            Event::Datagram(conn, Err(error)) => self.open(conn).datagram_ends.push(error),
            Event::SendFailed(conn, error) => self.open(conn).send_failures.push(error),
            Event::Sent(conn, count, result) => self.open(conn).sent.push((count, result)),
            Event::SentTo(conn, datagram, result) => self.open(conn).sent_to.push((datagram, result)),
            Event::SentDatagrams(conn, queue, result) => {
                self.open(conn).sent_datagrams.push((queue, result));
            }
            Event::Ready(conn, result) => self.open(conn).ready.push(result),
            Event::Closed(conn) => self.open(conn).is_closed = true,
        }
    }

    #[track_caller]
    fn open(&mut self, conn: ConnId) -> &mut Record {
        let record = self.record(conn);
        assert!(!record.is_closed, "{conn}: reported after Closed");
        record
    }

    /// What was reported of a socket so far.
    pub(crate) fn record(&mut self, conn: ConnId) -> &mut Record {
        self.records.entry(conn).or_default()
    }

    // What nearly every behaviour does.

    /// Turns until the receive of `conn` ends; what it brought, and how it ended.
    #[track_caller]
    pub(crate) fn receive_end(&mut self, conn: ConnId) -> (Vec<u8>, io::Result<()>) {
        self.until("the end of a receive", |rig| !rig.record(conn).receive_ends.is_empty());
        let record = self.record(conn);
        assert_eq!(record.receive_ends.len(), 1, "a receive ends once: {:?}", record.receive_ends);
        (std::mem::take(&mut record.bytes), record.receive_ends.remove(0))
    }

    /// Turns until `conn` has received `bytes`, and no other bytes.
    #[track_caller]
    pub(crate) fn expect_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.until("all the peer's bytes", |rig| rig.record(conn).bytes.len() >= bytes.len());
        let received = std::mem::take(&mut self.record(conn).bytes);
        assert!(received == bytes, "{} bytes received differ from {} sent", received.len(), bytes.len());
    }

    /// Turns until the peer has read `count` bytes.
    #[track_caller]
    pub(crate) fn read_exact(&mut self, peer: &mut Peer, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        self.until("the peer's reading", |_| {
            let missing = count - bytes.len();
            let end = peer.read_some(&mut bytes, missing);
            assert!(end.is_none(), "the stream ended after {} of {count} bytes: {end:?}", bytes.len());
            bytes.len() == count
        });
        bytes
    }

    /// Turns until the peer has read to the end of the stream.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self, peer: &mut Peer) -> (Vec<u8>, io::Result<()>) {
        let (mut bytes, mut end) = (Vec::new(), None);
        self.until("the end of the stream at the peer", |_| {
            end = peer.read_available(&mut bytes);
            end.is_some()
        });
        (bytes, end.expect("`until` has ended"))
    }

    /// Turns until `conn` is closed.
    #[track_caller]
    pub(crate) fn closed(&mut self, conn: ConnId) {
        self.until("Closed", |rig| rig.record(conn).is_closed);
    }
}
