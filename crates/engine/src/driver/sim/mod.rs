//! The simulated kernel: a driver whose sockets, network and clock are memory, and whose whims come from
//! a seed.
//!
//! ```text
//!   test ── SimPeer ──┐                                  ┌── Sim ── event loop
//!                     ├──► SimNet: one World, one clock ◄┤
//!   test ── SimPeer ──┘                                  └── Sim ── event loop
//! ```
//!
//! A kernel may split, delay, reorder and refuse in ways that a real one shows once a year. This one
//! shows them all day, and a seed brings the same day back. See [`SimConfig`] for what it does,
//! [`SimNet`] for how a test holds it; [`stream`] has the rules of end of stream and reset.
//!
//! # Time
//!
//! Virtual, and one for all drivers of a network. A [`turn`](Sim::turn) that finds nothing complete makes
//! at most one step: to the next thing under way, or else to its deadline. If anything has happened
//! since this driver's last turn, it makes none and comes back with nothing, because the others must
//! have their chance to react first. A turn that brings its loop anything, were it only a later hour,
//! counts as well: the loop submits its answer only with its next turn. And no step goes beyond the
//! deadline that another driver waited for last. So an hour of silence takes no time, and one loop never
//! leaps over what another would have answered.
//!
//! Without deadline and with nothing under way, a kernel would wait for ever. If only one thread has
//! ever touched the network, nobody could end that: the turn comes back with nothing. With more threads
//! it waits 10 ms of real time for a wake or a change, and does the same before it leaps to a deadline, or a
//! fiftieth of the leap up to 100 ms; so with threads the seed no longer decides everything.

mod config;
mod connect;
mod datagram;
mod memory;
mod net;
mod operation;
mod random;
mod row;
mod stream;
mod world;

use std::io;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::buffer::OutQueue;
use crate::clock::Timestamp;
use crate::driver::{Completions, DriverConfig, DriverStats, Socket, Waker};
use crate::limits::COMPLETIONS_PER_TURN;
use crate::op::{Completion, Direction, Op, Outcome, Submitted};
use crate::token::Key;

use memory::ReceiveMemory;
use operation::{Kernel, Step};
use row::{DIRECTIONS, Row};
use world::{DriverId, Owner, World};

pub use config::SimConfig;
pub(super) use net::SimWaker;
pub use net::{SimDatagramPeer, SimNet, SimPeer, SimPeerListener, SimSocket};

/// Most completions of one direction of one slot in one turn: a flood on one leaves room for others.
const COMPLETIONS_PER_DIRECTION: usize = 16;

/// A driver of the simulated kernel; one for each loop.
#[derive(Debug)]
pub struct Sim {
    net: SimNet,
    id: DriverId,
    /// By slot. A row is there from `attach` to `detach` or `Closed`.
    rows: Vec<Option<Row>>,
    memory: ReceiveMemory,
    /// What the last turn collected and nobody has taken yet.
    collected: Completions,
    /// Sockets whose rows have ended, closed as soon as the world is unlocked.
    closed: Vec<Socket>,
    /// The world's activity at the end of the last turn.
    seen: u64,
    /// The time at the end of the last turn.
    seen_at: Timestamp,
    waits: u64,
}

/// The completions of one turn.
struct Batch<'a> {
    completions: &'a mut Completions,
    /// How many more this turn may have.
    room: usize,
}

impl Batch<'_> {
    fn push(&mut self, key: Key, outcome: Outcome) {
        debug_assert!(self.room > 0, "more completions than a turn may have");
        self.room -= 1;
        self.completions.push_back(Completion { key, outcome });
    }

    fn is_full(&self) -> bool {
        self.room == 0
    }

    fn is_empty(&self) -> bool {
        self.room == COMPLETIONS_PER_TURN
    }
}

impl Sim {
    pub(super) fn new(net: &SimNet, config: &DriverConfig) -> Self {
        let (id, memory) = net.with(|world| (world.add_driver(), ReceiveMemory::new(&world.config, config)));
        Self {
            net: net.clone(),
            id,
            rows: Vec::new(),
            memory,
            collected: Completions::new(),
            closed: Vec::new(),
            seen: 0,
            seen_at: net.now(),
            waits: 0,
        }
    }

    pub(super) fn open_stream(&self) -> SimSocket {
        let id = self.net.with(World::open_stream);
        SimSocket::new(&self.net, id)
    }

