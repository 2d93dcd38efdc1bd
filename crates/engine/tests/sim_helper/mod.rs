//! What the tests of the simulated kernel share: seeds, and a driver with a log.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use kolk_engine::buffer::OutQueue;
use kolk_engine::driver::{Driver, DriverChoice, DriverConfig, SimConfig, SimNet, SimPeer, Socket};
use kolk_engine::op::{Completion, Direction, Op, Outcome, Submitted};
use kolk_engine::token::{Generation, Key};

/// Turns after which a test gives up: nothing here takes nearly as many.
const TURNS_MAX: usize = 200_000;

/// Runs `test` with the seeds `0..count`, or only with the one that `KOLK_SEED` names. A failure says
/// its seed.
#[track_caller]
pub(crate) fn for_seeds(count: u64, test: impl Fn(u64)) {
    if let Some(seed) = env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return test(seed);
    }
    for seed in 0..count {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| test(seed))) {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            panic!("seed {seed}: {message} (KOLK_SEED={seed} runs only this one)");
        }
    }
}

/// Runs `test` on networks of both presets for each seed.
#[track_caller]
pub(crate) fn for_nets(seeds: u64, test: impl Fn(SimNet)) {
    for_seeds(seeds, |seed| {
        test(SimNet::new(SimConfig::calm(seed)));
        test(SimNet::new(SimConfig::stormy(seed)));
    });
}

/// A driver, the keys it has given out, and everything that completed.
pub(crate) struct Machine {
    pub(crate) driver: Driver,
    pub(crate) log: Vec<Completion>,
    slots: u32,
}

impl Machine {
    pub(crate) fn new(net: &SimNet) -> Self {
        Self::with_config(net, &DriverConfig::default())
    }

    pub(crate) fn with_config(net: &SimNet, config: &DriverConfig) -> Self {
        let driver = Driver::open(&DriverChoice::Sim(net.clone()), config).expect("sim always opens").driver;
        Self { driver, log: Vec::new(), slots: 0 }
    }

    pub(crate) fn attach(&mut self, socket: impl Into<Socket>) -> Key {
        let key = Key::new(self.slots, Generation::FIRST);
        self.slots += 1;
        self.driver.attach(key, socket.into()).expect("a fresh slot takes a simulated socket");
        key
    }

    /// A pair whose near end is attached.
    pub(crate) fn pair(&mut self, net: &SimNet) -> (Key, SimPeer) {
        let (near, far) = net.pair();
        (self.attach(near), far)
    }

    /// Submits; an outcome that comes at once goes to the log, as a loop would dispatch it.
    pub(crate) fn submit(&mut self, key: Key, op: Op) {
        if let Submitted::Done(outcome) = self.driver.submit(key, op) {
            self.log.push(Completion { key, outcome });
        }
    }

    pub(crate) fn send_queue(&mut self, key: Key, queue: Box<OutQueue>) {
        if let Some(queue) = self.driver.send(key, queue) {
            self.log.push(Completion { key, outcome: Outcome::Sent(queue, Ok(())) });
        }
    }

    pub(crate) fn send(&mut self, key: Key, bytes: &[u8]) {
        self.send_queue(key, queue(bytes));
    }

    pub(crate) fn cancel(&mut self, key: Key, direction: Direction) {
        self.driver.cancel(key, direction);
    }

    /// One turn without waiting longer than a virtual second; what completed.
    pub(crate) fn turn(&mut self) -> usize {
        let deadline = self.driver.now() + Duration::from_secs(1);
        self.driver.turn(Some(deadline)).expect("the simulated kernel loses nothing");
        let before = self.log.len();
        self.log.extend(std::iter::from_fn(|| self.driver.next_completion()));
        self.log.len() - before
    }

    /// Turns until `done` says so.
    #[track_caller]
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came; the log ends with {:?}", self.log.last());
    }

    /// Turns until an outcome of `key` is what `wanted` wants, and takes it out of the log.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, key: Key, wanted: impl Fn(&Outcome) -> bool) -> Outcome {
        let mut found = None;
        self.until(|machine| {
            found = machine.log.iter().position(|done| done.key == key && wanted(&done.outcome));
            found.is_some()
        });
        self.log.remove(found.expect("`until` ended")).outcome
    }

    /// Receives until the end of the stream or an error; all bytes and how it ended.
    #[track_caller]
    pub(crate) fn receive_all(&mut self, key: Key) -> (Vec<u8>, io::Result<()>) {
        self.submit(key, Op::Receive);
        let mut bytes = Vec::new();
        loop {
            match self.wait_for(key, |outcome| matches!(outcome, Outcome::Received(_))) {
                Outcome::Received(Ok(lease)) if lease.is_empty() => return (bytes, Ok(())),
                Outcome::Received(Ok(lease)) => bytes.extend_from_slice(&lease),
                Outcome::Received(Err(error)) => return (bytes, Err(error)),
                other => unreachable!("{other:?} is no receive"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn sent(&mut self, key: Key) -> io::Result<()> {
        match self.wait_for(key, |outcome| matches!(outcome, Outcome::Sent(..))) {
            Outcome::Sent(queue, result) => {
                assert_eq!(queue.is_empty(), result.is_ok(), "all is sent, or it failed");
                result
            }
            other => unreachable!("{other:?} is no send"),
        }
    }

    #[track_caller]
    pub(crate) fn close(&mut self, key: Key) {
        self.submit(key, Op::Close);
        self.wait_for(key, |outcome| matches!(outcome, Outcome::Closed));
    }

    /// Lets pass what is under way, so that the next turn would only wait.
    pub(crate) fn settle_net(&mut self) {
        for _ in 0..100 {
            self.turn();
        }
    }

    /// Reads from `peer` while the driver turns, until the end of the stream or an error.
    #[track_caller]
    pub(crate) fn read_all(&mut self, peer: &mut SimPeer) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let mut end = None;
        self.until(|_| {
            end = read_available(peer, &mut bytes);
            end.is_some()
        });
        (bytes, end.expect("`until` ended"))
    }
}

pub(crate) fn queue(bytes: &[u8]) -> Box<OutQueue> {
    let mut queue = Box::new(OutQueue::default());
    queue.push_copy(bytes);
    queue
}

/// Bytes in which no place looks like another nearby.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place ^ (place >> 8) ^ (place >> 15)) as u8).collect()
}

/// Appends what has arrived; says how the stream ended, if it did.
pub(crate) fn read_available(peer: &mut SimPeer, bytes: &mut Vec<u8>) -> Option<io::Result<()>> {
    let mut buffer = [0; 1024];
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return Some(Ok(())),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Writes what there is room for.
pub(crate) fn write_available(peer: &mut SimPeer, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match peer.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("cannot write: {error}"),
        }
    }
    written
}

#[track_caller]
pub(crate) fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, errno: i32) {
    let error = result.expect_err("an error is due");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
}

/// Dice of the tests, apart from those of the network.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Counts of what was submitted and what ended, for each slot and kind.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<(Key, &'static str), i64>);

impl Ledger {
    pub(crate) fn add(&mut self, key: Key, kind: &'static str, change: i64) {
        *self.0.entry((key, kind)).or_default() += change;
    }

    pub(crate) fn in_flight(&self, key: Key, kind: &'static str) -> i64 {
        self.0.get(&(key, kind)).copied().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn assert_balanced(&self) {
        for (of, count) in &self.0 {
            assert_eq!(*count, 0, "{of:?}: submitted less ended");
        }
    }
}
