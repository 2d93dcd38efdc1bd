//! Event loops on the simulated kernel, with peers that do whatever a network does. `KOLK_SEED=n` runs one
//! seed.

mod sim_helper;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Write};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kolk_engine::buffer::{Chunk, Lease};
use kolk_engine::clock::Timestamp;
use kolk_engine::driver::{DriverChoice, SimConfig, SimNet, SimPeer, SimSocket, Socket};
use kolk_engine::limits;
use kolk_engine::op::is_cancelled;
use kolk_engine::socket::Address;
use kolk_engine::timer::{TICK, TimerId};
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Config, Event, EventLoop};

use sim_helper::{Dice, for_seeds, pattern, read_available, write_available};

/// Seeds of each storm; even ones are calm.
const SEEDS: u64 = 1000;

/// Turns after which a test gives up: nothing here takes nearly as many.
const TURNS_MAX: usize = 100_000;

/// Longest virtual time of one turn, so that the outside has its say before a time-out.
const STEP: Duration = Duration::from_millis(1);

const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 80);

fn address(port: u16) -> Address {
    SocketAddr::from((SERVER.0, port)).into()
}

/// A calm network for even seeds, a stormy one for odd ones.
fn network(seed: u64) -> SimNet {
    SimNet::new(if seed.is_multiple_of(2) { SimConfig::calm(seed) } else { SimConfig::stormy(seed) })
}

/// An event loop that checks of each event that its name lives, and that each socket closes once.
struct Station {
    event_loop: EventLoop<()>,
    /// Names that are attached and have not closed.
    live: BTreeSet<ConnId>,
}

impl Station {
    fn new(net: &SimNet, loop_number: u16) -> Self {
        let config =
            Config { driver: DriverChoice::Sim(net.clone()), loop_number, slots: 4096, ..Config::default() };
        let event_loop = EventLoop::new(&config).expect("sim always opens");
        Self { event_loop, live: BTreeSet::new() }
    }

    #[track_caller]
    fn attach(&mut self, socket: impl Into<Socket>) -> ConnId {
        let conn = self.event_loop.attach(socket.into()).expect("there are slots");
        assert!(self.live.insert(conn), "{conn} is given out twice");
        conn
    }

    #[track_caller]
    fn listen(&mut self, socket: SimSocket) -> ConnId {
        let listener = self.attach(socket);
        self.event_loop.accept(listener).expect("just attached");
        listener
    }

    #[track_caller]
    fn connect(&mut self, address: &Address) -> ConnId {
        let conn = self.event_loop.connect(address).expect("there are slots");
        assert!(self.live.insert(conn), "{conn} is given out twice");
        conn
    }

    #[track_caller]
    fn receive(&mut self, conn: ConnId) {
        self.event_loop.receive(conn).expect("open, and nothing receives");
    }

    #[track_caller]
    fn write(&mut self, conn: ConnId, chunk: impl Into<Chunk>) {
        self.event_loop.write(conn, chunk.into()).expect("open for writing");
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        self.event_loop.close(conn, how);
    }

    #[track_caller]
    fn turn(&mut self) {
        let deadline = self.event_loop.now() + STEP;
        self.event_loop.turn(Some(deadline)).expect("the simulated kernel loses nothing");
    }

