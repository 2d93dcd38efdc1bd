//! Operations in flight.
//!
//! An operation is a state that is moved forward step by step with non-blocking calls, until a step ends
//! it with its final outcome.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};

use super::datagram::Message;
use super::memory::ReceiveMemory;
use super::world::{Edges, Owner, SocketId, World};
use super::{SimNet, SimSocket};
use crate::buffer::{DatagramQueue, FileRange, Lease, OutQueue};
use crate::op::{InDatagram, Interest, OutDatagram, Outcome, cancelled, less_one};

/// Bytes read from a file at one time.
const FILE_PIECE: u64 = 4096;

/// What an operation needs to move on.
pub(super) struct Kernel<'a> {
    pub(super) net: &'a SimNet,
    pub(super) world: &'a mut World,
    pub(super) memory: &'a mut ReceiveMemory,
    pub(super) socket: SocketId,
    pub(super) owner: Owner,
}

/// What one step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing can be done until the socket changes, or there is no such operation.
    Blocked,
    /// Something was done that nobody hears of; more could be done.
    Advanced,
    /// No block was free: the slot has to wait in line.
    Starved,
    /// One of the many outcomes of an operation that goes on.
    Completed(Outcome),
    /// The final outcome.
    Ended(Outcome),
}

/// An operation with the memory that belongs to it.
pub(super) trait Operation: Sized {
    fn step(self, kernel: &mut Kernel<'_>) -> Progress<Self>;

    /// The final outcome if the operation ends by a cancel.
    fn cancelled(self) -> Outcome;
}

/// What became of an operation by one step.
pub(super) enum Progress<T> {
    Goes(T, Step),
    Ends(Outcome),
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A receive, of whatever kind.
#[derive(Debug)]
pub(super) enum Receive {
    /// Into the pool. `starved`: waits in line, or is at its head.
    Stream {
        once: bool,
        starved: bool,
    },
    Into(BytesMut),
    /// `left`: how many are still wanted.
    Datagrams {
        left: u32,
        starved: bool,
    },
}

impl Operation for Receive {
    fn step(self, kernel: &mut Kernel<'_>) -> Progress<Self> {
        match self {
            Self::Stream { once, starved } => receive(kernel, once, starved),
            Self::Into(buffer) => receive_into(kernel, buffer),
            Self::Datagrams { left, starved } => receive_from(kernel, left, starved),
        }
    }

