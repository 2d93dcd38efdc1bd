//! The simulated kernel keeps the rules of a real one, under every seed.

mod sim_helper;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kolk_engine::buffer::{Chunk, FileRange, OutQueue};
use kolk_engine::clock::Timestamp;
use kolk_engine::driver::{DriverConfig, SimConfig, SimNet, Socket};
use kolk_engine::op::{Direction, Interest, Op, OutDatagram, Outcome, is_cancelled};
use kolk_engine::socket::Address;
use kolk_engine::token::Key;
use kolk_engine::wake::Wake;

use sim_helper::{Machine, assert_errno, for_nets, pattern, read_available, write_available};

fn address(port: u16) -> Address {
    SocketAddr::from(([10, 0, 0, 1], port)).into()
}

fn calm() -> SimNet {
    SimNet::new(SimConfig::calm(1))
}

// Streams.

#[test]
fn bytes_arrive_whole_and_in_order_in_both_directions() {
    for_nets(100, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        let bytes = pattern(20_000);
        machine.send(key, &bytes);
        machine.submit(key, Op::Receive);
        let (mut written, mut read) = (0, Vec::new());
        machine.until(|_| {
            written += write_available(&mut peer, &bytes[written..]);
            assert!(read_available(&mut peer, &mut read).is_none());
            written == bytes.len() && read.len() == bytes.len()
        });
        assert_eq!(read, bytes);
        machine.sent(key).expect("the peer reads");
        machine.cancel(key, Direction::Receive);
        machine.settle_net();
        let received = received_so_far(&machine, key);
        let (rest, _) = {
            peer.shutdown_write();
            machine.log.clear();
            machine.receive_all(key)
        };
        assert_eq!([received, rest].concat(), bytes);
    });
}

fn received_so_far(machine: &Machine, key: Key) -> Vec<u8> {
    let mine = machine.log.iter().filter(|done| done.key == key);
    mine.fold(Vec::new(), |mut bytes, done| {
        if let Outcome::Received(Ok(lease)) = &done.outcome {
            bytes.extend_from_slice(lease);
        }
        bytes
    })
}

#[test]
fn the_end_of_the_stream_comes_behind_the_data() {
    for_nets(100, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        let bytes = pattern(10);
        assert_eq!(write_available(&mut peer, &bytes), bytes.len());
        drop(peer);
        let (received, end) = machine.receive_all(key);
        assert_eq!(received, bytes);
        end.expect("a FIN is no error");
        machine.close(key);
        assert_eq!(net.open_sockets(), 0);
    });
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        peer.shutdown_write();
        machine.receive_all(key).1.expect("a FIN is no error");
        machine.send(key, b"still here");
        machine.sent(key).expect("our direction is open");
        machine.driver.shutdown_write(key).expect("a connected stream can be shut down");
        let (read, end) = machine.read_all(&mut peer);
        assert_eq!(read, b"still here");
        end.expect("a FIN is no error");
        machine.send(key, b"too late");
        assert_errno(machine.sent(key), libc::EPIPE);
    });
}

#[test]
fn closing_with_unread_input_resets_the_peer() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        peer.write_all(b"nobody reads this").expect("there is room for a first write");
        machine.close(key);
        let (_, end) = machine.read_all(&mut peer);
        assert_errno(end, libc::ECONNRESET);
    });
}

#[test]
fn what_arrived_before_a_reset_is_read_before_it() {
    let net = calm();
    let mut machine = Machine::new(&net);
    let (key, mut peer) = machine.pair(&net);
    peer.write_all(b"last words").expect("there is room");
    peer.reset();
    let (received, end) = machine.receive_all(key);
    assert_eq!(received, b"last words");
    assert_errno(end, libc::ECONNRESET);
    // It is reported once.
    machine.receive_all(key).1.expect("after the report the stream has just ended");
    machine.send(key, b"x");
    assert_errno(machine.sent(key), libc::EPIPE);
}

#[test]
fn a_write_after_the_peer_closed_succeeds_once() {
    let net = calm();
    let mut machine = Machine::new(&net);
    let (key, peer) = machine.pair(&net);
    drop(peer);
    machine.send(key, b"into the void");
    machine.sent(key).expect("the kernel does not know yet");
    machine.send(key, b"again");
    assert_errno(machine.sent(key), libc::EPIPE);
}