    #[track_caller]
    fn next_event(&mut self) -> Option<Event<()>> {
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
    fn close_all(&mut self) {
        for conn in self.live.clone() {
            self.close(conn, Close::Discard);
        }
        self.until_closed(limits::CLOSE_TIMEOUT);
    }

    /// Turns until every name is closed, within so much virtual time.
    #[track_caller]
    fn until_closed(&mut self, within: Duration) {
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
fn name_of<M>(event: &Event<M>) -> Option<ConnId> {
    match event {
        Event::Message(_) | Event::Timer(..) => None,
        Event::Accepted(conn, _)
        | Event::AcceptFailed(conn, ..)
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

// ---- many peers, one echo ---------------------------------------------------------------------------

#[test]
fn an_echo_gives_back_what_came_in_whatever_the_peers_do() {
    for_seeds(SEEDS, |seed| echo_storm(seed, |_| {}));
}

#[test]
fn the_same_seed_brings_the_same_events() {
    for_seeds(40, |seed| {
        let trace = || {
            let mut trace = Vec::new();
            echo_storm(seed, |event| trace.push(describe(event)));
            trace
        };
        let (first, second) = (trace(), trace());
        assert!(!first.is_empty());
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        assert_eq!(differs.map(|at| (&first[at], &second[at])), None, "two runs differ");
        assert_eq!(first.len(), second.len());
    });
}

/// The event with its bytes.
fn describe(event: &Event<()>) -> String {
    match event {
        Event::Received(_, Ok(lease)) => format!("{event:?} {:?}", &**lease),
        _ => format!("{event:?}"),
    }
}

/// How a peer of the outside ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Sends everything, ends its direction, reads to the end.
    HalfClose,
    /// Resets at some moment.
    Reset,
    /// Closes at some moment.
    Leave,
}

struct Peer {
    /// `None` once it is gone.
    stream: Option<SimPeer>,
    fate: Fate,
    sends: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Peer {
    fn new(stream: SimPeer, dice: &mut Dice) -> Self {
        let fate = [Fate::HalfClose, Fate::HalfClose, Fate::Reset, Fate::Leave][dice.below(4)];
        let len = [0, 1, 50, 400, 4000, 20_000][dice.below(6)];
        let first = dice.below(256);
        let sends = (0..len).map(|place| (first + place * 3 + (place >> 8)) as u8).collect();
        Self { stream: Some(stream), fate, sends, sent: 0, received: Vec::new() }
    }

    /// Writes, reads, goes or does nothing.
    #[track_caller]
    fn act(&mut self, dice: &mut Dice) {
        match dice.below(8) {
            0..3 => self.write(1 + dice.below(2000)),
            3..6 => self.read(),
            6 if self.fate != Fate::HalfClose && dice.below(8) == 0 => self.go(),
            _ => {}
        }
    }

    fn write(&mut self, most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let rest = &self.sends[self.sent..];
        if rest.is_empty() {
            if self.fate == Fate::HalfClose {
                stream.shutdown_write();
            }
            return;
        }
        match stream.write(&rest[..rest.len().min(most)]) {
            Ok(count) => self.sent += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the echo ends after us"),
        }
    }

    #[track_caller]
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let end = read_available(stream, &mut self.received);
        assert!(self.sends[..self.sent].starts_with(&self.received), "other bytes came back");
        if let Some(end) = end {
            end.expect("nobody resets but the peers");
            assert_eq!(self.fate, Fate::HalfClose, "the echo ends only after its peer");
            assert_eq!(self.received.len(), self.sends.len(), "some bytes did not come back");
            self.stream = None;
        }
    }

    fn go(&mut self) {
        let stream = self.stream.take();
        if self.fate == Fate::Reset {
            stream.into_iter().for_each(SimPeer::reset);
        }
    }
}

#[track_caller]
fn echo_storm(seed: u64, mut observe: impl FnMut(&Event<()>)) {
    let net = network(seed);
    let mut dice = Dice::new(seed);
    let mut station = Station::new(&net, 0);
    let before = net.open_sockets();
    let listener = station.listen(net.listen(&address(80)));
    let mut to_come = 10 + dice.below(41);
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..TURNS_MAX {
        if to_come > 0 && dice.below(3) > 0 {
            to_come -= 1;
            let stream = net.connect(&address(80)).expect("the backlog is long enough");
            peers.push(Peer::new(stream, &mut dice));
        }
        for peer in &mut peers {
            peer.act(&mut dice);
        }
        station.turn();
        while let Some(event) = station.next_event() {
            observe(&event);
            echo(&mut station, event);
        }
        if to_come == 0 && station.live.len() == 1 && peers.iter().all(|peer| peer.stream.is_none()) {
            break;
        }
    }
    assert!(peers.iter().all(|peer| peer.stream.is_none()), "some peer never came to its end");
    assert_eq!(station.live, BTreeSet::from([listener]), "some connection never closed");
    station.close_all();
    assert_eq!(net.open_sockets(), before);
}

fn echo(station: &mut Station, event: Event<()>) {
    match event {
        Event::Accepted(_, socket) => {
            let conn = station.attach(socket);
            station.receive(conn);
        }
        Event::Received(conn, Ok(bytes)) if bytes.is_empty() => station.close(conn, Close::Flush),
        Event::Received(conn, Ok(bytes)) => station.write(conn, bytes),
        Event::Received(conn, Err(_)) | Event::SendFailed(conn, _) => station.close(conn, Close::Discard),
        Event::AcceptFailed(..) | Event::Closed(_) => {}
        other => panic!("{other:?} was not asked for"),
    }
}

// ---- two loops that talk ----------------------------------------------------------------------------

/// One end of a conversation.
struct End {
    /// Names the conversation: the client's address.
    name: Address,
    /// Chooses the bytes it sends.
    tag: usize,
    to_write: usize,
    written: usize,
    /// Bytes that came, all of them as the other end wrote them.
    got: usize,
    how: Close,
    /// Closes only when the other has ended.
    waits: bool,
    input: Input,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
    Failed,
}

fn spoken(tag: usize, place: usize) -> u8 {
    (tag * 101 + place * 7 + (place >> 8)) as u8
}

impl End {
    fn new(name: Address, is_client: bool, dice: &mut Dice) -> Self {
        let port = name.as_inet().map_or(0, |inet| usize::from(inet.port()));
        let how = [Close::Flush, Close::Flush, Close::Discard, Close::Reset][dice.below(4)];
        Self {
            tag: 2 * port + usize::from(is_client),
            to_write: [0, 10, 300, 3000][dice.below(4)],
            written: 0,
            got: 0,
            how,
            // Two that wait for each other would wait for ever, so one rule decides: odd servers wait.
            waits: !is_client && port % 2 == 1,
            input: Input::Open,
            closed: false,
            name,
        }
    }

    #[track_caller]
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, spoken(self.tag ^ 1, self.got), "at {} of {}", self.got, self.name);
            self.got += 1;
        }
    }

    /// Writes some more, or closes if it is time.
    fn act(&mut self, station: &mut Station, conn: ConnId, dice: &mut Dice) {
        let count = (1 + dice.below(700)).min(self.to_write - self.written);
        if count > 0 {
            let bytes = (0..count).map(|place| spoken(self.tag, self.written + place));
            station.write(conn, bytes.collect::<Vec<u8>>());
            self.written += count;
        } else if !self.waits || self.input != Input::Open {
            station.close(conn, self.how);
            self.closed = true;
        }
    }
}

struct Talker {
    station: Station,
    ends: BTreeMap<ConnId, End>,
    /// Ends whose sockets are closed.
    past: Vec<End>,
}

impl Talker {
    fn new(net: &SimNet, loop_number: u16) -> Self {
        Self { station: Station::new(net, loop_number), ends: BTreeMap::new(), past: Vec::new() }
    }

