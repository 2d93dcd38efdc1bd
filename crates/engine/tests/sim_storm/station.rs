//! An event loop on the simulated kernel, and what all storms check of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use kolk_engine::buffer::Chunk;
use kolk_engine::driver::{DriverChoice, SimConfig, SimNet, SimSocket, Socket};
use kolk_engine::limits;
use kolk_engine::socket::Address;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Config, Event, EventLoop};

/// Seeds of each storm; even ones are calm.
pub(crate) const SEEDS: u64 = 1000;

/// Turns after which a test gives up: nothing here takes nearly as many.
pub(crate) const TURNS_MAX: usize = 100_000;

/// Longest virtual time of one turn, so that the outside has its say before a time-out.
pub(crate) const STEP: Duration = Duration::from_millis(1);

const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 80);

pub(crate) fn address(port: u16) -> Address {
    SocketAddr::from((SERVER.0, port)).into()
}

/// A calm network for even seeds, a stormy one for odd ones.
pub(crate) fn network(seed: u64) -> SimNet {
    SimNet::new(if seed.is_multiple_of(2) { SimConfig::calm(seed) } else { SimConfig::stormy(seed) })
}

/// An event loop that checks of each event that its name lives, and that each socket closes once.
pub(crate) struct Station {
    pub(crate) event_loop: EventLoop<()>,
    /// Names that are attached and have not closed.
    pub(crate) live: BTreeSet<ConnId>,
}

impl Station {
    pub(crate) fn new(net: &SimNet, loop_number: u16) -> Self {
        let config =
            Config { driver: DriverChoice::Sim(net.clone()), loop_number, slots: 4096, ..Config::default() };
        let event_loop = EventLoop::new(&config).expect("sim always opens");
        Self { event_loop, live: BTreeSet::new() }
    }

    #[track_caller]
    pub(crate) fn attach(&mut self, socket: impl Into<Socket>) -> ConnId {
        let conn = self.event_loop.attach(socket.into()).expect("there are slots");
        assert!(self.live.insert(conn), "{conn} is given out twice");
        conn
    }

    #[track_caller]
    pub(crate) fn listen(&mut self, socket: SimSocket) -> ConnId {
        let listener = self.attach(socket);
        self.event_loop.accept(listener).expect("just attached");
        listener
    }

    #[track_caller]
    pub(crate) fn connect(&mut self, address: &Address) -> ConnId {
        let conn = self.event_loop.connect(address).expect("there are slots");
        assert!(self.live.insert(conn), "{conn} is given out twice");
        conn
    }

    #[track_caller]
    pub(crate) fn receive(&mut self, conn: ConnId) {
        self.event_loop.receive(conn).expect("open, and nothing receives");
    }

    #[track_caller]
    pub(crate) fn write(&mut self, conn: ConnId, chunk: impl Into<Chunk>) {
        self.event_loop.write(conn, chunk.into()).expect("open for writing");
    }

    pub(crate) fn close(&mut self, conn: ConnId, how: Close) {
        self.event_loop.close(conn, how);
    }

    #[track_caller]
    pub(crate) fn turn(&mut self) {
        let deadline = self.event_loop.now() + STEP;
        self.event_loop.turn(Some(deadline)).expect("the simulated kernel loses nothing");
    }

    #[track_caller]
    pub(crate) fn next_event(&mut self) -> Option<Event<()>> {
        let event = self.event_loop.next_event()?;
        if let Some(conn) = name_of(&event) {
            assert!(self.live.contains(&conn), "{event:?} of a name that is stale");
            if matches!(event, Event::Closed(_)) {
                self.live.remove(&conn);
            }
        }
        Some(event)
    }

    /// Closes everything and waits until it is closed.
    #[track_caller]
    pub(crate) fn close_all(&mut self) {
        for conn in self.live.clone() {
            self.close(conn, Close::Discard);
        }
        self.until_closed(limits::CLOSE_TIMEOUT);
    }

    /// Turns until every name is closed, within so much virtual time.
    #[track_caller]
    pub(crate) fn until_closed(&mut self, within: Duration) {
        let deadline = self.event_loop.now() + within;
        while !self.live.is_empty() {
            assert!(self.event_loop.now() < deadline, "{:?} never closed", self.live);
            self.turn();
            while self.next_event().is_some() {}
        }
        assert_eq!(self.event_loop.stats().sockets, 0);
    }
}

/// The socket that an event is about.
pub(crate) fn name_of<M>(event: &Event<M>) -> Option<ConnId> {
    match event {
        Event::Message(_) | Event::Timer(..) => None,
        Event::Accepted(conn, _)
        | Event::AcceptFailed(conn, ..)
        | Event::AcceptEnded(conn)
        | Event::Connected(conn, _)
        | Event::Received(conn, _)
        | Event::ReceivedInto(conn, ..)
        | Event::Datagram(conn, _)
        | Event::SendFailed(conn, _)
        | Event::Sent(conn, ..)
        | Event::SentTo(conn, ..)
        | Event::SentDatagrams(conn, ..)
        | Event::Ready(conn, _)
        | Event::Closed(conn) => Some(*conn),
    }
}
