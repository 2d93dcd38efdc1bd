//! A server whose loops run.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use kolk_engine::driver::DriverKind;
use signal_hook::iterator::Handle as SignalHandle;

use super::handle::ServerHandle;
use super::handler::Handler;
use super::stats::Stats;
use crate::error::{Error, Result};
use crate::listener::UnixPath;

/// A server whose loops run. Any thread may use it.
///
/// Dropping it stops the server at once and waits for its threads.
///
/// # Examples
///
/// ```
/// # use kolk::server::{Action, Conn, Handler, Input, Server};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Session = ();
/// #     fn on_open(&mut self, _: &mut Conn<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
/// #         conn.write(input.take());
/// #         Action::Continue
/// #     }
/// # }
/// use std::io::{Read, Write};
///
/// let server = Server::builder().listen("tcp://127.0.0.1:0").event_loops(1).start(|_loop| Echo)?;
/// let address = server.addresses()[0].trim_start_matches("tcp://").to_owned();
///
/// let mut client = std::net::TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// let mut answer = [0; 5];
/// client.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
///
/// server.stop();
/// server.wait()?;
/// # Ok::<(), kolk::Error>(())
/// ```
pub struct RunningServer<H: Handler<M>, M = ()> {
    pub(super) addresses: Vec<String>,
    pub(super) driver: DriverKind,
    pub(super) driver_reason: String,
    pub(super) handle: ServerHandle<H, M>,
    /// Of the loops, then of the acceptors.
    pub(super) threads: Vec<Option<JoinHandle<io::Result<()>>>>,
    pub(super) signals: Option<SignalHandle>,
    /// Removed from the file system when the server has stopped.
    pub(super) unix_paths: Vec<UnixPath>,
}

impl<H: Handler<M>, M> RunningServer<H, M> {
    /// Every address that the server listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The kernel interface that the loops stand on.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Why it is that one, in a sentence for a log.
    pub fn driver_reason(&self) -> &str {
        &self.driver_reason
    }

    /// Reaches the connections; clones of it may go to any thread.
    pub fn handle(&self) -> &ServerHandle<H, M> {
        &self.handle
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// As [`ServerHandle::stop`]; [`wait`](Self::wait) says when it is done.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// As [`ServerHandle::stop_now`]; [`wait`](Self::wait) says when it is done.
    pub fn stop_now(&self) {
        self.handle.stop_now();
    }

    /// Waits until the server has stopped and every socket is closed.
    ///
    /// # Errors
    ///
    /// A loop that could not go on. The other loops were stopped then.
    pub fn wait(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        let loops = self.handle.event_loops();
        let name = |number: usize| match number.checked_sub(loops) {
            None => format!("event loop {number}"),
            Some(number) => format!("acceptor {number}"),
        };
        for (number, thread) in self.threads.iter_mut().enumerate() {
            let Some(thread) = thread.take() else { continue };
            let ended = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Error::io(format!("{} stopped", name(number)), error, ""),
                Err(_) => Error::internal(format!("{} stopped: it panicked", name(number))),
            };
            outcome = outcome.and(Err(ended));
        }
        if let Some(signals) = self.signals.take() {
            signals.close();
        }
        let handed_over = self.handle.common.handed_over.load(Ordering::Acquire);
        for path in self.unix_paths.drain(..) {
            if handed_over {
                path.keep();
            }
        }
        outcome
    }
}

impl<H: Handler<M>, M> Drop for RunningServer<H, M> {
    fn drop(&mut self) {
        self.stop_now();
        let _ = self.join();
    }
}

impl<H: Handler<M>, M> fmt::Debug for RunningServer<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer")
            .field("addresses", &self.addresses)
            .field("driver", &self.driver)
            .field("event_loops", &self.handle.event_loops())
            .finish_non_exhaustive()
    }
}
