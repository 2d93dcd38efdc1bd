//! The ring of `limit-uring`: set up, filled, entered and emptied.

use std::io;
use std::mem::MaybeUninit;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

use crate::context;

/// Submissions between two enters; a turn with more of them enters once more.
const SUBMISSIONS: u32 = 512;

/// Completions that fit; eight for a submission, as multishot requests complete many times.
const COMPLETIONS: u32 = 8 * SUBMISSIONS;

/// The ring. It lives as long as the process, because closing it is asynchronous and requests in
/// flight still point into memory.
pub struct Ring {
    /// Registers what belongs to the ring.
    pub submitter: Submitter<'static>,
    submissions: SubmissionQueue<'static>,
    completions: CompletionQueue<'static>,
}

impl Ring {
    /// Creates the ring on the thread that will enter it.
    ///
    /// # Errors
    ///
    /// An old kernel, or one where io_uring is forbidden.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(|error| context("cannot create an io_uring (Linux 6.1 or later)", error))?;
        let (mut submitter, submissions, completions) = Box::leak(Box::new(ring)).split();
        submitter.register_ring_fd()?;
        Ok(Self {
            submitter,
            submissions,
            completions,
        })
    }

    /// Submits everything and waits for one completion, at most so many milliseconds.
    ///
    /// # Errors
    ///
    /// Only those that no later enter can mend.
    pub fn enter(&mut self, patience: Option<u32>) -> io::Result<()> {
        self.submissions.sync();
        let entered = match patience {
            None => self.submitter.submit_and_wait(1),
            Some(milliseconds) => {
                let time = Timespec::new().nsec(milliseconds * 1_000_000);
                self.submitter
                    .submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        self.submissions.sync();
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN), _)) => {
                Ok(())
            }
            Err((_, error)) => Err(context("io_uring_enter", error)),
        }
    }

    /// Copies completions out and publishes that they are taken.
    pub fn take<'a>(&mut self, batch: &'a mut [MaybeUninit<cqueue::Entry>]) -> &'a [cqueue::Entry] {
        self.completions.sync();
        let taken = self.completions.fill(batch);
        self.completions.sync();
        taken
    }

    /// Queues a request; enters when the queue is full.
    ///
    /// # Errors
    ///
    /// The kernel took nothing from a full queue.
    ///
    /// # Safety
    ///
    /// The memory that the entry names stays valid, and is touched by nobody else, until its last
    /// completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..2 {
            // SAFETY: what the caller promises is what the crate asks for.
            if unsafe { self.submissions.push(entry) }.is_ok() {
                return Ok(());
            }
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
        Err(io::Error::other("the kernel takes no submissions"))
    }
}
