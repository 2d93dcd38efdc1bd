//! What is in flight on one slot.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::super::Socket;
use super::super::shelf::Place;
use crate::buffer::{DatagramQueue, OutQueue};
use crate::limits::{CHUNKS_PER_SEND, HEARD_IN_RING};
use crate::op::{Interest, OutDatagram};
use crate::token::Generation;

/// The state of one slot, by slot number.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Row {
    /// `None` while the slot is vacant.
    pub(super) socket: Option<Socket>,
    pub(super) generation: Option<Generation>,
    /// `Op::Close` was submitted: whatever ends is not started again.
    pub(super) closing: bool,
    /// A stream of the Unix domain, see [`Receive::Stream`].
    pub(super) single_shot: bool,
    /// The slot stands in the line.
    pub(super) in_line: bool,
    pub(super) last: Last,
    pub(super) receive: Receive,
    pub(super) auxiliary: Auxiliary,
    pub(super) send: Send,
}

/// What the last single receive found, in one byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Last {
    /// Some bytes, and it may have left others.
    #[default]
    Some,
    /// All there was: trying at once would be in vain.
    All,
    /// More than a buffer of the ring has room for, and it may have left others: what comes next shall not be cut
    /// into such buffers.
    Much,
    AllOfMuch,
}

impl Last {
    pub(super) fn new(drained: bool, large: bool) -> Self {
        match (drained, large) {
            (false, false) => Self::Some,
            (true, false) => Self::All,
            (false, true) => Self::Much,
            (true, true) => Self::AllOfMuch,
        }
    }

    pub(super) fn drained(self) -> bool {
        matches!(self, Self::All | Self::AllOfMuch)
    }
}

#[derive(Debug, Default)]
pub(super) enum Receive {
    #[default]
    None,
    /// Into the loop's buffers, until the stream ends or `once`.
    ///
    /// A multishot receive on TCP. On a Unix stream each receive is single-shot: from 6.17 on, a
    /// multishot receive there trusts a count of queued bytes that does not include the end of the
    /// stream, and waits for ever when that came together with the last bytes.
    ///
    /// What finds the ring empty, or fills a whole buffer and leaves something, goes on by ordinary calls that
    /// take many times as much, until the socket is drained. If they brought more than a buffer, what comes next
    /// is waited for by a poll and received the same way. A large stream then needs few operations, and nobody
    /// waits for a buffer.
    ///
    /// `large`: the last of those calls but one brought more than a buffer. `heard`: how often it was heard of since
    /// the hand of the clock went by, see [`super::park`].
    Stream { once: bool, flight: Flight, large: bool, heard: u8 },
    /// Into the buffer at this place of the shelf.
    Into(Place, Flight),
    /// So many datagrams: the kernel tells when some are there, and they are taken by ordinary calls, many
    /// a turn.
    Datagrams { left: u32, flight: Flight },
}

impl Receive {
    /// From a stream of which it is not known that much comes at a time.
    pub(super) fn stream(once: bool, flight: Flight) -> Self {
        Self::Stream { once, flight, large: false, heard: HEARD_IN_RING }
    }

    /// The stream goes on another way.
    pub(super) fn set_flight(&mut self, other: Flight) {
        if let Self::Stream { flight, .. } = self {
            *flight = other;
        }
    }
}

/// Where a receive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    InKernel,
    /// A multishot receive was told to end, and goes on in the line after its final completion.
    Leaving,
    /// The kernel only tells when something can be received.
    Polled,
    /// It was told to end, and its final completion is to come.
    Ending,
    /// The kernel has nothing of it: its slot stands in the line of those that go on by ordinary calls.
    InLine,
}

#[derive(Debug, Default)]
pub(super) enum Send {
    #[default]
    None,
    /// The lease at this place of the shelf, of so many bytes. They are in the kernel's hands.
    Lease(Place, u32),
    /// The queue drains. Its bytes are in the kernel's hands.
    Queue {
        queue: Box<OutQueue>,
        ending: bool,
        /// Where the description of its pieces stands, if there are several.
        header: Option<Place>,
    },
    /// The datagram waits until the socket is writable.
    Datagram(Box<OutDatagram>),
    /// The same, and it was told to end.
    EndingDatagram(Box<OutDatagram>),
    /// The rest of the queue waits until the socket is writable.
    Datagrams { queue: Box<DatagramQueue>, ending: bool },
}

#[derive(Debug, Default)]
pub(super) enum Auxiliary {
    #[default]
    None,
    Accept {
        ending: bool,
    },
    /// The address stands at this place of the shelf.
    Connect(Place),
    Watch {
        interest: Interest,
        ending: bool,
    },
}

/// What a message touches lies on one cache line.
const _: () = assert!(size_of::<Row>() == 64);

impl Row {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().and_then(Socket::as_fd).expect("an operation runs on an attached descriptor")
    }

    /// Notes a send, where none is in flight.
    #[inline(always)]
    pub(super) fn set_send(&mut self, send: Send) {
        debug_assert!(matches!(self.send, Send::None), "a send is in flight already");
        // Nothing is there to be dropped. To make room for a drop, the new value would be written aside and copied,
        // and a processor waits for such a copy until the writes are done.
        std::mem::forget(std::mem::replace(&mut self.send, send));
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!((&self.receive, &self.send, &self.auxiliary), (Receive::None, Send::None, Auxiliary::None))
    }
}

/// What `sendmsg` reads: the header and the list of slices. It must not move while the kernel has it, so it
/// is boxed, and used again for the next send.
#[derive(Debug)]
pub(super) struct MessageHeader {
    header: libc::msghdr,
    slices: [libc::iovec; CHUNKS_PER_SEND],
}

// SAFETY: the pointers inside are only meaningful while a send has the header, together with the queue
// whose bytes they name; both move as one.
unsafe impl std::marker::Send for MessageHeader {}

impl MessageHeader {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all-zero is a valid value of both plain C structs.
        Box::new(unsafe { std::mem::zeroed() })
    }

    /// Describes the front of the queue, up to the first file range. The queue must neither move its
    /// chunks nor drop them until the send is complete.
    pub(super) fn describe(&mut self, queue: &OutQueue) -> *const libc::msghdr {
        let mut slices = [IoSlice::new(&[]); CHUNKS_PER_SEND];
        let count = queue.io_slices(&mut slices);
        for (raw, slice) in self.slices.iter_mut().zip(&slices[..count]) {
            *raw = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = count as _;
        &raw const self.header
    }
}
