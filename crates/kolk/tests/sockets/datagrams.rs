//! Datagram addresses of a server.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use kolk::server::{
    Action, Conn, Datagram, DatagramSocket, Handler, Input, LoopContext, Peers, RunningServer, ServerHandle,
};
use kolk::{Address, ConnId, DriverKind};

use crate::support::{PATIENCE, connect, exchange, on_each_driver, server, socket_path, until};

on_each_driver!(
    r01_datagram_addresses_are_served_beside_streams,
    r21_many_datagrams_share_a_system_call,
    r21_a_peer_stays_with_one_loop,
    r21_datagrams_are_joined_and_come_one_by_one,
    r21_what_cannot_be_sent_is_a_clear_error_and_counted,
    r21_any_thread_sends_from_a_socket,
    r23_a_panic_loses_one_datagram_only,
    r21_a_multicast_group_is_joined_by_address_and_by_hand,
    r21_sessions_of_peers_expire,
    r21_a_unix_receiver_without_room_is_waited_for,
    r21_a_stopping_server_sends_its_last_datagrams,
    r26_a_successor_receives_what_arrives,
);

/// An echo of both kinds that tells of each datagram, and refuses what says so.
struct Echo {
    sender: Sender<(ConnId, usize, usize)>,
    errors: Sender<String>,
}

impl Handler for Echo {
    type Session = ();

    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        let _ = self.sender.send((socket.id(), socket.listener(), datagram.bytes.len()));
        assert!(!datagram.truncated);
        assert_ne!(&*datagram.bytes, b"panic");
        let answers = match &*datagram.bytes {
            b"too long" => socket.send_copy_to(&datagram.from, &vec![0; 65_508]),
            b"to nobody" => socket.send_to(&Address::Unnamed, "answer"),
            b"refused" => socket.send_to(&Address::Inet(([127, 0, 0, 1], 0).into()), "port zero"),
            b"flood" => (0..5000).try_for_each(|_| socket.send_to(&datagram.from, "flood")),
            _ => socket.send_to(&datagram.from, datagram.bytes),
        };
        if let Err(error) = answers {
            let _ = self.errors.send(error.to_string());
        }
    }

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

struct Told {
    datagrams: Receiver<(ConnId, usize, usize)>,
    errors: Receiver<String>,
}

fn echo() -> (impl Fn(usize) -> Echo + Send + Sync + 'static, Told) {
    let ((sender, datagrams), (errors_sender, errors)) = (channel(), channel());
    let make = move |_| Echo { sender: sender.clone(), errors: errors_sender.clone() };
    (make, Told { datagrams, errors })
}

#[track_caller]
fn place<H: Handler>(server: &RunningServer<H>, index: usize) -> SocketAddr {
    let address = server.addresses()[index].split_once("://").expect("a scheme").1;
    address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// A client of the server's address with this index.
#[track_caller]
fn client<H: Handler>(server: &RunningServer<H>, index: usize) -> UdpSocket {
    let to = place(server, index);
    let any: SocketAddr = if to.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { "[::1]:0".parse().unwrap() };
    let socket = UdpSocket::bind(any).expect("a free port");
    socket.connect(to).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("positive");
    socket
}

#[track_caller]
fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let len = socket.recv(&mut bytes).expect("an answer in time");
    bytes.truncate(len);
    bytes
}

#[track_caller]
fn ask(socket: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    socket.send(bytes).expect("it leaves");
    receive(socket)
}

fn r01_datagram_addresses_are_served_beside_streams(driver: DriverKind) {
    let path = socket_path("unixgram", driver);
    let own_path = socket_path("unixgram-client", driver);
    let (make, told) = echo();
    let running = server(driver)
        .listen("udp://127.0.0.1:0")
        .listen("tcp://127.0.0.1:0")
        .listen("udp6://[::1]:0")
        .listen(format!("unixgram://{}", path.display()))
        .event_loops(2)
        .start(make)
        .expect("free addresses");
    for (index, len) in [(0, 5), (0, 0), (0, 65_507), (2, 1200)] {
        let bytes = vec![7; len];
        assert_eq!(ask(&client(&running, index), &bytes), bytes);
        let (_, listener, told_len) = told.datagrams.recv_timeout(PATIENCE).expect("it is told");
        assert_eq!((listener, told_len), (index, len));
    }
    assert_eq!(exchange(connect(&running, 1), b"stream"), b"stream");
    let unix = UnixDatagram::bind(&own_path).expect("a free path");
    unix.set_read_timeout(Some(PATIENCE)).expect("positive");
    unix.send_to(b"hello", &path).expect("it is there");
    let mut answer = [0; 16];
    assert_eq!(unix.recv(&mut answer).expect("an answer"), 5);
    let _ = std::fs::remove_file(&own_path);

    let again = server(driver).listen(&running.addresses()[0]).event_loops(2).start(echo().0);
    let error = again.expect_err("the port is taken, although both would share it");
    assert!(error.is_address_in_use(), "{error}");
    drop(running);
    assert!(!path.exists());
}

