//! Connections that exchange one message each and then do nothing.

use std::io;
use std::time::Duration;

use kolk_engine::buffer::Chunk;
use kolk_engine::clock::Timestamp;
use kolk_engine::driver::DriverKind;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Event, EventLoop};

use super::dial::Dialer;
use super::link::Links;
use super::pattern::Pattern;
use super::tally::{Errors, Loss};
use super::target::Target;
use crate::driver::DriverArg;
use crate::failure::Failure;

/// Bytes of the one message.
const SIZE: usize = 64;

/// An event loop on the calling thread and its idle connections.
#[derive(Debug)]
pub(crate) struct Crowd {
    events: EventLoop<()>,
    dialer: Dialer,
    links: Links,
    pattern: Pattern,
    /// Connections whose message came back, or that were lost before.
    settled: u64,
    mismatched_bytes: u64,
    errors: Errors,
}

impl Crowd {
    /// Nobody yet.
    ///
    /// # Errors
    ///
    /// The driver cannot be opened.
    pub(crate) fn new(target: &Target, driver: DriverArg) -> Result<Self, Failure> {
        let events = super::open_event_loop(driver, SIZE)?;
        Ok(Self {
            events,
            dialer: Dialer::new(target.clone()),
            links: Links::default(),
            pattern: Pattern::new(SIZE),
            settled: 0,
            mismatched_bytes: 0,
            errors: Errors::default(),
        })
    }

    /// Kernel interface of the loop.
    pub(crate) fn driver(&self) -> DriverKind {
        self.events.driver_kind()
    }

    /// Connections that are open.
    pub(crate) fn alive(&self) -> u64 {
        self.links.len() as u64 - self.lost()
    }

    /// Connections that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.errors.lost_connections()
    }

    /// What went wrong so far.
    pub(crate) fn errors(&self) -> &Errors {
        &self.errors
    }

    /// Bytes that came back wrong.
    pub(crate) fn mismatched_bytes(&self) -> u64 {
        self.mismatched_bytes
    }

    /// Opens connections until there are `count`, and waits until each had its answer or was lost.
    ///
    /// # Errors
    ///
    /// The server cannot be connected to, or gives no answer.
    pub(crate) fn grow_to(&mut self, count: u32, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        self.dialer.add(count - self.links.len() as u32, self.events.now());
        while !self.dialer.is_done() {
            self.turn(self.events.now() + super::POLL)?;
            progress(self.settled);
        }
        Ok(())
    }

    /// Serves the connections for a while.
    ///
    /// # Errors
    ///
    /// The event loop broke.
    pub(crate) fn run_for(&mut self, duration: Duration) -> Result<(), Failure> {
        let end = self.events.now() + duration;
        while self.events.now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    fn turn(&mut self, deadline: Timestamp) -> Result<(), Failure> {
        self.dialer.dial(&mut self.events)?;
        let deadline = self.dialer.deadline().map_or(deadline, |resume| resume.min(deadline));
        self.events.turn(Some(deadline)).map_err(|error| self.broken(&error))?;
        while let Some(event) = self.events.next_event() {
            self.dispatch(event)?;
        }
        Ok(())
    }

    fn broken(&self, error: &io::Error) -> Failure {
        Failure::runtime(format!("the load's event loop on {} failed: {error}", self.driver()))
    }

    fn dispatch(&mut self, event: Event<()>) -> Result<(), Failure> {
        match event {
            Event::Received(conn, Ok(bytes)) if !bytes.is_empty() => self.received(conn, &bytes),
            Event::Received(conn, Ok(_)) | Event::Closed(conn) => self.lose(conn, Loss::Closed),
            Event::Received(conn, Err(error)) | Event::SendFailed(conn, error) => {
                self.lose(conn, Loss::Failed(error));
            }
            Event::Connected(conn, result) => self.connected(conn, result)?,
            // This program asks for nothing else.
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<()>) -> Result<(), Failure> {
        if self.dialer.connected(&mut self.events, conn, result)? {
            self.greet(conn);
        }
        Ok(())
    }

    fn greet(&mut self, conn: ConnId) {
        let place = self.links.add(conn, self.links.len() as u64);
        let message = self.links[place].send(self.pattern, SIZE, 1);
        // A connection that cannot be written to says why with its own event.
        let _ = self.events.write(conn, Chunk::Static(message));
    }

    /// A new connection had its answer, or will have none.
    fn settle(&mut self) {
        self.settled += 1;
        self.dialer.settled(self.events.now());
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(place) = self.links.find(conn) else {
            return;
        };
        let arrival = self.links[place].arrived(self.pattern, SIZE, bytes);
        self.mismatched_bytes += arrival.mismatched;
        if arrival.completed > 0 {
            self.settle();
        }
        if arrival.surplus > 0 {
            self.lose(conn, Loss::Unexpected(arrival.surplus));
        } else if arrival.mismatched > 0 {
            self.errors
                .remember(|| format!("connection {place}: {} bytes came back wrong", arrival.mismatched));
        }
    }

    fn lose(&mut self, conn: ConnId, loss: Loss) {
        let Some(place) = self.links.find(conn) else {
            return;
        };
        let link = &mut self.links[place];
        link.alive = false;
        if link.returned() == 0 {
            self.settle();
        }
        self.events.close(conn, Close::Discard);
        self.errors.lost(place as u64, loss);
    }
}
