//! L08: the same random script brings the same results on every kernel interface.
//!
//! The peers of a few connections send orders, which the handler obeys; the handle and the peers do things of their
//! own. After each step all comes to rest: what races on a real kernel is left out, and what is left must be equal:
//! for each connection the callbacks in their order, and for each peer its bytes and how they end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kolk::server::{Action, CloseReason, Conn, Handler, Input, RunningServer};
use kolk::{ConnId, DriverKind};
use kolk_engine::driver::SimConfig;

use crate::dice::Dice;
use crate::support::{PATIENCE, Peer, World, pattern};

/// Scripts; `KOLK_SEED` names a single one.
const SEEDS: u64 = 1000;
const STEPS: usize = 12;
const STREAMS: usize = 3;

/// Above it the writing of a connection is to stop, and its reading pauses.
const HIGH: u64 = 10_000;

#[test]
fn l08_every_driver_gives_the_same_results_for_the_same_script() {
    let stage = |world| Stage::new(&world);
    let (uring, epoll) = (stage(World::real(DriverKind::IoUring)), stage(World::real(DriverKind::Epoll)));
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let sim = stage(World::simulated(SimConfig { short_transfers: 0, ..SimConfig::calm(seed) }));
        let expected = Script::new(&epoll, seed).play();
        for stage in [&uring, &sim] {
            let log = Script::new(stage, seed).play();
            let driver = stage.world.driver();
            for (line, (left, right)) in expected.iter().zip(&log).enumerate() {
                assert_eq!(left, right, "epoll and {driver} differ in line {line} of KOLK_SEED={seed}");
            }
            assert_eq!(expected.len(), log.len(), "KOLK_SEED={seed}");
        }
    }
}

// ---- the server's side --------------------------------------------------------------------------------

/// What a peer may order: a length, this, a number of bytes, and which order it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Write so many bytes, which may be more than the high watermark.
    Write,
    /// The same, and send them at once.
    Flush,
    /// Set a timer that is due at once, and one that is cancelled.
    Timer,
    /// Stop reading, until somebody says to go on.
    Pause,
    /// Join the group, or leave it.
    Join,
    Leave,
    /// Stay half-open when the peer ends its stream.
    StayOpen,
    /// End our own direction.
    EndWriting,
    Close,
    CloseNow,
}

const ORDERS: [Order; 10] = [
    Order::Write,
    Order::Flush,
    Order::Timer,
    Order::Pause,
    Order::Join,
    Order::Leave,
    Order::StayOpen,
    Order::EndWriting,
    Order::Close,
    Order::CloseNow,
];

/// What the handle asks of a connection.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Resume,
    Timer(Duration),
}

/// Bytes before what fills an order up.
const HEADER: usize = 6;