    fn turn(&mut self, dice: &mut Dice) {
        self.station.turn();
        while let Some(event) = self.station.next_event() {
            self.handle(event, dice);
        }
        for (conn, end) in &mut self.ends {
            if !end.closed && dice.below(3) == 0 {
                end.act(&mut self.station, *conn, dice);
            }
        }
    }

    #[track_caller]
    fn handle(&mut self, event: Event<()>, dice: &mut Dice) {
        match event {
            Event::Accepted(_, socket) => {
                let name = socket.peer_address();
                let conn = self.station.attach(socket);
                match name {
                    Ok(name) => self.begin(conn, End::new(name, false, dice)),
                    // The client has reset it already.
                    Err(_) => self.station.close(conn, Close::Discard),
                }
            }
            // The other has reset it already.
            Event::Connected(conn, Err(_)) => self.station.close(conn, Close::Discard),
            Event::Connected(conn, Ok(())) => {
                let socket = self.station.event_loop.socket(conn).expect("just connected");
                let name = socket.local_address().expect("simulated sockets know it");
                self.begin(conn, End::new(name, true, dice));
            }
            Event::Received(conn, result) => {
                let end = self.ends.get_mut(&conn).expect("it receives since it began");
                assert!(!end.closed, "input after the close");
                match result {
                    Ok(bytes) if bytes.is_empty() => end.input = Input::Ended,
                    Ok(bytes) => end.take(&bytes),
                    Err(_) => end.input = Input::Failed,
                }
            }
            Event::SendFailed(conn, _) => {
                self.station.close(conn, Close::Discard);
                let end = self.ends.get_mut(&conn).expect("it has written");
                end.closed = true;
                end.how = Close::Discard;
            }
            Event::Closed(conn) => self.past.extend(self.ends.remove(&conn)),
            Event::AcceptFailed(..) => {}
            other => panic!("{other:?} was not asked for"),
        }
    }

