//! Who accepts, and which loop a connection goes to.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use kolk::server::{Balance, RunningServer};
use kolk::{DriverKind, Keepalive, SocketOptions};

use crate::support::{
    PATIENCE, Told, connect, connect_unix, echo, exchange, next, on_each_driver, server, socket_path,
    telling, until,
};

on_each_driver!(
    r03_acceptors_hand_connections_to_the_loops,
    r03_several_acceptors_share_an_address,
    r03_a_connection_that_waits_when_the_server_stops_is_served,
    r04_round_robin_goes_from_loop_to_loop,
    r04_least_connections_fills_the_gaps,
    r04_connections_of_one_host_live_on_one_loop,
    r04_the_programs_own_function_chooses,
    r04_a_function_that_panics_ends_the_server_with_an_error,
    r27_options_reach_accepted_connections,
    r27_an_option_that_the_kernel_refuses_is_an_error_of_its_address,
);

fn loops_of(told: &Receiver<Told>, count: usize) -> Vec<u16> {
    let mut loops = Vec::new();
    while loops.len() < count {
        if let Told::Open { event_loop, .. } = next(told) {
            loops.push(event_loop);
        }
    }
    loops
}

fn r03_acceptors_hand_connections_to_the_loops(driver: DriverKind) {
    let path = socket_path("acceptor", driver);
    let (make, told) = telling();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .listen(format!("unix://{}", path.display()))
        .event_loops(3)
        .acceptors(1)
        .start(make)
        .expect("free addresses");
    let tcp: Vec<_> = (0..6).map(|_| connect(&server, 0)).collect();
    let mut seen = Vec::new();
    for _ in &tcp {
        let Told::Open { event_loop, listener: 0 } = next(&told) else { panic!("only opens, of the first") };
        seen.push(event_loop);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 0, 1, 1, 2, 2]);
    let unix = connect_unix(&path);
    assert!(matches!(next(&told), Told::Open { listener: 1, .. }));
    for stream in &tcp {
        assert_eq!(exchange(stream, b"hello"), b"hello");
    }
    assert_eq!(exchange(&unix, b"hello"), b"hello");
    until("everybody is counted", || server.stats().accepted == 7);
    server.stop();
    drop((tcp, unix));
    server.wait().expect("it stops in order");
    assert!(!path.exists());
}

fn r03_several_acceptors_share_an_address(driver: DriverKind) {
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(2)
        .acceptors(3)
        .start(echo)
        .expect("a free port");
    let streams: Vec<_> = (0..200).map(|_| connect(&server, 0)).collect();
    for stream in &streams {
        assert_eq!(exchange(stream, b"hello"), b"hello");
    }
    let loads: Vec<_> = server.handle().loop_stats().iter().map(|stats| stats.accepted).collect();
    // Each acceptor goes round by itself, so each may be one off.
    assert!(loads.iter().all(|load| (98..=102).contains(load)), "{loads:?}");
}

fn r03_a_connection_that_waits_when_the_server_stops_is_served(driver: DriverKind) {
    for acceptors in [0, 1] {
        let running = server(driver)
            .listen("tcp://127.0.0.1:0")
            .event_loops(1)
            .acceptors(acceptors)
            .drain_timeout(PATIENCE)
            .start(echo)
            .expect("a free port");
        let known = connect(&running, 0);
        assert_eq!(exchange(&known, b"known"), b"known");
        let (handle, accepted) = (running.handle().clone(), running.stats().accepted);
        let fresh = connect(&running, 0);
        until("it is accepted", || handle.stats().accepted > accepted);
        handle.stop();
        assert_eq!(exchange(&fresh, b"fresh"), b"fresh");
        assert_eq!(exchange(&known, b"known"), b"known");
        drop((fresh, known));
        running.wait().expect("it stops once they have gone");
    }
}

fn balanced(
    driver: DriverKind,
    balance: Balance,
) -> (RunningServer<impl kolk::server::Handler>, Receiver<Told>) {
    let (make, told) = telling();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(4)
        .balance(balance)
        .start(make)
        .expect("a free port");
    (server, told)
}

fn r04_round_robin_goes_from_loop_to_loop(driver: DriverKind) {
    let (server, told) = balanced(driver, Balance::RoundRobin);
    let mut loops = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(connect(&server, 0));
        loops.extend(loops_of(&told, 1));
    }
    assert_eq!(loops, [0, 1, 2, 3, 0, 1, 2, 3]);
}

fn r04_least_connections_fills_the_gaps(driver: DriverKind) {
    let (server, told) = balanced(driver, Balance::LeastConnections);
    let mut streams: Vec<_> = (0..12).map(|_| Some(connect(&server, 0))).collect();
    let mut counts = [0; 4];
    // All are known to their loops before the next ones come.
    loops_of(&told, 12).into_iter().for_each(|number| counts[usize::from(number)] += 1);
    assert_eq!(counts, [3; 4]);
    // The connections of one loop go; the next ones take their places.
    let handle = server.handle();
    let loads = || handle.loop_stats().iter().map(|stats| stats.connections).collect::<Vec<_>>();
    for stream in streams.iter_mut().take(5) {
        drop(stream.take());
    }
    until("they are gone", || loads().iter().sum::<u64>() == 7);
    let mut before = loads();
    for _ in 0..5 {
        streams.push(Some(connect(&server, 0)));
        let chosen = usize::from(loops_of(&told, 1)[0]);
        assert_eq!(before[chosen], *before.iter().min().expect("four"), "{before:?} and then {chosen}");
        before[chosen] += 1;
        until("it is counted", || loads() == before);
    }
    assert_eq!(loads(), [3; 4]);
}

