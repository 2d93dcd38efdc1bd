//! Which loop a connection goes to.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kolk_engine::driver::Socket;

/// How [acceptors](super::Builder::acceptors) spread new connections over the event loops.
///
/// A connection stays on its loop until it closes, so a choice is made once and lasts as long as the connection.
/// What that means:
///
/// | policy | many short connections | few long ones |
/// |---|---|---|
/// | `RoundRobin` | even | even when they come, uneven when some of them have gone |
/// | `LeastConnections` | even | even, also after some have gone: the choice for connections that stay |
/// | `DescriptorHash` | even | as the kernel gives numbers: the lowest that is free, so gaps are filled again |
/// | `SourceHash` | as even as there are many sources | all of one host on one loop, so state may be shared without a lock; one proxy in front makes one loop do everything |
/// | `Random` | even | uneven: of 8 on 4 loops, one loop has 4 or more in 45 of 100 cases |
/// | `by` | as the program likes | as the program likes |
///
/// No policy looks at how much a connection does. Where single connections can keep a loop busy, use more
/// loops than there are such connections, or `by`.
///
/// Without acceptors each loop has its own listener, and the kernel chooses by a hash of both addresses
/// (`SO_REUSEPORT`, socket(7)): that is `Random`, at no cost, and the usual way for many connections.
///
/// # Examples
///
/// The connections of each customer's network together, all others where there is room:
///
/// ```
/// use kolk::server::{Balance, Server};
///
/// let balance = Balance::by(|incoming| match incoming.peer_address() {
///     Some(peer) if peer.port() == 7 => 0,
///     _ => incoming.least_loaded(),
/// });
/// let server = Server::builder().listen("tcp://127.0.0.1:0").event_loops(4).balance(balance);
/// # let _ = server;
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Balance {
    /// One loop after the other.
    #[default]
    RoundRobin,
    /// The loop with the fewest open connections, counting those on their way to it; of several the next in turn.
    LeastConnections,
    /// By the number of the connection's descriptor.
    DescriptorHash,
    /// By the peer's IP address, without its port. Unix peers have none and go by turns.
    SourceHash,
    /// Any, each as likely.
    Random,
    /// The program's own function, see [`by`](Self::by).
    By(Choose),
}

/// A function that chooses, see [`Balance::by`].
pub type Choose = Arc<dyn Fn(&Incoming<'_>) -> usize + Send + Sync>;

impl Balance {
    /// The program's own function, which answers the number of a loop; one that is too high starts again from
    /// zero. It is called on the thread of an acceptor, which accepts nobody meanwhile, and it should not panic:
    /// that ends the server.
    pub fn by(choose: impl Fn(&Incoming<'_>) -> usize + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(choose))
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "RoundRobin",
            Self::LeastConnections => "LeastConnections",
            Self::DescriptorHash => "DescriptorHash",
            Self::SourceHash => "SourceHash",
            Self::Random => "Random",
            Self::By(_) => "By(..)",
        })
    }
}

/// A new connection for which a loop is to be chosen.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub(super) socket: &'a Socket,
    pub(super) listener: usize,
    /// Connections of each loop.
    pub(super) loads: &'a [u64],
    /// Where a search for the least loaded begins.
    pub(super) turn: usize,
}

impl Incoming<'_> {
    /// The peer's address; `None` for a Unix socket and when the peer has gone already. One system call.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.socket.peer_address().ok()?.as_inet()
    }

    /// Which address the connection came from, as [`Conn::listener`](super::Conn::listener).
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// Open connections of each loop, with those on their way to it.
    pub fn loads(&self) -> &[u64] {
        self.loads
    }

    /// The loop with the fewest; of several the next in turn.
    pub fn least_loaded(&self) -> usize {
        let count = self.loads.len().max(1);
        let from_turn = (0..count).map(|step| (self.turn + step) % count);
        from_turn.min_by_key(|&index| self.loads.get(index)).unwrap_or(0)
    }
}

/// One acceptor's state of a policy.
#[derive(Debug)]
pub(super) struct Balancer {
    balance: Balance,
    turn: usize,
    random: u64,
}

impl Balancer {
    pub(super) fn new(balance: Balance) -> Self {
        // The standard library's keys differ from process to process and from call to call.
        Self::with_seed(balance, RandomState::new().hash_one(0))
    }

    fn with_seed(balance: Balance, seed: u64) -> Self {
        Self { balance, turn: 0, random: seed | 1 }
    }

    /// The number of a loop, of as many as there are loads.
    pub(super) fn choose(&mut self, socket: &Socket, listener: usize, loads: &[u64]) -> usize {
        let incoming = Incoming { socket, listener, loads, turn: self.turn };
        let chosen = match &self.balance {
            Balance::RoundRobin => self.turn,
            Balance::LeastConnections => incoming.least_loaded(),
            Balance::DescriptorHash => {
                socket.as_fd().map_or(self.turn, |fd| fd.as_raw_fd().unsigned_abs() as usize)
            }
            Balance::SourceHash => {
                incoming.peer_address().map_or(self.turn, |peer| hash_of(peer.ip()) as usize)
            }
            Balance::Random => next_random(&mut self.random) as usize,
            Balance::By(choose) => choose(&incoming),
        };
        self.turn = self.turn.wrapping_add(1);
        chosen % loads.len().max(1)
    }
}

