//! Room in the process's table of descriptors, made before it is needed.
//!
//! The kernel doubles that table when a descriptor does not fit any more. In a process of several threads, whoever
//! opens that descriptor waits until no other thread can still look at the old table (`expand_fdtable` in the
//! kernel's `fs/file.c`), for 5 to 40 ms. A loop that accepts would stand still for as long, at 256, 512, 1024 ...
//! connections. So the table is made large enough for a beginning, and is doubled on a thread of its own when
//! half of it is used.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

use super::linux::EventFd;
use crate::limits::DESCRIPTOR_ROOM;

/// Descriptors for which the table has room, or will have soon: the table is the process's, and so is this.
static ROOM: AtomicU32 = AtomicU32::new(0);

/// Makes the first room, once in a process.
pub(super) fn begin() {
    if ROOM.compare_exchange(0, DESCRIPTOR_ROOM, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        make_room(DESCRIPTOR_ROOM);
    }
}

/// A descriptor has come into use.
#[inline]
pub(super) fn note(fd: BorrowedFd<'_>) {
    let room = ROOM.load(Ordering::Relaxed);
    if fd.as_raw_fd().unsigned_abs() >= room / 2 {
        double(room);
    }
}

#[cold]
fn double(room: u32) {
    let Some(doubled) = room.checked_mul(2) else { return };
    if ROOM.compare_exchange(room, doubled, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        // Without the thread, whoever opens the descriptor that does not fit makes the room.
        let _ = thread::Builder::new().name("kolk-descriptors".to_owned()).spawn(move || make_room(doubled));
    }
}

/// Opens the last descriptor that has to fit, as far as the process may, and closes it.
fn make_room(count: u32) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = u64::from(count).min(limit).saturating_sub(1);
    // No failure matters: the room is made later, at a price.
    if let (Ok(any), Ok(last)) = (EventFd::new(), last.try_into()) {
        let _ = fcntl_dupfd_cloexec(&any, last);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    /// How many descriptors fit, proc_pid_status(5).
    fn table_size() -> u32 {
        let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("it names the size");
        size.trim().parse().expect("a number")
    }

    #[test]
    fn the_table_is_doubled_when_half_of_it_is_used() {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if limit < u64::from(2 * DESCRIPTOR_ROOM) {
            return println!("SKIPPED: ulimit -n is {limit}");
        }
        begin();
        assert!(table_size() >= DESCRIPTOR_ROOM);
        let any = EventFd::new().expect("a descriptor is free");
        note(any.as_fd());
        let half = (DESCRIPTOR_ROOM / 2).try_into().expect("a small number");
        let high = fcntl_dupfd_cloexec(&any, half).expect("a descriptor is free");
        note(high.as_fd());
        let begun = Instant::now();
        while table_size() < 2 * DESCRIPTOR_ROOM {
            assert!(begun.elapsed() < Duration::from_secs(10), "no more room is made");
            thread::yield_now();
        }
    }
}
