//! How a watcher is described.

use std::fmt;
use std::marker::PhantomData;

use kolk_engine::Config;
use kolk_engine::driver::{DriverChoice, DriverConfig};

use super::Watcher;
use crate::error::{Error, Result};

/// A watcher to be. Made by [`Watcher::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<C = ()> {
    config: Config,
    nodelay: bool,
    context: PhantomData<fn(C)>,
}

impl<C> Builder<C> {
    pub(super) fn new() -> Self {
        Self { config: Config::default(), nodelay: true, context: PhantomData }
    }

    /// Which kernel interface to use. Default: io_uring where the kernel offers what is needed, else epoll; the
    /// environment variable `KOLK_DRIVER` overrides that default.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.config.driver = driver;
        self
    }

    /// Sizes of the memory that the loop shares with the kernel.
    pub fn driver_config(mut self, config: DriverConfig) -> Self {
        self.config.driver_config = config;
        self
    }

    /// Number of this watcher among several of one program; part of each of its
    /// [`ConnId`](crate::ConnId)s, so that one which comes to the wrong watcher is refused. Default: 0.
    pub fn number(mut self, number: u16) -> Self {
        self.config.loop_number = number;
        self
    }

    /// Most connections, timers and relays together. Default: 2^24. Memory follows use, not this.
    pub fn slots(mut self, slots: u32) -> Self {
        self.config.slots = slots;
        self
    }

    /// Requests of other threads that may wait before they are told that the watcher is
    /// [busy](Error::is_busy). Default: 2^20.
    pub fn mailbox_capacity(mut self, requests: usize) -> Self {
        self.config.mailbox_capacity = requests;
        self
    }

    /// Whether small segments of accepted and connected streams are sent at once (`TCP_NODELAY`). An adopted
    /// socket stays as it is. Default: yes.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Makes the watcher.
    ///
    /// # Errors
    ///
    /// A driver that the kernel refuses, with the reason; a mailbox without room.
    pub fn build(self) -> Result<Watcher<C>> {
        if self.config.mailbox_capacity == 0 {
            return Err(Error::invalid("a watcher needs a mailbox with room for one request or more"));
        }
        Watcher::open(&self.config, self.nodelay)
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).field("nodelay", &self.nodelay).finish()
    }
}
