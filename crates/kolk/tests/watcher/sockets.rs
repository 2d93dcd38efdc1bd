//! Sockets that come and go: adopted, accepted, connected, detached; several watchers; bad use.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use kolk::watcher::{Completions, Operation, Request, Watcher};
use kolk::{Address, DriverChoice, DriverKind, FileRange};
use kolk_engine::driver::SimNet;

use crate::support::{Rig, buffer, everywhere, loopback, on_real_kernels, pattern};

everywhere!(p22_a_listener_delivers_connections_and_a_connect_its_own);

on_real_kernels!(
    p01_any_socket_is_adopted_also_after_use,
    p02_detach_gives_the_socket_and_the_unread_bytes_back,
    p22_after_a_cancel_connections_wait_for_the_next_accept,
    p22_a_connect_that_fails_is_freed,
    p25_several_watchers_share_the_connections_as_the_program_likes,
    p27_counters_tell_what_happened,
    bad_descriptors_are_errors,
    what_a_socket_cannot_do_is_an_error,
);

fn p01_any_socket_is_adopted_also_after_use(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    // A handshake of the program's own, and an option of its own.
    let (mut near, mut far) = rig.tcp_pair();
    near.set_nodelay(true).unwrap();
    near.write_all(b"hello").unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    let conn = rig.watcher.adopt(near).unwrap();
    rig.watcher.write(conn, 1, "world").unwrap();
    rig.next_of(Operation::Write);
    far.read_exact(&mut [0; 5]).unwrap();
    let back: TcpStream = rig.watcher.detach(conn).unwrap().socket;
    assert!(back.nodelay().unwrap(), "{driver}: options stay");

    let (near, mut far) = UnixStream::pair().unwrap();
    let conn = rig.watcher.adopt(OwnedFd::from(near)).unwrap();
    rig.watcher.write(conn, 2, "unix").unwrap();
    rig.next_of(Operation::Write);
    far.read_exact(&mut [0; 4]).unwrap();

    let (near, far) = UnixDatagram::pair().unwrap();
    let conn = rig.watcher.adopt(near).unwrap();
    rig.watcher.recv_from(conn, 3).unwrap();
    far.send(b"datagram").unwrap();
    assert_eq!(&*rig.next_of(Operation::RecvFrom).buffer, b"datagram", "{driver}");
    rig.watcher.write(conn, 4, "connected").unwrap();
    assert_eq!(rig.next_of(Operation::SendTo).result.unwrap(), 9, "{driver}");

    let conn = rig.watcher.adopt(UdpSocket::bind(loopback()).unwrap()).unwrap();
    assert!(rig.watcher.local_address(conn).unwrap().as_inet().is_some());
    assert_eq!(rig.watcher.conn_count(), 3, "{driver}");
}

fn p02_detach_gives_the_socket_and_the_unread_bytes_back(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let (near, mut far) = rig.tcp_pair();
    let conn = rig.watcher.adopt(near).unwrap();
    rig.watcher.read_until(conn, 1, "\n", 100).unwrap();
    assert!(rig.watcher.detach::<TcpStream>(conn).unwrap_err().is_busy(), "{driver}: a read is pending");
    far.write_all(b"line\nrest").unwrap();
    assert_eq!(&*rig.next().buffer, b"line\n", "{driver}");
    let detached = rig.watcher.detach::<TcpStream>(conn).unwrap();
    let mut socket = detached.socket;
    socket.set_nonblocking(false).unwrap();
    let mut unread = detached.unread.to_vec();
    far.write_all(b", more").unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    socket.read_to_end(&mut unread).unwrap();
    assert_eq!(unread, b"rest, more", "{driver}: no byte is lost");
    assert!(rig.watcher.read_pooled(conn, 2).unwrap_err().is_not_connected(), "{driver}: the name is stale");
    assert!(rig.watcher.detach::<TcpStream>(conn).unwrap_err().is_not_connected(), "{driver}");
    assert_eq!(rig.watcher.conn_count(), 0, "{driver}");
}

