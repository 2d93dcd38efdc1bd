//! A driver without a loop above it.

use std::time::Instant;

use kolk_engine::buffer::OutQueue;
use kolk_engine::driver::{Driver, DriverConfig, SimNet, Socket};
use kolk_engine::op::{Completion, Op, Outcome, Submitted};
use kolk_engine::token::{Generation, Key};

use super::peer::Pairs;
use super::{PATIENCE, Peer, WAIT, World, brief};

/// A driver without a loop above it, and everything that completed: for what a loop does not ask for.
pub(crate) struct Bare {
    pub(crate) driver: Driver,
    pub(crate) log: Vec<Completion>,
    pub(crate) net: Option<SimNet>,
    pairs: Pairs,
    slots: u32,
}

impl Bare {
    pub(crate) fn new(world: World) -> Self {
        Self::with_config(world, &DriverConfig::default())
    }

    pub(crate) fn with_config(world: World, config: &DriverConfig) -> Self {
        let net = world.net();
        let opened = Driver::open(&world.choice(net.as_ref()), config);
        let driver = opened.expect("the kernel offers this driver").driver;
        let pairs = Pairs::new(world.family, net.as_ref());
        Self { driver, log: Vec::new(), net, pairs, slots: 0 }
    }

    pub(crate) fn attach(&mut self, socket: Socket) -> Key {
        let key = Key::new(self.slots, Generation::FIRST);
        self.slots += 1;
        self.driver.attach(key, socket).expect("a socket can be attached");
        key
    }

    /// What is attached from here on has slots beyond so many more.
    pub(crate) fn skip_slots(&mut self, count: u32) {
        self.slots += count;
    }

    pub(crate) fn pair(&mut self) -> (Key, Peer) {
        let (near, far) = self.pairs.make();
        (self.attach(near), far)
    }

    pub(crate) fn submit(&mut self, key: Key, op: Op) {
        if let Submitted::Done(outcome) = self.driver.submit(key, op) {
            self.log.push(Completion { key, outcome });
        }
    }

    pub(crate) fn send(&mut self, key: Key, queue: Box<OutQueue>) {
        if let Some(queue) = self.driver.send(key, queue) {
            self.log.push(Completion { key, outcome: Outcome::Sent(queue, Ok(())) });
        }
    }

    pub(crate) fn turn(&mut self) {
        let deadline = self.driver.now() + WAIT;
        self.driver.turn(Some(deadline)).expect("the driver goes on");
        self.log.extend(std::iter::from_fn(|| self.driver.next_completion()));
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..5 {
            self.turn();
        }
    }

    /// Turns until `done` says so.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < give_up, "never came: {what}");
            self.turn();
        }
    }

    /// Turns until there are `count` completions of `key` that `wanted` wants, and a few turns more: there
    /// must not be another. Takes them out of the log.
    #[track_caller]
    pub(crate) fn exactly(&mut self, count: usize, key: Key, wanted: fn(&Outcome) -> bool) -> Vec<Outcome> {
        let give_up = Instant::now() + PATIENCE;
        let matches = |done: &Completion| done.key == key && wanted(&done.outcome);
        while self.log.iter().filter(|done| matches(done)).count() < count {
            assert!(Instant::now() < give_up, "never completed; the log is {}", brief(&self.log));
            self.turn();
        }
        self.settle();
        let found: Vec<_> = self.log.extract_if(.., |done| matches(done)).map(|done| done.outcome).collect();
        assert_eq!(found.len(), count, "{}", brief(&found));
        found
    }

    /// Closes, and takes nothing out of the log.
    #[track_caller]
    pub(crate) fn close_logged(&mut self, key: Key) {
        let give_up = Instant::now() + PATIENCE;
        self.submit(key, Op::Close);
        while !self.log.iter().any(|done| done.key == key && matches!(done.outcome, Outcome::Closed)) {
            assert!(Instant::now() < give_up, "never closed; the log is {}", brief(&self.log));
            self.turn();
        }
        self.settle();
    }

    #[track_caller]
    pub(crate) fn close(&mut self, key: Key) {
        self.close_logged(key);
        self.exactly(1, key, |outcome| matches!(outcome, Outcome::Closed));
    }
}