    fn cancelled(self) -> Outcome {
        match self {
            Self::Stream { .. } => Outcome::Received(Err(cancelled())),
            Self::Into(buffer) => Outcome::ReceivedInto(buffer, Err(cancelled())),
            Self::Datagrams { .. } => Outcome::Datagram(Err(cancelled())),
        }
    }
}

fn receive(kernel: &mut Kernel<'_>, once: bool, starved: bool) -> Progress<Receive> {
    if kernel.world.arrived_bytes(kernel.socket) == 0 {
        return receive_nothing(kernel, once);
    }
    let lease = match kernel.memory.acquire() {
        Some(block) => {
            let count = kernel.world.read(kernel.socket, kernel.memory.pool.block_mut(block));
            kernel.memory.pool.lend(block, count.expect("bytes have arrived"))
        }
        // Whoever has waited and finds nothing again gets a private copy: slower, never wrong.
        None if starved => private_receive(kernel),
        None => return Progress::Goes(Receive::Stream { once, starved: true }, Step::Starved),
    };
    let received = Outcome::Received(Ok(lease));
    if once {
        return Progress::Ends(received);
    }
    Progress::Goes(Receive::Stream { once, starved: false }, Step::Completed(received))
}

fn private_receive(kernel: &mut Kernel<'_>) -> Lease {
    let mut bytes = vec![0; kernel.memory.pool.block_size()];
    let count = kernel.world.read(kernel.socket, &mut bytes).expect("bytes have arrived");
    bytes.truncate(count);
    Bytes::from(bytes).into()
}

/// Without bytes there is the end of the stream, an error, or nothing yet; none of them takes a block.
fn receive_nothing(kernel: &mut Kernel<'_>, once: bool) -> Progress<Receive> {
    let result = kernel.world.read(kernel.socket, &mut [0]);
    debug_assert!(!matches!(result, Ok(1..)), "bytes without having arrived");
    if would_block(&result) {
        return Progress::Goes(Receive::Stream { once, starved: false }, Step::Blocked);
    }
    Progress::Ends(Outcome::Received(result.map(|_| Lease::default())))
}

fn receive_into(kernel: &mut Kernel<'_>, mut buffer: BytesMut) -> Progress<Receive> {
    let mut bytes = vec![0; buffer.capacity() - buffer.len()];
    let result = kernel.world.read(kernel.socket, &mut bytes);
    if would_block(&result) {
        return Progress::Goes(Receive::Into(buffer), Step::Blocked);
    }
    buffer.extend_from_slice(&bytes[..*result.as_ref().unwrap_or(&0)]);
    Progress::Ends(Outcome::ReceivedInto(buffer, result))
}

fn receive_from(kernel: &mut Kernel<'_>, left: u32, starved: bool) -> Progress<Receive> {
    let Some(len) = kernel.world.next_datagram(kernel.socket) else {
        return Progress::Goes(Receive::Datagrams { left, starved: false }, Step::Blocked);
    };
    // A datagram that fits no block gets memory of its own.
    let pooled = len <= kernel.memory.pool.block_size();
    let block = if pooled { kernel.memory.acquire() } else { None };
    if pooled && block.is_none() && !starved {
        return Progress::Goes(Receive::Datagrams { left, starved: true }, Step::Starved);
    }
    let message = match kernel.world.receive_from(kernel.socket) {
        Ok(message) => message,
        Err(error) => return Progress::Ends(Outcome::Datagram(Err(error))),
    };
    let Message { from, mut bytes } = message;
    let truncated = bytes.len() > kernel.memory.datagram_size;
    bytes.truncate(kernel.memory.datagram_size);
    let lease = match block {
        Some(block) => {
            kernel.memory.pool.block_mut(block)[..bytes.len()].copy_from_slice(&bytes);
            kernel.memory.pool.lend(block, bytes.len())
        }
        None => bytes.into(),
    };
    let datagram =
        Outcome::Datagram(Ok(InDatagram { from, segment_size: lease.len(), bytes: lease, truncated }));
    match less_one(left) {
        0 => Progress::Ends(datagram),
        left => Progress::Goes(Receive::Datagrams { left, starved: false }, Step::Completed(datagram)),
    }
}

/// A send, of whatever kind.
#[derive(Debug)]
pub(super) enum Sending {
    Queue(Box<OutQueue>),
    /// All sent; the completion comes late, perhaps after the peer's answer.
    Sent(Box<OutQueue>),
    Datagram(Box<OutDatagram>),
    Datagrams(Box<DatagramQueue>),
}

impl Operation for Sending {
    fn step(self, kernel: &mut Kernel<'_>) -> Progress<Self> {
        match self {
            Self::Queue(queue) => send(kernel, queue),
            Self::Sent(queue) => Progress::Ends(Outcome::Sent(queue, Ok(()))),
            Self::Datagram(datagram) => {
                let result = kernel.world.send_to(kernel.socket, datagram.to.as_ref(), &datagram.bytes);
                Progress::Ends(Outcome::SentTo(datagram, result))
            }
            Self::Datagrams(queue) => send_datagrams(kernel, queue),
        }
    }

