//! What other threads tell a loop.

use std::sync::Arc;

use bytes::Bytes;
use kolk_engine::buffer::Chunk;
use kolk_engine::token::Key;

use super::conn::Conn;
use super::groups::Group;
use super::offload::Offloaded;
use crate::error::Result;

/// One message of a loop's mailbox. `S` is the session of a connection, `M` what the program sends to one.
pub(super) enum Command<S, M> {
    /// To a connection, if it is still there.
    Write(Key, Chunk),
    WriteThen(Key, Chunk, Notice),
    Close(Key),
    CloseNow(Key),
    Message(Key, M),
    Run(Key, Task<S>),
    /// The result of a job that a connection gave to the pool.
    Offloaded(Offloaded),
    /// To many.
    Each(Arc<EachTask<S>>),
    Broadcast(Audience, Bytes),
    /// Stop gracefully.
    Stop,
    /// Stop without waiting for anybody.
    StopNow,
}

/// What runs on a connection's loop, with its session.
pub(super) type Task<S> = Box<dyn FnOnce(&mut S, &mut Conn<'_>) + Send>;

/// What runs for each connection of a loop.
pub(super) type EachTask<S> = dyn Fn(&mut S, &mut Conn<'_>) + Send + Sync;

/// Hears what became of a write: the bytes are with the kernel, or will never be.
pub(super) type Notice = Box<dyn FnOnce(Result<()>) + Send>;

/// Who receives a broadcast.
#[derive(Clone, Debug)]
pub(super) enum Audience {
    All,
    Group(Group),
}
