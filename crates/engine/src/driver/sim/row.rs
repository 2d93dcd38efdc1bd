//! What a driver keeps for one slot: the socket and the operations in flight on it.

use super::SimSocket;
use super::operation::{Auxiliary, Kernel, Operation, Progress, Receive, Sending, Step};
use super::world::{SocketId, World};
use crate::buffer::OutQueue;
use crate::driver::Socket;
use crate::op::{Direction, Op};
use crate::token::Key;

/// Rate, per mille, of cancels that come too late for what could be done at once.
const CANCEL_TOO_LATE: u16 = 500;

/// See the module.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) socket: Socket,
    pub(super) id: SocketId,
    receive: Option<InFlight<Receive>>,
    send: Option<InFlight<Sending>>,
    auxiliary: Option<InFlight<Auxiliary>>,
    /// A close was submitted and ends the row once nothing is in flight.
    pub(super) closing: bool,
}

#[derive(Debug)]
struct InFlight<T> {
    op: T,
    cancelled: bool,
}

impl Row {
    pub(super) fn new(key: Key, socket: SimSocket) -> Self {
        Self {
            key,
            id: socket.id(),
            socket: socket.into(),
            receive: None,
            send: None,
            auxiliary: None,
            closing: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.receive.is_none() && self.send.is_none() && self.auxiliary.is_none()
    }

    /// Puts `op` in flight. `Some` is the direction of an operation that has a single outcome and could
    /// therefore end at once.
    pub(super) fn start(&mut self, op: Op, world: &mut World) -> Option<Direction> {
        debug_assert!(!self.closing, "{:?}: {op:?} after close", self.key);
        match op {
            Op::Receive => start(&mut self.receive, Receive::Stream { once: false, starved: false }),
            Op::ReceiveOnce => start(&mut self.receive, Receive::Stream { once: true, starved: false }),
            Op::ReceiveFrom(left) => start(&mut self.receive, Receive::Datagrams { left, starved: false }),
            Op::ReceiveInto(buffer) => {
                debug_assert!(buffer.capacity() > buffer.len(), "a receive into a full buffer");
                start(&mut self.receive, Receive::Into(buffer));
                return Some(Direction::Receive);
            }
            Op::SendTo(datagram) => {
                start(&mut self.send, Sending::Datagram(datagram));
                return Some(Direction::Send);
            }
            Op::SendDatagrams(queue) => {
                start(&mut self.send, Sending::Datagrams(queue));
                return Some(Direction::Send);
            }
            Op::Connect(address) => {
                let refused = world.start_connect(self.id, &address).err();
                start(&mut self.auxiliary, Auxiliary::Connect { refused });
                return Some(Direction::Auxiliary);
            }
            Op::Accept => start(&mut self.auxiliary, Auxiliary::Accept),
            Op::Watch(interest) => start(&mut self.auxiliary, Auxiliary::Watch { interest, seen: None }),
            Op::Close => self.close(),
        }
        None
    }

    pub(super) fn start_send(&mut self, queue: Box<OutQueue>) {
        debug_assert!(!self.closing, "{:?}: a send after close", self.key);
        start(&mut self.send, Sending::Queue(queue));
    }

    fn close(&mut self) {
        self.closing = true;
        for direction in DIRECTIONS {
            self.cancel(direction);
        }
    }

    pub(super) fn cancel(&mut self, direction: Direction) {
        match direction {
            Direction::Receive => cancel(&mut self.receive),
            Direction::Send => cancel(&mut self.send),
            Direction::Auxiliary => cancel(&mut self.auxiliary),
        }
    }

    /// Moves the operation in `direction` one step forward.
    pub(super) fn step(&mut self, direction: Direction, kernel: &mut Kernel<'_>) -> Step {
        match direction {
            Direction::Receive => step(&mut self.receive, kernel),
            Direction::Send => step(&mut self.send, kernel),
            Direction::Auxiliary => step(&mut self.auxiliary, kernel),
        }
    }

    /// Whether an operation could move on: then it would be a fault to wait.
    pub(super) fn is_ready(&self, world: &World) -> bool {
        let ready = world.readiness(self.id);
        let cancelled = [
            self.receive.as_ref().is_some_and(|receive| receive.cancelled),
            self.send.as_ref().is_some_and(|send| send.cancelled),
            self.auxiliary.as_ref().is_some_and(|auxiliary| auxiliary.cancelled),
        ];
        let unsent = |send: &InFlight<Sending>| !matches!(send.op, Sending::Sent(_));
        cancelled.contains(&true)
            || (ready.readable && self.receive.is_some())
            || (ready.writable && self.send.as_ref().is_some_and(unsent))
    }
}

/// The order in which directions are looked at, where the seed does not say otherwise.
pub(super) const DIRECTIONS: [Direction; 3] = [Direction::Receive, Direction::Send, Direction::Auxiliary];

fn start<T: Operation>(place: &mut Option<InFlight<T>>, op: T) {
    debug_assert!(place.is_none(), "two operations of one direction in flight");
    *place = Some(InFlight { op, cancelled: false });
}

fn cancel<T>(place: &mut Option<InFlight<T>>) {
    if let Some(in_flight) = place {
        in_flight.cancelled = true;
    }
}

fn step<T: Operation>(place: &mut Option<InFlight<T>>, kernel: &mut Kernel<'_>) -> Step {
    let Some(InFlight { op, cancelled }) = place.take() else {
        return Step::Blocked;
    };
    if cancelled && !kernel.world.random.chance(CANCEL_TOO_LATE) {
        return Step::Ended(op.cancelled());
    }
    match op.step(kernel) {
        Progress::Ends(outcome) => Step::Ended(outcome),
        Progress::Goes(op, step) if cancelled && !matches!(step, Step::Completed(_)) => {
            Step::Ended(op.cancelled())
        }
        Progress::Goes(op, step) => {
            *place = Some(InFlight { op, cancelled });
            step
        }
    }
}
