//! Connected streams: bytes, end of stream, reset.
//!
//! ```text
//!   writer ──write──► in flight ──(latency)──► arrived ──read──► reader
//!                     └────────── capacity ──────────┘
//! ```
//!
//! Everything under way to a socket lies in the socket's own [`Pipe`], in order: so an end that has been
//! closed needs no memory, and what it wrote before still arrives. The rules of closing are those of
//! Linux's TCP:
//!
//! - closing sends FIN behind the data, but RST if there was unread input (RFC 2525, section 2.17);
//!   an RST destroys what was still in flight before it;
//! - bytes that had arrived before an RST can still be read, then comes `ECONNRESET`, once;
//! - a write to an end that is gone succeeds and brings an RST back; the next one fails, with `EPIPE` if
//!   the peer's FIN had been seen, else with `ECONNRESET`.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::world::{Endpoint, Event, Kind, SocketId, World, errno};
use crate::clock::Timestamp;
use crate::op::Interest;
use crate::socket::Address;

/// Both directions.
const BOTH: Interest = Interest { readable: true, writable: true };

/// One end of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) link: Link,
    /// What is under way to this end, and what has arrived.
    incoming: Pipe,
    /// `SO_ERROR`: reported once, by whichever call comes first.
    pub(super) error: Option<i32>,
    write_ended: bool,
    /// `SO_LINGER` of zero seconds: closing resets.
    pub(super) reset_on_close: bool,
}

/// The life of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Never connected, or the connect failed.
    Fresh,
    /// The connect is under way.
    Connecting,
    /// Connected to this socket, which may be gone in the meantime.
    Connected { peer: SocketId, address: Address },
    /// The peer, or the network, reset the connection.
    Reset,
}

/// What travels to one end, in order.
#[derive(Debug)]
struct Pipe {
    /// By time of arrival.
    in_flight: VecDeque<(Timestamp, Segment)>,
    /// Bytes among `in_flight`.
    in_flight_bytes: usize,
    arrived: VecDeque<u8>,
    /// FIN has arrived, behind all of `arrived`.
    ended: bool,
    /// 0 < in_flight_bytes + arrived.len() <= capacity
    capacity: usize,
}

#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

impl Stream {
    fn new(link: Link, capacity: usize) -> Self {
        let incoming = Pipe {
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            arrived: VecDeque::new(),
            ended: false,
            capacity,
        };
        Self { link, incoming, error: None, write_ended: false, reset_on_close: false }
    }

