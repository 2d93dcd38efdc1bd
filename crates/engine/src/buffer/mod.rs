//! Where bytes live between the kernel and the program.
//!
//! ```text
//!            receive                                             send
//!  kernel ──► block of the Pool ──► Lease ──► handler ──► Chunk in an OutQueue ──► kernel
//!                  ▲                  │ dropped                     │ sent
//!                  └──────────────────┴─────────────────────────────┘
//!                                     │ not consumed
//!                                     └──► LinkedBuffer (the only copy)
//! ```
//!
//! # Tear-down, written once
//!
//! Memory that the kernel may touch has one owner until the operation's *own* final completion. A
//! cancelled operation, a dropped handle or a closed connection does not change that.
//!
//! 1. A receive into the loop's buffers owns nothing: the kernel picks a block of the [`Pool`], which
//!    lives as long as the driver and as the last [`Lease`].
//! 2. A receive into an owned buffer and a send move their memory into the driver's row of the slot.
//!    The final completion moves it out again, whatever its result.
//! 3. Closing a slot cancels what is in flight, waits for each final completion, and only then closes
//!    the descriptor and gives the slot back. So neither the memory nor the descriptor's number can
//!    be used again under a running operation.
//! 4. Dropping a driver cancels everything and waits, bounded, until nothing is in flight; the kernel's
//!    ring goes first, the buffers after it. If something is still in flight then, the memory is
//!    leaked on purpose: a leak is repaired by a restart, a freed buffer that the kernel writes to is
//!    not.

mod arena;
mod chunk;
mod datagram_queue;
mod lease;
mod linked;
mod out_queue;
mod pieces;
mod pool;

pub use arena::Arena;
pub use chunk::{Chunk, FileRange};
pub use datagram_queue::{DatagramQueue, DatagramReport};
pub use lease::Lease;
pub use linked::LinkedBuffer;
pub use out_queue::{Fill, OutQueue};
pub use pool::{Block, Parts, Pool};