fn r21_many_datagrams_share_a_system_call(driver: DriverKind) {
    let (make, told) = echo();
    let running = server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    let clients: Vec<_> = (0..20).map(|_| client(&running, 0)).collect();
    for round in 0..50 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[round, number as u8]).expect("it leaves");
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), [round, number as u8]);
        }
    }
    until("all are counted", || running.stats().datagrams_sent == 1000);
    let stats = running.stats();
    assert_eq!((stats.datagrams_received, stats.datagrams_dropped), (1000, 0));
    // A client that is as fast as the server may see each turn take few: how few depends on the machine.
    assert!(stats.datagram_calls < 2 * 1000, "{stats:?}");
    assert_eq!(told.datagrams.try_iter().count(), 1000);
}

fn r21_a_peer_stays_with_one_loop(driver: DriverKind) {
    let (make, told) = echo();
    let running = server(driver).listen("udp://127.0.0.1:0").event_loops(3).start(make).expect("a free port");
    let mut loops = HashMap::new();
    for _ in 0..60 {
        let peer = client(&running, 0);
        let mut sockets: Vec<_> = (0..5)
            .map(|_| {
                ask(&peer, b"hello");
                told.datagrams.recv_timeout(PATIENCE).expect("it is told").0
            })
            .collect();
        sockets.dedup();
        assert_eq!(sockets.len(), 1, "a peer and its socket");
        *loops.entry(sockets[0].event_loop()).or_insert(0) += 1;
    }
    assert_eq!(loops.len(), 3, "the kernel spreads the peers: {loops:?}");
}

fn r21_datagrams_are_joined_and_come_one_by_one(driver: DriverKind) {
    let (make, told) = echo();
    let running = server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    let peer = client(&running, 0);
    // The kernel is given 20 datagrams as one, as a client with the same means does.
    let mut payload = Vec::new();
    (0..20u8).for_each(|number| payload.extend([number; 500]));
    payload.extend([20; 77]);
    let fd: &dyn std::os::fd::AsRawFd = &peer;
    let size: libc::c_int = 500;
    // SAFETY: the option is one int.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), 4)
    };
    assert_eq!(set, 0, "Linux 4.18 and later");
    peer.send(&payload).expect("it leaves");
    for number in 0..21u8 {
        let len = if number == 20 { 77 } else { 500 };
        assert_eq!(receive(&peer), vec![number; len]);
        assert_eq!(told.datagrams.recv_timeout(PATIENCE).expect("it is told").2, len);
    }
    until("all are counted", || running.stats().datagrams_sent == 21);
    let stats = running.stats();
    assert_eq!(stats.datagrams_received, 21);
    // One receive or two, and one send: the kernel joined and cut apart.
    assert!(stats.datagram_calls <= 8, "{stats:?}");

    let plain = server(driver).listen("udp://127.0.0.1:0?segments=false").event_loops(1);
    let plain = plain.start(echo().0).expect("a free port");
    let peer = client(&plain, 0);
    assert_eq!(ask(&peer, b"one by one"), b"one by one");
}

fn r21_what_cannot_be_sent_is_a_clear_error_and_counted(driver: DriverKind) {
    let (make, told) = echo();
    let running = server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    let peer = client(&running, 0);
    for (bytes, reason) in [("too long", "65508 bytes"), ("to nobody", "has no name"), ("flood", "too many")]
    {
        peer.send(bytes.as_bytes()).expect("it leaves");
        let error = told.errors.recv_timeout(PATIENCE).expect("an error");
        assert!(error.contains(reason), "{error}");
    }
    until("three were dropped", || running.stats().datagrams_dropped == 3);
    // What the kernel refuses is counted, and those behind it leave.
    peer.send(b"refused").expect("it leaves");
    until("the fourth was dropped", || running.stats().datagrams_dropped == 4);
    until("what was queued was sent", || running.stats().datagrams_sent == 4096);
    peer.set_nonblocking(true).expect("a socket");
    while peer.recv(&mut [0; 16]).is_ok() {}
    peer.set_nonblocking(false).expect("a socket");
    assert_eq!(ask(&peer, b"still here"), b"still here");
    assert!(told.errors.try_recv().is_err());
}