#[test]
fn a_send_that_waits_fails_when_the_peer_resets() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let (key, peer) = machine.pair(&net);
        machine.send(key, &pattern(100_000));
        machine.settle_net();
        assert!(machine.log.is_empty(), "nobody reads, so it cannot end");
        peer.reset();
        match machine.wait_for(key, |outcome| matches!(outcome, Outcome::Sent(..))) {
            Outcome::Sent(rest, result) => {
                assert_errno(result, libc::ECONNRESET);
                assert!(!rest.is_empty());
            }
            other => unreachable!("{other:?}"),
        }
    });
}

#[test]
fn a_send_takes_all_kinds_of_chunks() {
    let path = std::env::temp_dir().join(format!("kolk-sim-{}", std::process::id()));
    std::fs::write(&path, pattern(10_000)).expect("the temporary folder takes a file");
    let file = Arc::new(File::open(&path).expect("just written"));
    std::fs::remove_file(&path).expect("just written");
    for_nets(20, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        let mut out = OutQueue::default();
        out.push_copy(b"head ");
        out.push(Chunk::from(vec![b'v'; 2000]));
        out.push(FileRange { file: Arc::clone(&file), offset: 100, len: 9_000 }.into());
        out.push("tail".into());
        machine.send_queue(key, Box::new(out));
        let mut read = Vec::new();
        machine.until(|_| read_available(&mut peer, &mut read).is_none() && read.len() == 11_009);
        machine.sent(key).expect("the peer reads");
        assert_eq!(&read[..5], b"head ");
        assert_eq!(read[2005..11_005], pattern(10_000)[100..9_100]);
        assert_eq!(&read[11_005..], b"tail");
    });
}

#[test]
fn an_owned_buffer_gets_what_fits_behind_its_content() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let (key, mut peer) = machine.pair(&net);
        assert!(peer.write(&pattern(100)).expect("there is room") > 0);
        let mut buffer = BytesMut::with_capacity(16);
        buffer.extend_from_slice(b"old");
        let capacity = buffer.capacity();
        machine.submit(key, Op::ReceiveInto(buffer));
        match machine.wait_for(key, |outcome| matches!(outcome, Outcome::ReceivedInto(..))) {
            Outcome::ReceivedInto(buffer, result) => {
                let count = result.expect("bytes arrive");
                assert_eq!(buffer.capacity(), capacity);
                assert_eq!(buffer[..], [b"old", &pattern(100)[..count]].concat());
            }
            other => unreachable!("{other:?}"),
        }
    });
}

// Connecting and accepting.

#[test]
fn a_loop_connects_to_a_listener_outside() {
    for_nets(50, |net| {
        let listener = net.listen_outside(&address(0));
        let mut machine = Machine::new(&net);
        let key = connect(&mut machine, &listener.local_address());
        connected(&mut machine, key).expect("somebody listens");
        let mut peer = listener.accept().expect("the connect ended well");
        let socket = machine.driver.socket(key).expect("attached");
        assert_eq!(socket.peer_address().expect("connected"), listener.local_address());
        assert_eq!(peer.peer_address().expect("connected"), socket.local_address().expect("bound"));
        machine.send(key, b"hello");
        machine.close(key);
        let (read, end) = machine.read_all(&mut peer);
        assert!(b"hello".starts_with(&read), "a prefix: the close may cancel the send");
        end.expect("there was nothing unread");
    });
}

fn connect(machine: &mut Machine, to: &Address) -> Key {
    let socket = machine.driver.open_stream(to).expect("sim always opens");
    let key = machine.attach(socket);
    machine.submit(key, Op::Connect(to.clone()));
    key
}