    fn begin(&mut self, conn: ConnId, end: End) {
        self.station.receive(conn);
        self.ends.insert(conn, end);
    }
}

#[test]
fn what_was_written_before_a_flushing_close_arrives() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut server = Talker::new(&net, 0);
        let mut client = Talker::new(&net, 1);
        server.station.listen(net.listen(&address(80)));
        let mut to_come = 4 + dice.below(8);
        for _ in 0..TURNS_MAX {
            if to_come > 0 && dice.below(2) == 0 {
                to_come -= 1;
                client.station.connect(&address(80));
            }
            // Each loop at its own pace.
            for talker in [&mut server, &mut client] {
                if dice.below(3) > 0 {
                    talker.turn(&mut dice);
                }
            }
            if to_come == 0 && client.station.live.is_empty() && server.station.live.len() == 1 {
                break;
            }
        }
        assert!(client.station.live.is_empty(), "some client never closed");
        assert_eq!(server.station.live.len(), 1, "some server never closed");
        check_talks(&client.past, &server.past);
        server.station.close_all();
        assert_eq!(net.open_sockets(), 0);
    });
}

#[track_caller]
fn check_talks(clients: &[End], servers: &[End]) {
    let servers: HashMap<&Address, &End> = servers.iter().map(|end| (&end.name, end)).collect();
    for client in clients {
        if let Some(server) = servers.get(&client.name) {
            check_direction(client, server);
            check_direction(server, client);
        }
    }
}

#[track_caller]
fn check_direction(writer: &End, reader: &End) {
    let name = &writer.name;
    assert!(reader.got <= writer.written, "{name}: more came than was written");
    if writer.how != Close::Flush {
        return;
    }
    if reader.waits {
        assert_eq!(reader.input, Input::Ended, "{name}: a flushing close is a clean end");
    }
    if reader.input == Input::Ended {
        assert_eq!(reader.got, writer.written, "{name}: an end of stream before its bytes");
    }
}

/// Virtual time must not leap to one loop's time-out while the other is about to answer.
#[test]
fn loops_that_wait_without_deadline_answer_each_other_before_a_time_out() {
    for_seeds(100, |seed| {
        let net = network(seed);
        let (near, far) = (Station::new(&net, 0), Station::new(&net, 1));
        let mut stations = [near, far];
        stations[1].listen(net.listen(&address(80)));
        let client = stations[0].connect(&address(80));
        stations[0].receive(client);
        stations[0].write(client, pattern(200));
        let mut back = Vec::new();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the echo never ended");
            let station = &mut stations[turn % 2];
            // Would fire first, were anything left out.
            let later = station.event_loop.now() + Duration::from_secs(5);
            let timer = station.event_loop.set_timer(later, 0);
            station.event_loop.turn(None).expect("the simulated kernel loses nothing");
            while let Some(event) = station.next_event() {
                match event {
                    Event::Received(conn, Ok(bytes)) if conn == client => back.extend_from_slice(&bytes),
                    Event::Connected(..) => {}
                    Event::Timer(..) => panic!("time leapt over an answer"),
                    other => echo(station, other),
                }
            }
            station.event_loop.cancel_timer(timer);
            if back.len() == 200 {
                break;
            }
        }
        assert_eq!(back, pattern(200));
    });
}

// ---- receives that are cancelled, begun again, and kept ----------------------------------------------

/// A connection whose receive is cancelled and begun again, this way or that.
struct Listening {
    conn: ConnId,
    peer: SimPeer,
    sent: usize,
    got: usize,
    receiving: bool,
    ended: bool,
}

/// What a [`Listening`] peer sends.
const SPEECH: usize = 1500;

/// Bytes that the program keeps for some turns.
struct Hoard {
    kept: Vec<(usize, Lease, Vec<u8>)>,
}

impl Hoard {
    fn keep(&mut self, turns: usize, lease: Lease) {
        let bytes = lease.to_vec();
        self.kept.push((turns, lease, bytes));
    }

    /// A turn later: lets go of what was kept long enough, some of it in parts.
    #[track_caller]
    fn age(&mut self) {
        for (turns, mut lease, bytes) in mem::take(&mut self.kept) {
            assert_eq!(*lease, bytes, "a kept lease changed");
            match turns {
                0 => {}
                7 => {
                    let front = lease.split_to(bytes.len() / 2);
                    self.keep(2, front);
                    self.keep(3, lease);
                }
                _ => self.kept.push((turns - 1, lease, bytes)),
            }
        }
    }
}

