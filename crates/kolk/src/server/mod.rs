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
//! concerns one connection happens on one thread, in this order:
//!
//! ```text
//!  on_open ─► on_data, on_data, ... ─► on_close          exactly once each, and nothing after it
//! ```
//!
//! - Bytes that came before or with the peer's end of stream are delivered first. What is queued is sent
//!   then, and the connection closes.
//! - What a handler leaves in [`Input`] comes again in front of the next bytes, up to a limit
//!   ([`Builder::input_limit`]).
//! - All writes of one turn of the loop leave in one send.
//! - [`Input`] and what it lends live until the callback returns; what [`Input::take`] gives out is owned.
//!
//! Stopping, by a signal or [`RunningServer::stop`]: listeners close, every connection sends what is queued
//! and closes, and after [`Builder::stop_timeout`] those that did not come to an end are cut.

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
