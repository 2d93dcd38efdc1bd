//! The simulated network as a test holds it: sockets for the loops, peers for the outside.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::SimConfig;
use super::stream::Link;
use super::world::{DriverId, Kind, Owner, Route, SocketId, World, errno};
use crate::clock::Timestamp;
use crate::socket::Address;

/// How long a driver waits in real time for other threads, before it lets virtual time pass or comes
/// back with nothing.
///
/// Long enough for a thread that is about to do something, short enough for a test that waits for it
/// a hundred times.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);

/// The same before time leaps far: few leaps do, and a thread that is late would pay for it.
const MOST_PATIENCE: Duration = Duration::from_millis(100);

/// A simulated network: sockets, virtual time, and the seed that decides what is left to chance.
///
/// Cloning shares it. Loops reach it by [`DriverChoice::Sim`](crate::driver::DriverChoice::Sim); the
/// test itself plays the outside world, with peers that behave like non-blocking std sockets. As long
/// as one thread does all this, the seed alone decides what happens.
///
/// Time passes only in a loop's turn that has nothing to do, and in [`advance`](Self::advance).
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::SocketAddr;
/// use kolk_engine::driver::{SimConfig, SimNet};
///
/// let net = SimNet::new(SimConfig::calm(1));
/// let server = net.listen_outside(&SocketAddr::from(([10, 0, 0, 1], 80)).into());
/// let mut near = net.connect(&server.local_address())?;
/// let mut far = server.accept().expect("just connected");
/// assert_eq!(near.write(b"x")?, 1);
/// assert_eq!(far.read(&mut [0; 8])?, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct SimNet(Arc<Shared>);

struct Shared {
    seed: u64,
    world: Mutex<World>,
    /// Something happened while a driver waits in real time.
    changed: Condvar,
}

impl SimNet {
    /// A network without sockets, at time zero.
    pub fn new(config: SimConfig) -> Self {
        let seed = config.seed;
        Self(Arc::new(Shared { seed, world: Mutex::new(World::new(config)), changed: Condvar::new() }))
    }

    /// The seed, to be named in the message of a failing test.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The virtual time.
    pub fn now(&self) -> Timestamp {
        self.with(|world| world.now())
    }

    /// Lets time pass, so that what is under way arrives. Loops need no help with this; a test
    /// without a loop does.
    pub fn advance(&self, by: Duration) {
        self.with(|world| world.advance_to(world.now() + by));
    }

    /// Sockets that are not closed: those of loops, those of peers, and connections that nobody has
    /// accepted.
    pub fn open_sockets(&self) -> usize {
        self.with(|world| world.open_sockets())
    }

    /// A listener for a loop to accept on. Port 0 becomes a free one; listeners at one address share
    /// its connections.
    pub fn listen(&self, address: &Address) -> SimSocket {
        self.socket(|world| world.listen(address))
    }

    /// A datagram socket for a loop. Port 0 becomes a free one.
    ///
    /// # Panics
    ///
    /// If the address is taken.
    pub fn datagram(&self, address: &Address) -> SimSocket {
        self.socket(|world| world.bind_datagrams(address))
    }

    /// An established stream between a loop and the outside.
    pub fn pair(&self) -> (SimSocket, SimPeer) {
        let any = Address::Inet(([127, 0, 0, 1], 0).into());
        let (near, far) = self.with(|world| {
            let addresses = [world.bind(&any), world.bind(&any)];
            world.pair(addresses)
        });
        (SimSocket::new(self, near), SimPeer(SimSocket::new(self, far)))
    }

    /// A connection from the outside, established at once, to whoever listens on `address`.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` when nobody listens, the backlog is full, or [`refuse`](Self::refuse) says
    /// so; `TimedOut` for a [`blackhole`](Self::blackhole).
    pub fn connect(&self, address: &Address) -> io::Result<SimPeer> {
        let id = self.with(|world| world.connect_outside(address))?;
        Ok(SimPeer(SimSocket::new(self, id)))
    }