    pub(super) fn attach(&mut self, key: Key, socket: Socket) -> io::Result<()> {
        let Socket::Simulated(socket) = socket else {
            let message = "the simulated kernel has no descriptors, only simulated sockets";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let slot = key.index() as usize;
        if slot >= self.rows.len() {
            self.rows.resize_with(slot + 1, || None);
        }
        debug_assert!(self.rows[slot].is_none(), "{key:?}: the slot has a socket already");
        socket.set_owner(Some(self.owner(key)));
        self.rows[slot] = Some(Row::new(key, socket));
        Ok(())
    }

    pub(super) fn detach(&mut self, key: Key) -> Option<Socket> {
        let row = self.row(key).filter(|row| row.is_idle() && !row.closing)?;
        if let Socket::Simulated(socket) = &row.socket {
            socket.set_owner(None);
        }
        self.rows[key.index() as usize].take().map(|row| row.socket)
    }

    pub(super) fn socket(&self, key: Key) -> Option<&Socket> {
        self.row(key).map(|row| &row.socket)
    }

    pub(super) fn submit(&mut self, key: Key, op: Op) -> Submitted {
        let net = self.net.clone();
        let mut world = net.lock();
        let closing = matches!(op, Op::Close);
        let single = self.start(key, op, &mut world);
        let rate = world.config.done_at_once;
        let at_once = world.random.chance(rate);
        let done = match single {
            Some(direction) if at_once => self.try_at_once(key, direction, &mut world),
            // What was collected and nobody has taken yet may be of this slot.
            None if at_once && closing && self.collected.is_empty() => self.end_row(key),
            _ => None,
        };
        world.requeue(self.owner(key));
        net.release(world);
        self.closed.clear();
        done.map_or(Submitted::Pending, Submitted::Done)
    }

    pub(super) fn send(&mut self, key: Key, queue: Box<OutQueue>) -> Option<Box<OutQueue>> {
        let net = self.net.clone();
        let mut world = net.lock();
        self.row_mut(key)
            .unwrap_or_else(|| panic!("{key:?}: a send on a slot without socket"))
            .start_send(queue);
        let rate = world.config.done_at_once;
        let at_once = world.random.chance(rate);
        let done = if at_once { self.try_at_once(key, Direction::Send, &mut world) } else { None };
        world.requeue(self.owner(key));
        net.release(world);
        match done? {
            Outcome::Sent(queue, Ok(())) => Some(queue),
            outcome => {
                self.collected.push_back(Completion { key, outcome });
                None
            }
        }
    }

    pub(super) fn cancel(&mut self, key: Key, direction: Direction) {
        if let Some(row) = self.row_mut(key) {
            row.cancel(direction);
            let owner = self.owner(key);
            self.net.with(|world| world.requeue(owner));
        }
    }

    pub(super) fn turn(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        self.waits += 1;
        let net = self.net.clone();
        let mut world = net.lock();
        let mut collected = std::mem::take(&mut self.collected);
        let polls = !collected.is_empty();
        let mut batch = Batch { completions: &mut collected, room: COMPLETIONS_PER_TURN };
        let deadline =
            deadline.filter(|_| !polls).unwrap_or(if polls { world.now() } else { Timestamp::MAX });
        world.set_deadline(self.id, deadline);
        let mut woken = world.take_wake(self.id);
        self.collect(&mut world, &mut batch);
        if !polls && batch.is_empty() && !woken && self.memory.waiting() == 0 {
            world = self.wait(&net, world, deadline);
            woken = world.take_wake(self.id);
            self.collect(&mut world, &mut batch);
        }
        // Time may have made timers due.
        if woken || !batch.is_empty() || world.now() > self.seen_at {
            world.note_answer_due();
        }
        self.collected = collected;
        self.seen = world.activity();
        self.seen_at = world.now();
        net.release(world);
        self.closed.clear();
        Ok(())
    }

    /// The next of what the turn collected. If not one block is free, leases are copied out: at least one
    /// block is then never kept by anybody.
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        let mut completion = self.collected.pop_front()?;
        if !self.memory.pool.has_free(1) {
            match &mut completion.outcome {
                Outcome::Received(Ok(lease)) => lease.make_private(),
                Outcome::Datagram(Ok(datagram)) => datagram.bytes.make_private(),
                _ => {}
            }
        }
        Some(completion)
    }

    pub(super) fn shutdown_write(&mut self, key: Key) -> io::Result<()> {
        let row = self.row(key).expect("only a slot with a socket is shut down");
        self.net.with(|world| world.shutdown_write(row.id))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.net.now()
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::Sim(SimWaker::new(&self.net, self.id))
    }

    pub(super) fn stats(&self) -> DriverStats {
        DriverStats { waits: self.waits, buffers_exhausted: self.memory.exhausted, ..Default::default() }
    }
}

/// Submitting.
impl Sim {
    fn start(&mut self, key: Key, op: Op, world: &mut World) -> Option<Direction> {
        let row = self.row_mut(key).unwrap_or_else(|| panic!("{key:?}: {op:?} on a slot without socket"));
        row.start(op, world)
    }

    /// Tries to end an operation in `submit`, as drivers on a readiness kernel do.
    fn try_at_once(&mut self, key: Key, direction: Direction, world: &mut World) -> Option<Outcome> {
        loop {
            match self.step(key.index(), direction, world) {
                Step::Advanced => {}
                Step::Ended(outcome) => return Some(outcome),
                Step::Blocked => return None,
                step @ (Step::Starved | Step::Completed(_)) => {
                    unreachable!("{step:?} of an operation with a single outcome")
                }
            }
        }
    }