#[test]
fn cancelled_receives_lose_nothing_and_kept_leases_never_change() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let speech = pattern(SPEECH);
        let mut hoard = Hoard { kept: Vec::new() };
        let mut all: Vec<Listening> = (0..8)
            .map(|_| {
                let (near, peer) = net.pair();
                let conn = station.attach(near);
                Listening { conn, peer, sent: 0, got: 0, receiving: false, ended: false }
            })
            .collect();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "some stream never ended");
            for one in &mut all {
                one.speak(&speech, &mut dice);
                one.receive_somehow(&mut station, &mut dice);
            }
            station.turn();
            while let Some(event) = station.next_event() {
                let conn = name_of(&event).expect("only sockets have events here");
                let one = all.iter_mut().find(|one| one.conn == conn).expect("attached above");
                one.handle(event, &speech, &mut hoard, &mut dice);
            }
            hoard.age();
            if all.iter().all(|one| one.ended) {
                break;
            }
        }
        for one in &all {
            assert_eq!(one.got, SPEECH, "the stream of {} has a hole", one.conn);
        }
        station.close_all();
        drop(station);
        hoard.age();
    });
}

impl Listening {
    fn speak(&mut self, speech: &[u8], dice: &mut Dice) {
        if self.sent == SPEECH {
            self.peer.shutdown_write();
        } else if dice.below(2) == 0 {
            let until = SPEECH.min(self.sent + 1 + dice.below(300));
            self.sent += self.peer.write(&speech[self.sent..until]).unwrap_or(0);
        }
    }

    /// Begins a receive, or asks for the end of the one in flight.
    #[track_caller]
    fn receive_somehow(&mut self, station: &mut Station, dice: &mut Dice) {
        let event_loop = &mut station.event_loop;
        if self.receiving {
            if dice.below(16) == 0 {
                event_loop.cancel_receive(self.conn).expect("it is open");
                let again = event_loop.receive(self.conn).expect_err("the first has not ended");
                assert_eq!(again.kind(), io::ErrorKind::ResourceBusy);
            }
        } else if !self.ended && dice.below(3) > 0 {
            self.receiving = true;
            match dice.below(2) {
                0 => event_loop.receive(self.conn),
                _ => {
                    let mut buffer = BytesMut::with_capacity(8 + dice.below(600));
                    buffer.extend_from_slice(b"before");
                    event_loop.receive_into(self.conn, buffer)
                }
            }
            .expect("open, and nothing receives");
        }
    }

    #[track_caller]
    fn handle(&mut self, event: Event<()>, speech: &[u8], hoard: &mut Hoard, dice: &mut Dice) {
        assert!(self.receiving, "{event:?} without a receive");
        match event {
            Event::Received(_, Ok(lease)) if !lease.is_empty() => {
                self.take(&lease, speech);
                if dice.below(2) == 0 {
                    hoard.keep(dice.below(40), lease);
                }
            }
            Event::Received(_, result) => self.end(result.map(|_| 0)),
            Event::ReceivedInto(_, buffer, result) => {
                let bytes = buffer.strip_prefix(b"before").expect("a receive appends");
                assert_eq!(bytes.len(), *result.as_ref().unwrap_or(&0));
                self.take(bytes, speech);
                self.end(result);
            }
            other => panic!("{other:?} was not asked for"),
        }
    }

    #[track_caller]
    fn take(&mut self, bytes: &[u8], speech: &[u8]) {
        assert!(speech[self.got..].starts_with(bytes), "{}: other bytes at {}", self.conn, self.got);
        self.got += bytes.len();
    }

    /// The receive has ended: by a cancel, by bytes into its buffer, or with the stream.
    #[track_caller]
    fn end(&mut self, result: io::Result<usize>) {
        self.receiving = false;
        match result {
            Ok(count) => self.ended = count == 0,
            Err(error) => assert!(is_cancelled(&error), "{error}"),
        }
    }
}

// ---- timers -----------------------------------------------------------------------------------------

/// The timers that are set, and when they are due. Only those set before the turn must have fired.
#[derive(Default)]
struct Alarms {
    set: BTreeMap<TimerId, (Timestamp, u64)>,
    /// Names of timers that fired or were cancelled.
    stale: VecDeque<TimerId>,
    payloads: u64,
}

