//! How a server is described and started.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kolk_engine::driver::{DriverChoice, DriverConfig};
use kolk_engine::socket::SocketOptions;

use super::handler::Handler;
use super::limits::{CLOSE_TIMEOUT, EVENT_LOOPS_MAX, INPUT_LIMIT, POOL_QUEUE, POOL_THREADS, STOP_TIMEOUT};
use super::listening::SocketSettings;
use super::output::{OutputLimits, Overflow};
use super::running::RunningServer;
use super::starting;
use super::timers::{IdleTimeouts, millis};
use crate::error::{Error, Result};
use crate::inherit::Inherited;
use crate::listener::{Listeners, Plan};

/// The reactor. [`Server::builder`] is the way in; see the [module](super) for what it does.
#[derive(Debug)]
pub struct Server {
    _private: (),
}

impl Server {
    /// Describes a server; nothing happens before [`Builder::run`] or [`Builder::start`].
    pub fn builder() -> Builder {
        Builder {
            addresses: Vec::new(),
            inherited: Vec::new(),
            event_loops: None,
            settings: Settings {
                driver: DriverChoice::Auto,
                driver_config: DriverConfig::default(),
                pin: false,
                sockets: SocketSettings::default(),
                input_limit: INPUT_LIMIT,
                drain_timeout: Duration::ZERO,
                stop_timeout: STOP_TIMEOUT,
                close_timeout: CLOSE_TIMEOUT,
                on_panic: OnPanic::Close,
                output: OutputLimits::default(),
                idle: IdleTimeouts::NONE,
                max_connections: u64::MAX,
                accept_rate: None,
                pool_threads: POOL_THREADS,
                pool_queue: POOL_QUEUE,
            },
            stop_on_signals: true,
        }
    }
}

/// A server to be. Made by [`Server::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `run` or `start`"]
pub struct Builder {
    addresses: Vec<String>,
    pub(super) inherited: Vec<Inherited>,
    event_loops: Option<usize>,
    pub(super) settings: Settings,
    stop_on_signals: bool,
}

/// What every loop of a server needs to know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) driver: DriverChoice,
    pub(super) driver_config: DriverConfig,
    pub(super) pin: bool,
    pub(super) sockets: SocketSettings,
    pub(super) input_limit: usize,
    pub(super) drain_timeout: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) on_panic: OnPanic,
    pub(super) output: OutputLimits,
    pub(super) idle: IdleTimeouts,
    pub(super) max_connections: u64,
    pub(super) accept_rate: Option<u32>,
    pub(super) pool_threads: usize,
    pub(super) pool_queue: usize,
}

/// What a panic in a callback ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// The connection whose callback it was; all else goes on. The handler value may be half-way through a change
    /// then: keep what must stay whole in few statements.
    #[default]
    Close,
    /// The process, by `abort`.
    Abort,
}

impl Builder {
    /// Adds an address, such as `tcp://0.0.0.0:7000` or `unix:///run/app.sock`; at least one is needed. The
    /// forms are those of [`ListenAddress`](crate::ListenAddress).
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Number of event loops, each on a thread of its own. Default: one for each CPU that this process may
    /// use.
    pub fn event_loops(mut self, count: usize) -> Self {
        self.event_loops = Some(count);
        self
    }

