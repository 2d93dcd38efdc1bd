//! The simulated kernel itself: its clock, what is under way, every socket, and who waits for it.
//!
//! ```text
//!   start_connect, write, close, ...           time passes                  take_runnable
//!  ────────────────────────────────► events ───────────────► socket changes ─────────────► Sim::turn
//!                                    (by time)                (`notify`)      (slots)
//! ```
//!
//! A driver looks only at slots that `notify` named, so whatever changes what a socket can do has to
//! call it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::SimConfig;
use super::connect::Listener;
use super::datagram::{DatagramEnd, Message};
use super::random::Random;
use super::stream::Stream;
use crate::clock::Timestamp;
use crate::op::Interest;
use crate::socket::Address;

/// First port given to a socket that asked for none: the start of IANA's dynamic range (RFC 6335).
const FIRST_FREE_PORT: u16 = 49_152;

/// Name of a simulated socket. Never used twice, so one that is gone is simply not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SocketId(u64);

/// Name of a driver of this world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DriverId(u64);

/// The slot to which a socket is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) driver: DriverId,
    pub(super) slot: u32,
}

/// One socket.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) local: Address,
    pub(super) kind: Kind,
    pub(super) owner: Option<Owner>,
    edges: Edges,
}

#[derive(Debug)]
pub(super) enum Kind {
    Stream(Stream),
    Listener(Listener),
    Datagram(DatagramEnd),
}

/// How often a socket became readable and writable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edges {
    pub(super) readable: u64,
    pub(super) writable: u64,
}

/// What is under way.
#[derive(Debug)]
pub(super) enum Event {
    /// The first segments in flight to this stream arrive.
    Arrive(SocketId),
    /// A connect reaches its address.
    Knock(SocketId, Address),
    /// A datagram arrives.
    Deliver(SocketId, Message),
    /// A slot is looked at again.
    Run(Owner),
}

/// What explicit test control says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Connects are never answered.
    Blackhole,
    /// Connects are refused, listener or not.
    Refused,
}

/// What the world knows of a driver.
#[derive(Debug, Default)]
struct Waiting {
    woken: bool,
    /// Until when its last turn would have waited.
    deadline: Timestamp,
    /// Slots whose socket changed since they were last looked at.
    runnable: BTreeSet<u32>,
}

/// See the module. Its maps are ordered wherever they are iterated, so that a seed says everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) random: Random,
    pub(super) routes: HashMap<Address, Route>,
    pub(super) listeners: HashMap<Address, Vec<SocketId>>,
    pub(super) datagrams: HashMap<Address, SocketId>,
    now: Timestamp,
    /// By time, then by order of scheduling. All of them lie after `now`.
    events: BTreeMap<(Timestamp, u64), Event>,
    sockets: BTreeMap<SocketId, Endpoint>,
    drivers: BTreeMap<DriverId, Waiting>,
    /// Names given out so far: of events, sockets and drivers.
    names: u64,
    free_port: u16,
    /// Grows with each change of a socket and each turn that brings something. A driver lets time pass only if nobody has anything to react
    /// to.
    activity: u64,
    /// Drivers that wait in real time.
    pub(super) sleepers: usize,
    creator: ThreadId,
    shared: bool,
}

impl World {
    pub(super) fn new(config: SimConfig) -> Self {
        Self {
            random: Random::new(config.seed),
            config,
            routes: HashMap::new(),
            listeners: HashMap::new(),
            datagrams: HashMap::new(),
            now: Timestamp::ZERO,
            events: BTreeMap::new(),
            sockets: BTreeMap::new(),
            drivers: BTreeMap::new(),
            names: 0,
            free_port: FIRST_FREE_PORT,
            activity: 0,
            sleepers: 0,
            creator: thread::current().id(),
            shared: false,
        }
    }

