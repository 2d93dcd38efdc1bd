//! A networking library for programs that hold very many connections.
//!
//! The [`server`] module is the reactor: the library accepts and reads, and calls a [`Handler`] on one of N
//! event loops. The [`watcher`] module is the proactor: the program submits operations, and collects what is
//! done on the thread that it chooses. Both stand on one completion engine: io_uring, or epoll where that is
//! not to be had.
//!
//! An echo server on the reactor:
//!
//! ```no_run
//! use kolk::server::{Action, Conn, Handler, Input, Server};
//!
//! struct Echo; // one value for each loop: no locks
//!
//! impl Handler for Echo {
//!     type Session = (); // what one connection remembers
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_>) -> Self::Session {}
//!
//!     fn on_data(&mut self, _session: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
//!         conn.write(input.take());
//!         Action::Continue
//!     }
//! }
//!
//! fn main() -> kolk::Result<()> {
//!     Server::builder()
//!         .listen("tcp://127.0.0.1:5000")
//!         .listen("unix:///tmp/echo.sock")
//!         .event_loops(4)
//!         .run(|_loop| Echo)
//! }
//! ```
//!
//! [`Handler`]: server::Handler

#![forbid(unsafe_code)]

mod address;
pub mod codec;
mod error;
pub mod inherit;
mod listener;
pub mod server;
pub mod watcher;

pub use address::{ListenAddress, ParseAddressError};
pub use error::{Error, Result};
pub use kolk_engine::buffer::{Chunk, FileRange, Lease};
pub use kolk_engine::clock::Timestamp;
pub use kolk_engine::driver::{DriverChoice, DriverConfig, DriverKind};
pub use kolk_engine::op::Interest;
pub use kolk_engine::socket::{Address, Keepalive, SocketOptions};
pub use kolk_engine::token::ConnId;
pub use listener::Listeners;