    /// A listener outside, for connects made by a loop. Port 0 becomes a free one.
    pub fn listen_outside(&self, address: &Address) -> SimPeerListener {
        SimPeerListener(self.listen(address))
    }

    /// A datagram socket outside. Port 0 becomes a free one.
    ///
    /// # Panics
    ///
    /// If the address is taken.
    pub fn datagram_peer(&self, address: &Address) -> SimDatagramPeer {
        SimDatagramPeer(self.datagram(address))
    }

    /// From here on nobody answers connects to this address.
    pub fn blackhole(&self, address: &Address) {
        self.with(|world| world.routes.insert(address.clone(), Route::Blackhole));
    }

    /// From here on connects to this address are refused, even if somebody listens there.
    pub fn refuse(&self, address: &Address) {
        self.with(|world| world.routes.insert(address.clone(), Route::Refused));
    }

    /// Ends what [`blackhole`](Self::blackhole) or [`refuse`](Self::refuse) said of this address.
    pub fn restore(&self, address: &Address) {
        self.with(|world| world.routes.remove(address));
    }

    fn socket(&self, make: impl FnOnce(&mut World) -> SocketId) -> SimSocket {
        SimSocket::new(self, self.with(make))
    }
}

/// For drivers and handles.
impl SimNet {
    /// The world, until [`release`](Self::release). No simulated socket may be dropped in between: that
    /// closes it, which needs the world.
    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        // A panic of another thread is reported there; what it left of the world is still a world.
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.note_thread();
        world
    }

    pub(super) fn release(&self, world: MutexGuard<'_, World>) {
        if world.sleepers > 0 {
            self.0.changed.notify_all();
        }
        drop(world);
    }

    pub(super) fn with<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.lock();
        let result = act(&mut world);
        self.release(world);
        result
    }

    /// Waits in real time until another thread has done something or woken `driver`; bounded, and the longer the
    /// further the leap would be: what it leaps over may be somebody's time-out, who is only late.
    pub(super) fn sleep<'a>(
        &'a self,
        mut world: MutexGuard<'a, World>,
        driver: DriverId,
        leap: Duration,
    ) -> MutexGuard<'a, World> {
        let patience = (leap / 50).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let before = world.activity();
        world.sleepers += 1;
        let nothing = |world: &mut World| world.activity() == before && !world.is_woken(driver);
        let waited = self.0.changed.wait_timeout_while(world, patience, nothing);
        let (mut world, _) = waited.unwrap_or_else(PoisonError::into_inner);
        world.sleepers -= 1;
        world
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").field("seed", &self.0.seed).finish_non_exhaustive()
    }
}

/// A simulated socket for a loop to attach; closed on drop.
pub struct SimSocket {
    net: SimNet,
    id: SocketId,
}

impl SimSocket {
    pub(super) fn new(net: &SimNet, id: SocketId) -> Self {
        Self { net: net.clone(), id }
    }

    pub(super) fn id(&self) -> SocketId {
        self.id
    }

    /// Tells the world in which slot the socket is, if in any.
    pub(super) fn set_owner(&self, owner: Option<Owner>) {
        self.net.with(|world| {
            if let Some(endpoint) = world.endpoint_mut(self.id) {
                endpoint.owner = owner;
            }
        });
    }

    /// The address this socket is bound to; [`Address::Unnamed`] before a connect.
    pub fn local_address(&self) -> Address {
        let local = |world: &mut World| world.endpoint(self.id).map(|endpoint| endpoint.local.clone());
        self.net.with(local).unwrap_or(Address::Unnamed)
    }

    /// The address this stream is connected to.
    ///
    /// # Errors
    ///
    /// `NotConnected` before a connect, after a reset, and for what is no stream.
    pub fn peer_address(&self) -> io::Result<Address> {
        self.net.with(|world| match world.endpoint(self.id).map(|endpoint| &endpoint.kind) {
            Some(Kind::Stream(stream)) => match &stream.link {
                Link::Connected { address, .. } => Ok(address.clone()),
                _ => Err(errno(libc::ENOTCONN)),
            },
            _ => Err(errno(libc::ENOTCONN)),
        })
    }