/// An order as it is sent, filled up to `len` bytes.
fn encode(order: Order, bytes: u16, number: u16, len: usize) -> Vec<u8> {
    let place = ORDERS.iter().position(|each| *each == order).expect("all are there");
    let mut frame = vec![len as u8, place as u8];
    frame.extend(bytes.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(len, b'.');
    frame
}

struct Obeying(Sender<(ConnId, String)>);

/// What a connection remembers: whether it stays open at the end of its peer's stream.
type StaysOpen = bool;

impl Obeying {
    fn tell(&self, conn: &Conn<'_>, text: impl Into<String>) {
        // The script may have ended.
        let _ = self.0.send((conn.id(), text.into()));
    }

    fn obey(&self, frame: &[u8], stays_open: &mut StaysOpen, conn: &mut Conn<'_>) -> Action {
        let order = ORDERS[usize::from(frame[1])];
        let bytes = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
        let number = u16::from_be_bytes([frame[4], frame[5]]);
        let was_writable = conn.is_writable();
        match order {
            Order::Write => conn.write(pattern(bytes)),
            Order::Flush => {
                conn.write_copy(&pattern(bytes));
                conn.flush();
            }
            Order::Timer => {
                conn.set_timer(u64::from(number), Duration::ZERO);
                conn.set_timer(u64::MAX, Duration::ZERO);
                assert!(conn.cancel_timer(u64::MAX));
            }
            Order::Pause => conn.pause_reading(),
            Order::Join => _ = conn.join("group"),
            Order::Leave => _ = conn.leave(&"group".into()),
            Order::StayOpen => *stays_open = true,
            Order::EndWriting => {
                let id = conn.id();
                conn.context().shutdown_write(id);
            }
            Order::Close | Order::CloseNow => {}
        }
        let is_writable = conn.is_writable();
        self.tell(conn, format!("{order:?} {number}: writable {was_writable}, then {is_writable}"));
        match order {
            Order::Close => Action::Close,
            Order::CloseNow => Action::CloseNow,
            _ => Action::Continue,
        }
    }
}

impl Handler<Ask> for Obeying {
    type Session = StaysOpen;

    fn on_open(&mut self, conn: &mut Conn<'_>) -> StaysOpen {
        self.tell(conn, "open");
        false
    }

    fn on_data(&mut self, stays_open: &mut StaysOpen, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        while let Some(len) = input.first(1).map(|header| usize::from(header[0])) {
            let Some(frame) = input.take_exact(len) else {
                input.need(len);
                break;
            };
            let action = self.obey(&frame, stays_open, conn);
            if action != Action::Continue || ORDERS[usize::from(frame[1])] == Order::Pause {
                return action;
            }
        }
        Action::Continue
    }

    fn on_writable(&mut self, _: &mut StaysOpen, conn: &mut Conn<'_>) -> Action {
        self.tell(conn, "writable");
        Action::Continue
    }

    fn on_eof(&mut self, stays_open: &mut StaysOpen, conn: &mut Conn<'_>) -> Action {
        self.tell(conn, "eof");
        if *stays_open { Action::Continue } else { Action::Close }
    }

    fn on_message(&mut self, _: &mut StaysOpen, conn: &mut Conn<'_>, ask: Ask) -> Action {
        self.tell(conn, format!("{ask:?}"));
        match ask {
            Ask::Resume => conn.resume_reading(),
            Ask::Timer(after) => conn.set_timer(u64::MAX, after),
        }
        Action::Continue
    }

    fn on_timer(&mut self, _: &mut StaysOpen, conn: &mut Conn<'_>, tag: u64) -> Action {
        self.tell(conn, format!("timer {tag}"));
        Action::Continue
    }

    fn on_close(&mut self, _: StaysOpen, conn: &mut Conn<'_>, reason: CloseReason) {
        self.tell(conn, format!("close: {reason}"));
    }
}

// ---- the stage ----------------------------------------------------------------------------------------

/// A server for scripts, one after the other.
struct Stage {
    world: World,
    server: RunningServer<Obeying, Ask>,
    told: Receiver<(ConnId, String)>,
    /// Open all the time: it asks the loop whether it has done all before.
    control: ConnId,
    _control: Peer,
}

impl Stage {
    fn new(world: &World) -> Self {
        let (tell, told) = channel();
        let server = world.server().output_watermarks(1000, HIGH).start(move |_| Obeying(tell.clone()));
        let server = server.expect("a free address");
        let (control, peer) = connect(world, &server, &told);
        Self { world: world.clone(), server, told, control, _control: peer }
    }

    /// Waits until the loop has come round, with all that had happened before.
    #[track_caller]
    fn come_round(&self) {
        let (tell, told) = channel();
        let task = move |_: &mut StaysOpen, _: &mut Conn<'_>| tell.send(()).expect("the script waits");
        self.server.handle().run(self.control, task).expect("it is open");
        told.recv_timeout(PATIENCE).expect("the loop goes on");
    }
}

/// A connection that the server has opened.
#[track_caller]
fn connect(
    world: &World,
    server: &RunningServer<Obeying, Ask>,
    told: &Receiver<(ConnId, String)>,
) -> (ConnId, Peer) {
    let peer = world.connect(server);
    if let Peer::Tcp(stream) = &peer {
        stream.set_nonblocking(true).expect("an open socket");
    }
    let (conn, text) = told.recv_timeout(PATIENCE).expect("it is opened in time");
    assert_eq!(text, "open");
    (conn, peer)
}

// ---- the script ---------------------------------------------------------------------------------------

/// One script on one stage.
struct Script<'a> {
    stage: &'a Stage,
    dice: Dice,
    streams: Vec<Stream>,
    /// Number of the next order.
    next: u16,
    log: Vec<String>,
}