#[track_caller]
fn connected(machine: &mut Machine, key: Key) -> std::io::Result<()> {
    match machine.wait_for(key, |outcome| matches!(outcome, Outcome::Connected(_))) {
        Outcome::Connected(result) => result,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_connect_to_nobody_is_refused() {
    for_nets(50, |net| {
        let listener = net.listen_outside(&address(80));
        net.refuse(&address(80));
        let mut machine = Machine::new(&net);
        for port in [79, 80] {
            let key = connect(&mut machine, &address(port));
            assert_errno(connected(&mut machine, key), libc::ECONNREFUSED);
        }
        net.restore(&address(80));
        let key = connect(&mut machine, &address(80));
        connected(&mut machine, key).expect("the address is back");
        assert!(listener.accept().is_some());
    });
}

#[test]
fn a_connect_to_a_blackhole_ends_only_by_cancel() {
    for_nets(50, |net| {
        net.blackhole(&address(80));
        let mut machine = Machine::new(&net);
        let key = connect(&mut machine, &address(80));
        machine.settle_net();
        assert!(machine.log.is_empty());
        machine.cancel(key, Direction::Auxiliary);
        let error = connected(&mut machine, key).expect_err("nobody answered");
        assert!(is_cancelled(&error));
        machine.close(key);
        assert_eq!(net.open_sockets(), 0);
    });
}

#[test]
fn a_full_backlog_refuses() {
    let net = SimNet::new(SimConfig { backlog: 2, ..SimConfig::calm(1) });
    let mut machine = Machine::new(&net);
    let listener = machine.attach(net.listen(&address(80)));
    let waiting = [net.connect(&address(80)), net.connect(&address(80))];
    assert!(waiting.iter().all(Result::is_ok));
    assert_errno(net.connect(&address(80)), libc::ECONNREFUSED);
    machine.submit(listener, Op::Accept);
    machine.until(|machine| machine.log.len() == 2);
    net.connect(&address(80)).expect("there is room again");
    machine.close(listener);
    assert_errno(net.connect(&address(80)), libc::ECONNREFUSED);
}

#[test]
fn a_listener_that_closes_resets_whom_nobody_accepted() {
    let net = calm();
    let listener = net.listen(&address(80));
    let mut peer = net.connect(&address(80)).expect("there is room");
    drop(listener);
    assert_errno(peer.read(&mut [0; 8]), libc::ECONNRESET);
    drop(peer);
    assert_eq!(net.open_sockets(), 0);
}

#[test]
fn failing_accepts_lose_no_connection() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let listener = machine.attach(net.listen(&address(80)));
        let peers: Vec<_> = (0..40).map(|_| net.connect(&address(80)).expect("there is room")).collect();
        machine.submit(listener, Op::Accept);
        let mut accepted = Vec::new();
        while accepted.len() < peers.len() {
            match machine.wait_for(listener, |outcome| matches!(outcome, Outcome::Accepted(_))) {
                Outcome::Accepted(Ok(socket)) => accepted.push(socket),
                Outcome::Accepted(Err(_)) => machine.submit(listener, Op::Accept),
                other => unreachable!("{other:?}"),
            }
        }
        for (peer, socket) in peers.iter().zip(&accepted) {
            assert_eq!(socket.peer_address().expect("connected"), peer.local_address());
        }
    });
}

#[test]
fn two_loops_talk_to_each_other() {
    for_nets(50, |net| {
        let (mut server, mut client) = (Machine::new(&net), Machine::new(&net));
        let listener = server.attach(net.listen(&address(80)));
        server.submit(listener, Op::Accept);
        let key = connect(&mut client, &address(80));
        client.send(key, b"ping");
        let accepted = accept_between(&mut server, &mut client, listener);
        server.submit(accepted, Op::Receive);
        let both = |server: &mut Machine, client: &mut Machine| server.turn() + client.turn();
        while received_so_far(&server, accepted) != b"ping" {
            both(&mut server, &mut client);
        }
        client.sent(key).expect("the server reads");
        client.close(key);
        let ended = |outcome: &Outcome| matches!(outcome, Outcome::Received(Ok(end)) if end.is_empty());
        server.wait_for(accepted, ended);
    });
}

fn accept_between(server: &mut Machine, client: &mut Machine, listener: Key) -> Key {
    loop {
        client.turn();
        server.turn();
        match server.log.pop().map(|done| done.outcome) {
            Some(Outcome::Accepted(Ok(socket))) => return server.attach(socket),
            Some(Outcome::Accepted(Err(_))) => server.submit(listener, Op::Accept),
            None => {}
            other => unreachable!("{other:?}"),
        }
    }
}

// Datagrams and readiness.

