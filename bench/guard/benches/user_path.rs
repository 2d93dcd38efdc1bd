//! The user-space path of a message, in instructions.
//!
//! Valgrind counts what runs outside the kernel, and the same program counts the same every time: no clock, no
//! neighbour and no cache has a say. What is prepared, and what is dropped, does not count.
//!
//! Sockets are real ones on the epoll driver: valgrind cannot look at io_uring, and the simulated kernel's own
//! instructions would drown ours.

#![allow(missing_docs, reason = "the macros make public items of their own")]

use std::hint::black_box;
use std::io::{IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group, main};
use kolk::codec::{Decode, LengthField, LengthFieldLayout, Lines};
use kolk::watcher::{Completions, Operation, Watcher};
use kolk::{DriverChoice, DriverKind};
use kolk_engine::buffer::{Chunk, OutQueue};
use kolk_engine::clock::Timestamp;
use kolk_engine::mailbox::{Mailbox, Sender};
use kolk_engine::timer::{TimerId, TimerWheel};
use kolk_engine::wake::Wake;
use kolk_engine::{Config, EventLoop, Progress};

const CONNECTIONS: usize = 64;
const MESSAGE: [u8; 64] = [0x6b; 64];

/// Turns before the one that counts: all that is allocated once has been.
const WARM_UP: usize = 4;

const EPOLL: DriverChoice = DriverChoice::Only(DriverKind::Epoll);

/// The other ends of the connections.
struct Peers(Vec<UnixStream>);

impl Peers {
    /// As many pairs, and what becomes of their other ends.
    fn connect<T>(adopt: impl FnMut(UnixStream) -> T) -> (Self, Vec<T>) {
        let pairs = (0..CONNECTIONS).map(|_| UnixStream::pair().expect("a pair of sockets"));
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        (Self(ours), theirs.into_iter().map(adopt).collect())
    }

    fn send(&mut self) {
        self.0
            .iter_mut()
            .for_each(|peer| peer.write_all(&MESSAGE).expect("room for a message"));
    }

    fn expect(&mut self) {
        let mut back = [0; MESSAGE.len()];
        for peer in &mut self.0 {
            peer.read_exact(&mut back).expect("an answer");
            assert_eq!(back, MESSAGE);
        }
    }
}

// ---- the engine ---------------------------------------------------------------------------------

struct Engine {
    events: EventLoop<()>,
    peers: Peers,
}

impl Engine {
    fn warm() -> Self {
        let config = Config {
            driver: EPOLL,
            ..Config::default()
        };
        let mut events = EventLoop::<()>::new(&config).expect("epoll is everywhere");
        let (peers, _) = Peers::connect(|stream| {
            stream.set_nonblocking(true).expect("a socket");
            let conn = events
                .attach(OwnedFd::from(stream).into())
                .expect("a free slot");
            events.receive(conn).expect("just attached");
        });
        let mut engine = Self { events, peers };
        for _ in 0..WARM_UP {
            engine.peers.send();
            engine.turn();
            engine.peers.expect();
        }
        engine.peers.send();
        engine
    }

    /// Until all messages are on their way back.
    fn turn(&mut self) {
        let mut received = 0;
        while received < CONNECTIONS {
            self.events.turn(None).expect("the loop works");
            while let Some(progress) = self.events.next_progress() {
                if let Progress::Received(conn, lease) = progress {
                    self.events
                        .write(conn, Chunk::Lease(lease))
                        .expect("it is open");
                    received += 1;
                }
            }
            while self.events.next_event().is_some() {}
        }
        // What was written last leaves with this turn.
        self.events
            .turn(Some(Timestamp::ZERO))
            .expect("the loop works");
    }
}

#[library_benchmark]
#[bench::of_64_connections(setup = Engine::warm)]
fn engine_echo_turn(mut engine: Engine) -> Engine {
    engine.turn();
    engine
}

// ---- the watcher --------------------------------------------------------------------------------

struct Proactor {
    watcher: Watcher,
    completions: Completions,
    peers: Peers,
}

impl Proactor {
    fn warm() -> Self {
        let mut watcher: Watcher = Watcher::builder()
            .driver(EPOLL)
            .build()
            .expect("epoll is everywhere");
        let (peers, _) = Peers::connect(|stream| {
            let conn = watcher.adopt(stream).expect("a free slot");
            watcher.read_pooled(conn, ()).expect("just adopted");
        });
        let mut proactor = Self {
            watcher,
            completions: Completions::with_capacity(256),
            peers,
        };
        for _ in 0..WARM_UP {
            proactor.peers.send();
            proactor.turn();
            proactor.peers.expect();
        }
        proactor.peers.send();
        proactor
    }

    /// Until all messages are on their way back, and all connections are read again.
    fn turn(&mut self) {
        let mut written = 0;
        while written < CONNECTIONS {
            self.watcher
                .wait(&mut self.completions, Some(Duration::from_secs(1)))
                .expect("the loop works");
            for done in self.completions.drain() {
                match done.operation {
                    Operation::ReadPooled => self
                        .watcher
                        .write(done.conn, (), done.buffer)
                        .expect("it is open"),
                    _ => {
                        written += 1;
                        self.watcher.read_pooled(done.conn, ()).expect("it is open");
                    }
                }
            }
        }
    }
}

#[library_benchmark]
#[bench::of_64_connections(setup = Proactor::warm)]
fn watcher_echo_turn(mut proactor: Proactor) -> Proactor {
    proactor.turn();
    proactor
}