/// A connection as the script knows it.
struct Stream {
    conn: ConnId,
    /// `None` once the script has dropped it.
    peer: Option<Peer>,
    /// Told in this step.
    told: Vec<String>,
    at_peer: Vec<u8>,
    /// How the stream ended at the peer.
    end: Option<String>,
    /// Sent, but not read, because the connection pauses.
    withheld: VecDeque<(Order, u16, u16)>,
    is_paused: bool,
    stays_open: bool,
    in_group: bool,
    /// The peer has ended its direction, and the server its own.
    peer_has_ended: bool,
    has_ended: bool,
    /// The peer has reset the connection, which does not read.
    is_reset: bool,
    /// The server closes it, and waits for the peer's end.
    is_closing: bool,
    is_closed: bool,
}

impl<'a> Script<'a> {
    fn new(stage: &'a Stage, seed: u64) -> Self {
        let streams = (0..STREAMS).map(|_| Stream::new(stage)).collect();
        Self { stage, dice: Dice::new(seed), streams, next: 0, log: Vec::new() }
    }

    /// The log: for each step a line for each stream, and one when it is over.
    fn play(mut self) -> Vec<String> {
        for _ in 0..STEPS {
            let stream = self.dice.below(STREAMS);
            if self.streams[stream].is_closed {
                self.note(stream);
                self.streams[stream] = Stream::new(self.stage);
            }
            self.act(stream);
            self.rest();
        }
        for stream in 0..STREAMS {
            if !self.streams[stream].is_closed {
                self.close(stream, false);
            }
            self.rest();
            self.note(stream);
        }
        self.log
    }