impl Alarms {
    /// Sets, moves or cancels one.
    #[track_caller]
    fn act(&mut self, event_loop: &mut EventLoop<()>, dice: &mut Dice) {
        let magnitude = dice.below(34);
        let span = Duration::from_nanos(dice.below(1 << magnitude) as u64);
        // Now and then in the past.
        let deadline = Timestamp::from_nanos(event_loop.now().as_nanos().saturating_sub(1000)) + span;
        let chosen = self.set.keys().nth(dice.below(self.set.len() + 1)).copied();
        match (dice.below(4), chosen) {
            (0, Some(timer)) => {
                assert!(event_loop.move_timer(timer, deadline));
                self.set.get_mut(&timer).expect("chosen among them").0 = deadline;
            }
            (1, Some(timer)) => {
                assert!(event_loop.cancel_timer(timer));
                self.retire(timer);
            }
            (2, _) => {
                if let Some(timer) = self.stale.pop_front() {
                    assert!(!event_loop.cancel_timer(timer) && !event_loop.move_timer(timer, deadline));
                }
            }
            _ => {
                self.payloads += 1;
                let timer = event_loop.set_timer(deadline, self.payloads);
                let before = self.set.insert(timer, (deadline, self.payloads));
                assert!(before.is_none(), "{timer:?} is given out twice");
            }
        }
    }

    #[track_caller]
    fn retire(&mut self, timer: TimerId) -> (Timestamp, u64) {
        self.stale.push_back(timer);
        self.set.remove(&timer).expect("a timer fires once, and not after it was cancelled")
    }
}

#[test]
fn timers_fire_once_in_order_and_never_early() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let mut alarms = Alarms::default();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "some timer never fired");
            for _ in 0..dice.below(if turn < 100 { 8 } else { 1 }) {
                alarms.act(&mut station.event_loop, &mut dice);
            }
            if turn >= 100 && alarms.set.is_empty() {
                break;
            }
            // As long as it takes, or shorter.
            let limit = station.event_loop.now() + Duration::from_nanos(dice.below(1 << 34) as u64);
            let limit = (dice.below(2) == 0).then_some(limit);
            station.event_loop.turn(limit).expect("the simulated kernel loses nothing");
            let now = station.event_loop.now();
            let mut last = Timestamp::ZERO;
            while let Some(event) = station.next_event() {
                let Event::Timer(timer, payload) = event else { panic!("{event:?}") };
                let (deadline, expected) = alarms.retire(timer);
                assert_eq!(payload, expected);
                assert!(deadline <= now, "{timer:?} fires early");
                assert!(last <= deadline, "{timer:?} fires out of order");
                last = deadline;
            }
            let late = alarms.set.values().find(|(deadline, _)| *deadline + TICK <= now);
            assert_eq!(late, None, "a timer is late");
        }
        assert_eq!(station.event_loop.stats().timers, 0);
    });
}

// ---- connects ---------------------------------------------------------------------------------------

const LISTENING: u16 = 80;
const REFUSING: u16 = 81;
const SILENT: u16 = 82;

/// A connect, with what was asked of it before it was there.
struct Caller {
    conn: ConnId,
    port: u16,
    /// Chooses its bytes, and comes as the first of them.
    tag: u8,
    written: usize,
    connected: Option<Result<(), io::ErrorKind>>,
    got: Vec<u8>,
    ended: bool,
    closing: Option<Close>,
}

impl Caller {
    #[track_caller]
    fn new(station: &mut Station, tag: u8, dice: &mut Dice) -> Self {
        let port = [LISTENING, LISTENING, REFUSING, SILENT][dice.below(4)];
        let conn = station.connect(&address(port));
        let mut caller = Self {
            conn,
            port,
            tag,
            written: 0,
            connected: None,
            got: Vec::new(),
            ended: false,
            closing: None,
        };
        for _ in 0..1 + dice.below(3) {
            caller.write(station, 1 + dice.below(800));
        }
        station.receive(conn);
        if dice.below(3) == 0 {
            // A receive that has not begun ends as cancelled.
            station.event_loop.cancel_receive(conn).expect("it is open");
            station.receive(conn);
        }
        station.event_loop.shutdown_write(conn).expect("it is open");
        if dice.below(4) == 0 {
            let how = [Close::Flush, Close::Discard, Close::Reset][dice.below(3)];
            caller.close(station, how);
        }
        caller
    }

    fn said(&self) -> Vec<u8> {
        (0..self.written).map(|place| self.tag.wrapping_add((place * 5) as u8)).collect()
    }

