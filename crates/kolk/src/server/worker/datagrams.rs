//! Datagrams arrive and leave.

use std::io;
use std::time::Duration;

use kolk_engine::Close;
use kolk_engine::DatagramSend;
use kolk_engine::buffer::{Chunk, DatagramQueue};
use kolk_engine::driver::Socket;
use kolk_engine::op::{InDatagram, is_cancelled};
use kolk_engine::socket::{self, Address};
use kolk_engine::token::{ConnId, Key};

use super::{Running, Worker};
use crate::listener::Bound;
use crate::server::datagrams::{Datagram, DatagramSocket, DatagramState};
use crate::server::handler::Handler;
use crate::server::limits::{RECEIVE_BACKOFF_MAX, RECEIVE_BACKOFF_MIN};
use crate::server::timers::Due;

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    /// Takes over a datagram socket; nothing is received yet.
    pub(super) fn attach_datagrams(&mut self, bound: Bound) -> io::Result<()> {
        let Bound { socket, address, segments, .. } = bound;
        let joins = segments && lets_the_kernel_join(&socket);
        let id = self.event_loop.attach(socket)?;
        self.home.datagrams.push(DatagramState::new(id, address, joins));
        Ok(())
    }

    pub(super) fn receive_datagrams(&mut self) -> io::Result<()> {
        for each in &self.home.datagrams {
            self.event_loop.receive_from(each.id, u32::MAX)?;
        }
        Ok(())
    }

    /// A datagram, or several of one sender that the kernel has joined.
    pub(super) fn on_datagram(&mut self, id: ConnId, result: io::Result<InDatagram>) {
        let Some(index) = self.datagram_index(id.key()) else { return };
        match result {
            Ok(InDatagram { from, bytes, segment_size, truncated }) if segment_size >= bytes.len() => {
                self.home.datagrams[index].failures = 0;
                self.call_on_datagram(index, Datagram { from, bytes, truncated });
            }
            Ok(InDatagram { from, mut bytes, segment_size, truncated }) => {
                self.home.datagrams[index].failures = 0;
                while !bytes.is_empty() {
                    let one = bytes.split_to(segment_size.min(bytes.len()));
                    // Only the last can have lost its end.
                    let truncated = truncated && bytes.is_empty();
                    self.call_on_datagram(index, Datagram { from: from.clone(), bytes: one, truncated });
                }
            }
            // The server is stopping.
            Err(error) if is_cancelled(&error) => {}
            Err(_) => self.receive_failed(index),
        }
    }

    fn call_on_datagram(&mut self, index: usize, datagram: Datagram) {
        self.home.stats.datagrams_received += 1;
        self.home.stats.bytes_received += datagram.bytes.len() as u64;
        self.running = Running::Loop;
        let mut socket = DatagramSocket { event_loop: &mut self.event_loop, home: &mut self.home, index };
        self.handler.on_datagram(&mut socket, datagram);
        self.running = Running::Nothing;
    }

    /// An error is what became of an earlier datagram, or a lack of memory: the next receive may do better at
    /// once, and the ones after it have to wait longer and longer.
    fn receive_failed(&mut self, index: usize) {
        let state = &mut self.home.datagrams[index];
        self.home.stats.datagram_errors += 1;
        state.failures += 1;
        let id = state.id;
        match state.failures {
            1 => self.receive_again(id.key()),
            failures => {
                let due = self.event_loop.now() + receive_pause(failures);
                self.event_loop.set_timer(due, Due::Receive(id.key()).pack());
            }
        }
    }

    pub(super) fn receive_again(&mut self, key: Key) {
        if !self.home.stopping {
            let id = self.conn_id(key);
            // A name that is stale receives nothing any more.
            let _ = self.event_loop.receive_from(id, u32::MAX);
        }
    }

    /// Another thread sends.
    pub(super) fn send_datagram(&mut self, key: Key, to: &Address, payload: Chunk) {
        match self.datagram_index(key) {
            Some(index) => {
                let mut socket =
                    DatagramSocket { event_loop: &mut self.event_loop, home: &mut self.home, index };
                // What is refused is counted.
                let _ = socket.send_to(to, payload);
            }
            None => self.home.stats.datagrams_dropped += 1,
        }
    }

    /// All datagrams of the turn leave, many with one system call.
    pub(super) fn flush_datagrams(&mut self) {
        for index in 0..self.home.datagrams.len() {
            let state = &mut self.home.datagrams[index];
            if state.filling.is_empty() {
                continue;
            }
            let Some(empty) = state.idle.take() else { continue };
            let full = std::mem::replace(&mut state.filling, empty);
            match self.event_loop.send_datagrams(state.id, full) {
                DatagramSend::Done(queue) => self.on_sent_datagrams(index, queue),
                DatagramSend::Pending => {}
                // The socket is gone, or the program's own send is under way.
                DatagramSend::Busy(queue) => self.on_sent_datagrams(index, queue),
            }
        }
    }

    pub(super) fn on_datagrams_sent(&mut self, id: ConnId, queue: Box<DatagramQueue>) {
        if let Some(index) = self.datagram_index(id.key()) {
            self.on_sent_datagrams(index, queue);
        }
    }

    /// The queue comes back; what it still has is lost.
    fn on_sent_datagrams(&mut self, index: usize, mut queue: Box<DatagramQueue>) {
        let report = queue.take_report();
        self.home.stats.datagrams_sent += report.sent;
        self.home.stats.datagrams_dropped += report.failed + queue.len() as u64;
        queue.clear();
        self.home.datagrams[index].idle = Some(queue);
    }

    fn datagram_index(&self, key: Key) -> Option<usize> {
        self.home.datagrams.iter().position(|each| each.id.key() == key)
    }

    // ---- the end --------------------------------------------------------------------------------

    /// Nothing is received any more: a successor that has the socket shall have what arrives. What handlers
    /// still send leaves.
    pub(super) fn stop_receiving_datagrams(&mut self) {
        for each in &self.home.datagrams {
            // A name that is stale receives nothing anyway.
            let _ = self.event_loop.cancel_receive(each.id);
        }
    }

    /// Closes those of a stopping server that have nothing to send, once no connection is left.
    pub(super) fn close_idle_datagrams(&mut self) {
        if self.sessions.is_empty() {
            for each in self.home.datagrams.iter().filter(|each| each.is_idle()) {
                self.event_loop.close(each.id, Close::Discard);
            }
        }
    }

    pub(super) fn close_datagrams(&mut self) {
        self.flush_datagrams();
        for each in &self.home.datagrams {
            self.event_loop.close(each.id, Close::Discard);
        }
    }
}

/// Asks the kernel to join what is received, where it can; answers whether it can cut apart what is sent.
fn lets_the_kernel_join(socket: &Socket) -> bool {
    let Some(fd) = socket.as_fd() else { return false };
    // A kernel that does not know it brings datagrams one by one.
    let _ = socket::join_received(fd, true);
    socket::knows_segmentation(fd)
}

fn receive_pause(failures: u32) -> Duration {
    RECEIVE_BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(RECEIVE_BACKOFF_MAX)
}