    fn cancelled(self) -> Outcome {
        match self {
            Self::Queue(queue) => Outcome::Sent(queue, Err(cancelled())),
            Self::Sent(queue) => Outcome::Sent(queue, Ok(())),
            Self::Datagram(datagram) => Outcome::SentTo(datagram, Err(cancelled())),
            Self::Datagrams(queue) => Outcome::SentDatagrams(queue, Err(cancelled())),
        }
    }
}

/// Sends all of the queue; what is refused is passed over.
fn send_datagrams(kernel: &mut Kernel<'_>, mut queue: Box<DatagramQueue>) -> Progress<Sending> {
    loop {
        let Some((to, bytes)) = queue.iter().next() else { break };
        let bytes = Bytes::copy_from_slice(bytes);
        match kernel.world.send_to(kernel.socket, to, &bytes) {
            Ok(()) => queue.note_sent(1),
            Err(error) => queue.note_failed(error),
        }
    }
    Progress::Ends(Outcome::SentDatagrams(queue, Ok(())))
}

/// Sends one piece of the queue.
fn send(kernel: &mut Kernel<'_>, mut queue: Box<OutQueue>) -> Progress<Sending> {
    let result = match queue.front_file() {
        Some(range) => send_file(kernel, &range),
        None => send_slice(kernel, &queue),
    };
    match result {
        Ok(count) => queue.advance(count as u64),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Progress::Goes(Sending::Queue(queue), Step::Blocked);
        }
        Err(error) => return Progress::Ends(Outcome::Sent(queue, Err(error))),
    }
    if !queue.is_empty() {
        Progress::Goes(Sending::Queue(queue), Step::Advanced)
    } else if kernel.world.put_off(kernel.owner) {
        Progress::Goes(Sending::Sent(queue), Step::Blocked)
    } else {
        Progress::Ends(Outcome::Sent(queue, Ok(())))
    }
}

fn send_slice(kernel: &mut Kernel<'_>, queue: &OutQueue) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[])];
    let filled = queue.io_slices(&mut slices);
    debug_assert_eq!(filled, 1, "a queue with bytes shows them");
    kernel.world.write(kernel.socket, &slices[0])
}

/// Sends from a file, sendfile(2). A file that ends too early is an error, since the bytes that were
/// promised do not exist.
fn send_file(kernel: &mut Kernel<'_>, range: &FileRange) -> io::Result<usize> {
    let mut bytes = vec![0; range.len.min(FILE_PIECE) as usize];
    match range.file.read_at(&mut bytes, range.offset)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => kernel.world.write(kernel.socket, &bytes[..count]),
    }
}

/// Accept, connect or watch.
#[derive(Debug)]
pub(super) enum Auxiliary {
    Accept,
    /// `refused`: the connect failed before it began.
    Connect {
        refused: Option<io::Error>,
    },
    /// `seen`: what was reported last.
    Watch {
        interest: Interest,
        seen: Option<Edges>,
    },
}

impl Operation for Auxiliary {
    fn step(self, kernel: &mut Kernel<'_>) -> Progress<Self> {
        match self {
            Self::Accept => accept(kernel),
            Self::Connect { refused } => connect(kernel, refused),
            Self::Watch { interest, seen } => watch(kernel, interest, seen),
        }
    }

    fn cancelled(self) -> Outcome {
        match self {
            Self::Accept => Outcome::Accepted(Err(cancelled())),
            Self::Connect { .. } => Outcome::Connected(Err(cancelled())),
            Self::Watch { .. } => Outcome::Ready(Err(cancelled())),
        }
    }
}

fn accept(kernel: &mut Kernel<'_>) -> Progress<Auxiliary> {
    let result = kernel.world.accept(kernel.socket);
    if would_block(&result) {
        return Progress::Goes(Auxiliary::Accept, Step::Blocked);
    }
    match result {
        Ok(id) => {
            let accepted = Outcome::Accepted(Ok(SimSocket::new(kernel.net, id).into()));
            Progress::Goes(Auxiliary::Accept, Step::Completed(accepted))
        }
        Err(error) => Progress::Ends(Outcome::Accepted(Err(error))),
    }
}

fn connect(kernel: &mut Kernel<'_>, refused: Option<io::Error>) -> Progress<Auxiliary> {
    let result = refused.map_or_else(|| kernel.world.connected(kernel.socket), Err);
    if would_block(&result) {
        return Progress::Goes(Auxiliary::Connect { refused: None }, Step::Blocked);
    }
    Progress::Ends(Outcome::Connected(result))
}

/// Edge-triggered: reports a direction that is ready and became so since the last report.
fn watch(kernel: &mut Kernel<'_>, interest: Interest, seen: Option<Edges>) -> Progress<Auxiliary> {
    let edges = kernel.world.edges(kernel.socket);
    let ready = kernel.world.readiness(kernel.socket);
    let new = Interest {
        readable: seen.is_none_or(|seen| seen.readable != edges.readable),
        writable: seen.is_none_or(|seen| seen.writable != edges.writable),
    };
    let report = Interest {
        readable: interest.readable && ready.readable && new.readable,
        writable: interest.writable && ready.writable && new.writable,
    };
    let watching = Auxiliary::Watch { interest, seen: Some(edges) };
    let step = match report {
        Interest { readable: false, writable: false } => Step::Blocked,
        report => Step::Completed(Outcome::Ready(Ok(report))),
    };
    Progress::Goes(watching, step)
}