    #[track_caller]
    fn write(&mut self, station: &mut Station, count: usize) {
        let before = self.written;
        self.written += count;
        station.write(self.conn, self.said().split_off(before));
    }

    fn close(&mut self, station: &mut Station, how: Close) {
        station.close(self.conn, how);
        self.closing = Some(how);
    }

    #[track_caller]
    fn handle(&mut self, station: &mut Station, event: Event<()>) {
        match event {
            Event::Connected(_, result) => {
                assert_eq!(self.connected, None, "connected twice");
                let result = result.map_err(|error| error.kind());
                self.connected = Some(result);
                if result.is_err() && self.closing.is_none() {
                    // Nothing of it can be sent any more, so flushing takes no time.
                    self.close(station, Close::Flush);
                }
            }
            Event::Received(_, Err(error)) if is_cancelled(&error) && self.connected.is_none() => {}
            Event::Received(_, result) => {
                assert_eq!(self.connected, Some(Ok(())), "received before it was connected");
                let bytes = result.expect("the answer comes whole");
                self.ended = bytes.is_empty();
                self.got.extend_from_slice(&bytes);
                if self.ended {
                    self.close(station, Close::Flush);
                }
            }
            Event::Closed(_) => assert!(self.closing.is_some(), "closed without a wish"),
            other => panic!("{other:?} was not asked for"),
        }
    }

    /// After its socket is closed.
    #[track_caller]
    fn check(&self, answered: &BTreeMap<u8, Answer>) {
        let answer = answered.get(&self.tag);
        match (self.port, self.connected) {
            (LISTENING, Some(Ok(()))) => {}
            (REFUSING, Some(Err(kind))) => assert_eq!(kind, io::ErrorKind::ConnectionRefused),
            (_, None) => assert!(self.closing.is_some()),
            (port, connected) => panic!("{connected:?} by port {port}"),
        }
        if self.port != LISTENING {
            return assert!(answer.is_none() && self.got.is_empty());
        }
        if self.ended {
            let answer = answer.expect("somebody answered");
            assert_eq!(self.got, answer.heard, "the answer is what was said");
            assert_eq!(self.got, self.said());
        }
        if self.closing == Some(Close::Flush) {
            let answer = answer.expect("what was queued has arrived");
            assert_eq!(answer.heard, self.said());
        }
    }
}

/// The outside's end of a connection: hears all, then says it again.
struct Answer {
    peer: Option<SimPeer>,
    heard: Vec<u8>,
    said: usize,
    hears_on: bool,
}

impl Answer {
    fn act(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        if self.hears_on {
            match read_available(peer, &mut self.heard) {
                None => return,
                Some(Ok(())) => self.hears_on = false,
                // The caller did not want to wait.
                Some(Err(_)) => return self.peer = None,
            }
        }
        match peer.write(&self.heard[self.said..]) {
            Ok(count) => self.said += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.peer = None,
        }
        if self.said == self.heard.len() {
            self.peer = None;
        }
    }
}

#[test]
fn what_is_asked_of_a_connect_waits_for_the_connection() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let outside = net.listen_outside(&address(LISTENING));
        let _refusing = net.listen_outside(&address(REFUSING));
        net.refuse(&address(REFUSING));
        net.blackhole(&address(SILENT));
        let mut callers: Vec<Caller> =
            (0..3 + dice.below(8)).map(|tag| Caller::new(&mut station, tag as u8, &mut dice)).collect();
        let mut answers: Vec<Answer> = Vec::new();
        // Time enough for all that answer; the others are given up.
        for turn in 0..2 * TURNS_MAX {
            let accepted = std::iter::from_fn(|| outside.accept());
            answers.extend(accepted.map(|peer| Answer {
                peer: Some(peer),
                heard: Vec::new(),
                said: 0,
                hears_on: true,
            }));
            answers.iter_mut().for_each(Answer::act);
            station.turn();
            while let Some(event) = station.next_event() {
                let conn = name_of(&event).expect("only sockets have events here");
                let caller = callers.iter_mut().find(|caller| caller.conn == conn).expect("called above");
                caller.handle(&mut station, event);
            }
            let waiting = callers.iter().filter(|caller| station.live.contains(&caller.conn));
            if waiting.clone().all(|caller| caller.port == SILENT) {
                break;
            }
            assert!(turn < TURNS_MAX, "some caller never closed");
        }
        // Had a failed connect waited for its queue to be flushed, it would have taken this long.
        assert!(net.now() < Timestamp::ZERO + limits::CLOSE_TIMEOUT, "a close took too long");
        for caller in &mut callers {
            if station.live.contains(&caller.conn) {
                caller.close(&mut station, Close::Flush);
            }
        }
        station.until_closed(limits::CLOSE_TIMEOUT + 10 * STEP);
        answers.retain(|answer| !answer.heard.is_empty());
        let answered = answers.into_iter().map(|answer| (answer.heard[0], answer)).collect();
        callers.iter().for_each(|caller| caller.check(&answered));
    });
}