    /// Ends the row if it closes and nothing is in flight.
    fn end_row(&mut self, key: Key) -> Option<Outcome> {
        self.row(key).filter(|row| row.closing && row.is_idle())?;
        let row = self.rows[key.index() as usize].take()?;
        self.closed.push(row.socket);
        Some(Outcome::Closed)
    }
}

/// The turn.
impl Sim {
    /// Appends what is complete.
    fn collect(&mut self, world: &mut World, batch: &mut Batch<'_>) {
        // Those who wait for memory come first, in their order.
        for _ in 0..self.memory.waiting() {
            if let Some(slot) = self.memory.next_in_line() {
                self.drive(slot, Direction::Receive, world, batch);
            }
        }
        for slot in world.take_runnable(self.id) {
            let owner = Owner { driver: self.id, slot };
            if batch.is_full() {
                world.requeue(owner);
            } else if !world.put_off(owner) {
                self.serve(slot, world, batch);
            }
        }
    }

    /// Lets everything in flight on the slot move on.
    fn serve(&mut self, slot: u32, world: &mut World, batch: &mut Batch<'_>) {
        let mut directions = DIRECTIONS;
        if world.config.reordering {
            world.random.shuffle(&mut directions);
        }
        for direction in directions {
            self.drive(slot, direction, world, batch);
        }
        let Some(Some(row)) = self.rows.get(slot as usize) else {
            return;
        };
        let key = row.key;
        if batch.is_full() {
            world.requeue(Owner { driver: self.id, slot });
        } else if let Some(closed) = self.end_row(key) {
            batch.push(key, closed);
        }
    }

    /// Moves one direction of the slot on as far as it goes, bounded.
    fn drive(&mut self, slot: u32, direction: Direction, world: &mut World, batch: &mut Batch<'_>) {
        let Some(Some(row)) = self.rows.get(slot as usize) else {
            return;
        };
        let key = row.key;
        for _ in 0..COMPLETIONS_PER_DIRECTION {
            if batch.is_full() {
                break;
            }
            match self.step(slot, direction, world) {
                Step::Blocked => return,
                Step::Advanced => {}
                Step::Starved => return self.memory.wait_in_line(slot),
                Step::Completed(outcome) => batch.push(key, outcome),
                Step::Ended(outcome) => return batch.push(key, outcome),
            }
        }
        world.requeue(Owner { driver: self.id, slot });
    }

    fn step(&mut self, slot: u32, direction: Direction, world: &mut World) -> Step {
        let Some(Some(row)) = self.rows.get_mut(slot as usize) else {
            return Step::Blocked;
        };
        let owner = Owner { driver: self.id, slot };
        let (net, memory, socket) = (&self.net, &mut self.memory, row.id);
        row.step(direction, &mut Kernel { net, world, memory, socket, owner })
    }

    /// Nothing is complete: lets time pass, see the module.
    fn wait<'a>(
        &self,
        net: &'a SimNet,
        mut world: MutexGuard<'a, World>,
        deadline: Timestamp,
    ) -> MutexGuard<'a, World> {
        if world.activity() != self.seen || world.has_runnable(self.id) {
            return world;
        }
        let horizon = world.horizon(deadline);
        if let Some(next) = world.next_event().filter(|&next| next <= horizon) {
            world.advance_to(next);
            return world;
        }
        debug_assert!(
            world.next_event().is_some() || self.is_stuck(&world),
            "a slot could move on, and nobody said so"
        );
        if deadline <= world.now() {
            return world;
        }
        if world.is_shared() {
            let before = world.activity();
            let leap = if horizon == Timestamp::MAX { Duration::ZERO } else { horizon - world.now() };
            world = net.sleep(world, self.id, leap);
            if world.activity() != before || world.is_woken(self.id) {
                return world;
            }
        }
        // A peer may have put something under way meanwhile.
        match world.next_event() {
            Some(next) if next <= horizon => world.advance_to(next),
            None if deadline == Timestamp::MAX => {}
            _ => world.advance_to(horizon),
        }
        world
    }

    /// Whether indeed nothing can move on.
    fn is_stuck(&self, world: &World) -> bool {
        self.rows.iter().flatten().all(|row| !row.is_ready(world))
    }
}

/// Rows.
impl Sim {
    fn owner(&self, key: Key) -> Owner {
        Owner { driver: self.id, slot: key.index() }
    }

    fn row(&self, key: Key) -> Option<&Row> {
        self.rows.get(key.index() as usize)?.as_ref().filter(|row| row.key == key)
    }

    fn row_mut(&mut self, key: Key) -> Option<&mut Row> {
        self.rows.get_mut(key.index() as usize)?.as_mut().filter(|row| row.key == key)
    }
}

/// The rows' sockets close, and nothing of the driver stays in the world.
impl Drop for Sim {
    fn drop(&mut self) {
        self.net.with(|world| world.remove_driver(self.id));
    }
}
