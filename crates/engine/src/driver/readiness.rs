//! What readiness kernels share: non-blocking calls on descriptors, tried until they would block.
//!
//! A completion kernel needs some of them as well: sending a file range and exchanging datagrams are
//! cheaper this way than as operations of their own.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use bytes::{BufMut, BytesMut};
use socket2::{Domain, SockRef, Type};

use super::linux;
use crate::buffer::{Arena, FileRange, OutQueue};
use crate::limits::{CHUNKS_PER_SEND, RECEIVE_SIZE, RECEIVE_SIZE_MIN, SEND_BYTES_PER_TURN};
use crate::op::OutDatagram;
use crate::socket::Address;
use crate::sys::syscall;

/// What one attempt without blocking brought.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    /// It succeeded, or failed for good.
    Done(io::Result<T>),
    /// It would block: wait until the descriptor is ready.
    WouldBlock,
}

impl<T> From<io::Result<T>> for Attempt<T> {
    #[inline(always)]
    fn from(result: io::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Done(Ok(value)),
            Err(error) => Self::failed(error),
        }
    }
}

impl<T> Attempt<T> {
    #[cold]
    fn failed(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::WouldBlock } else { Self::Done(Err(error)) }
    }
}

/// Calls again while a signal interrupts.
#[inline(always)]
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if was_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cold]
fn was_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// Received bytes and whether the socket may have more at once.
#[derive(Debug)]
pub(super) struct Received<T> {
    pub(super) bytes: T,
    /// The receive was shorter than what it was offered: nothing was left in the socket.
    pub(super) drained: bool,
}

/// Receives once into what is free of the arena, from which the bytes are then to be
/// [lent](Arena::lend); `None` if that is too little.
#[inline(always)]
pub(super) fn receive(fd: BorrowedFd<'_>, arena: &mut Arena) -> Option<Attempt<Received<usize>>> {
    let room = arena.offer(RECEIVE_SIZE_MIN)?;
    let offered = room.len().min(RECEIVE_SIZE);
    let received = linux::recv(fd, &mut room[..offered]);
    Some(Attempt::from(received.map(|count| Received { bytes: count, drained: count < offered })))
}

/// Receives once into the spare capacity of a buffer.
#[inline]
pub(super) fn receive_into(fd: BorrowedFd<'_>, buffer: &mut BytesMut) -> Attempt<Received<usize>> {
    let spare = buffer.spare_capacity_mut();
    let offered = spare.len();
    let received = linux::recv(fd, spare);
    Attempt::from(received.map(|count| {
        // SAFETY: the kernel has written that many bytes behind the buffer's end.
        unsafe { buffer.advance_mut(count) };
        Received { bytes: count, drained: count < offered }
    }))
}

/// Sends one datagram.
pub(super) fn send_datagram(fd: BorrowedFd<'_>, datagram: &OutDatagram) -> Attempt<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let socket = SockRef::from(&fd);
    let sent = uninterrupted(|| match &datagram.to {
        Some(address) => socket.send_to_with_flags(&datagram.bytes, &address.to_sock_addr()?, flags),
        None => socket.send_with_flags(&datagram.bytes, flags),
    });
    // A datagram leaves whole or not at all, send(2).
    Attempt::from(sent.map(drop))
}

/// Sends a queue that is not empty until it is, its share of the turn is used up, the socket would block, or it fails.
pub(super) fn send_queue(fd: BorrowedFd<'_>, queue: &mut OutQueue) -> Attempt<()> {
    let mut sent = 0;
    loop {
        match send_some(fd, queue) {
            Attempt::Done(Ok(count)) => {
                queue.advance(count);
                sent += count;
                if queue.is_empty() || sent >= SEND_BYTES_PER_TURN {
                    return Attempt::Done(Ok(()));
                }
            }
            Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
            Attempt::WouldBlock => return Attempt::WouldBlock,
        }
    }
}

/// Sends the front of the queue with one system call.
fn send_some(fd: BorrowedFd<'_>, queue: &OutQueue) -> Attempt<u64> {
    match queue.single_slice() {
        Some(bytes) => Attempt::from(linux::send(fd, bytes).map(|count| count as u64)),
        None => send_pieces(fd, queue),
    }
}

/// The same for a front of several pieces, or of a file.
fn send_pieces(fd: BorrowedFd<'_>, queue: &OutQueue) -> Attempt<u64> {
    if let Some(range) = queue.front_file() {
        return send_file(fd, &range);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let mut slices = [IoSlice::new(&[]); CHUNKS_PER_SEND];
    let count = queue.io_slices(&mut slices);
    let socket = SockRef::from(&fd);
    let sent = uninterrupted(|| socket.send_vectored_with_flags(&slices[..count], flags));
    Attempt::from(sent.map(|count| count as u64))
}

/// Sends the front of a file range. sendfile(2) takes no flags, so the socket itself becomes non-blocking.
pub(super) fn send_file(fd: BorrowedFd<'_>, range: &FileRange) -> Attempt<u64> {
    let sent = set_nonblocking(&fd).and_then(|()| uninterrupted(|| linux::send_file(fd, range)));
    Attempt::from(sent)
}

/// Starts to connect; `WouldBlock` means that it goes on, and writable that it has ended.
pub(super) fn connect(fd: BorrowedFd<'_>, address: &Address) -> Attempt<()> {
    let connected = address.to_sock_addr().and_then(|address| SockRef::from(&fd).connect(&address));
    match connected {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Attempt::WouldBlock,
        // A Unix socket answers EAGAIN when the listener's backlog is full, and nothing goes on, connect(2).
        result => Attempt::Done(result),
    }
}

/// What came of a connect that went on.
pub(super) fn connect_result(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whether the descriptor is a stream socket of the Unix domain.
pub(super) fn is_unix_stream(fd: BorrowedFd<'_>) -> bool {
    let socket = SockRef::from(&fd);
    socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
}

/// Makes a descriptor non-blocking, fcntl(2).
pub(super) fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: fcntl with these commands takes no pointer.
    let flags = unsafe { syscall!(fcntl(fd, libc::F_GETFL)) }?;
    if flags & libc::O_NONBLOCK == 0 {
        // SAFETY: as above.
        unsafe { syscall!(fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)) }?;
    }
    Ok(())
}