    /// One thing is done; what it brings about for certain is waited for.
    fn act(&mut self, index: usize) {
        let action = self.dice.below(20);
        let conn = self.streams[index].conn;
        let handle = self.stage.server.handle();
        let speaks = !self.streams[index].peer_has_ended && !self.streams[index].is_reset;
        // While some wait, what they come to together is not known.
        let may_order = speaks && self.streams[index].withheld.is_empty();
        match action {
            0..8 if may_order => self.send_orders(index),
            8 if may_order => self.send(index, &[(Order::Close, 0)]),
            9 if may_order => self.send(index, &[(Order::CloseNow, 0)]),
            10 | 11 => self.ask(index, Ask::Resume),
            12 => self.ask(index, Ask::Timer(Duration::ZERO)),
            13 => self.ask(index, Ask::Timer(Duration::from_micros(1500))),
            14 => {
                handle.write(conn, pattern(1 + self.dice.below(3000))).expect("it is open");
                self.wrote_to(index);
            }
            15 => {
                handle.broadcast_to("group", pattern(1 + self.dice.below(3000))).expect("it runs");
                (0..STREAMS)
                    .filter(|&each| self.streams[each].in_group)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|each| self.wrote_to(each));
            }
            16 | 19 if self.dice.below(2) == 0 => {
                let now = action == 19;
                self.close(index, now);
            }
            17 if may_order => self.end_at_peer(index),
            18 if may_order => self.reset(index),
            _ => {}
        }
    }

    /// Some orders at a time, whole or in two pieces, with a rest in between.
    fn send_orders(&mut self, index: usize) {
        let mut is_big = false;
        let orders: Vec<_> = (0..=self.dice.below(4))
            .map(|_| {
                let order = ORDERS[self.dice.below(ORDERS.len() - 2)];
                let big = !is_big && self.dice.below(4) == 0;
                is_big |= big && matches!(order, Order::Write | Order::Flush);
                // Together the small ones are less than the high watermark.
                let bytes =
                    if big { HIGH as usize + 1 + self.dice.below(20_000) } else { self.dice.below(2000) };
                (order, bytes as u16)
            })
            .collect();
        self.send(index, &orders);
    }

    fn send(&mut self, index: usize, orders: &[(Order, u16)]) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for &(order, count) in orders {
            let len = HEADER + self.dice.below(200);
            bytes.extend(encode(order, count, self.next, len));
            ends.push((bytes.len(), (order, count, self.next)));
            self.next += 1;
        }
        let cut = if self.dice.below(2) == 0 { 0 } else { self.dice.below(bytes.len()) };
        for (from, to) in [(0, cut), (cut, bytes.len())] {
            if from < to {
                self.streams[index].peer.as_mut().expect("it speaks").send(&bytes[from..to]);
                let whole =
                    ends.iter().filter(|(end, _)| (from + 1..=to).contains(end)).map(|(_, order)| *order);
                self.streams[index].withheld.extend(whole);
                self.read(index);
                self.rest();
            }
        }
    }

    /// The server reads what it may, and what that brings about is waited for.
    fn read(&mut self, index: usize) {
        while !self.streams[index].is_paused && !self.streams[index].is_closed {
            let stream = &mut self.streams[index];
            let Some((order, bytes, number)) = stream.withheld.pop_front() else { break };
            let is_big = u64::from(bytes) > HIGH && !stream.has_ended;
            match order {
                Order::Pause => stream.is_paused = true,
                Order::StayOpen => stream.stays_open = true,
                Order::Join => stream.in_group = true,
                Order::Leave => stream.in_group = false,
                Order::EndWriting => stream.has_ended = true,
                _ => {}
            }
            self.wait(index, &format!("{order:?} {number}:"));
            match order {
                Order::Write | Order::Flush if is_big => self.wait(index, "writable"),
                Order::Timer => self.wait(index, &format!("timer {number}")),
                Order::Close | Order::CloseNow => self.wait_for_close(index),
                _ => {}
            }
        }
        let stream = &self.streams[index];
        if stream.peer_has_ended && !stream.is_paused && !stream.is_closed {
            let stays_open = stream.stays_open;
            self.wait(index, "eof");
            if !stays_open {
                self.wait_for_close(index);
            }
        }
    }

    fn ask(&mut self, index: usize, ask: Ask) {
        let stream = &mut self.streams[index];
        self.stage.server.handle().message(stream.conn, ask).expect("it is open");
        match ask {
            Ask::Timer(_) => self.wait(index, &format!("timer {}", u64::MAX)),
            Ask::Resume if std::mem::take(&mut stream.is_paused) => {
                if stream.is_reset && !stream.peer_has_ended {
                    self.wait(index, "close");
                }
                self.read(index);
            }
            Ask::Resume => {}
        }
    }

    /// Something was written to it: only so a reset is seen while nothing is read.
    fn wrote_to(&mut self, index: usize) {
        let stream = &self.streams[index];
        if stream.is_reset && !stream.has_ended {
            self.wait(index, "close");
        }
    }

    fn close(&mut self, index: usize, now: bool) {
        let (handle, conn) = (self.stage.server.handle(), self.streams[index].conn);
        if now { handle.close_now(conn) } else { handle.close(conn) }.expect("it is open");
        self.wait_for_close(index);
        assert!(handle.close(conn).is_err_and(|error| error.is_not_connected()), "its name is stale");
    }

    /// The peer ends its stream, perhaps in the middle of an order.
    fn end_at_peer(&mut self, index: usize) {
        let half = encode(Order::Write, 1, 0, 100);
        let len = self.dice.below(2) * 50;
        let stream = &mut self.streams[index];
        let peer = stream.peer.as_mut().expect("it speaks");
        peer.send(&half[..len]);
        peer.shutdown_write();
        stream.peer_has_ended = true;
        self.read(index);
    }

    fn reset(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        stream.peer.take().expect("it speaks").reset();
        stream.is_reset = true;
        stream.end = Some("reset by itself".into());
        if !stream.is_paused {
            self.wait(index, "close");
        }
    }

    /// Waits until a stream is told something, in vain for a bounded time only; meanwhile all peers read.
    #[track_caller]
    fn wait(&mut self, index: usize, text: &str) {
        let begin = Instant::now();
        while !self.streams[index].told.iter().any(|told| told.starts_with(text)) {
            assert!(begin.elapsed() < PATIENCE, "{text:?} was not told: {:?}", self.streams[index].told);
            self.observe();
            std::thread::yield_now();
        }
        if text == "close" {
            self.streams[index].is_closed = true;
            self.streams[index].in_group = false;
        }
    }

    /// Waits for the end of a stream that the server has been told to close.
    fn wait_for_close(&mut self, index: usize) {
        // Where it has ended its direction before, the peer's end is not to be faster.
        self.stage.come_round();
        self.streams[index].is_closing = true;
        self.wait(index, "close");
    }

    /// Takes in what was told and what arrived; `true` if there was anything.
    fn observe(&mut self) -> bool {
        let mut has_changed = false;
        for (conn, text) in self.stage.told.try_iter() {
            let stream = self.streams.iter_mut().find(|stream| stream.conn == conn);
            stream.expect("a connection of the script").told.push(text);
            has_changed = true;
        }
        for stream in &mut self.streams {
            has_changed |= stream.drain();
        }
        has_changed
    }

    /// Waits until nothing more happens; notes what did.
    fn rest(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            self.stage.come_round();
            quiet = if self.observe() { 0 } else { quiet + 1 };
        }
        for (index, stream) in self.streams.iter_mut().enumerate() {
            // Timers, the output and the input are independent.
            stream.told.sort_by_key(|text| class(text));
            let told = std::mem::take(&mut stream.told);
            if !told.is_empty() {
                self.log.push(format!("{index}: {}", told.join("; ")));
            }
        }
    }

    /// What became of a stream.
    fn note(&mut self, index: usize) {
        let stream = &self.streams[index];
        let len = stream.at_peer.len();
        let sum =
            stream.at_peer.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.log.push(format!("{index} is over: {len} bytes, {sum:x}, {:?}", stream.end));
    }
}

