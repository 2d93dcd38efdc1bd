//! Datagrams of the real kernel, many with one system call: recvmmsg(2) and sendmmsg(2).
//!
//! ```text
//!  recvmmsg ─► one room of 64 KiB for each message ─► copied into the arena, packed ─► InDatagram
//!  sendmmsg ◄─ slices of the queue's datagrams, those of one receiver and length joined ◄─ DatagramQueue
//! ```
//!
//! How long the next datagram is nobody knows, so each is offered room for the longest. Most of that room is
//! never touched and so costs address space only; what arrives is copied once, because leases of the
//! rooms themselves would pin 64 KiB for a few bytes.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::Bytes;
use socket2::{SockAddr, SockAddrStorage};

use super::DriverStats;
use super::readiness::{Attempt, uninterrupted};
use crate::buffer::{Arena, DatagramQueue, Lease};
use crate::limits::{DATAGRAMS_PER_CALL, DATAGRAMS_PER_TURN, DATAGRAMS_SENT_PER_TURN, SEGMENTS_PER_DATAGRAM};
use crate::op::{InDatagram, less};
use crate::socket::Address;
use crate::sys::syscall;

/// Longest datagram a socket may deliver: the 16-bit length of UDP, RFC 768.
const DATAGRAM_SIZE_MAX: usize = 65_535;

/// From one room to the next. A little more than 64 KiB: at a power of two the first lines of all rooms would
/// compete for the same few places of the processor's caches.
const ROOM_STRIDE: usize = DATAGRAM_SIZE_MAX + 1 + 1024;

/// Payload of datagrams that are joined: what fits one IP packet, RFC 791, with room for both headers.
const JOINED_MAX: usize = 65_000;

/// Room for one control message with a number.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_SIZE]);

const CONTROL_SIZE: usize = 32;

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize <= CONTROL_SIZE);

/// What the two system calls read and write. Made for the first datagram of a loop, so that one without
/// datagram sockets has nothing of it.
pub(super) struct DatagramCalls {
    headers: [libc::mmsghdr; DATAGRAMS_PER_CALL],
    names: [SockAddrStorage; DATAGRAMS_PER_CALL],
    controls: [Control; DATAGRAMS_PER_CALL],
    slices: [libc::iovec; SLICES],
    /// Datagrams that each message of a send stands for.
    spans: [u16; DATAGRAMS_PER_CALL],
    /// One room after the other, zeroed and mostly never touched.
    rooms: Box<[u8]>,
}

/// What a turn's share of receiving came to.
pub(super) struct Share {
    /// Datagrams that are still wanted; 0: the receive has ended.
    pub(super) left: u32,
    /// The socket has no more.
    pub(super) drained: bool,
}

const SLICES: usize = 8 * DATAGRAMS_PER_CALL;

// SAFETY: the pointers inside are set by each call for itself and mean nothing between two calls.
unsafe impl Send for DatagramCalls {}

