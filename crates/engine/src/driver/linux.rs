//! The calls that only Linux has, for the two drivers that stand on it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::buffer::Buffer;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::buffer::FileRange;
use crate::clock::Timestamp;
use crate::limits::SEND_BYTES_PER_TURN;
use crate::sys::syscall;

/// The largest page of any machine that Linux runs on, so a multiple of every page.
const PAGE_SIZE: usize = 64 * 1024;

/// The monotonic clock that the kernel's own timeouts run by, clock_gettime(2).
#[inline]
pub(super) fn now() -> Timestamp {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is writable.
    let read = unsafe { syscall!(clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr())) };
    read.expect("every Linux has a monotonic clock");
    // SAFETY: the call succeeded, so it filled `time`.
    let time = unsafe { time.assume_init() };
    Timestamp::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Receives without blocking, recv(2).
///
/// By the bare system call, and so is [`send`]: in libc these are points where a thread can be cancelled, which
/// costs four locked instructions a message, and each return to a caller after the kernel's work is mispredicted.
#[inline(always)]
pub(super) fn recv<T>(fd: BorrowedFd<'_>, buffer: &mut [T]) -> io::Result<usize>
where
    for<'a> &'a mut [T]: Buffer<u8>,
{
    loop {
        match net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, count)) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends without blocking and without a signal, send(2).
#[inline(always)]
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Accepts one connection, non-blocking and closed on exec, accept4(2).
#[inline]
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: null pointers ask for no peer address; the descriptor returned is owned by nobody else.
    unsafe {
        syscall!(accept4(listener.as_raw_fd(), no_address, no_len, flags)).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Sends a part of a file from the page cache, sendfile(2). The socket must be non-blocking.
///
/// # Errors
///
/// `UnexpectedEof` when the file ends before the range does.
pub(super) fn send_file(fd: BorrowedFd<'_>, range: &FileRange) -> io::Result<u64> {
    let count = range.len.min(SEND_BYTES_PER_TURN) as usize;
    let mut offset = range.offset as libc::off_t;
    // SAFETY: both descriptors are open while the call runs, and `offset` is writable.
    match unsafe { syscall!(sendfile(fd.as_raw_fd(), range.file.as_raw_fd(), &raw mut offset, count)) }? {
        0 => {
            let end = range.offset + range.len;
            let message = format!("the file ends before byte {end}, up to which it was to be sent");
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
        }
        count => Ok(count as u64),
    }
}

/// The descriptor that wakes a waiting driver, eventfd(2): a counter in the kernel; the loop that
/// watches it wakes when it is raised. Cloning shares it.
#[derive(Clone, Debug)]
pub struct EventFd(Arc<OwnedFd>);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer, and the descriptor it returns is owned by nobody else.
        let fd =
            unsafe { OwnedFd::from_raw_fd(syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?) };
        Ok(Self(Arc::new(fd)))
    }

    /// Raises the counter. It cannot fail: the counter overflows only after 2^64 - 2 wakes that nobody
    /// took, and then the loop is awake anyway.
    pub(super) fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is eight readable bytes.
        let _ = unsafe { syscall!(write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len())) };
    }

    /// Sets the counter back, so that a level-triggered wait sleeps again.
    pub(super) fn reset(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` is eight writable bytes.
        let _ = unsafe { syscall!(read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len())) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Zeroed memory that starts on a page, as the kernel wants it for what it shares.
#[derive(Debug)]
pub(super) struct PageMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PageMemory {}

impl PageMemory {
    pub(super) fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size.max(1), PAGE_SIZE).expect("a size below the address space");
        // SAFETY: the layout's size is not zero.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(super) fn address_as<T>(&self) -> *mut T {
        self.start.as_ptr().cast()
    }
}

impl Drop for PageMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else has the memory.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
