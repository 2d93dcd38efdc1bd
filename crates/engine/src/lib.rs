//! The completion engine below [`kolk`](https://docs.rs/kolk): one kernel interface, io_uring first, seen as
//! operations and completions, and an event loop on top of it.
//!
//! ```text
//!        front ends: Server, Watcher
//!  ──────────────┬────────────────────
//!           EventLoop<M>                   one thread
//!    ┌───────────┼──────────────┐
//!  Driver    TimerWheel      Mailbox  ◄── Sender, any thread
//!    ├ uring
//!    ├ epoll
//!    └ sim
//! ```
//!
//! Programs use the crate `kolk`; this one is for front ends. Start reading at [`EventLoop`], then
//! [`driver`], whose documentation is the contract that every kernel interface keeps; [`buffer`] says where
//! bytes live and in which order their memory is torn down.

#[cfg(not(loom))]
pub mod buffer;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod driver;
#[cfg(not(loom))]
mod event_loop;
#[cfg(all(target_os = "linux", target_env = "gnu", not(loom)))]
mod heap;
#[cfg(all(not(all(target_os = "linux", target_env = "gnu")), not(loom)))]
#[path = "heap_other.rs"]
mod heap;
pub mod limits;
#[cfg(all(feature = "tracing", not(loom)))]
mod log;
#[cfg(all(not(feature = "tracing"), not(loom)))]
#[path = "log_off.rs"]
mod log;
pub mod mailbox;
#[cfg(not(loom))]
pub mod op;
#[cfg(not(loom))]
mod prefetch;
#[cfg(not(loom))]
pub mod slab;
#[cfg(not(loom))]
pub mod socket;
mod sync;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
pub mod timer;
#[cfg(not(loom))]
pub mod token;
pub mod wake;

#[cfg(not(loom))]
pub use event_loop::{Close, Config, Core, DatagramSend, Event, EventLoop, LoopStats, Progress};
