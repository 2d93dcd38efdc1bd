//! The two queues shared with the kernel, and the call that enters it.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::thread::{self, ThreadId};

use io_uring::types::Timespec;
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use crate::clock::Timestamp;
use crate::driver::{DriverConfig, DriverStats, linux};
use crate::limits::COMPLETIONS_PER_TURN;
use crate::sys::syscall;

/// One io_uring instance. The thread that enters it first owns it: the kernel refuses every other.
pub(super) struct Ring {
    ring: IoUring,
    /// Entries that found the submission queue full. While any waits here, later ones queue behind it:
    /// a cancel must not overtake what it cancels.
    backlog: VecDeque<squeue::Entry>,
    owner: Option<Owner>,
    /// Added to each enter that waits.
    wait_flags: EnterFlags,
    /// Completions copied out of the queue; those at `taken .. filled` were not looked at yet.
    batch: Box<[MaybeUninit<cqueue::Entry>]>,
    taken: usize,
    /// 0 <= taken <= filled <= batch.len()
    filled: usize,
    pub(super) stats: DriverStats,
}

/// The thread that enabled the ring.
struct Owner {
    thread: ThreadId,
    /// Index of the ring's descriptor in the thread's table of registered rings, which saves a look-up
    /// at each enter.
    registered: Option<i32>,
}

/// The kernel's `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_usec: u32,
    timeout: u64,
}

/// The kernel's `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