fn p22_a_listener_delivers_connections_and_a_connect_its_own(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let listener = match &rig.net {
        Some(net) => {
            let listener = net.listen(&loopback().into());
            rig.watcher.adopt(listener).unwrap()
        }
        None => rig.watcher.adopt(TcpListener::bind(loopback()).unwrap()).unwrap(),
    };
    let address = rig.watcher.local_address(listener).unwrap();
    rig.watcher.accept(listener, 1).unwrap();
    assert!(rig.watcher.accept(listener, 1).unwrap_err().is_busy(), "{driver}: it accepts already");
    for _ in 0..3 {
        let conn = rig.watcher.connect(address.clone(), 2).unwrap();
        rig.watcher.write(conn, 3, "early").unwrap();
        rig.watcher.read_exact(conn, 4, buffer(5)).unwrap();
        let mut order = Vec::new();
        rig.until("the echo", |rig| {
            while let Some(done) = rig.done.pop_front() {
                match done.operation {
                    Operation::Accept => {
                        assert_eq!((done.conn, done.context), (listener, 1), "{driver}");
                        let accepted = done.accepted().expect("an accept names its connection");
                        rig.watcher.read_exact(accepted, 5, buffer(5)).unwrap();
                    }
                    Operation::ReadExact if done.context == 5 => {
                        rig.watcher.write(done.conn, 6, done.buffer).unwrap();
                    }
                    _ if done.conn == conn => order.push(done.context),
                    _ => {}
                }
            }
            order.len() == 3
        });
        assert_eq!(order, [2, 3, 4], "{driver}: first the connect, then what waited for it");
    }
    let id = rig.submit(Request::free(listener, 7));
    let last = rig.until_of(Operation::Closed);
    assert_eq!((last.id(), last.context), (id, 7), "{driver}");
}

fn p22_after_a_cancel_connections_wait_for_the_next_accept(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = rig.watcher.adopt(listener).unwrap();
    for round in 0..3 {
        let accept = rig.submit(Request::accept(listener, round));
        let first = TcpStream::connect(address).unwrap();
        assert_eq!(rig.next_of(Operation::Accept).context, round, "{driver}");
        rig.watcher.cancel(accept);
        rig.watcher.cancel(accept);
        assert!(rig.watcher.accept(listener, 9).unwrap_err().is_busy(), "{driver}: it has not ended");
        assert!(rig.next_of(Operation::Accept).result.unwrap_err().is_cancelled(), "{driver}");
        let second = TcpStream::connect(address).unwrap();
        rig.nothing_more();
        let accept = rig.submit(Request::accept(listener, round));
        let waited = rig.next_of(Operation::Accept).accepted().expect("an accept names its connection");
        let own = second.local_addr().unwrap();
        assert_eq!(
            rig.watcher.peer_address(waited).unwrap().as_inet(),
            Some(own),
            "{driver}: it was not closed"
        );
        rig.watcher.cancel(accept);
        assert!(rig.next_of(Operation::Accept).result.unwrap_err().is_cancelled(), "{driver}");
        drop((first, second));
    }
}

fn p22_a_connect_that_fails_is_freed(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let nobody = TcpListener::bind(loopback()).and_then(|probe| probe.local_addr()).unwrap();
    let conn = rig.watcher.connect(nobody, 1).unwrap();
    rig.watcher.read(conn, 2, buffer(10)).unwrap();
    let done = rig.next_of(Operation::Connect);
    assert!(done.result.unwrap_err().is_connection_refused(), "{driver}");
    assert!(!rig.watcher.is_open(conn), "{driver}");
    let done = rig.next_of(Operation::Read);
    assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
    assert_eq!(done.buffer.recycle().capacity(), 10, "{driver}: the buffer comes back");

    // A listener whose queue is full answers no further connect.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&loopback().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let deadline = Duration::from_millis(50);
    let late = rig.submit(Request::connect(address, 3).timeout(deadline));
    let done = rig.next_of(Operation::Connect);
    assert_eq!((done.id(), done.context), (late, 3), "{driver}");
    assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
    assert!(!rig.watcher.is_open(late.conn()), "{driver}");
    rig.until("its end", |rig| rig.watcher.conn_count() == 0);
}

fn p25_several_watchers_share_the_connections_as_the_program_likes(driver: DriverKind) {
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut submitters = Vec::new();
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let watcher = Watcher::<()>::builder().driver(DriverChoice::Only(driver)).number(number);
            let mut watcher = watcher.build().unwrap();
            submitters.push(watcher.submitter());
            std::thread::spawn(move || {
                watcher.affinity(0).unwrap();
                let (mut completions, mut echoed) = (Completions::default(), 0);
                while echoed < 2 {
                    watcher.wait(&mut completions, None).unwrap();
                    for done in completions.drain() {
                        assert_eq!(done.conn.event_loop(), number, "a connection stays with its watcher");
                        match done.operation {
                            Operation::ReadExact => watcher.write(done.conn, (), done.buffer).unwrap(),
                            _ => echoed += 1,
                        }
                    }
                }
            })
        })
        .collect();
    for n in 0..6 {
        let mut stream = TcpStream::connect(address).unwrap();
        let submitter = &submitters[n % 3];
        let conn = submitter.adopt(listener.accept().unwrap().0).unwrap();
        submitter.read_exact(conn, (), buffer(9)).unwrap();
        let stranger = submitters[(n + 1) % 3].read_pooled(conn, ());
        assert!(stranger.unwrap_err().is_invalid_input(), "{driver}: a name of another watcher");
        stream.write_all(b"a message").unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let watcher = Watcher::<()>::builder().driver(DriverChoice::Only(driver)).build().unwrap();
    assert!(watcher.affinity(1_000_000).is_err(), "{driver}");
}