fn hash_of(ip: IpAddr) -> u64 {
    // An IPv4 peer is the same host whichever family the listener has.
    let mut hasher = DefaultHasher::new();
    ip.to_canonical().hash(&mut hasher);
    hasher.finish() >> 1
}

/// Xorshift, Marsaglia 2003; the high bits are the better ones.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 32
}

/// How many connections a loop has, with those that acceptors have sent and that are still on their way: counted by
/// those who send them and by the loop, each for itself, so that no lock is needed and none is counted twice.
#[derive(Debug, Default)]
pub(super) struct Load {
    sent: AtomicU64,
    /// Of those. Written by the loop's thread only.
    arrived: AtomicU64,
    /// Open connections less those that have arrived, in one number: the two change together. It wraps.
    balance: AtomicU64,
}

impl Load {
    pub(super) fn note_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// What was sent could not be.
    pub(super) fn note_lost(&self) {
        self.sent.fetch_sub(1, Ordering::Relaxed);
    }

    /// By the loop's thread only.
    pub(super) fn note_arrived(&self) {
        self.arrived.store(self.arrived.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// By the loop's thread only, which has so many.
    pub(super) fn publish(&self, connections: u64) {
        let balance = connections.wrapping_sub(self.arrived.load(Ordering::Relaxed));
        // Release: whoever sees that a connection has arrived sees that it was sent.
        self.balance.store(balance, Ordering::Release);
    }

    pub(super) fn count(&self) -> u64 {
        let balance = self.balance.load(Ordering::Acquire);
        balance.wrapping_add(self.sent.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;

    /// A connection from this address, accepted.
    fn accepted_from(source: &str) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.bind(&format!("{source}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        (OwnedFd::from(listener.accept().unwrap().0).into(), client.into())
    }

    fn choices(balance: Balance, socket: &Socket, loads: &[u64], count: usize) -> Vec<usize> {
        let mut balancer = Balancer::with_seed(balance, 7);
        (0..count).map(|_| balancer.choose(socket, 0, loads)).collect()
    }

    #[test]
    fn r04_each_policy_chooses_as_it_says() {
        let (socket, _client) = accepted_from("127.0.0.1");
        let idle = [0, 0, 0];
        assert_eq!(choices(Balance::RoundRobin, &socket, &idle, 5), [0, 1, 2, 0, 1]);
        assert_eq!(choices(Balance::LeastConnections, &socket, &[3, 1, 2], 2), [1, 1]);
        assert_eq!(choices(Balance::LeastConnections, &socket, &idle, 4), [0, 1, 2, 0]);
        let number = socket.as_fd().unwrap().as_raw_fd() as usize;
        assert_eq!(choices(Balance::DescriptorHash, &socket, &idle, 2), [number % 3; 2]);
        let own = Balance::by(|incoming| incoming.loads()[2] as usize + incoming.listener());
        assert_eq!(choices(own, &socket, &[0, 0, 4], 2), [1, 1], "a number too high starts again");
    }

    #[test]
    fn r04_connections_of_one_host_stay_together() {
        let mut seen = std::collections::HashSet::new();
        for host in 1..=40 {
            let (first, _client) = accepted_from(&format!("127.0.0.{host}"));
            let (second, _other) = accepted_from(&format!("127.0.0.{host}"));
            let loads = [0; 4];
            let chosen = choices(Balance::SourceHash, &first, &loads, 1);
            assert_eq!(chosen, choices(Balance::SourceHash, &second, &loads, 1));
            seen.insert(chosen[0]);
        }
        assert_eq!(seen.len(), 4, "forty hosts reach four loops");
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let unix = OwnedFd::from(unix).into();
        assert_eq!(choices(Balance::SourceHash, &unix, &[0; 3], 4), [0, 1, 2, 0], "a Unix peer has no host");
    }

    #[test]
    fn r04_random_reaches_every_loop_about_as_often() {
        let (socket, _client) = accepted_from("127.0.0.1");
        let mut counts = [0; 5];
        choices(Balance::Random, &socket, &[0; 5], 10_000).into_iter().for_each(|index| counts[index] += 1);
        assert!(counts.iter().all(|count| (1_850..2_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_is_on_its_way_is_counted_once() {
        let load = Load::default();
        load.note_sent();
        load.note_sent();
        load.note_arrived();
        assert_eq!(load.count(), 2, "the loop has not said yet that it is there");
        load.publish(5);
        assert_eq!(load.count(), 6);
        load.note_arrived();
        load.publish(0);
        assert_eq!(load.count(), 0, "both have arrived, and all have gone");
    }
}
