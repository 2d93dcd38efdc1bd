//! What a datagram socket has still to send.

use std::collections::VecDeque;
use std::io;

use super::Lease;
use crate::limits::{SPARE_DATAGRAM_BYTES, SPARE_DATAGRAM_CAPACITY};
use crate::socket::Address;

/// Datagrams in the order in which they leave, many with one system call.
///
/// As an [`OutQueue`](super::OutQueue) it is first filled and then drained: nothing is appended while a send has
/// it. A datagram leaves whole or not at all; one that the kernel refuses is counted and passed over, since the
/// others have done nothing wrong.
///
/// # Examples
///
/// ```
/// use kolk_engine::buffer::{DatagramQueue, Lease};
/// use kolk_engine::socket::Address;
///
/// let peer = Address::Inet(([127, 0, 0, 1], 7000).into());
/// let mut queue = DatagramQueue::default();
/// queue.push_copy(Some(peer.clone()), b"small, by copy");
/// queue.push(Some(peer), Lease::from(bytes::Bytes::from_static(b"kept by reference")));
/// assert_eq!((queue.len(), queue.bytes()), (2, 31));
/// ```
#[derive(Debug, Default)]
pub struct DatagramQueue {
    datagrams: VecDeque<Queued>,
    /// Bytes of those that were copied.
    copied: Vec<u8>,
    /// Bytes of all that wait.
    bytes: usize,
    /// The longest datagram that may be joined with others of its length and receiver; 0: none.
    longest_segment: usize,
    report: DatagramReport,
}

/// What came of the datagrams of a queue since this was asked for.
#[derive(Debug, Default)]
pub struct DatagramReport {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that it refused, and which are lost.
    pub failed: u64,
    /// Why it refused the last of them.
    pub error: Option<io::Error>,
}

#[derive(Debug)]
struct Queued {
    /// `None` for a connected socket.
    to: Option<Address>,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Copied { start: usize, len: usize },
    Kept(Lease),
}

impl DatagramQueue {
    /// Allows the kernel to take several datagrams of one receiver as one piece of work and to cut them apart
    /// late (`UDP_SEGMENT`, udp(7)); for sockets that [know it](crate::socket::knows_segmentation). A length
    /// that it refuses is sent one by one from there on.
    pub fn join_segments(&mut self, join: bool) {
        self.longest_segment = if join { usize::from(u16::MAX) } else { 0 };
    }

    /// Number of datagrams that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes of all that wait.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a datagram that is kept by reference; `to` is `None` on a connected socket.
    pub fn push(&mut self, to: Option<Address>, payload: Lease) {
        self.bytes += payload.len();
        self.datagrams.push_back(Queued { to, payload: Payload::Kept(payload) });
    }

    /// Appends a copy of `bytes` as one datagram.
    pub fn push_copy(&mut self, to: Option<Address>, bytes: &[u8]) {
        let (start, len) = (self.copied.len(), bytes.len());
        self.copied.extend_from_slice(bytes);
        self.bytes += len;
        self.datagrams.push_back(Queued { to, payload: Payload::Copied { start, len } });
    }

    /// What came of the datagrams since the last call.
    pub fn take_report(&mut self) -> DatagramReport {
        std::mem::take(&mut self.report)
    }

    /// Forgets what waits, and what a burst has left of room.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.datagrams.shrink_to(SPARE_DATAGRAM_CAPACITY);
        self.copied.clear();
        self.copied.shrink_to(SPARE_DATAGRAM_BYTES);
        self.bytes = 0;
    }

    // ---- for the driver -------------------------------------------------------------------------

    /// Receiver and bytes of each, the first to leave first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Option<&Address>, &[u8])> {
        self.datagrams.iter().map(|queued| (queued.to.as_ref(), self.payload(queued)))
    }

    /// The longest datagram that may be joined with others.
    pub(crate) fn longest_segment(&self) -> usize {
        self.longest_segment
    }

    /// The kernel refused to cut datagrams of `len` bytes apart; without `len`, any.
    pub(crate) fn refuse_segments(&mut self, len: Option<usize>) {
        let shorter = len.map_or(0, |len| len.saturating_sub(1));
        self.longest_segment = self.longest_segment.min(shorter);
    }

    /// The first `count` were sent.
    pub(crate) fn note_sent(&mut self, count: usize) {
        for _ in 0..count {
            self.pop();
        }
        self.report.sent += count as u64;
    }

    /// The first was refused, and is lost.
    pub(crate) fn note_failed(&mut self, error: io::Error) {
        self.pop();
        self.report.failed += 1;
        self.report.error = Some(error);
    }

    /// Moves what still waits out of the loop's memory, so that a receiver without room does not pin it.
    pub(crate) fn make_private(&mut self) {
        for queued in &mut self.datagrams {
            if let Payload::Kept(lease) = &mut queued.payload {
                lease.make_private();
            }
        }
    }

    fn payload<'a>(&'a self, queued: &'a Queued) -> &'a [u8] {
        match &queued.payload {
            Payload::Copied { start, len } => &self.copied[*start..*start + *len],
            Payload::Kept(lease) => lease,
        }
    }

    fn pop(&mut self) {
        let Some(queued) = self.datagrams.pop_front() else { return };
        self.bytes -= self.payload(&queued).len();
        if self.datagrams.is_empty() {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_and_a_refused_one_is_passed_over() {
        let mut queue = DatagramQueue::default();
        queue.push_copy(None, b"first");
        queue.push(None, Lease::from(bytes::Bytes::from_static(b"second")));
        queue.push_copy(None, b"");
        queue.push_copy(None, b"fourth");
        assert_eq!((queue.len(), queue.bytes()), (4, 17));
        queue.note_sent(1);
        queue.note_failed(io::ErrorKind::PermissionDenied.into());
        queue.make_private();
        let left: Vec<_> = queue.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(left, [b"".to_vec(), b"fourth".to_vec()]);
        assert_eq!(queue.bytes(), 6);
        queue.note_sent(2);
        assert!(queue.is_empty() && queue.bytes() == 0);
        let report = queue.take_report();
        assert_eq!((report.sent, report.failed), (3, 1));
        assert_eq!(report.error.map(|error| error.kind()), Some(io::ErrorKind::PermissionDenied));
        assert_eq!(queue.take_report().sent, 0);
    }

    #[test]
    fn a_refused_length_is_not_joined_any_more() {
        let mut queue = DatagramQueue::default();
        assert_eq!(queue.longest_segment(), 0);
        queue.join_segments(true);
        queue.refuse_segments(Some(1500));
        assert_eq!(queue.longest_segment(), 1499);
        queue.refuse_segments(None);
        assert_eq!(queue.longest_segment(), 0);
    }

    #[test]
    fn a_burst_leaves_little_behind() {
        let mut queue = DatagramQueue::default();
        for _ in 0..10_000 {
            queue.push_copy(None, &[0; 100]);
        }
        queue.note_sent(10_000);
        assert!(queue.datagrams.capacity() <= 2 * SPARE_DATAGRAM_CAPACITY);
        assert!(queue.copied.capacity() <= SPARE_DATAGRAM_BYTES);
    }
}
