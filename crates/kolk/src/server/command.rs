//! What other threads tell a loop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender as Reply;

use bytes::Bytes;
use kolk_engine::buffer::Chunk;
use kolk_engine::driver::Socket;
use kolk_engine::socket::Address;
use kolk_engine::token::Key;

use super::conn::Conn;
use super::connect::Connect;
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
    /// To the loop: an acceptor has accepted this at the address of this index.
    Adopt(Socket, u16),
    /// The program brings this under a name that was reserved for it, with a tag.
    Enroll(Key, Socket, u64),
    Connect(Key, Box<Connect>),
    /// From a datagram socket.
    SendDatagram(Key, Address, Chunk),
    /// Duplicate what is listened on, for a successor.
    Share(Reply<io::Result<Vec<OwnedFd>>>),
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