    /// Makes the close of this stream reset the connection, as `SO_LINGER` of zero seconds does.
    pub fn set_reset_on_close(&self) {
        self.net.with(|world| {
            if let Ok(stream) = world.stream_mut(self.id) {
                stream.reset_on_close = true;
            }
        });
    }

    /// Bytes of ours that have not arrived at the peer.
    pub fn unsent(&self) -> usize {
        self.net.with(|world| world.unsent(self.id))
    }

    /// Reads what has arrived, as recv(2) on a non-blocking socket: for who waits with `Op::Watch`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing has arrived, and what ended the connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.net.with(|world| world.read(self.id, buffer))
    }

    /// Writes what there is room for, as send(2) on a non-blocking socket.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is no room, and what ended the connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.net.with(|world| world.write(self.id, bytes))
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.with(|world| world.close(self.id));
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimSocket").field(&self.id).finish()
    }
}

/// One end of a stream in the outside world; closed on drop.
///
/// Reads and writes are those of a non-blocking std stream: `WouldBlock` when nothing has arrived or
/// there is no room, 0 at the end of the stream.
#[derive(Debug)]
pub struct SimPeer(SimSocket);

impl SimPeer {
    /// The address of this end.
    pub fn local_address(&self) -> Address {
        self.0.local_address()
    }

    /// The address of the other end.
    ///
    /// # Errors
    ///
    /// `NotConnected` after a reset.
    pub fn peer_address(&self) -> io::Result<Address> {
        self.0.peer_address()
    }

    /// Ends our direction; the other end sees end of stream after what was written.
    pub fn shutdown_write(&self) {
        // A stream that is not connected has nothing to end.
        let _ = self.0.net.with(|world| world.shutdown_write(self.0.id));
    }

    /// Closes with a reset. What has not arrived by then is lost.
    pub fn reset(self) {
        self.0.set_reset_on_close();
    }
}

impl Read for SimPeer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for SimPeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listener in the outside world; closed on drop.
#[derive(Debug)]
pub struct SimPeerListener(SimSocket);

impl SimPeerListener {
    /// The address, with its port.
    pub fn local_address(&self) -> Address {
        self.0.local_address()
    }

    /// The oldest connection that waits, if one does.
    pub fn accept(&self) -> Option<SimPeer> {
        let id = self.0.net.with(|world| world.accept_unhindered(self.0.id)).ok()?;
        Some(SimPeer(SimSocket::new(&self.0.net, id)))
    }
}

/// A datagram socket in the outside world; closed on drop.
#[derive(Debug)]
pub struct SimDatagramPeer(SimSocket);

impl SimDatagramPeer {
    /// The address, with its port.
    pub fn local_address(&self) -> Address {
        self.0.local_address()
    }

    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// `EMSGSIZE` for one that no IP packet can carry.
    pub fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.0.net.with(|world| world.send_to(self.0.id, Some(to), &bytes))
    }

    /// The next datagram and its sender.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none has arrived.
    pub fn recv_from(&self) -> io::Result<(Bytes, Address)> {
        let message = self.0.net.with(|world| world.receive_from(self.0.id))?;
        Ok((message.bytes, message.from))
    }
}

/// Wakes a driver that waits, from any thread.
#[derive(Clone, Debug)]
pub struct SimWaker {
    net: SimNet,
    driver: DriverId,
}

impl SimWaker {
    pub(super) fn new(net: &SimNet, driver: DriverId) -> Self {
        Self { net: net.clone(), driver }
    }

    /// Makes the driver's present turn, or else its next, come back without waiting.
    pub fn wake(&self) {
        self.net.with(|world| world.wake(self.driver));
    }
}