#[test]
fn datagrams_keep_their_borders_and_addresses() {
    for_nets(50, |net| {
        let mut machine = Machine::new(&net);
        let key = machine.attach(net.datagram(&address(0)));
        let here = machine.driver.socket(key).expect("attached").local_address().expect("bound");
        let peer = net.datagram_peer(&address(0));
        let messages = [&b"one"[..], b"", &pattern(3_000), b"four"];
        for message in messages {
            peer.send_to(message, &here).expect("short enough");
        }
        machine.submit(key, Op::ReceiveFrom(u32::MAX));
        for message in messages {
            match machine.wait_for(key, |outcome| matches!(outcome, Outcome::Datagram(_))) {
                Outcome::Datagram(Ok(datagram)) => {
                    assert_eq!(*datagram.bytes, *message);
                    assert_eq!(datagram.from, peer.local_address());
                    assert!(!datagram.truncated);
                }
                other => unreachable!("{other:?}"),
            }
        }
        let reply = OutDatagram { to: Some(peer.local_address()), bytes: Bytes::from_static(b"back") };
        machine.submit(key, Op::SendTo(Box::new(reply)));
        machine.wait_for(key, |outcome| matches!(outcome, Outcome::SentTo(_, Ok(()))));
        let mut came = None;
        machine.until(|_| {
            came = peer.recv_from().ok();
            came.is_some()
        });
        assert_eq!(came, Some((Bytes::from_static(b"back"), here)));
    });
}