fn r21_any_thread_sends_from_a_socket(driver: DriverKind) {
    let (make, told) = echo();
    let running = server(driver)
        .listen("udp://127.0.0.1:0")
        .listen("tcp://127.0.0.1:0")
        .event_loops(2)
        .start(make)
        .expect("free addresses");
    let peer = client(&running, 0);
    ask(&peer, b"hello");
    let socket = told.datagrams.recv_timeout(PATIENCE).expect("it is told").0;
    let to = Address::Inet(peer.local_addr().expect("bound"));
    for number in 0..100u8 {
        running.handle().send_datagram(socket, &to, vec![number]).expect("it is open");
    }
    (0..100u8).for_each(|number| assert_eq!(receive(&peer), [number]));
    // A connection is no datagram socket.
    let handle: &ServerHandle<_> = running.handle();
    let before = running.stats().datagrams_dropped;
    handle.send_datagram(socket, &to, vec![0; 70_000]).expect("the loop is reached");
    until("it was dropped", || running.stats().datagrams_dropped == before + 1);
}

fn r23_a_panic_loses_one_datagram_only(driver: DriverKind) {
    let (make, _told) = echo();
    let running = server(driver).listen("udp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    let peer = client(&running, 0);
    for number in 1..=3 {
        peer.send(b"before").expect("it leaves");
        peer.send(b"panic").expect("it leaves");
        peer.send(b"after").expect("it leaves");
        assert_eq!((receive(&peer), receive(&peer)), (b"before".to_vec(), b"after".to_vec()));
        until("the panic is counted", || running.stats().panics == number);
    }
}

fn r21_a_multicast_group_is_joined_by_address_and_by_hand(driver: DriverKind) {
    struct Member(Sender<Result<usize, String>>, IpAddr);
    impl Handler for Member {
        type Session = ();
        fn on_start(&mut self, _: &ServerHandle<Self>, context: &mut LoopContext<'_>) {
            let Some(mut socket) = context.datagram_socket(1) else { return };
            if let Err(error) = socket.join_multicast(self.1, 1) {
                let _ = self.0.send(Err(error.to_string()));
            }
            let error = socket.join_multicast([10, 0, 0, 1].into(), 1).expect_err("no group");
            assert!(error.is_invalid_input() && error.to_string().contains("no multicast group"), "{error}");
        }
        fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
            if &*datagram.bytes == b"leave" && socket.listener() == 1 {
                socket.leave_multicast(self.1, 1).expect("it is a member");
            }
            let _ = self.0.send(Ok(socket.listener()));
        }
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }
    // Groups of this test's own: other tests run beside it.
    let last = if driver == DriverKind::Epoll { 1 } else { 2 };
    let groups: [IpAddr; 2] = [[239, 255, 77, last].into(), [239, 255, 78, last].into()];
    let (sender, told) = channel();
    let running = server(driver)
        .listen(format!("udp://0.0.0.0:0?join={}%lo", groups[0]))
        .listen("udp://0.0.0.0:0")
        .event_loops(1)
        .start(move |_| Member(sender.clone(), groups[1]))
        .expect("loopback has multicast");
    let source = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket2::SockRef::from(&source).set_multicast_if_v4(&[127, 0, 0, 1].into()).expect("loopback");
    for (index, group) in groups.into_iter().enumerate() {
        let to = SocketAddr::new(group, place(&running, index).port());
        source.send_to(b"leave", to).expect("it leaves");
        assert_eq!(told.recv_timeout(PATIENCE).expect("a member receives it"), Ok(index));
    }
    // Who has left by hand hears nothing more; by its own address it still does.
    source
        .send_to(b"to the group", SocketAddr::new(groups[1], place(&running, 1).port()))
        .expect("it leaves");
    source
        .send_to(b"to the socket", (IpAddr::from([127, 0, 0, 1]), place(&running, 1).port()))
        .expect("sent");
    assert_eq!(told.recv_timeout(PATIENCE).expect("the second"), Ok(1));
    until("one of the two was received", || running.stats().datagrams_received == 3);
    assert!(told.try_recv().is_err());
}

