//! Which sockets have something: epoll, level-triggered, in batches.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, Result};

/// Events of one wait.
const BATCH: usize = 512;

/// The sockets of a load, each with a number of its own.
pub(crate) struct Readiness {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// A socket's number.
pub(crate) type Number = u64;

impl Readiness {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(BATCH),
        })
    }

    /// From here on a socket is waited for. Closing it ends that.
    pub(crate) fn add(
        &self,
        socket: impl AsFd,
        number: Number,
        interest: epoll::EventFlags,
    ) -> Result<()> {
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(number),
            interest,
        )
    }

    /// Waits for something else from now on.
    pub(crate) fn change(
        &self,
        socket: impl AsFd,
        number: Number,
        interest: epoll::EventFlags,
    ) -> Result<()> {
        epoll::modify(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(number),
            interest,
        )
    }

    /// Waits at most for `patience`; the numbers of those that are ready. None of them: it was in vain.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<impl Iterator<Item = Number> + '_> {
        let timeout = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.iter().map(|event| event.data.u64())),
            Err(error) => Err(error),
        }
    }
}