impl Ring {
    /// Creates the ring disabled; the first [`enter`](Self::enter) enables it on its own thread.
    pub(super) fn new(config: &DriverConfig) -> io::Result<Self> {
        let ring = create(config)?;
        try_enter(&ring)?;
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self {
            backlog: VecDeque::new(),
            owner: None,
            wait_flags,
            ring,
            batch: Box::new_uninit_slice(COMPLETIONS_PER_TURN),
            taken: 0,
            filled: 0,
            stats: DriverStats::default(),
        })
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Puts an entry into the submission queue. A full queue is submitted early; what still does not
    /// fit waits for the next turn.
    ///
    /// # Safety
    ///
    /// The memory that the entry names stays valid until the operation's final completion.
    #[inline(always)] // the entry is written in its place
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's guarantee is passed on.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.push_late(entry);
        }
    }

    #[cold]
    #[inline(never)]
    fn push_late(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.stats.early_submits += 1;
        // A failure leaves the entry in the backlog, and the turn's own enter reports it.
        let _ = self.submit();
        self.drain_backlog();
    }

    /// Submits and waits for at least one completion: until `deadline`, for ever (`None`), or not at all
    /// (`Timestamp::ZERO`).
    pub(super) fn wait(&mut self, deadline: Option<Timestamp>) -> io::Result<()> {
        self.stats.waits += 1;
        self.drain_backlog();
        let polls = deadline == Some(Timestamp::ZERO);
        let timeout = deadline.filter(|_| !polls).map(|deadline| Timespec::from(deadline - linux::now()));
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_usec: 0,
            timeout: timeout.as_ref().map_or(0, |timeout| std::ptr::from_ref(timeout) as u64),
        };
        match self.enter(u32::from(!polls), self.wait_flags, Some(&argument)) {
            Err(error) if is_passing(&error) => Ok(()),
            result => result,
        }
    }

    /// Submits without waiting.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.enter(0, EnterFlags::empty(), None)
    }

    /// The system call.
    fn enter(&mut self, want: u32, mut flags: EnterFlags, argument: Option<&WaitArgument>) -> io::Result<()> {
        let mut fd = self.ring.as_raw_fd();
        if let Some(index) = self.claim()? {
            fd = index;
            flags |= EnterFlags::REGISTERED_RING;
        }
        let count = self.ring.submission().len();
        let (pointer, size) = match argument {
            Some(argument) => (std::ptr::from_ref(argument), size_of::<WaitArgument>()),
            None => (std::ptr::null(), 0),
        };
        // SAFETY: `argument` and what it points to are readable during the call; what the submitted
        // entries name is valid by the contract of `push`.
        unsafe {
            syscall!(syscall(libc::SYS_io_uring_enter, fd, count as u32, want, flags.bits(), pointer, size))
        }
        .map(drop)
    }

    /// Makes the calling thread the ring's owner if it has none, and answers the registered index.
    #[inline]
    fn claim(&mut self) -> io::Result<Option<i32>> {
        if let Some(owner) = &self.owner {
            return Ok(owner.registered);
        }
        self.ring.submitter().register_enable_rings()?;
        let registered = self.register_descriptor().ok();
        self.owner = Some(Owner { thread: thread::current().id(), registered });
        Ok(registered)
    }

    /// Whether the calling thread may enter the ring.
    pub(super) fn is_owned_here(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.thread == thread::current().id())
    }

    /// Whether anything was ever submitted.
    pub(super) fn was_entered(&self) -> bool {
        self.owner.is_some()
    }

    fn register_descriptor(&self) -> io::Result<i32> {
        let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: self.ring.as_raw_fd() as u64 };
        self.update_registration(REGISTER_RING_FDS, &mut update)?;
        Ok(update.offset as i32)
    }

    fn update_registration(&self, command: u32, update: &mut ResourceUpdate) -> io::Result<()> {
        let fd = self.ring.as_raw_fd();
        // SAFETY: `update` is one readable and writable entry, as the count says.
        unsafe { syscall!(syscall(libc::SYS_io_uring_register, fd, command, std::ptr::from_mut(update), 1)) }
            .map(drop)
    }

    /// Copies completions out, at most a turn's worth, so that the kernel has its space back before anything
    /// is dispatched. No effect while some of the last batch are left.
    pub(super) fn take_batch(&mut self) -> io::Result<()> {
        let mut queue = self.ring.completion();
        if queue.overflow() > 0 {
            return Err(io::Error::other("the kernel lost a completion of io_uring (CQ overflow counter)"));
        }
        if self.taken == self.filled {
            self.filled = queue.fill(&mut self.batch).len();
            self.taken = 0;
        }
        Ok(())
    }

    /// The next completion of the batch, which stays there.
    #[inline]
    pub(super) fn peek_entry(&self) -> Option<cqueue::Entry> {
        if self.taken == self.filled {
            return None;
        }
        // SAFETY: `take_batch` has filled the entries before `filled`.
        Some(unsafe { self.batch[self.taken].assume_init_ref() }.clone())
    }

    /// The user data of a completion of the batch, counted from the next one.
    #[inline(always)]
    pub(super) fn ahead(&self, nth: usize) -> Option<u64> {
        let entry = self.batch[self.taken..self.filled].get(nth)?;
        // SAFETY: as in `peek_entry`.
        Some(unsafe { entry.assume_init_ref() }.user_data())
    }

    /// Takes out of the batch what [`peek_entry`](Self::peek_entry) showed.
    #[inline]
    pub(super) fn skip_entry(&mut self) {
        debug_assert!(self.taken < self.filled);
        self.taken += 1;
    }

    /// The next completion of the batch.
    #[inline]
    pub(super) fn next_entry(&mut self) -> Option<cqueue::Entry> {
        let entry = self.peek_entry()?;
        self.skip_entry();
        Some(entry)
    }

    /// Whether completions lie in the batch or in the queue.
    pub(super) fn has_completions(&mut self) -> bool {
        self.taken < self.filled || !self.ring.completion().is_empty()
    }

    /// Counts an overflow of the completion queue; the next enter lets the kernel put the rest in.
    pub(super) fn note_overflow(&mut self) {
        if self.ring.submission().cq_overflow() {
            self.stats.overflows += 1;
        }
    }

    fn drain_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the entry came through `push`, whose caller guarantees its memory.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

impl Drop for Ring {
    /// A registered descriptor keeps the ring alive until its thread ends: give it back.
    fn drop(&mut self) {
        let Some(index) = self.owner.as_ref().and_then(|owner| owner.registered) else { return };
        if self.is_owned_here() {
            let mut update = ResourceUpdate { offset: index as u32, reserved: 0, data: 0 };
            let _ = self.update_registration(UNREGISTER_RING_FDS, &mut update);
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Creates the ring with everything that helps; what an older kernel does not know is left out, one
/// flag after the other.
fn create(config: &DriverConfig) -> io::Result<IoUring> {
    let mut refusal = None;
    for (no_sqarray, cooperative) in [(true, true), (false, true), (false, false)] {
        let mut builder = IoUring::builder();
        builder
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.completion_entries.max(config.submission_entries));
        if cooperative {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        match builder.build(config.submission_entries) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.expect("the loop runs at least once"))
}

/// Whether the ring may be entered: a sandbox may forbid that call alone. While the ring is disabled it has no
/// other effect than `EBADFD`.
fn try_enter(ring: &IoUring) -> io::Result<()> {
    match ring.submitter().submit() {
        Err(error) if error.raw_os_error() != Some(libc::EBADFD) => Err(error),
        _ => Ok(()),
    }
}

/// Whether an enter ended for a reason that the next one does not share: the timeout, a signal, or
/// completions that must be taken first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