    /// Which kernel interface to use. Default: io_uring where the kernel offers what is needed, else epoll;
    /// the environment variable `KOLK_DRIVER` overrides that default.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.settings.driver = driver;
        self
    }

    /// Sizes of the memory that each loop shares with the kernel. The defaults suit small messages on very many
    /// connections; too little of anything makes a server slower, never wrong, and [`Stats`](super::Stats)
    /// counts how often: `buffers_exhausted`, `early_submits`, `overflows`.
    ///
    /// # Examples
    ///
    /// Larger receive buffers, for a few connections that send 32 KiB at a time:
    ///
    /// ```
    /// use kolk::DriverConfig;
    /// use kolk::server::Server;
    ///
    /// let sizes = DriverConfig { ring_buffers: 64, ring_buffer_size: 32 * 1024, ..DriverConfig::default() };
    /// let builder = Server::builder().listen("tcp://127.0.0.1:0").driver_config(sizes);
    /// ```
    pub fn driver_config(mut self, sizes: DriverConfig) -> Self {
        self.settings.driver_config = sizes;
        self
    }

    /// Whether each loop stays on one CPU of those this process may use. Default: no.
    pub fn pin(mut self, pin: bool) -> Self {
        self.settings.pin = pin;
        self
    }

    /// Whether small segments are sent at once (`TCP_NODELAY`). Default: yes.
    pub fn nodelay(self, nodelay: bool) -> Self {
        self.socket_options(SocketOptions::new().nodelay(nodelay))
    }

    /// Bytes that a handler may leave unconsumed on one connection, which is closed beyond that. Default:
    /// 1 MiB.
    pub fn input_limit(mut self, bytes: usize) -> Self {
        self.settings.input_limit = bytes;
        self
    }

    /// Connections that the server has at one time; further ones are accepted, closed at once and counted as
    /// [`Stats::refused`](super::Stats::refused). Default: as many as there are descriptors.
    pub fn max_connections(mut self, most: u64) -> Self {
        self.settings.max_connections = most;
        self
    }

    /// Connections that the server accepts in a second, over all loops; those that come faster wait in the
    /// listeners' backlogs. Bursts of 10 ms, and what the kernel hands over at once, are let through and made up for.
    /// Zero is one. Default: no limit.
    pub fn accept_rate(mut self, per_second: u32) -> Self {
        self.settings.accept_rate = Some(per_second);
        self
    }

    /// Threads of the pool for slow work, which all loops share, and jobs that may wait for one:
    /// [`Conn::offload`](super::Conn::offload). The threads start with the first job. When the server has
    /// stopped, jobs that wait are dropped, and those that run are waited for. Default: 4 threads, 1024 jobs.
    pub fn offload_pool(mut self, threads: usize, queue: usize) -> Self {
        self.settings.pool_threads = threads;
        self.settings.pool_queue = queue;
        self
    }

    /// Closes a connection that has neither received nor written anything for this time, with
    /// [`CloseReason::Idle`](super::CloseReason::Idle). Default: never.
    ///
    /// Measured to a millisecond, up to 24 days. It costs nothing a message. What a handler writes counts when
    /// it is written: see [`Conn::set_write_deadline`](super::Conn::set_write_deadline) for a peer that does not take it.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle.both = millis(timeout);
        self
    }

    /// The same for a connection that has not received anything. Default: never.
    pub fn read_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle.read = millis(timeout);
        self
    }

    /// The same for a connection to which nothing was written. Default: never.
    pub fn write_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle.write = millis(timeout);
        self
    }

    /// Bytes queued for one connection above which it is not writable, and at which it is again:
    /// [`Conn::is_writable`](super::Conn::is_writable), [`Handler::on_writable`]. Default: 256 KiB and 1 MiB.
    ///
    /// A low mark above the high one is the same as an equal one.
    pub fn output_watermarks(mut self, low: u64, high: u64) -> Self {
        self.settings.output.low = low.min(high);
        self.settings.output.high = high;
        self
    }

    /// Bytes that may be queued for one connection at all, and what happens beyond that. Default: 64 MiB, and the
    /// connection is reset.
    pub fn output_cap(mut self, bytes: u64, overflow: Overflow) -> Self {
        self.settings.output.cap = bytes;
        self.settings.output.overflow = overflow;
        self
    }

    /// Whether the reading of a connection pauses while more is queued for it than the high watermark, so that
    /// a peer which does not read is not read from. Default: yes.
    pub fn pause_reading_when_full(mut self, pause: bool) -> Self {
        self.settings.output.pauses_reading = pause;
        self
    }

    /// Time that a connection has to send what is queued when it closes, and to see the end of the peer's stream;
    /// then it is cut. Default: 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.settings.close_timeout = timeout;
        self
    }

    /// What a panic in a callback ends. Default: its connection.
    pub fn on_panic(mut self, on_panic: OnPanic) -> Self {
        self.settings.on_panic = on_panic;
        self
    }

    /// Time that connections go on being served when the server stops gracefully, so that handlers can come
    /// to an end with their peers; those that are left are then flushed and closed. Default: none.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Time that connections have to send what is queued when the server stops. Default: 500 ms.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stop_timeout = timeout;
        self
    }

    /// Whether SIGINT and SIGTERM stop the server gracefully, and a second one at once. Default: yes.
    pub fn stop_on_signals(mut self, stop: bool) -> Self {
        self.stop_on_signals = stop;
        self
    }

    /// Starts the server and waits until it has stopped. `make_handler` is called once for each loop, on
    /// the loop's thread, with the loop's number.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start) and [`RunningServer::wait`].
    pub fn run<H, M, F>(self, make_handler: F) -> Result<()>
    where
        H: Handler<M> + 'static,
        M: Send + 'static,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        self.start(make_handler)?.wait()
    }

    /// Binds every address and starts the loops; the server runs until it is stopped.
    ///
    /// # Errors
    ///
    /// An address that is malformed or cannot be bound, a driver that the kernel refuses, no address or no
    /// event loop. Nothing stays bound and no thread stays behind then.
    pub fn start<H, M, F>(self, make_handler: F) -> Result<RunningServer<H, M>>
    where
        H: Handler<M> + 'static,
        M: Send + 'static,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let loops = self.loop_count()?;
        let acceptors = self.check_acceptors(loops)?;
        if self.addresses.is_empty() && self.inherited.is_empty() {
            return Err(Error::invalid("the server has no address: call `listen` at least once"));
        }
        let listeners = Listeners::bind_as(Plan {
            addresses: &self.addresses,
            inherited: self.inherited,
            loops,
            acceptors,
            driver: &self.settings.driver,
            options: &self.settings.sockets.accepted,
        })?;
        starting::start(listeners, loops, Arc::new(self.settings), self.stop_on_signals, make_handler)
    }

    fn loop_count(&self) -> Result<usize> {
        let count = match (self.event_loops, &self.settings.driver) {
            (Some(count), _) => count,
            (None, DriverChoice::Sim(_)) => 1,
            (None, _) => thread::available_parallelism().map_or(1, NonZero::get),
        };
        if (1..=EVENT_LOOPS_MAX).contains(&count) {
            return Ok(count);
        }
        Err(Error::invalid(format!("{count} event loops cannot be: use 1 to {EVENT_LOOPS_MAX}")))
    }
}
