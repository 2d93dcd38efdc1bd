//! Sockets: how they come, what is asked of them, how they go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::core::Core;
use super::slot::{Phase, Role, Slot, TimerTask};
use super::{Close, Event};
use crate::buffer::DatagramQueue;
use crate::driver::{Driver, Socket};
use crate::op::{self, Completion, Direction, Interest, Op, OutDatagram, Outcome, Submitted};
use crate::slab::SlotNumbers;
use crate::socket::{Address, SocketOptions};
use crate::token::{ConnId, Key};

/// What became of the queue that [`Core::send_datagrams`] was given.
#[derive(Debug)]
#[must_use]
pub enum DatagramSend {
    /// All of it was sent, or refused by the kernel: its report says.
    Done(Box<DatagramQueue>),
    /// It goes on, and comes back with an event.
    Pending,
    /// The name is stale, or another send is in flight: nothing of it was sent.
    Busy(Box<DatagramQueue>),
}

impl Core {
    /// The slot numbers of this loop, from which any thread may reserve one for a socket to come.
    pub fn slot_numbers(&self) -> &Arc<SlotNumbers> {
        &self.numbers
    }

    /// Takes over a socket under a fresh name.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` when all slots are taken; what [`Driver::attach`](crate::driver::Driver::attach) says. The socket is closed then.
    pub fn attach(&mut self, socket: Socket) -> io::Result<ConnId> {
        let key = self.reserve()?;
        self.attach_reserved(key, socket)
    }

    /// Takes over a socket under a name that was reserved for it.
    ///
    /// # Errors
    ///
    /// What [`Driver::attach`](crate::driver::Driver::attach) says. The socket is closed and the name given back then.
    pub fn attach_reserved(&mut self, key: Key, socket: Socket) -> io::Result<ConnId> {
        match self.driver.attach(key, socket) {
            Ok(()) => {
                self.slots.insert(key, Slot::default());
                Ok(ConnId::new(self.loop_number, key))
            }
            Err(error) => {
                self.numbers.release(key);
                Err(error)
            }
        }
    }

    /// Gives a socket back that has nothing in flight and nothing to send; its name is stale then.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` while an operation is in flight or output waits.
    pub fn detach(&mut self, conn: ConnId) -> io::Result<Socket> {
        let slot = self.open_slot(conn)?;
        // What the driver has completed and nobody has seen yet is in flight as well.
        if slot.is_receiving() || slot.connecting || slot.has_output() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let key = conn.key();
        let socket = self.driver.detach(key).ok_or(io::ErrorKind::ResourceBusy)?;
        self.forget(key);
        Ok(socket)
    }

    /// The socket behind a name, to ask it for addresses or to set options; `None` if the name is stale.
    pub fn socket(&self, conn: ConnId) -> Option<&Socket> {
        self.driver.socket(conn.key())
    }