impl DatagramCalls {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all-zero is a valid value of the plain C structs, the arrays of bytes and of numbers.
        let (headers, names, slices) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Box::new(Self {
            headers,
            names,
            controls: [Control([0; CONTROL_SIZE]); DATAGRAMS_PER_CALL],
            slices,
            spans: [0; DATAGRAMS_PER_CALL],
            rooms: vec![0; DATAGRAMS_PER_CALL * ROOM_STRIDE].into_boxed_slice(),
        })
    }

    /// Takes the datagrams of a socket, `left` at most and up to its share of the turn; hands each on, and an
    /// error as the last.
    pub(super) fn receive_share(
        &mut self,
        fd: BorrowedFd<'_>,
        mut left: u32,
        arena: &mut Arena,
        stats: &mut DriverStats,
        mut each: impl FnMut(io::Result<InDatagram>),
    ) -> Share {
        let (mut share, mut drained) = (DATAGRAMS_PER_TURN, false);
        while share > 0 && left > 0 && !drained {
            let most = share.min(left as usize).min(DATAGRAMS_PER_CALL);
            stats.datagram_receives += 1;
            match self.receive(fd, most, arena, |datagram| each(Ok(datagram))) {
                Attempt::Done(Ok(count)) => {
                    stats.datagrams_received += count as u64;
                    share -= count;
                    left = less(left, count as u32);
                    drained = count < most;
                }
                Attempt::Done(Err(error)) => {
                    each(Err(error));
                    left = 0;
                }
                Attempt::WouldBlock => drained = true,
            }
        }
        Share { left, drained }
    }

    /// Receives up to `most` datagrams with one call and hands each on; answers how many came. Fewer than
    /// were asked for say that the socket is empty.
    fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        most: usize,
        arena: &mut Arena,
        mut each: impl FnMut(InDatagram),
    ) -> Attempt<usize> {
        let most = most.min(DATAGRAMS_PER_CALL);
        for index in 0..most {
            self.offer_room(index);
        }
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT);
        let no_timeout = std::ptr::null_mut();
        // SAFETY: the first `most` headers name memory of `self` that is writable during the call.
        let received = uninterrupted(|| unsafe {
            syscall!(recvmmsg(fd.as_raw_fd(), headers, most as u32, flags, no_timeout))
        });
        let count = match Attempt::from(received) {
            Attempt::Done(Ok(count)) => count as usize,
            Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
            Attempt::WouldBlock => return Attempt::WouldBlock,
        };
        for index in 0..count {
            each(self.received(index, arena));
        }
        Attempt::Done(Ok(count))
    }

    fn offer_room(&mut self, index: usize) {
        let start = index * ROOM_STRIDE;
        let room = &mut self.rooms[start..start + DATAGRAM_SIZE_MAX];
        self.slices[index] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = size_of::<SockAddrStorage>() as libc::socklen_t;
        header.msg_iov = &raw mut self.slices[index];
        header.msg_iovlen = 1;
        header.msg_control = self.controls[index].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_SIZE as _;
        header.msg_flags = 0;
    }

    fn received(&self, index: usize, arena: &mut Arena) -> InDatagram {
        let message = &self.headers[index];
        let start = index * ROOM_STRIDE;
        let len = (message.msg_len as usize).min(DATAGRAM_SIZE_MAX);
        let bytes = packed(&self.rooms[start..start + len], arena);
        InDatagram {
            from: self.sender(index),
            bytes,
            segment_size: self.segment_size(index).unwrap_or(len),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }

    fn sender(&self, index: usize) -> Address {
        let len = self.headers[index].msg_hdr.msg_namelen;
        // An unnamed sender leaves the storage as the last one has left it.
        if len as usize <= size_of::<libc::sa_family_t>() {
            return Address::Unnamed;
        }
        // SAFETY: the storage is plain data, zeroed once and since written by the kernel up to `len`.
        Address::from_sock_addr(&unsafe { SockAddr::new(std::ptr::read(&raw const self.names[index]), len) })
    }

    /// The length of each but the last datagram that the kernel has joined (`UDP_GRO`, udp(7)).
    fn segment_size(&self, index: usize) -> Option<usize> {
        let header = &raw const self.headers[index].msg_hdr;
        // SAFETY: the kernel has filled the control buffer up to `msg_controllen`, and the walk stays inside;
        // the data of this control message is one int.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(header);
            if control.is_null()
                || ((*control).cmsg_level, (*control).cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO)
            {
                return None;
            }
            let size = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
            usize::try_from(size).ok().filter(|&size| size > 0)
        }
    }

    /// Sends until the queue is empty, its share of the turn is used up, or the socket would block. A datagram
    /// that the kernel refuses is noted in the queue and passed over.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        queue: &mut DatagramQueue,
        stats: &mut DriverStats,
    ) -> Attempt<()> {
        let mut share = DATAGRAMS_SENT_PER_TURN;
        while !queue.is_empty() && share > 0 {
            let messages = self.describe(queue);
            let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            stats.datagram_sends += 1;
            // SAFETY: the first `messages` headers name memory of `self` and of the queue, readable during the
            // call.
            let sent = uninterrupted(|| unsafe {
                syscall!(sendmmsg(fd.as_raw_fd(), headers, messages as u32, flags as _))
            });
            match Attempt::from(sent) {
                Attempt::Done(Ok(count)) => {
                    let datagrams = self.spans[..count as usize].iter().map(|&span| usize::from(span)).sum();
                    stats.datagrams_sent += datagrams as u64;
                    queue.note_sent(datagrams);
                    share = share.saturating_sub(datagrams);
                }
                Attempt::Done(Err(error)) => {
                    self.refused(queue, error);
                    share -= 1;
                }
                Attempt::WouldBlock => return Attempt::WouldBlock,
            }
        }
        Attempt::Done(Ok(()))
    }

    /// The kernel refused the first message: as a whole if it is one datagram, else the joining.
    fn refused(&mut self, queue: &mut DatagramQueue, error: io::Error) {
        if self.spans[0] <= 1 {
            return queue.note_failed(error);
        }
        let longest = queue.iter().next().map(|(_, bytes)| bytes.len());
        // A segment longer than the path takes is refused by its length; EIO and all else mean that the
        // device or the kernel cannot do it.
        let by_length = matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL));
        queue.refuse_segments(longest.filter(|_| by_length));
    }

    /// Describes the front of the queue; answers the number of messages.
    fn describe(&mut self, queue: &DatagramQueue) -> usize {
        let mut datagrams = queue.iter().peekable();
        let (mut messages, mut slices) = (0, 0);
        while messages < DATAGRAMS_PER_CALL && slices < SLICES {
            let Some((to, bytes)) = datagrams.next() else { break };
            let first_slice = slices;
            let mut joined = bytes.len();
            self.slices[slices] = slice(bytes);
            slices += 1;
            if (1..=queue.longest_segment()).contains(&bytes.len()) {
                let room = SLICES.min(first_slice + SEGMENTS_PER_DATAGRAM);
                // A shorter one can be the last only.
                let mut last = bytes.len();
                while slices < room
                    && last == bytes.len()
                    && let Some((_, next)) = datagrams.next_if(|(next_to, next)| {
                        *next_to == to && fits_behind(next.len(), bytes.len(), joined)
                    })
                {
                    self.slices[slices] = slice(next);
                    slices += 1;
                    joined += next.len();
                    last = next.len();
                }
            }
            self.spans[messages] = (slices - first_slice) as u16;
            self.set_message(messages, to, first_slice, bytes.len());
            messages += 1;
        }
        messages
    }

    fn set_message(&mut self, index: usize, to: Option<&Address>, first_slice: usize, segment: usize) {
        let header = &mut self.headers[index].msg_hdr;
        (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
        if let Some(address) = to.and_then(|to| to.to_sock_addr().ok()) {
            header.msg_namelen = address.len();
            self.names[index] = address.as_storage();
            header.msg_name = (&raw mut self.names[index]).cast();
        }
        header.msg_iov = &raw mut self.slices[first_slice];
        header.msg_iovlen = self.spans[index].into();
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        if self.spans[index] > 1 {
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the control buffer is aligned and has room for
            // one message with two bytes, as asserted above for four.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                libc::CMSG_DATA(control).cast::<u16>().write_unaligned(segment as u16);
            }
        }
    }
}

/// Whether a datagram may follow others of `segment` bytes each in one message.
fn fits_behind(len: usize, segment: usize, joined: usize) -> bool {
    (1..=segment).contains(&len) && joined + len <= JOINED_MAX
}

fn slice(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A copy in the arena, or in memory of its own when the arena has no room: what was received is there and
/// must go somewhere.
fn packed(bytes: &[u8], arena: &mut Arena) -> Lease {
    if bytes.is_empty() {
        return Lease::default();
    }
    match arena.offer(bytes.len()).filter(|room| room.len() >= bytes.len()) {
        Some(room) => {
            room[..bytes.len()].copy_from_slice(bytes);
            arena.lend(bytes.len())
        }
        None => Bytes::copy_from_slice(bytes).into(),
    }
}

impl std::fmt::Debug for DatagramCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramCalls").finish_non_exhaustive()
    }
}