fn r21_sessions_of_peers_expire(driver: DriverKind) {
    struct Counting(Peers<u32>, Sender<u32>);
    impl Handler for Counting {
        type Session = ();
        fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
            let now = socket.context().now();
            let (count, put_out) = self.0.get_or_insert_with(&datagram.from, now, || 0);
            *count += 1;
            let _ = socket.send_copy_to(&datagram.from, &count.to_le_bytes());
            assert!(put_out.is_none());
        }
        fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
            while let Some((_, count)) = self.0.expire(context.now()) {
                let _ = self.1.send(count);
            }
            Some(Duration::from_millis(5))
        }
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }
    let (sender, expired) = channel();
    let running = server(driver)
        .listen("udp://127.0.0.1:0")
        .event_loops(1)
        .start(move |_| Counting(Peers::new(Duration::from_millis(200), 1000), sender.clone()))
        .expect("a free port");
    let peers: Vec<_> = (0..10).map(|_| client(&running, 0)).collect();
    for (number, peer) in peers.iter().enumerate() {
        // An answer that came late is one that began anew: it would count from one.
        (0..=number as u32).for_each(|count| assert_eq!(ask(peer, b"x"), (count + 1).to_le_bytes()));
    }
    let mut counts: Vec<_> = (0..10).map(|_| expired.recv_timeout(PATIENCE).expect("they expire")).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=10).collect::<Vec<_>>());
    assert_eq!(ask(&peers[9], b"x"), 1u32.to_le_bytes());
}

fn r21_a_unix_receiver_without_room_is_waited_for(driver: DriverKind) {
    let (path, own_path) = (socket_path("gram-flood", driver), socket_path("gram-peer", driver));
    let (make, told) = echo();
    let _running = server(driver)
        .listen(format!("unixgram://{}", path.display()))
        .event_loops(1)
        .start(make)
        .expect("a free path");
    let peer = UnixDatagram::bind(&own_path).expect("a free path");
    peer.set_read_timeout(Some(PATIENCE)).expect("positive");
    peer.send_to(b"flood", &path).expect("it is there");
    // Of 5000 answers 4096 fit the queue, and the kernel takes some ten at a time.
    assert!(told.errors.recv_timeout(PATIENCE).expect("an error").contains("too many"));
    for _ in 0..4096 {
        let mut answer = [0; 16];
        assert_eq!(peer.recv(&mut answer).expect("an answer"), 5);
    }
    peer.send_to(b"still here", &path).expect("it is there");
    let mut answer = [0; 16];
    assert_eq!(peer.recv(&mut answer).expect("an answer"), 10);
    let _ = std::fs::remove_file(&own_path);
}

fn r21_a_stopping_server_sends_its_last_datagrams(driver: DriverKind) {
    struct Farewell(Option<Address>);
    impl Handler for Farewell {
        type Session = ();
        fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
            let _ = socket.send_to(&datagram.from, "welcome");
            self.0 = Some(datagram.from);
        }
        fn on_stop(&mut self, context: &mut LoopContext<'_>) {
            let (mut socket, peer) = (context.datagram_socket(0).expect("the only one"), self.0.take());
            socket.send_to(&peer.expect("somebody came"), "farewell").expect("the queue is empty");
        }
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }
    for drain in [Duration::ZERO, PATIENCE] {
        let running = server(driver)
            .listen("udp://127.0.0.1:0")
            .event_loops(1)
            .drain_timeout(drain)
            .start(|_| Farewell(None))
            .expect("a free port");
        let peer = client(&running, 0);
        assert_eq!(ask(&peer, b"hello"), b"welcome");
        let begin = std::time::Instant::now();
        running.stop();
        assert_eq!(receive(&peer), b"farewell");
        running.wait().expect("it stops");
        assert!(begin.elapsed() < PATIENCE / 2, "nobody is left to drain for");
    }
}

fn r26_a_successor_receives_what_arrives(driver: DriverKind) {
    let (make, _told) = echo();
    let old = server(driver).listen("udp://127.0.0.1:0").event_loops(2).start(make).expect("a free port");
    let peers: Vec<_> = (0..8).map(|_| client(&old, 0)).collect();
    peers.iter().for_each(|peer| assert_eq!(ask(peer, b"old"), b"old"));
    let (here, there) = std::os::unix::net::UnixStream::pair().expect("a pair");
    old.handle().hand_over(&here).expect("the other end is there");
    let passed = kolk::inherit::receive(&there).expect("all are there");
    assert_eq!(passed.len(), 2);
    let new = server(driver).inherit(passed).event_loops(1).start(echo().0).expect("nothing is to be bound");
    old.stop();
    // Whichever of the two has them, nobody misses an answer.
    peers.iter().for_each(|peer| assert_eq!(ask(peer, b"between"), b"between"));
    old.wait().expect("it stops");
    peers.iter().for_each(|peer| assert_eq!(ask(peer, b"new"), b"new"));
    assert!(new.stats().datagrams_received >= 8);
}
