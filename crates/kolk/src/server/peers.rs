//! Sessions of peers who have no connection.

use std::time::Duration;

use hashlink::LinkedHashMap;
use kolk_engine::clock::Timestamp;
use kolk_engine::socket::Address;

/// What a handler remembers of each peer that sends datagrams, until it has been silent for too long.
///
/// A handler value belongs to one loop, so a table in it needs no lock. On UDP the kernel gives all datagrams of a
/// peer to the same loop while the server runs, by a hash of both addresses.
///
/// Finding, renewing and forgetting a peer take a constant time. Senders of datagrams can write any address into them,
/// so the number of sessions is bounded: when there are as many, the one that was silent for longest makes room.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kolk::server::{
///     Action, Conn, Datagram, DatagramSocket, Handler, Input, LoopContext, Peers,
/// };
///
/// struct Counting {
///     peers: Peers<u64>, // datagrams of each
/// }
///
/// impl Handler for Counting {
///     type Session = ();
///
///     fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
///         let now = socket.context().now();
///         let (count, _) = self.peers.get_or_insert_with(&datagram.from, now, || 0);
///         *count += 1;
///         let _ = socket.send_to(&datagram.from, count.to_string().into_bytes());
///     }
///
///     fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
///         while let Some((peer, count)) = self.peers.expire(context.now()) {
///             println!("{peer} has gone after {count} datagrams");
///         }
///         Some(Duration::from_secs(1))
///     }
///
///     fn on_open(&mut self, _: &mut Conn<'_>) {}
///     fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
///         Action::Close
///     }
/// }
///
/// let counting = Counting { peers: Peers::new(Duration::from_secs(30), 100_000) };
/// # let _ = counting;
/// ```
#[derive(Debug)]
pub struct Peers<S> {
    /// The longest silent first.
    sessions: LinkedHashMap<Address, (Timestamp, S)>,
    expiry: Duration,
    most: usize,
}

impl<S> Peers<S> {
    /// An empty table. A session that is not used for `expiry` may be [expired](Self::expire); there are at most
    /// `most` of them.
    ///
    /// # Panics
    ///
    /// If `most` is zero.
    pub fn new(expiry: Duration, most: usize) -> Self {
        assert!(most > 0, "a table for no peer");
        Self { sessions: LinkedHashMap::new(), expiry, most }
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The session of a peer, which is renewed by that; `None` if there is none, or if it has expired.
    pub fn get(&mut self, peer: &Address, now: Timestamp) -> Option<&mut S> {
        if self.sessions.get(peer).is_none_or(|(used, _)| is_over(*used, now, self.expiry)) {
            return None;
        }
        let (used, session) = self.sessions.to_back(peer)?;
        *used = now;
        Some(session)
    }

    /// The session of a peer, which is renewed by that, or a new one. Beside it, whom a new one has put out: the
    /// peer's own session if it has expired, else the one that was silent for longest if there were too many.
    pub fn get_or_insert_with(
        &mut self,
        peer: &Address,
        now: Timestamp,
        make: impl FnOnce() -> S,
    ) -> (&mut S, Option<(Address, S)>) {
        let mut put_out = None;
        if self.get(peer, now).is_none() {
            put_out = self.remove(peer).map(|session| (peer.clone(), session));
            if self.sessions.len() >= self.most {
                put_out = self.pop();
            }
            self.sessions.insert(peer.clone(), (now, make()));
        }
        let (_, session) = self.sessions.get_mut(peer).expect("it was there, or was inserted");
        (session, put_out)
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: &Address) -> Option<S> {
        self.sessions.remove(peer).map(|(_, session)| session)
    }

    /// Takes out one session that has expired. Call it until it answers `None`, from time to time.
    pub fn expire(&mut self, now: Timestamp) -> Option<(Address, S)> {
        let (_, (used, _)) = self.sessions.front()?;
        if is_over(*used, now, self.expiry) { self.pop() } else { None }
    }

    /// Peers and their sessions, those that were silent for longest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, &S)> {
        self.sessions.iter().map(|(peer, (_, session))| (peer, session))
    }

    fn pop(&mut self) -> Option<(Address, S)> {
        self.sessions.pop_front().map(|(peer, (_, session))| (peer, session))
    }
}

fn is_over(used: Timestamp, now: Timestamp, expiry: Duration) -> bool {
    now.saturating_duration_since(used) > expiry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Address {
        Address::Inet(([127, 0, 0, 1], port).into())
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn r21_a_session_lasts_while_its_peer_is_heard_of() {
        let mut peers = Peers::new(Duration::from_secs(10), 100);
        for port in 1..=3 {
            let (session, put_out) = peers.get_or_insert_with(&peer(port), at(0), || port);
            assert_eq!((*session, put_out), (port, None));
        }
        assert_eq!(peers.get(&peer(1), at(6)), Some(&mut 1));
        assert_eq!(peers.expire(at(10)), None, "not longer than ten seconds");
        assert_eq!(peers.expire(at(12)), Some((peer(2), 2)));
        assert_eq!(peers.expire(at(12)), Some((peer(3), 3)));
        assert_eq!(peers.expire(at(12)), None);
        assert_eq!(peers.get(&peer(1), at(17)), None, "it is over, although nobody has taken it out");
        let (session, put_out) = peers.get_or_insert_with(&peer(1), at(17), || 9);
        assert_eq!((*session, put_out), (9, Some((peer(1), 1))));
        assert_eq!(peers.remove(&peer(1)), Some(9));
        assert!(peers.is_empty() && peers.remove(&peer(1)).is_none());
    }

    #[test]
    fn r21_a_flood_of_senders_puts_the_longest_silent_out() {
        let mut peers = Peers::new(Duration::from_secs(10), 2);
        peers.get_or_insert_with(&peer(1), at(0), || 1);
        peers.get_or_insert_with(&peer(2), at(1), || 2);
        peers.get(&peer(1), at(2));
        let (_, put_out) = peers.get_or_insert_with(&peer(3), at(3), || 3);
        assert_eq!(put_out, Some((peer(2), 2)));
        let left: Vec<_> = peers.iter().map(|(_, session)| *session).collect();
        assert_eq!((peers.len(), left), (2, vec![1, 3]));
    }
}
