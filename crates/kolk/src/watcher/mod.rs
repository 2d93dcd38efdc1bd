//! The proactor: submit operations on any socket, with your own context and your own buffer, from any thread;
//! collect batches of completions on the thread that you choose.
//!
//! ```text
//!   any thread            Submitter ──► mailbox, one coalesced wake-up ─┐
//!                                                                      ▼
//!   your thread  Watcher: read, write, ...  ──►  lanes of a connection ──►  kernel
//!                   ▲                            reads:  [head][ ][ ]          │
//!                   │                            writes: [head][ ]             │
//!                   └── wait(&mut completions) ◄── a batch of what is done ◄───┘
//! ```
//!
//! The thread that calls [`Watcher::wait`] is the loop. Nothing is handed from thread to thread, and no
//! callback is called: a program is a loop around `wait`.
//!
//! # Examples
//!
//! An echo server. One thread accepts, the other one is the loop:
//!
//! ```no_run
//! use bytes::BytesMut;
//! use kolk::watcher::{Completions, Operation, Watcher};
//!
//! fn main() -> kolk::Result<()> {
//!     let listener = std::net::TcpListener::bind("127.0.0.1:7000")?;
//!     let mut watcher = Watcher::new()?;
//!     let submitter = watcher.submitter(); // Clone + Send + Sync
//!     std::thread::spawn(move || -> kolk::Result<()> {
//!         for stream in listener.incoming() {
//!             let conn = submitter.adopt(stream?)?; // the watcher owns the socket from here on
//!             submitter.read(conn, (), BytesMut::with_capacity(4096))?;
//!         }
//!         Ok(())
//!     });
//!     let mut completions = Completions::with_capacity(256);
//!     loop {
//!         watcher.wait(&mut completions, None)?; // a batch; the calling thread is the loop
//!         for done in completions.drain() {
//!             match (done.operation, done.result) {
//!                 (Operation::Read, Ok(n)) if n > 0 => watcher.write(done.conn, (), done.buffer)?,
//!                 (Operation::Write, Ok(_)) => watcher.read(done.conn, (), done.buffer.recycle())?,
//!                 _ => watcher.free(done.conn),
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Order
//!
//! Any number of reads may be queued on one connection; they complete in the order in which they were
//! submitted, and so do writes. The two directions know nothing of each other. Only an operation that is
//! cancelled or times out while it waits may end before those in front of it. Operations that one thread
//! submits begin in its order; those of two threads have no order.
//!
//! Writes that are submitted between two waits leave in one system call, and complete one by one.
//!
//! # Who owns what
//!
//! - A *socket* belongs to the watcher from [`adopt`](Watcher::adopt), an accept or a connect until it is
//!   [freed](Watcher::free) or [detached](Watcher::detach). The program has its name, a [`ConnId`]: `Copy`, and
//!   harmless when stale. A [`ConnOwner`] frees the connection when it is dropped.
//! - A *buffer* belongs to the operation from its submission to its completion, which brings it back: also
//!   when the operation fails, is cancelled or never begins. While a read waits, its buffer is bound;
//!   [`read_pooled`](Watcher::read_pooled) binds none.
//! - A [`Lease`] is valid for as long as it is held. Who keeps many starves nobody: past a quota the bytes are
//!   copied out of the loop's memory.
//!
//! # How operations end early
//!
//! | | a read | a write |
//! |---|---|---|
//! | deadline, [`cancel`](Watcher::cancel) | ends with the count so far; its bytes are in the buffer, and the next read goes on behind them | not begun: leaves the queue without harm. Cut in the middle: ends with the count, and later writes fail, since nothing may follow half a message. Whole already: completes as if nothing had been asked for |
//! | [`free`](Watcher::free) | cancelled, before the writes | cancelled; what had completed is on its way |
//! | [`detach`](Watcher::detach) | refused while one is pending | refused while one is pending |
//! | drop of the watcher | dropped with its context, and every socket is closed | likewise |
//!
//! Each operation that was accepted completes exactly once, unless the watcher is dropped. A deadline is part
//! of a [`Request`], for every operation that has an end:
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use kolk::watcher::{Request, Watcher};
//! # let (near, _far) = std::os::unix::net::UnixStream::pair()?;
//! # let mut watcher = Watcher::new()?;
//! # let conn = watcher.adopt(near)?;
//! watcher.submit(Request::read_pooled(conn, ()).timeout(Duration::from_secs(5)))?;
//! let at = Instant::now() + Duration::from_secs(10);
//! let id = watcher.submit(Request::write(conn, (), "hello").deadline(at))?;
//! watcher.cancel(id);
//! # Ok::<(), kolk::Error>(())
//! ```
//!
//! The end of the peer's stream is `Ok(0)`, each time that it is asked for; our direction stays usable until
//! [`shutdown_write`](Watcher::shutdown_write).
//!
//! # Which thread
//!
//! All methods of [`Watcher`] belong to its thread, the one that waits first; they submit directly. Those of
//! [`Submitter`], [`ConnOwner`] and [`Completion`] work on any thread. A watcher that was moved to a second
//! thread after its first wait answers there with an error.
//!
//! # Back-pressure
//!
//! Nothing is read that was not asked for: with no read submitted the receive buffer of the kernel fills, and
//! the peer's window closes. The program reads on when it has room. In the other direction a write completes
//! when the kernel has all of it, so a program that keeps one write pending for each connection never queues
//! more than that; [`is_writing`](Watcher::is_writing) tells whether one is. [`relay`](Watcher::relay) does both between two connections.
//!
//! # What it costs
//!
//! A connection that waits with a pooled read costs less than 320 bytes, beside what the kernel keeps for it.
//! Once a program has reached its size, a message costs no allocation: what is read pooled and sent on as the
//! [`Lease`] that it came in, or what is read into a buffer that the write before gave back
//! ([`recycle`](Buffer::recycle)).
//!
//! # Several watchers
//!
//! One watcher uses one CPU. For more, run one on each of several threads, number them
//! ([`Builder::number`]), keep each on its CPU ([`affinity`](Watcher::affinity)), and spread connections as you
//! like: adopt each on the submitter that you choose, in turn, by load or by hash; or give each watcher its
//! own `SO_REUSEPORT` listener to accept on. A connection stays with its watcher; a name that comes to another
//! one is refused.
//!
//! [`ConnId`]: crate::ConnId
//! [`Lease`]: crate::Lease

mod adopt;
mod buffer;
mod builder;
mod completion;
mod conn;
mod input;
mod limits;
mod output;
mod pending;
mod proactor;
mod relay;
mod request;
mod sockets;
mod stats;
mod submit;
mod submitter;
mod timers;
mod verbs;

pub use adopt::{Detached, IntoSocket};
pub use buffer::Buffer;
pub use builder::Builder;
pub use completion::{Completion, Completions, Operation, OperationId};
pub use proactor::Watcher;
pub use request::Request;
pub use stats::Stats;
pub use submitter::{ConnOwner, Submitter};