fn class(told: &str) -> u8 {
    match told.split(' ').next() {
        Some("timer") => 1,
        Some("writable") => 2,
        Some("close:") => 3,
        _ => 0,
    }
}

impl Stream {
    fn new(stage: &Stage) -> Self {
        let (conn, peer) = connect(&stage.world, &stage.server, &stage.told);
        Self {
            conn,
            peer: Some(peer),
            told: Vec::new(),
            at_peer: Vec::new(),
            end: None,
            withheld: VecDeque::new(),
            is_paused: false,
            stays_open: false,
            in_group: false,
            peer_has_ended: false,
            has_ended: false,
            is_reset: false,
            is_closing: false,
            is_closed: false,
        }
    }

    /// Reads what is there. A peer goes once it has seen the end of a stream that closes.
    fn drain(&mut self) -> bool {
        let Some(peer) = &mut self.peer else { return false };
        let mut part = [0; 4096];
        let mut has_read = false;
        while self.end.is_none() {
            let result = match peer {
                Peer::Tcp(stream) => stream.read(&mut part),
                Peer::Sim(stream) => stream.read(&mut part),
            };
            match result {
                Ok(0) => self.end = Some("its end".into()),
                Ok(count) => self.at_peer.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.end = Some(format!("{:?}", error.kind())),
            }
            has_read = true;
        }
        if self.end.is_some() && self.is_closing {
            self.peer = None;
        }
        has_read
    }
}