fn p27_counters_tell_what_happened(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let (conn, mut peer) = rig.pair();
    let submitter = rig.watcher.submitter();
    submitter.write(conn, 1, "12345").unwrap();
    rig.next_of(Operation::Write);
    rig.watcher.read(conn, 2, buffer(3)).unwrap();
    rig.peer_writes(&mut peer, b"abc");
    rig.next_of(Operation::Read);
    let stats = rig.watcher.stats();
    assert_eq!((stats.connections, rig.watcher.conn_count()), (1, 1), "{driver}");
    assert_eq!((stats.completions, stats.batches, stats.submissions), (2, 2, 1), "{driver}");
    assert_eq!((stats.bytes_sent, stats.bytes_received), (5, 3), "{driver}");
    assert!(stats.turns >= 2 && stats.wake_ups <= 1, "{driver}: {stats:?}");
    rig.watcher.free(conn);
    rig.until("the close", |rig| rig.watcher.stats().connections == 0);
}

fn bad_descriptors_are_errors(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let submitter = rig.watcher.submitter();
    let file = || OwnedFd::from(File::open("/proc/self/exe").unwrap());
    for error in [rig.watcher.adopt(file()).unwrap_err(), submitter.adopt(file()).unwrap_err()] {
        assert!(error.is_invalid_input() && error.to_string().contains("regular file"), "{driver}: {error}");
    }
    const CLOSED: RawFd = 1 << 19;
    // SAFETY: nobody has this descriptor, so nobody loses it.
    let closed = unsafe { OwnedFd::from_raw_fd(CLOSED) };
    let error = rig.watcher.adopt(closed).unwrap_err();
    assert!(error.to_string().contains("was closed before"), "{driver}: {error}");
    assert_eq!(rig.watcher.conn_count(), 0, "{driver}");
}

fn what_a_socket_cannot_do_is_an_error(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    let listener = rig.watcher.adopt(TcpListener::bind(loopback()).unwrap()).unwrap();
    assert!(rig.watcher.read(listener, 1, buffer(9)).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.write(listener, 1, "x").unwrap_err().is_invalid_input(), "{driver}");
    let (near, _far) = rig.tcp_pair();
    let stream = rig.watcher.adopt(near).unwrap();
    assert!(rig.watcher.accept(stream, 1).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.recv_from(stream, 1).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.relay(stream, stream, 1).unwrap_err().is_invalid_input(), "{driver}");
    assert!(rig.watcher.relay(stream, listener, 1).unwrap_err().is_invalid_input(), "{driver}");
    let udp = rig.watcher.adopt(UdpSocket::bind(loopback()).unwrap()).unwrap();
    assert!(rig.watcher.read_pooled(udp, 1).unwrap_err().is_invalid_input(), "{driver}");
    let file = std::sync::Arc::new(File::open("/proc/self/exe").unwrap());
    let range = FileRange { file, offset: 0, len: 100 };
    assert!(rig.watcher.send_to(udp, 1, range, loopback()).unwrap_err().is_invalid_input(), "{driver}");
    // From another thread the completion says so.
    let submitter = rig.watcher.submitter();
    submitter.read(listener, 2, buffer(9)).unwrap();
    submitter.relay(stream, listener, 3).unwrap();
    for context in 2..=3 {
        let done = rig.next();
        assert_eq!(done.context, context, "{driver}");
        assert!(done.result.unwrap_err().is_invalid_input(), "{driver}");
    }
    let path = std::env::temp_dir().join(format!("kolk-watcher-{}-{driver}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let _unix = UnixListener::bind(&path).unwrap();
    rig.watcher.connect(Address::Unix(path.clone()), 4).unwrap();
    assert!(rig.next_of(Operation::Connect).result.is_ok(), "{driver}");
    std::fs::remove_file(&path).unwrap();
    rig.watcher.connect(Address::Unnamed, 5).unwrap();
    assert!(rig.next_of(Operation::Connect).result.is_err(), "{driver}");
}

#[test]
fn a_simulated_socket_has_no_place_on_a_real_kernel() {
    let mut rig = Rig::<u32>::new(DriverKind::Epoll);
    let (near, _far) = SimNet::new(kolk_engine::driver::SimConfig::calm(1)).pair();
    assert!(rig.watcher.adopt(near).is_err());
    drop(pattern(1));
}
