//! The reactor: the library accepts and reads, and calls you.
//!
//! ```text
//!  thread 0   EventLoop ─► Worker ─► your Handler value 0
//!  thread 1   EventLoop ─► Worker ─► your Handler value 1
//!    ...          ▲ each loop has its own listener of every TCP address (SO_REUSEPORT),
//!                 │ and the kernel spreads the connections
//! ```
//!
//! A connection lives on the loop that accepted it, so a [`Handler`] needs no lock: everything that
//! concerns one connection happens on one thread.
//!
//! # How connections and datagrams come
//!
//! | way | said by | see |
//! |---|---|---|
//! | each loop accepts for itself | [`Builder::listen`] | [`ListenAddress`](crate::ListenAddress) |
//! | acceptors hand connections to the loops | [`Builder::acceptors`], [`Builder::balance`] | [`Balance`] |
//! | listeners of somebody else | [`Builder::inherit`], [`Builder::listen_on`] | [`inherit`](crate::inherit) |
//! | the program connects | [`Conn::connect`], [`LoopContext::connect`], [`ServerHandle::connect`] | [`Connect`] |
//! | the program brings a socket | [`ServerHandle::enroll`] | [`Origin`] |
//! | datagrams, without a connection | [`Handler::on_datagram`] | [`DatagramSocket`], [`Peers`] |
//!
//! All of them meet the same handler. Options of their sockets: [`Builder::socket_options`],
//! [`Builder::outbound_options`], and those of an address.
//!
//! # The life of a connection
//!
//! ```text
//!  accepted ──► on_open ──► Open ─────────────── Close, peer gone, limit, time-out ──► Closing ──► on_close
//!     │                     │  ▲                                                         ▲
//!     │ too many            │  │ on_data, on_writable, on_message, on_timer,             │
//!     ▼                     ▼  │ on_flush, on_sent: in any order                         │
//!  refused                  └──┘                                                         │
//!                           │  end of the peer's stream: on_eof ── Close (the default) ──┤
//!                           │        └── Continue: half-open, all but on_data goes on ───┘
//!                           └─ Detach ──► Detaching ──► on_detach ──► on_close
//! ```
//!
//! - [`on_open`](Handler::on_open) comes first, [`on_close`](Handler::on_close) last and exactly once, with the
//!   [`CloseReason`]; nothing comes after it. While a connection closes or detaches it has no other callback.
//! - All bytes that the peer sent come before [`on_eof`](Handler::on_eof); after a reset, those that had not
//!   been received are lost.
//! - What each [`Action`] does to bytes that are queued is a table there. A callback may also ask by a method
//!   ([`Conn::close`]); the stronger of the two counts, and takes effect when the callback returns.
//! - A callback that panics closes its connection ([`OnPanic`]). One that panics in `on_open` has made no
//!   session, so there is no `on_close`.
//!
//! # Input
//!
//! [`Input`] lives until the callback returns; what [`Input::take`] gives out is owned, and may be kept. What is
//! left comes again in front of the next bytes, up to [`Builder::input_limit`]; with [`Input::need`] not before there
//! is enough. The bytes lie in the loop's memory: what is kept for long is better copied.
//!
//! # Output
//!
//! Writes are queued, and all of one turn leave in one send; from 32 KiB on as soon as the callback returns, and with
//! [`Conn::flush`] at once. Above the high watermark a connection is not writable and is not read from, until what
//! is queued has fallen to the low one: [`Builder::output_watermarks`]. Above the cap, [`Overflow`] says what goes:
//! the connection, or whole messages.
//! A send in flight counts until it ends, so a slow peer is full until it has read all of that.
//!
//! # Threads
//!
//! A [`ServerHandle`] may be cloned to any thread, and asks loops by their mailboxes: writes, closes, typed
//! messages, closures, broadcasts to all or to a [`Group`]. What one thread asks of connections on one loop takes
//! effect in that order, between callbacks, never within one. From inside a callback, [`Conn::context`] reaches the
//! other connections of the same loop without a mailbox: what is asked there takes effect in order, once the
//! turn's events are handled. Slow work goes to a pool: [`Conn::offload`].
//!
//! # Time
//!
//! Deadlines count from the turn in which they are set, and are never early; they are late by up to 0.13 ms and
//! the length of a turn. The idle time-out ([`Builder::idle_timeout`]) counts from the last time that bytes arrived
//! or were written, to the millisecond, and costs no timer operation a message; while reading is paused, nothing
//! arrives. See also [`Conn::set_timer`], [`Conn::set_read_deadline`], [`LoopContext::run_every`] and
//! [`Handler::on_tick`].
//!
//! # Limits
//!
//! | limit | set by | beyond it |
//! |---|---|---|
//! | connections at one time | [`Builder::max_connections`] | accepted, closed at once, counted as refused |
//! | new connections a second | [`Builder::accept_rate`] | wait in the listener's backlog |
//! | descriptors, kernel memory | the system | accepting pauses, longer each time, and goes on by itself |
//! | input left unconsumed | [`Builder::input_limit`] | [`CloseReason::InputLimit`] |
//! | output queued | [`Builder::output_cap`] | [`Overflow`] |
//! | jobs that wait for the pool | [`Builder::offload_pool`] | [`Conn::offload`] is refused |
//! | requests that wait for a loop | 1 048 576 | the [`ServerHandle`] answers "busy" |
//!
//! # Stopping
//!
//! By a signal, [`RunningServer::stop`] or [`Action::Shutdown`]: listeners close and [`Handler::on_stop`] is told;
//! connections go on for [`Builder::drain_timeout`]; then each sends what is queued and closes; after
//! [`Builder::stop_timeout`] those that did not come to an end are cut. A second signal cuts at once.
//!
//! # Memory
//!
//! An idle connection with a session of no size is at most 256 bytes, with an idle time-out 288. What a
//! burst queued is given back to the allocator; that of glibc keeps much of it for later, unless it is told
//! otherwise (`MALLOC_MMAP_THRESHOLD_` in mallopt(3)).

mod acceptor;
mod admission;
mod balance;
mod builder;
mod command;
mod conn;
mod connect;
mod context;
mod datagrams;
mod detached;
mod framing;
mod groups;
mod handing_over;
mod handle;
mod handler;
mod input;
pub(crate) mod limits;
mod listening;
#[cfg(feature = "tracing")]
mod log;
#[cfg(not(feature = "tracing"))]
#[path = "log_off.rs"]
mod log;
mod notices;
mod offload;
mod output;
mod peers;
mod running;
mod starting;
mod state;
mod stats;
mod timers;
mod worker;

pub use balance::{Balance, Choose, Incoming};
pub use builder::{Builder, OnPanic, Server};
pub use conn::Conn;
pub use connect::{Connect, Origin};
pub use context::LoopContext;
pub use datagrams::{Datagram, DatagramSocket};
pub use detached::Detached;
pub use groups::Group;
pub use handle::ServerHandle;
pub use handler::{Action, CloseReason, Handler};
pub use input::Input;
pub use kolk_engine::buffer::Fill;
pub use output::Overflow;
pub use peers::Peers;
pub use running::RunningServer;
pub use stats::Stats;
pub use timers::Task;