/// A connection from this address of the loopback network.
fn connect_from(server: &RunningServer<impl kolk::server::Handler>, source: [u8; 4]) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("a loopback address");
    let place = server.addresses()[0].trim_start_matches("tcp://");
    socket.connect(&place.parse::<SocketAddr>().expect("an address").into()).expect("it listens");
    socket.into()
}

fn r04_connections_of_one_host_live_on_one_loop(driver: DriverKind) {
    let (server, told) = balanced(driver, Balance::SourceHash);
    let mut streams = Vec::new();
    let mut seen = [false; 4];
    for host in 1..=30 {
        for _ in 0..3 {
            streams.push(connect_from(&server, [127, 0, 0, host]));
        }
        let loops = loops_of(&told, 3);
        assert!(loops.iter().all(|number| *number == loops[0]), "host {host} is on {loops:?}");
        seen[usize::from(loops[0])] = true;
    }
    assert_eq!(seen, [true; 4]);
}

fn r04_the_programs_own_function_chooses(driver: DriverKind) {
    let own = Balance::by(|incoming| {
        assert_eq!((incoming.loads().len(), incoming.listener()), (4, 0));
        let peer = incoming.peer_address().expect("it has just connected");
        if peer.ip() == std::net::IpAddr::from([127, 0, 0, 9]) { 2 } else { 4 + 3 }
    });
    let (server, told) = balanced(driver, own);
    let _nine = connect_from(&server, [127, 0, 0, 9]);
    assert_eq!(loops_of(&told, 1), [2]);
    let _one = connect_from(&server, [127, 0, 0, 1]);
    assert_eq!(loops_of(&told, 1), [3], "a number too high starts again");
}

fn r04_a_function_that_panics_ends_the_server_with_an_error(driver: DriverKind) {
    let (server, _told) = balanced(driver, Balance::by(|_| panic!("no choice")));
    let mut stream = connect(&server, 0);
    let error = server.wait().expect_err("the acceptor is gone");
    assert!(error.to_string().contains("acceptor 0 stopped: it panicked"), "{error}");
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "its connection is closed");
}

fn r27_options_reach_accepted_connections(driver: DriverKind) {
    use kolk::server::{Action, Conn, Handler, Input};

    struct Report(std::sync::mpsc::Sender<(bool, Duration, usize)>);
    impl Handler for Report {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>) {
            let descriptor = conn.descriptor().expect("a real socket");
            let socket = socket2::SockRef::from(&descriptor);
            let report = (
                socket.tcp_nodelay().unwrap_or(false),
                socket.tcp_keepalive_time().unwrap_or_default(),
                socket.send_buffer_size().expect("a socket"),
            );
            self.0.send(report).expect("the test listens");
        }
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }

    let path = socket_path("options", driver);
    let keepalive = Keepalive { idle: Duration::from_secs(99), interval: Duration::from_secs(9), count: 9 };
    for acceptors in [0, 1] {
        let (sender, reports) = std::sync::mpsc::channel();
        let server = server(driver)
            .socket_options(SocketOptions::new().keepalive(keepalive).send_buffer(40_000))
            .listen("tcp://127.0.0.1:0")
            .listen("tcp://127.0.0.1:0?sndbuf=50000")
            .listen(format!("unix://{}", path.display()))
            .event_loops(1)
            .acceptors(acceptors)
            .start(move |_| Report(sender.clone()))
            .expect("free addresses");
        let idle = Duration::from_secs(99);
        let next = || reports.recv_timeout(PATIENCE).expect("a report");
        let _first = connect(&server, 0);
        assert_eq!(next(), (true, idle, 80_000), "nodelay is on by default");
        let _second = connect(&server, 1);
        assert_eq!(next(), (true, idle, 100_000), "an address has its own");
        let _third = connect_unix(&path);
        assert_eq!(next().2, 80_000, "a Unix listener passes nothing on");
    }
    let (sender, reports) = std::sync::mpsc::channel();
    let server = server(driver)
        .nodelay(false)
        .listen("tcp://127.0.0.1:0")
        .start(move |_| Report(sender.clone()))
        .expect("a free port");
    let _stream = connect(&server, 0);
    assert!(!reports.recv_timeout(PATIENCE).expect("a report").0);
}

fn r27_an_option_that_the_kernel_refuses_is_an_error_of_its_address(driver: DriverKind) {
    let error = server(driver)
        .socket_options(SocketOptions::new().congestion_control("hope"))
        .listen("tcp://127.0.0.1:0")
        .start(echo)
        .expect_err("there is no such algorithm");
    let text = error.to_string();
    assert!(text.starts_with("cannot bind tcp://127.0.0.1:0: "), "{text}");
    assert!(text.contains("congestion_control=hope is refused"), "{text}");
}