    fn peer(&self) -> Option<SocketId> {
        match self.link {
            Link::Connected { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// Whether reading does not block; also at the end of the stream and on error.
    pub(super) fn is_readable(&self) -> bool {
        let settled = matches!(self.link, Link::Fresh | Link::Reset);
        !self.incoming.arrived.is_empty() || self.incoming.ended || self.error.is_some() || settled
    }

    /// What a read says when there are no bytes.
    fn read_nothing(&mut self) -> io::Result<usize> {
        if self.incoming.ended {
            return Ok(0);
        }
        if let Some(error) = self.error.take() {
            return Err(errno(error));
        }
        match self.link {
            Link::Reset => Ok(0),
            Link::Fresh => Err(errno(libc::ENOTCONN)),
            Link::Connecting | Link::Connected { .. } => Err(errno(libc::EAGAIN)),
        }
    }

    fn has_unread_input(&self) -> bool {
        !self.incoming.arrived.is_empty() || self.incoming.in_flight_bytes > 0
    }

    fn receive_reset(&mut self) {
        if self.link == Link::Reset {
            return;
        }
        self.error = Some(if self.incoming.ended { libc::EPIPE } else { libc::ECONNRESET });
        self.link = Link::Reset;
        self.incoming.lose_in_flight();
    }
}

impl Pipe {
    fn room(&self) -> usize {
        self.capacity - self.in_flight_bytes - self.arrived.len()
    }

    /// Adds a segment that arrives at `at`, but not before those in front of it; says when.
    fn push(&mut self, at: Timestamp, segment: Segment) -> Timestamp {
        let at = self.in_flight.back().map_or(at, |&(last, _)| at.max(last));
        if let Segment::Bytes(bytes) = &segment {
            self.in_flight_bytes += bytes.len();
        }
        self.in_flight.push_back((at, segment));
        debug_assert!(self.in_flight_bytes + self.arrived.len() <= self.capacity);
        at
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<Segment> {
        if self.in_flight.front()?.0 > now {
            return None;
        }
        self.in_flight.pop_front().map(|(_, segment)| segment)
    }

    fn lose_in_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    fn take(&mut self, into: &mut [u8]) {
        self.arrived.read_exact(into).expect("the caller asks for no more than has arrived");
    }
}

/// Making streams.
impl World {
    pub(super) fn open_stream(&mut self) -> SocketId {
        self.insert_stream(Address::Unnamed, Link::Fresh)
    }

    pub(super) fn insert_stream(&mut self, local: Address, link: Link) -> SocketId {
        let sizes = self.config.socket_buffer.clone();
        let capacity = sizes.start() + self.random.below(sizes.end() - sizes.start() + 1);
        debug_assert!(capacity > 0, "a stream without a buffer moves nothing");
        self.insert(local, Kind::Stream(Stream::new(link, capacity)))
    }

    /// Two connected ends.
    pub(super) fn pair(&mut self, addresses: [Address; 2]) -> (SocketId, SocketId) {
        let [near_address, far_address] = addresses;
        let near = self.insert_stream(near_address.clone(), Link::Fresh);
        let far = self.insert_stream(far_address, Link::Connected { peer: near, address: near_address });
        self.link(near, far);
        (near, far)
    }

    /// Tells `near` that it is connected to `far`.
    pub(super) fn link(&mut self, near: SocketId, far: SocketId) {
        let Some(address) = self.endpoint(far).map(|far| far.local.clone()) else {
            return;
        };
        if let Ok(stream) = self.stream_mut(near) {
            stream.link = Link::Connected { peer: far, address };
        }
        self.notify(near, BOTH);
    }

    pub(super) fn stream_mut(&mut self, id: SocketId) -> io::Result<&mut Stream> {
        match self.endpoint_mut(id) {
            Some(Endpoint { kind: Kind::Stream(stream), .. }) => Ok(stream),
            _ => Err(errno(libc::ENOTCONN)),
        }
    }

    fn stream(&self, id: SocketId) -> Option<&Stream> {
        match &self.endpoint(id)?.kind {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The other end, if it can still receive.
    fn receiver(&self, id: SocketId) -> Option<&Stream> {
        self.stream(id).filter(|stream| stream.link != Link::Reset)
    }
}

/// Moving bytes: recv(2), send(2), shutdown(2), close(2).
impl World {
    /// Moves some of the bytes that have arrived; 0 is the end of the stream, `WouldBlock` says that
    /// nothing has arrived.
    pub(super) fn read(&mut self, id: SocketId, into: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream_mut(id)?;
        let available = stream.incoming.arrived.len().min(into.len());
        if available == 0 {
            return if into.is_empty() { Ok(0) } else { stream.read_nothing() };
        }
        let count = self.portion(available);
        let pipe = &mut self.stream_mut(id)?.incoming;
        let was_full = pipe.room() == 0;
        pipe.take(&mut into[..count]);
        if was_full {
            self.notify_peer_of(id);
        }
        Ok(count)
    }

    fn notify_peer_of(&mut self, id: SocketId) {
        if let Some(peer) = self.stream(id).and_then(Stream::peer) {
            self.notify(peer, Interest::WRITABLE);
        }
    }

    /// Bytes that can be read at once.
    pub(super) fn arrived_bytes(&self, id: SocketId) -> usize {
        self.stream(id).map_or(0, |stream| stream.incoming.arrived.len())
    }

    /// Bytes written to this end that have not arrived at the other, which may be gone.
    pub(super) fn unsent(&self, id: SocketId) -> usize {
        let peer = self.stream(id).and_then(Stream::peer);
        peer.and_then(|peer| self.stream(peer)).map_or(0, |peer| peer.incoming.in_flight_bytes)
    }

    /// Takes some of `bytes` on their way; `WouldBlock` says that the buffer between the two is full.
    pub(super) fn write(&mut self, id: SocketId, bytes: &[u8]) -> io::Result<usize> {
        let peer = self.writable_peer(id)?;
        if self.random.chance(self.config.resets) {
            self.send(peer, Segment::Reset);
            self.send(id, Segment::Reset);
        }
        let Some(receiver) = self.receiver(peer) else {
            self.send(id, Segment::Reset);
            return Ok(bytes.len());
        };
        let available = receiver.incoming.room().min(bytes.len());
        if available == 0 {
            return if bytes.is_empty() { Ok(0) } else { Err(errno(libc::EAGAIN)) };
        }
        let count = self.portion(available);
        self.send(peer, Segment::Bytes(bytes[..count].to_vec()));
        Ok(count)
    }

    /// The socket to write to.
    fn writable_peer(&mut self, id: SocketId) -> io::Result<SocketId> {
        let stream = self.stream_mut(id)?;
        if let Some(error) = stream.error.take() {
            return Err(errno(error));
        }
        match stream.link {
            Link::Connecting => Err(errno(libc::EAGAIN)),
            Link::Connected { peer, .. } if !stream.write_ended => Ok(peer),
            _ => Err(errno(libc::EPIPE)),
        }
    }

    pub(super) fn is_writable(&self, stream: &Stream) -> bool {
        let Some(peer) = stream.peer() else {
            return stream.link != Link::Connecting;
        };
        let room = self.receiver(peer).is_none_or(|receiver| receiver.incoming.room() > 0);
        room || stream.error.is_some() || stream.write_ended
    }

    /// Ends our direction; a stream that is not connected is left alone.
    pub(super) fn shutdown_write(&mut self, id: SocketId) -> io::Result<()> {
        let stream = self.stream_mut(id)?;
        if let Some(peer) = stream.peer()
            && !stream.write_ended
        {
            stream.write_ended = true;
            self.send(peer, Segment::Fin);
            // A send that waits for room fails from here on.
            self.notify(id, Interest::WRITABLE);
        }
        Ok(())
    }

    /// What closing one end, which is already gone from the table, tells the other.
    pub(super) fn close_stream(&mut self, stream: Stream) {
        let Some(peer) = stream.peer() else { return };
        if stream.has_unread_input() || stream.reset_on_close {
            self.reset_peer(peer);
        } else if !stream.write_ended {
            self.send(peer, Segment::Fin);
        }
    }

    /// Closes this end with a reset.
    pub(super) fn abort(&mut self, id: SocketId) {
        if let Ok(stream) = self.stream_mut(id) {
            stream.reset_on_close = true;
        }
        self.close(id);
    }

    /// Sends a reset, which overtakes and destroys what is in flight.
    fn reset_peer(&mut self, peer: SocketId) {
        if let Ok(stream) = self.stream_mut(peer) {
            stream.incoming.lose_in_flight();
        }
        self.send(peer, Segment::Reset);
    }

    /// Puts a segment on its way to a socket, which may be gone.
    fn send(&mut self, to: SocketId, segment: Segment) {
        let at = self.arrival();
        let Ok(stream) = self.stream_mut(to) else {
            return;
        };
        let at = stream.incoming.push(at, segment);
        self.schedule(at, Event::Arrive(to));
    }

    /// Lets arrive what is due at this socket.
    pub(super) fn arrive(&mut self, id: SocketId) {
        let now = self.now();
        let Ok(stream) = self.stream_mut(id) else {
            return;
        };
        let mut edge = Interest::default();
        while let Some(segment) = stream.incoming.pop_due(now) {
            edge.readable = true;
            match segment {
                Segment::Bytes(bytes) => {
                    stream.incoming.in_flight_bytes -= bytes.len();
                    stream.incoming.arrived.extend(bytes);
                }
                Segment::Fin => stream.incoming.ended = true,
                Segment::Reset => {
                    stream.receive_reset();
                    edge.writable = true;
                }
            }
        }
        if edge.readable {
            self.notify(id, edge);
        }
    }
}