// ---- the out-queue ------------------------------------------------------------------------------

fn small() -> (OutQueue, Bytes) {
    let mut queue = OutQueue::default();
    queue.push_copy(&[0; 16 << 10]);
    queue.clear();
    (queue, Bytes::from_static(&[0x6b; 2048]))
}

// 128 small writes, which are copied, and a shared one, as they leave in pieces of 1000 bytes.
#[library_benchmark]
#[bench::of_129_writes(setup = small)]
fn out_queue_append_and_drain((mut queue, shared): (OutQueue, Bytes)) -> (OutQueue, Bytes) {
    for _ in 0..128 {
        queue.push_copy(black_box(&MESSAGE));
    }
    queue.push(Chunk::from(shared.clone()));
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = queue.io_slices(&mut slices);
        black_box(&slices[..count]);
        queue.advance(queue.len().min(1000));
    }
    (queue, shared)
}

// ---- timers -------------------------------------------------------------------------------------

const TIMERS: u64 = 1000;

fn at(millis: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(millis)
}

fn used_wheel() -> (TimerWheel<u64>, Vec<TimerId>) {
    let mut wheel = TimerWheel::new(Timestamp::ZERO);
    let ids: Vec<TimerId> = (0..TIMERS)
        .map(|number| wheel.insert(at(number), number))
        .collect();
    ids.iter()
        .for_each(|&id| assert!(wheel.cancel(id).is_some()));
    (wheel, Vec::with_capacity(TIMERS as usize))
}

// 1000 timers are set, moved once, and fire as 40 s pass in steps of 100 ms.
#[library_benchmark]
#[bench::of_1000_timers(setup = used_wheel)]
fn timers_set_move_and_fire(
    (mut wheel, mut ids): (TimerWheel<u64>, Vec<TimerId>),
) -> (TimerWheel<u64>, Vec<TimerId>) {
    for number in 0..TIMERS {
        ids.push(wheel.insert(at(1000 + number * 17), number));
    }
    for (number, &id) in ids.iter().enumerate() {
        wheel.reschedule(id, at(2000 + number as u64 * 31));
    }
    let mut fired = 0;
    for step in 0..400 {
        while let Some(expired) = wheel.pop_expired(at(step * 100)) {
            black_box(expired);
            fired += 1;
        }
    }
    assert_eq!(fired, TIMERS);
    (wheel, ids)
}

// ---- the mailbox --------------------------------------------------------------------------------

/// The kernel's part is left out.
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

type Letters = (Mailbox<u64, NoWake>, Sender<u64, NoWake>);

const LETTERS: u64 = 256;

fn post_office() -> Letters {
    let mut mailbox = Mailbox::new(NoWake, 1024);
    let sender = mailbox.sender();
    for _ in 0..WARM_UP {
        exchange(&mut mailbox, &sender);
    }
    (mailbox, sender)
}

fn exchange(mailbox: &mut Mailbox<u64, NoWake>, sender: &Sender<u64, NoWake>) {
    assert!(mailbox.prepare_sleep(), "nothing waits");
    for letter in 0..LETTERS {
        sender.send(black_box(letter)).expect("room for a message");
    }
    mailbox.awake();
    mailbox.begin_turn(LETTERS as usize);
    let mut received = 0;
    while let Some(letter) = mailbox.next_message() {
        black_box(letter);
        received += 1;
    }
    assert_eq!(received, LETTERS);
}

#[library_benchmark]
#[bench::of_256_messages(setup = post_office)]
fn mailbox_send_and_receive((mut mailbox, sender): Letters) -> Letters {
    exchange(&mut mailbox, &sender);
    (mailbox, sender)
}

// ---- codecs -------------------------------------------------------------------------------------

fn framed() -> (LengthField, BytesMut) {
    let mut stream = BytesMut::new();
    for _ in 0..100 {
        stream.extend_from_slice(&(MESSAGE.len() as u32).to_be_bytes());
        stream.extend_from_slice(&MESSAGE);
    }
    (
        LengthField::new(LengthFieldLayout::default()).expect("the default is right"),
        stream,
    )
}

fn lines() -> (Lines, BytesMut) {
    let mut stream = BytesMut::new();
    for _ in 0..100 {
        stream.extend_from_slice(&MESSAGE);
        stream.extend_from_slice(b"\n");
    }
    (Lines::new(1024), stream)
}

fn decode_all<D: Decode>(codec: &mut D, stream: &mut BytesMut) {
    let mut frames = 0;
    while let Some(frame) = codec.take_frame(stream).expect("right frames") {
        black_box(frame);
        frames += 1;
    }
    assert_eq!(frames, 100);
}

#[library_benchmark]
#[bench::of_100_frames(setup = framed)]
fn decode_length_field((mut codec, mut stream): (LengthField, BytesMut)) -> BytesMut {
    decode_all(&mut codec, &mut stream);
    stream
}

#[library_benchmark]
#[bench::of_100_lines(setup = lines)]
fn decode_lines((mut codec, mut stream): (Lines, BytesMut)) -> BytesMut {
    decode_all(&mut codec, &mut stream);
    stream
}

library_benchmark_group!(
    name = user_path,
    benchmarks = [
        engine_echo_turn,
        watcher_echo_turn,
        out_queue_append_and_drain,
        timers_set_move_and_fire,
        mailbox_send_and_receive,
        decode_length_field,
        decode_lines,
    ]
);

main!(library_benchmark_groups = user_path);