    /// Remembers that more than one thread knows this world: only then is there somebody to wait for
    /// in real time.
    pub(super) fn note_thread(&mut self) {
        self.shared = self.shared || thread::current().id() != self.creator;
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

/// The clock, and what it brings.
impl World {
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn next_event(&self) -> Option<Timestamp> {
        self.events.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Moves the clock to `to`, and everything that is due on the way with it.
    pub(super) fn advance_to(&mut self, to: Timestamp) {
        while let Some(at) = self.next_event().filter(|&at| at <= to) {
            self.now = at;
            let (_, event) = self.events.pop_first().expect("the first one was just seen");
            self.happen(event);
        }
        self.now = self.now.max(to);
    }

    /// When something that leaves at this moment arrives.
    pub(super) fn arrival(&mut self) -> Timestamp {
        self.now + self.random.span(self.config.latency)
    }

    /// Lets the event happen at `at`, or now if that is not in the future.
    pub(super) fn schedule(&mut self, at: Timestamp, event: Event) {
        if at <= self.now {
            self.happen(event);
        } else {
            let number = self.name();
            self.events.insert((at, number), event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(id) => self.arrive(id),
            Event::Knock(id, address) => self.knock(id, &address),
            Event::Deliver(id, message) => self.deliver(id, message),
            Event::Run(owner) => self.run(owner),
        }
    }

    /// Rolls whether this slot's turn is put off, and sees to it that it comes.
    pub(super) fn put_off(&mut self, owner: Owner) -> bool {
        let late = self.random.chance(self.config.late_completions);
        if late {
            let lateness = self.random.span(self.config.lateness) + Duration::from_nanos(1);
            self.schedule(self.now + lateness, Event::Run(owner));
        }
        late
    }

    /// How much of `available` (bytes or connections) one call moves.
    pub(super) fn portion(&mut self, available: usize) -> usize {
        if self.random.chance(self.config.short_transfers) {
            1 + self.random.below(available)
        } else {
            available
        }
    }
}

/// Sockets.
impl World {
    pub(super) fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn insert(&mut self, local: Address, kind: Kind) -> SocketId {
        let id = SocketId(self.name());
        self.sockets.insert(id, Endpoint { local, kind, owner: None, edges: Edges::default() });
        id
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<Endpoint> {
        self.sockets.remove(&id)
    }

    pub(super) fn endpoint(&self, id: SocketId) -> Option<&Endpoint> {
        self.sockets.get(&id)
    }

    pub(super) fn endpoint_mut(&mut self, id: SocketId) -> Option<&mut Endpoint> {
        self.sockets.get_mut(&id)
    }

    /// A local address for a socket that wants to be at `wanted`: port 0 becomes a free one.
    pub(super) fn bind(&mut self, wanted: &Address) -> Address {
        match wanted {
            Address::Inet(inet) if inet.port() == 0 => {
                let mut inet = *inet;
                inet.set_port(self.free_port);
                self.free_port = self.free_port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
                inet.into()
            }
            _ => wanted.clone(),
        }
    }

    /// Closes a socket of whatever kind, close(2).
    pub(super) fn close(&mut self, id: SocketId) {
        let Some(endpoint) = self.remove(id) else {
            return;
        };
        match endpoint.kind {
            Kind::Stream(stream) => self.close_stream(stream),
            Kind::Listener(listener) => self.close_listener(id, &endpoint.local, listener),
            Kind::Datagram(_) => {
                self.datagrams.remove(&endpoint.local);
            }
        }
    }

    /// What can be done with the socket without waiting.
    pub(super) fn readiness(&self, id: SocketId) -> Interest {
        match self.endpoint(id).map(|endpoint| &endpoint.kind) {
            Some(Kind::Stream(stream)) => {
                Interest { readable: stream.is_readable(), writable: self.is_writable(stream) }
            }
            Some(Kind::Listener(listener)) => {
                Interest { readable: !listener.backlog.is_empty(), writable: false }
            }
            Some(Kind::Datagram(end)) => Interest { readable: !end.queue.is_empty(), writable: true },
            None => Interest::default(),
        }
    }

    pub(super) fn edges(&self, id: SocketId) -> Edges {
        self.endpoint(id).map(|endpoint| endpoint.edges).unwrap_or_default()
    }
}

/// Who waits for what.
impl World {
    pub(super) fn add_driver(&mut self) -> DriverId {
        let id = DriverId(self.name());
        self.drivers.insert(id, Waiting::default());
        id
    }

    pub(super) fn remove_driver(&mut self, id: DriverId) {
        self.drivers.remove(&id);
    }

    pub(super) fn activity(&self) -> u64 {
        self.activity
    }

    /// The directions in `edge` of this socket may have become ready: whoever has it should look.
    pub(super) fn notify(&mut self, id: SocketId, edge: Interest) {
        let Some(endpoint) = self.sockets.get_mut(&id) else {
            return;
        };
        endpoint.edges.readable += u64::from(edge.readable);
        endpoint.edges.writable += u64::from(edge.writable);
        self.activity += 1;
        if let Some(owner) = endpoint.owner {
            self.requeue(owner);
        }
    }

    pub(super) fn set_deadline(&mut self, driver: DriverId, deadline: Timestamp) {
        if let Some(waiting) = self.drivers.get_mut(&driver) {
            waiting.deadline = deadline;
        }
    }

    /// How far time may pass in one step for a driver that waits until `deadline`: others want to be back
    /// at theirs.
    pub(super) fn horizon(&self, deadline: Timestamp) -> Timestamp {
        let deadlines = self.drivers.values().map(|waiting| waiting.deadline);
        deadlines.filter(|&other| other > self.now).fold(deadline, Timestamp::min)
    }

    /// A driver's loop has something to react to. What it does is known only after its next turn.
    pub(super) fn note_answer_due(&mut self) {
        self.activity += 1;
    }

    fn run(&mut self, owner: Owner) {
        self.activity += 1;
        self.requeue(owner);
    }

    /// Makes the slot's driver look at it in its next turn.
    pub(super) fn requeue(&mut self, owner: Owner) {
        if let Some(waiting) = self.drivers.get_mut(&owner.driver) {
            waiting.runnable.insert(owner.slot);
        }
    }

    pub(super) fn has_runnable(&self, driver: DriverId) -> bool {
        self.drivers.get(&driver).is_some_and(|waiting| !waiting.runnable.is_empty())
    }

    /// The slots to look at, in the order in which the seed wants it.
    pub(super) fn take_runnable(&mut self, driver: DriverId) -> Vec<u32> {
        let Some(waiting) = self.drivers.get_mut(&driver) else {
            return Vec::new();
        };
        let mut slots: Vec<u32> = std::mem::take(&mut waiting.runnable).into_iter().collect();
        if self.config.reordering {
            self.random.shuffle(&mut slots);
        }
        slots
    }

    pub(super) fn wake(&mut self, driver: DriverId) {
        if let Some(waiting) = self.drivers.get_mut(&driver) {
            waiting.woken = true;
        }
    }

    pub(super) fn is_woken(&self, driver: DriverId) -> bool {
        self.drivers.get(&driver).is_some_and(|waiting| waiting.woken)
    }

    pub(super) fn take_wake(&mut self, driver: DriverId) -> bool {
        self.drivers.get_mut(&driver).is_some_and(|waiting| std::mem::take(&mut waiting.woken))
    }
}

/// The error that `errno` names.
pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
