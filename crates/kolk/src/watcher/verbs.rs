//! The verbs in short form, the same on the watcher and on its submitters.

use std::time::Duration;

use bytes::BytesMut;
use kolk_engine::op::Interest;
use kolk_engine::socket::Address;
use kolk_engine::token::ConnId;

use super::buffer::Buffer;
use super::completion::OperationId;
use super::request::Request;
use super::{Submitter, Watcher};
use crate::error::Result;

macro_rules! verbs {
    ($on:ident, $self:ident, ($($receiver:tt)+)) => {
        /// Verbs. Each is short for [`submit`](Self::submit) of the [`Request`] of the same name, fails as that
        /// does, and completes as [`Completion`](super::Completion) says.
        impl<C> $on<C> {
            /// One receive into the spare capacity of `buffer`: 1 byte or more, or 0 at the end of the stream.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn read($($receiver)+, conn: ConnId, context: C, buffer: BytesMut) -> Result<()> {
                $self.begin_read(conn, context, buffer)
            }

            /// One receive into the loop's own memory; no buffer is bound while it waits.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn read_pooled($($receiver)+, conn: ConnId, context: C) -> Result<()> {
                $self.begin_read_pooled(conn, context)
            }

            /// Receives until the spare capacity of `buffer` is full.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn read_exact($($receiver)+, conn: ConnId, context: C, buffer: BytesMut) -> Result<()> {
                $self.submit(Request::read_exact(conn, context, buffer)).map(drop)
            }

            /// Receives until `delimiter` (1 to 7 bytes) has come, at most `limit` bytes with it. What came
            /// behind it is kept for the next read.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn read_until(
                $($receiver)+,
                conn: ConnId,
                context: C,
                delimiter: impl AsRef<[u8]>,
                limit: usize,
            ) -> Result<()> {
                $self.submit(Request::read_until(conn, context, delimiter, limit)).map(drop)
            }

            /// Sends all of `buffer`. What is written before the next wait leaves in one system call.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn write($($receiver)+, conn: ConnId, context: C, buffer: impl Into<Buffer>) -> Result<()> {
                $self.begin_write(conn, context, buffer.into())
            }

            /// Sends all of several buffers as one operation.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn write_vectored($($receiver)+, conn: ConnId, context: C, buffers: Vec<Buffer>) -> Result<()> {
                $self.submit(Request::write_vectored(conn, context, buffers)).map(drop)
            }

            /// Receives one datagram; queue several to receive several in one wait.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn recv_from($($receiver)+, conn: ConnId, context: C) -> Result<()> {
                $self.submit(Request::recv_from(conn, context)).map(drop)
            }

            /// Sends one datagram.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn send_to(
                $($receiver)+,
                conn: ConnId,
                context: C,
                buffer: impl Into<Buffer>,
                to: impl Into<Address>,
            ) -> Result<()> {
                $self.submit(Request::send_to(conn, context, buffer, to)).map(drop)
            }

            /// Connects a stream, and answers its name at once; other operations wait for the connection. One
            /// that fails is freed.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn connect($($receiver)+, address: impl Into<Address>, context: C) -> Result<ConnId> {
                $self.submit(Request::connect(address, context)).map(OperationId::conn)
            }

            /// Completes once, when `after` has passed.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn timer($($receiver)+, after: Duration, context: C) -> Result<OperationId> {
                $self.submit(Request::timer(after, context))
            }

            /// Copies both ways between two connections until both their streams have ended.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn relay($($receiver)+, a: ConnId, b: ConnId, context: C) -> Result<OperationId> {
                $self.submit(Request::relay(a, b, context))
            }
        }

        /// Verbs that complete many times, each time with a clone of the context.
        impl<C: Clone> $on<C> {
            /// Accepts connections until that is cancelled or the listener is freed, one completion each.
            /// `TCP_NODELAY` is set on them, unless the builder says otherwise.
            ///
            /// After a cancel, connections wait in the listener's backlog until the next accept: free the listener
            /// to refuse them.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn accept($($receiver)+, listener: ConnId, context: C) -> Result<()> {
                $self.submit(Request::accept(listener, context)).map(drop)
            }

            /// Reports each time that a descriptor becomes ready, until that is cancelled or it is freed. Ready means
            /// that it became so, not that it still is: use it until it would block.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn watch($($receiver)+, conn: ConnId, context: C, interest: Interest) -> Result<()> {
                $self.submit(Request::watch(conn, context, interest)).map(drop)
            }

            /// Completes each time that `every` has passed, until it is cancelled.
            ///
            /// # Errors
            ///
            /// As [`submit`](Self::submit).
            pub fn interval($($receiver)+, every: Duration, context: C) -> Result<OperationId> {
                $self.submit(Request::interval(every, context))
            }
        }
    };
}

verbs!(Watcher, self, (&mut self));
verbs!(Submitter, self, (&self));

impl<C> Watcher<C> {
    /// Ends our direction of a stream after the writes that are queued; the other stays usable. Where a write was
    /// cut in the middle it has no effect: the peer is not to take half a message for the whole.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn shutdown_write(&mut self, conn: ConnId) -> Result<()> {
        self.submit(Request::shutdown_write(conn)).map(drop)
    }
}
