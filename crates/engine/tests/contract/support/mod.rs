//! What the behaviours share: the worlds they hold in, a loop with a record of all it reported, and the
//! other ends of its sockets.

mod bare;
mod bytes;
mod peer;
mod process;
mod rig;

use std::time::Duration;

use kolk_engine::driver::{DriverChoice, DriverKind, SimConfig, SimNet};

pub(crate) use bare::Bare;
pub(crate) use bytes::{Counter, Dice, assert_errno, assert_kind, brief, pattern, queue, temporary_file};
pub(crate) use peer::{Peer, fresh_address};
pub(crate) use process::{
    has_uring, isolated, leave_descriptors, open_descriptors, raise_descriptor_limit, run,
};
pub(crate) use rig::Rig;

/// Longest time for anything to come about. Only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// More bytes than the kernel takes for a peer that does not read.
pub(crate) const STUCK: usize = 12 << 20;

/// A turn with nothing to do waits this long for the peers, who are on the same thread.
const WAIT: Duration = Duration::from_millis(1);

/// Where a behaviour is to hold: a driver, and the kind of its stream sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) driver: DriverKind,
    pub(crate) family: Family,
    /// Of the simulated kernel.
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Unix,
    Simulated,
}

impl World {
    const fn new(driver: DriverKind, family: Family) -> Self {
        Self { driver, family, seed: 0 }
    }

    pub(crate) const fn uring_tcp() -> Self {
        Self::new(DriverKind::IoUring, Family::Tcp)
    }

    pub(crate) const fn uring_unix() -> Self {
        Self::new(DriverKind::IoUring, Family::Unix)
    }

    pub(crate) const fn epoll_tcp() -> Self {
        Self::new(DriverKind::Epoll, Family::Tcp)
    }

    pub(crate) const fn epoll_unix() -> Self {
        Self::new(DriverKind::Epoll, Family::Unix)
    }

    pub(crate) const fn sim() -> Self {
        Self::new(DriverKind::Sim, Family::Simulated)
    }

    pub(crate) fn is_sim(self) -> bool {
        self.driver == DriverKind::Sim
    }

    pub(crate) fn is_uring(self) -> bool {
        self.driver == DriverKind::IoUring
    }

    fn choice(self, net: Option<&SimNet>) -> DriverChoice {
        match net {
            Some(net) => DriverChoice::Sim(net.clone()),
            None => DriverChoice::Only(self.driver),
        }
    }

    fn net(self) -> Option<SimNet> {
        self.is_sim().then(|| SimNet::new(SimConfig { backlog: 4096, ..SimConfig::calm(self.seed) }))
    }
}