// ---- dropping everything ----------------------------------------------------------------------------

/// Bytes that count how often they are dropped.
struct Counted {
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes counted bytes, some short enough to be copied.
fn counted(drops: &mut Vec<Arc<AtomicUsize>>, dice: &mut Dice) -> Bytes {
    let owner = Counted { bytes: pattern(1 + dice.below(4 * limits::COPY_SIZE)), drops: Arc::default() };
    drops.push(Arc::clone(&owner.drops));
    Bytes::from_owner(owner)
}

#[test]
fn a_loop_dropped_with_everything_in_flight_drops_each_thing_once() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let mut drops = Vec::new();
        let mut hoard = Hoard { kept: Vec::new() };
        let mut peers = Vec::new();
        station.listen(net.listen(&address(80)));
        net.blackhole(&address(SILENT));
        for _ in 0..4 {
            peers.push(net.connect(&address(80)).expect("the backlog is long enough"));
            let (near, far) = net.pair();
            let conn = station.attach(near);
            station.receive(conn);
            peers.push(far);
            let silent = station.connect(&address(SILENT));
            station.write(silent, counted(&mut drops, &mut dice));
        }
        for _ in 0..dice.below(60) {
            for peer in &mut peers {
                // Nobody reads, so that sends stay in flight.
                let _ = peer.write(&pattern(dice.below(400)));
            }
            station.turn();
            // Not always to the end: the rest is dropped with the loop.
            for _ in 0..dice.below(30) {
                match station.next_event() {
                    Some(Event::Accepted(_, socket)) => {
                        let conn = station.attach(socket);
                        let buffer = BytesMut::with_capacity(100);
                        station.event_loop.receive_into(conn, buffer).expect("just attached");
                    }
                    Some(Event::Received(_, Ok(lease))) => hoard.keep(usize::MAX, lease),
                    Some(_) => {}
                    None => break,
                }
            }
            let chosen = station.live.iter().nth(dice.below(station.live.len())).copied();
            let conn = chosen.expect("the listener lives");
            match dice.below(20) {
                0 => station.close(conn, [Close::Flush, Close::Discard, Close::Reset][dice.below(3)]),
                1 => {
                    let next = station.event_loop.now() + STEP;
                    station.event_loop.set_timer(next, 0);
                }
                _ => {
                    // Refused by what is closing and by what failed.
                    let _ = station.event_loop.write(conn, counted(&mut drops, &mut dice).into());
                }
            }
        }
        drop(station);
        for drops in &drops {
            assert_eq!(drops.load(Ordering::Relaxed), 1, "drops of one chunk");
        }
        hoard.age();
        drop(peers);
        assert_eq!(net.open_sockets(), 0);
    });
}

// ---- giving sockets back ----------------------------------------------------------------------------

#[test]
fn a_socket_is_not_given_back_while_an_event_of_it_is_to_come() {
    let net = SimNet::new(SimConfig::calm(1));
    let mut station = Station::new(&net, 0);
    let (near, mut peer) = net.pair();
    let conn = station.attach(near);
    station.receive(conn);
    assert_eq!(write_available(&mut peer, b"abc"), 3);
    peer.shutdown_write();
    let mut got = Vec::new();
    while station.event_loop.detach(conn).is_err() {
        station.turn();
        assert!(station.event_loop.detach(conn).is_err(), "what came in this turn would be lost");
        while let Some(event) = station.next_event() {
            let Event::Received(_, Ok(bytes)) = event else { panic!("{event:?}") };
            got.extend_from_slice(&bytes);
        }
    }
    assert_eq!(got, b"abc");
    drop(peer);
    assert_eq!(net.open_sockets(), 0, "what detach gives back is closed on drop");
}
