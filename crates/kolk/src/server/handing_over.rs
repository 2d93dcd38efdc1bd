//! How a server gives its listeners to its successor.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::acceptor::AcceptorCommand;
use super::command::Command;
use super::handle::ServerHandle;
use super::handler::Handler;
use super::limits::ANSWER_TIMEOUT;
use crate::error::{Error, Result};
use crate::inherit;

impl<H: Handler<M>, M> ServerHandle<H, M> {
    /// Sends every listener and datagram socket to a successor, which has them from
    /// [`inherit::receive`](crate::inherit::receive). From then on both servers have them, until this one
    /// [stops](Self::stop). Who waits to be accepted loses nothing: the queue is the kernel's, and goes on with
    /// the successor. The paths of Unix sockets stay when this server has stopped.
    ///
    /// A restart that refuses nobody and loses no answer: send the listeners; wait until the successor says that it
    /// serves; stop, with a [`drain_timeout`](super::Builder::drain_timeout) in which handlers tell their peers
    /// to come again. The example `graceful` does this.
    ///
    /// Blocks until everything is sent; any thread may call it but those of the loops.
    ///
    /// # Errors
    ///
    /// The peer has gone; a loop does not answer within 10 s; too few descriptors for the duplicates.
    /// [`is_server_stopped`](Error::is_server_stopped) once the server is stopping.
    pub fn hand_over(&self, to: &UnixStream) -> Result<()> {
        let sockets = self.shared_sockets()?;
        if sockets.is_empty() {
            return Err(Error::server_stopped());
        }
        inherit::send(to, &sockets)?;
        self.common.handed_over.store(true, Ordering::Release);
        Ok(())
    }

    fn shared_sockets(&self) -> Result<Vec<OwnedFd>> {
        let (reply, replies) = mpsc::channel::<io::Result<Vec<OwnedFd>>>();
        let stopped = |_| Error::server_stopped();
        for number in 0..self.event_loops() {
            self.loop_end(number).send(Command::Share(reply.clone()))?;
        }
        for end in &self.common.acceptors {
            end.mailbox.send(AcceptorCommand::Share(reply.clone())).map_err(|_| stopped(()))?;
        }
        let mut sockets = Vec::new();
        for _ in 0..self.event_loops() + self.common.acceptors.len() {
            let shared = replies.recv_timeout(ANSWER_TIMEOUT).map_err(|_| {
                let message = "an event loop does not answer, so its listeners cannot be handed over";
                Error::of_kind(io::ErrorKind::TimedOut, message.into())
            })?;
            sockets.extend(shared.map_err(|error| Error::io("cannot duplicate a listener", error, ""))?);
        }
        Ok(sockets)
    }
}