#[test]
fn a_datagram_longer_than_the_buffer_is_cut_and_says_so() {
    let net = calm();
    let config = DriverConfig { arena_block_size: 4096, ..DriverConfig::default() };
    let mut machine = Machine::with_config(&net, &config);
    let key = machine.attach(net.datagram(&address(53)));
    net.datagram_peer(&address(54)).send_to(&pattern(5_000), &address(53)).expect("short enough");
    machine.submit(key, Op::ReceiveFrom(u32::MAX));
    match machine.wait_for(key, |outcome| matches!(outcome, Outcome::Datagram(_))) {
        Outcome::Datagram(Ok(datagram)) => {
            assert!(datagram.truncated);
            assert_eq!(*datagram.bytes, pattern(4096));
        }
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_watch_reports_each_arrival_until_it_is_cancelled() {
    let net = calm();
    let mut machine = Machine::new(&net);
    let (key, mut peer) = machine.pair(&net);
    machine.submit(key, Op::Watch(Interest::READABLE));
    machine.settle_net();
    assert!(machine.log.is_empty());
    for _ in 0..3 {
        peer.write_all(b"x").expect("there is room");
        let ready = |outcome: &Outcome| matches!(outcome, Outcome::Ready(Ok(Interest::READABLE)));
        machine.wait_for(key, ready);
        let Some(Socket::Simulated(socket)) = machine.driver.socket(key) else { unreachable!() };
        assert_eq!(socket.try_read(&mut [0; 8]).expect("it is readable"), 1);
        machine.settle_net();
        assert!(machine.log.is_empty(), "one report for one arrival");
    }
    machine.cancel(key, Direction::Auxiliary);
    let cancelled = |outcome: &Outcome| matches!(outcome, Outcome::Ready(Err(error)) if is_cancelled(error));
    machine.wait_for(key, cancelled);
}

// Memory.

#[test]
fn kept_leases_starve_nobody() {
    for_nets(20, |net| {
        let mut machine = Machine::new(&net);
        let mut pairs: Vec<_> = (0..20).map(|_| machine.pair(&net)).collect();
        for (key, _) in &pairs {
            machine.submit(*key, Op::Receive);
        }
        let bytes = pattern(5_000);
        let mut written = [0; 20];
        // The log keeps every lease.
        machine.until(|_| {
            for ((_, peer), written) in pairs.iter_mut().zip(&mut written) {
                *written += write_available(peer, &bytes[*written..]);
            }
            written.iter().all(|&written| written == bytes.len())
        });
        for (key, _) in &pairs {
            machine.until(|machine| received_so_far(machine, *key) == bytes);
        }
    });
}

#[test]
fn a_driver_short_of_buffers_counts_it_and_goes_on() {
    let net = SimNet::new(SimConfig { receive_blocks: 1, ..SimConfig::calm(1) });
    let mut machine = Machine::new(&net);
    let mut pairs: Vec<_> = (0..4).map(|_| machine.pair(&net)).collect();
    for (key, peer) in &mut pairs {
        machine.submit(*key, Op::Receive);
        peer.write_all(b"abc").expect("there is room");
    }
    let mut kept = Vec::new();
    for _ in 0..100 {
        machine.driver.turn(Some(Timestamp::ZERO)).expect("sim goes on");
        kept.extend(std::iter::from_fn(|| machine.driver.next_completion()));
    }
    let bytes: usize = kept
        .iter()
        .map(|done| match &done.outcome {
            Outcome::Received(Ok(lease)) => lease.len(),
            other => unreachable!("{other:?}"),
        })
        .sum();
    assert_eq!(bytes, 4 * 3);
    assert!(machine.driver.stats().buffers_exhausted >= 3);
}

// Time and waking.

#[test]
fn an_hour_of_silence_takes_no_time() {
    let net = calm();
    let mut machine = Machine::new(&net);
    let (key, _peer) = machine.pair(&net);
    machine.submit(key, Op::Receive);
    let (started, deadline) = (Instant::now(), machine.driver.now() + Duration::from_secs(3600));
    while machine.driver.now() < deadline {
        machine.driver.turn(Some(deadline)).expect("sim goes on");
        assert!(machine.driver.next_completion().is_none());
    }
    assert_eq!(machine.driver.now(), deadline);
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_is_under_way_arrives_before_the_deadline_passes() {
    let config = SimConfig { latency: Duration::from_secs(1), ..SimConfig::calm(3) };
    let net = SimNet::new(config);
    let mut machine = Machine::new(&net);
    let (key, mut peer) = machine.pair(&net);
    peer.write_all(b"x").expect("there is room");
    machine.submit(key, Op::Receive);
    machine.until(|machine| !machine.log.is_empty());
    assert!(net.now() > Timestamp::ZERO && net.now() <= Timestamp::ZERO + Duration::from_secs(1));
}

#[test]
fn without_deadline_and_without_others_a_turn_comes_back() {
    let net = calm();
    let mut machine = Machine::new(&net);
    machine.driver.turn(None).expect("sim goes on");
    assert!(machine.driver.next_completion().is_none());
    assert_eq!(net.now(), Timestamp::ZERO);
}

#[test]
fn another_thread_wakes_a_turn() {
    let net = calm();
    let mut machine = Machine::new(&net);
    let waker = machine.driver.waker();
    let deadline = Timestamp::ZERO + Duration::from_secs(3600);
    std::thread::spawn(move || waker.wake()).join().expect("waking does not panic");
    machine.driver.turn(Some(deadline)).expect("sim goes on");
    assert_eq!(net.now(), Timestamp::ZERO, "a woken turn does not wait");
}

#[test]
fn a_turn_without_deadline_leaps_over_nothing_that_another_thread_began() {
    let net = SimNet::new(SimConfig { latency: Duration::from_millis(2), ..SimConfig::calm(1) });
    let mut machine = Machine::new(&net);
    for _ in 0..20 {
        let (key, mut peer) = machine.pair(&net);
        let leaver = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(200)); // the turn waits already, most of the time
            assert_eq!(write_available(&mut peer, b"bye"), 3);
            drop(peer);
        });
        machine.submit(key, Op::Receive);
        let (begin, mut ended) = (Instant::now(), false);
        while !ended {
            assert!(begin.elapsed() < Duration::from_secs(20), "the end does not come");
            machine.driver.turn(None).expect("sim goes on");
            while let Some(done) = machine.driver.next_completion() {
                ended |= matches!(done.outcome, Outcome::Received(Ok(lease)) if lease.is_empty());
            }
        }
        leaver.join().expect("leaving does not panic");
        assert!(net.now() < Timestamp::ZERO + Duration::from_secs(1), "it is {:?}", net.now());
    }
}

#[test]
fn a_driver_and_its_network_may_move_between_threads() {
    fn assert_send<T: Send>() {}
    fn assert_shared<T: Send + Sync>() {}
    assert_send::<kolk_engine::driver::Driver>();
    assert_shared::<SimNet>();
    assert_shared::<kolk_engine::driver::Waker>();
}