    /// Streams that are open, in the order of their slots; also those that are connecting. Visits every slot.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        let open = |slot: &Slot| slot.role == Role::Stream && slot.phase == Phase::Open;
        let open = self.slots.iter().filter(move |(_, slot)| open(slot));
        open.map(|(key, _)| ConnId::new(self.loop_number, key))
    }

    /// Accepts connections on a listener until that is cancelled. A lack of resources pauses it, longer each
    /// time, and it goes on by itself.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` if it accepts already.
    pub fn accept(&mut self, listener: ConnId) -> io::Result<()> {
        self.take_role(listener, Role::Listener)?;
        self.start_accepting(listener.key());
        Ok(())
    }

    /// Accepts nobody for `pause`, and then goes on by itself. Connections wait in the listener's backlog meanwhile;
    /// those that the kernel has accepted already still come.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `InvalidInput` for what is no listener.
    pub fn pause_accept(&mut self, listener: ConnId, pause: Duration) -> io::Result<()> {
        let again = self.now + pause;
        let slot = self.open_slot(listener)?;
        if slot.role != Role::Listener {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(timer) = slot.timer {
            self.timers.reschedule(timer, again);
            return Ok(());
        }
        let timer = self.timers.insert(again, TimerTask::AcceptAgain(listener.key()));
        self.open_slot(listener)?.timer = Some(timer);
        self.driver.cancel(listener.key(), Direction::Auxiliary);
        Ok(())
    }

    /// Ends what [`accept`](Self::accept) began: connections wait in the listener's backlog from then on. Those that the
    /// kernel has accepted already still come; [`Event::AcceptEnded`] is the last, and then it can accept again.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `InvalidInput` for what does not accept, or is to end already.
    pub fn cancel_accept(&mut self, listener: ConnId) -> io::Result<()> {
        let slot = self.open_slot(listener)?;
        if slot.role != Role::Listener {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        slot.role = Role::Leaving;
        let (pause, accepts) = (slot.timer.take(), slot.connecting);
        if let Some(pause) = pause {
            self.timers.cancel(pause);
        }
        if accepts {
            self.driver.cancel(listener.key(), Direction::Auxiliary);
        } else {
            let ended = self.end_accepting(listener);
            self.events.extend(ended);
        }
        Ok(())
    }

    /// Nothing of the accept is in the kernel any more.
    pub(super) fn end_accepting<M>(&mut self, listener: ConnId) -> Option<Event<M>> {
        self.slots.get_mut(listener.key())?.role = Role::default();
        Some(Event::AcceptEnded(listener))
    }

    /// Accepts, unless it does or is to wait.
    pub(super) fn start_accepting(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.phase == Phase::Open && slot.timer.is_none() && !slot.connecting {
            slot.connecting = true;
            self.start(key, Op::Accept);
        }
    }

    /// Makes a stream socket and connects it; [`Event::Connected`] tells what came of it. Writes and
    /// a receive may be asked for at once: they wait for the connection.
    ///
    /// # Errors
    ///
    /// What socket(2) says; `OutOfMemory` when all slots are taken; `InvalidInput` for an address that
    /// cannot be connected to.
    pub fn connect(&mut self, address: &Address) -> io::Result<ConnId> {
        let key = self.reserve()?;
        self.connect_reserved(key, address)
    }

    /// [`connect`](Self::connect) under a name that was reserved for it, with options and from the local
    /// address `from`, if one is given.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), what bind(2) says, and for an option that the kernel refuses its name. The
    /// name is given back then.
    pub fn connect_with(
        &mut self,
        key: Key,
        address: &Address,
        from: Option<&Address>,
        options: &SocketOptions,
    ) -> io::Result<ConnId> {
        let open = |driver: &Driver| -> io::Result<Socket> {
            let socket = driver.open_stream(address)?;
            socket.prepare_connect(from, options)?;
            Ok(socket)
        };
        let socket = open(&self.driver).inspect_err(|_| {
            self.numbers.release(key);
        })?;
        self.connect_socket(key, socket, address)
    }

    /// [`connect`](Self::connect) under a name that was reserved for it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). The name is given back then.
    pub fn connect_reserved(&mut self, key: Key, address: &Address) -> io::Result<ConnId> {
        let socket = self.driver.open_stream(address).inspect_err(|_| {
            self.numbers.release(key);
        })?;
        self.connect_socket(key, socket, address)
    }

    fn connect_socket(&mut self, key: Key, socket: Socket, address: &Address) -> io::Result<ConnId> {
        let conn = self.attach_reserved(key, socket)?;
        let slot = self.open_slot(conn)?;
        slot.connecting = true;
        self.start(conn.key(), Op::Connect(address.clone()));
        Ok(conn)
    }

    /// Receives into the loop's buffers until the stream ends; many [`Event::Received`].
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name or a stream whose input has ended; `ResourceBusy` while
    /// another receive is in flight.
    pub fn receive(&mut self, conn: ConnId) -> io::Result<()> {
        self.start_receive(conn, Op::Receive, u32::MAX)
    }

    /// Receives once into the loop's buffers; one [`Event::Received`].
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    #[inline]
    pub fn receive_once(&mut self, conn: ConnId) -> io::Result<()> {
        self.start_receive(conn, Op::ReceiveOnce, 1)
    }

    /// Receives once into the spare capacity of `buffer`; one [`Event::ReceivedInto`].
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); `InvalidInput` for a buffer without spare capacity.
    pub fn receive_into(&mut self, conn: ConnId, buffer: BytesMut) -> io::Result<()> {
        if buffer.capacity() == buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the buffer has no spare capacity"));
        }
        self.start_receive(conn, Op::ReceiveInto(buffer), 1)
    }

    /// Receives `count` datagrams, or as many as come until it is cancelled (`u32::MAX`); an
    /// [`Event::Datagram`] for each.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); `InvalidInput` for a count of zero.
    pub fn receive_from(&mut self, conn: ConnId, count: u32) -> io::Result<()> {
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a receive of no datagram"));
        }
        self.open_slot(conn)?.role = Role::Datagram;
        self.start_receive(conn, Op::ReceiveFrom(count), count)
    }

    /// Ends the receive in flight; its last event carries the error for which
    /// [`is_cancelled`](crate::op::is_cancelled) is true.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name.
    pub fn cancel_receive(&mut self, conn: ConnId) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        match slot.waiting_receive.take() {
            None => self.driver.cancel(conn.key(), Direction::Receive),
            Some(receive) => {
                slot.receives_left = 0;
                self.events.push_back(match *receive {
                    Op::ReceiveInto(buffer) => Event::ReceivedInto(conn, buffer, Err(op::cancelled())),
                    _ => Event::Received(conn, Err(op::cancelled())),
                });
            }
        }
        Ok(())
    }

    /// Sends one datagram; one [`Event::SentTo`].
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` while another send is in flight.
    pub fn send_to(&mut self, conn: ConnId, datagram: Box<OutDatagram>) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        slot.role = Role::Datagram;
        if std::mem::replace(&mut slot.sending, true) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.start(conn.key(), Op::SendTo(datagram));
        Ok(())
    }

    /// Sends all datagrams of a queue, many with one system call. It comes back at once if that was possible;
    /// if it goes on, one [`Event::SentDatagrams`] brings it.
    pub fn send_datagrams(&mut self, conn: ConnId, queue: Box<DatagramQueue>) -> DatagramSend {
        let key = conn.key();
        let Ok(slot) = self.open_slot(conn) else { return DatagramSend::Busy(queue) };
        slot.role = Role::Datagram;
        if slot.sending {
            return DatagramSend::Busy(queue);
        }
        match self.driver.submit(key, Op::SendDatagrams(queue)) {
            Submitted::Done(Outcome::SentDatagrams(queue, Ok(()))) => return DatagramSend::Done(queue),
            Submitted::Done(outcome) => self.completions.push_back(Completion { key, outcome }),
            Submitted::Pending => {}
        }
        if let Ok(slot) = self.open_slot(conn) {
            slot.sending = true;
        }
        DatagramSend::Pending
    }

    /// Reports each time a descriptor becomes ready, until that is cancelled; many [`Event::Ready`]. Ready
    /// means that it became so, not that it still is: use it until it would block.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `ResourceBusy` if it is watched already.
    pub fn watch(&mut self, conn: ConnId, interest: Interest) -> io::Result<()> {
        self.take_role(conn, Role::Watched)?;
        self.start(conn.key(), Op::Watch(interest));
        Ok(())
    }

    /// Ends what [`watch`](Self::watch) began. An [`Event::Ready`] with an error that
    /// [is of a cancel](crate::op::is_cancelled) is the last, and then it can be watched again, also for something else.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale name, `InvalidInput` for what is not watched.
    pub fn cancel_watch(&mut self, conn: ConnId) -> io::Result<()> {
        if self.open_slot(conn)?.role != Role::Watched {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.driver.cancel(conn.key(), Direction::Auxiliary);
        Ok(())
    }

    /// Ends a socket; [`Event::Closed`] is its last event. A stale name, and a second close that asks
    /// for no more than the first, have no effect.
    pub fn close(&mut self, conn: ConnId, how: Close) {
        let Some(slot) = self.slots.get_mut(conn.key()) else { return };
        match (slot.phase, how) {
            (Phase::Closing, _) | (Phase::Flushing | Phase::Draining | Phase::Settling, Close::Flush) => {}
            (Phase::Open, Close::Flush) if slot.needs_flush() => self.begin_flush(conn.key()),
            (_, Close::Reset) => {
                if let Some(socket) = self.driver.socket(conn.key()) {
                    // The option fails only where a reset has no meaning; the close follows anyway.
                    let _ = socket.set_reset_on_close();
                }
                self.finish_close(conn.key());
            }
            _ => self.finish_close(conn.key()),
        }
    }

    // ---- helpers --------------------------------------------------------------------------------

    fn reserve(&mut self) -> io::Result<Key> {
        let limit = self.numbers.limit();
        self.numbers.reserve().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("all {limit} slots of the event loop are taken"),
            )
        })
    }

    #[inline]
    pub(super) fn open_slot(&mut self, conn: ConnId) -> io::Result<&mut Slot> {
        match self.slots.get_mut(conn.key()) {
            Some(slot) if slot.phase == Phase::Open => Ok(slot),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Makes a socket a listener or a watched one, which it then is until that is cancelled or it is closed.
    fn take_role(&mut self, conn: ConnId, role: Role) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        if slot.role == role || slot.role == Role::Leaving {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        slot.role = role;
        Ok(())
    }

    /// `times`: how often the operation may bring something.
    #[inline(always)]
    fn start_receive(&mut self, conn: ConnId, op: Op, times: u32) -> io::Result<()> {
        let slot = self.open_slot(conn)?;
        if slot.input_ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if slot.is_receiving() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        slot.receives_left = times;
        if slot.connecting {
            slot.waiting_receive = Some(Box::new(op));
        } else {
            self.start(conn.key(), op);
        }
        Ok(())
    }
}
