//! Connections that the program makes or brings.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use kolk::server::{Action, CloseReason, Conn, Connect, Handler, Input, Origin};
use kolk::{ConnId, DriverKind, SocketOptions};

use crate::support::{PATIENCE, connect, on_each_driver, read_to_end, server, until};

on_each_driver!(
    r19_a_connection_is_made_on_the_loop_that_asks,
    r19_a_failure_is_the_last_callback,
    r19_a_connect_that_takes_too_long_fails,
    r19_any_thread_connects,
    r19_a_connection_that_is_closed_before_it_is_made_closes_once,
    r20_a_socket_of_the_program_is_enrolled,
    r27_outbound_connections_have_their_own_options,
    r27_first_bytes_go_with_the_first_packet,
);

#[derive(Debug, PartialEq)]
enum Saw {
    Open(ConnId, Origin),
    Connected(ConnId),
    Data(ConnId, Vec<u8>),
    Close(ConnId, String),
}

/// Tells what happens; greets whom it connects to, and connects where a peer says.
struct Witness(Sender<Saw>);

impl Witness {
    fn make() -> (impl Fn(usize) -> Self + Send + Sync + 'static, Receiver<Saw>) {
        let (sender, saw) = channel();
        (move |_| Self(sender.clone()), saw)
    }
}

impl Handler for Witness {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>) {
        let _ = self.0.send(Saw::Open(conn.id(), conn.origin()));
        if let Origin::Outbound { tag, .. } = conn.origin() {
            conn.write("greeting");
            if tag == CLOSED_AT_ONCE {
                conn.close_now();
            }
        }
    }

    fn on_connect(&mut self, _: &mut (), conn: &mut Conn<'_>) -> Action {
        let _ = self.0.send(Saw::Connected(conn.id()));
        Action::Continue
    }

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        let bytes = input.take();
        if let Some(target) =
            std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<SocketAddr>().ok())
        {
            conn.connect(Connect::to(target).tag(5)).expect("slots are free");
        } else {
            let _ = self.0.send(Saw::Data(conn.id(), bytes.to_vec()));
        }
        Action::Continue
    }

    fn on_close(&mut self, _: (), conn: &mut Conn<'_>, reason: CloseReason) {
        let _ = self.0.send(Saw::Close(conn.id(), reason.to_string()));
    }
}

const CLOSED_AT_ONCE: u64 = 99;

#[track_caller]
fn next(saw: &Receiver<Saw>) -> Saw {
    saw.recv_timeout(PATIENCE).expect("something happens in time")
}

fn r19_a_connection_is_made_on_the_loop_that_asks(driver: DriverKind) {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound");
    let (make, saw) = Witness::make();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(make).expect("a free port");
    for _ in 0..4 {
        let mut client = connect(&server, 0);
        let Saw::Open(opener, Origin::Accepted { listener: 0 }) = next(&saw) else { panic!("accepted") };
        client.write_all(address.to_string().as_bytes()).expect("connected");
        let Saw::Open(conn, origin) = next(&saw) else { panic!("a connection begins") };
        assert_eq!(origin, Origin::Outbound { tag: 5, opener: Some(opener) });
        assert_eq!(conn.event_loop(), opener.event_loop());
        assert_eq!(next(&saw), Saw::Connected(conn));
        let mut stream = target.accept().expect("it comes").0;
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).expect("what was written before it was there");
        assert_eq!(&greeting, b"greeting");
        stream.write_all(b"answer").expect("connected");
        assert_eq!(next(&saw), Saw::Data(conn, b"answer".to_vec()));
        drop(stream);
        assert_eq!(next(&saw), Saw::Close(conn, "closed by the peer".into()));
        drop(client);
        assert_eq!(next(&saw), Saw::Close(opener, "closed by the peer".into()));
    }
    until("all are counted", || server.stats().connected == 4 && server.stats().connections == 0);
}

fn r19_a_failure_is_the_last_callback(driver: DriverKind) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let (make, saw) = Witness::make();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    let not_local: SocketAddr = ([192, 0, 2, 1], 0).into(); // TEST-NET-1, RFC 5737: nobody has it
    let no_path = std::env::temp_dir().join(format!("kolk-nobody-{}", std::process::id()));
    for (connect, reason) in [
        (Connect::to(free), "refused"),
        (Connect::to(free).from(not_local), "assign"),
        (Connect::to(kolk::Address::Unix(no_path)), "No such file"),
        (Connect::to(kolk::Address::Unnamed), "no name"),
        (Connect::to(free).options(SocketOptions::new().bind_device("nowhere0")), "bind_device=nowhere0"),
    ] {
        let conn = server.handle().connect(connect).expect("it begins");
        assert_eq!(next(&saw), Saw::Open(conn, Origin::Outbound { tag: 0, opener: None }));
        let Saw::Close(closed, text) = next(&saw) else { panic!("it was never there") };
        assert_eq!(closed, conn);
        assert!(text.starts_with("cannot connect: ") && text.contains(reason), "{reason}: {text}");
    }
    until("all are counted", || server.stats().connect_failures == 5 && server.stats().connections == 0);
    assert!(server.handle().connect_on(7, Connect::to(free)).expect_err("one loop").is_invalid_input());
}

fn r19_a_connect_that_takes_too_long_fails(driver: DriverKind) {
    // A queue of one that nobody takes from: the kernel drops the first packets of all others.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    full.listen(0).expect("bound");
    let address = full.local_addr().expect("bound").as_socket().expect("an inet address");
    let (make, saw) = Witness::make();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(1)
        .connect_timeout(Duration::from_millis(100))
        .start(make)
        .expect("a free port");
    let mut timed_out = 0;
    let mut conns = Vec::new();
    for _ in 0..4 {
        conns.push(server.handle().connect(Connect::to(address)).expect("it begins"));
    }
    for _ in 0..8 {
        match next(&saw) {
            Saw::Open(..) | Saw::Connected(_) => {}
            Saw::Close(conn, text) => {
                assert_eq!(text, "cannot connect: the connection was not made in time");
                assert!(conns.contains(&conn));
                timed_out += 1;
            }
            Saw::Data(..) => panic!("nobody sends"),
        }
    }
    assert!((2..=4).contains(&timed_out), "{timed_out}");
    // A connection that was made does not time out later.
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let conn = server.handle().connect(target.local_addr().expect("bound")).expect("it begins");
    assert!(matches!(next(&saw), Saw::Open(..)));
    assert_eq!(next(&saw), Saw::Connected(conn));
    assert!(saw.recv_timeout(Duration::from_millis(300)).is_err(), "nothing more happens");
}

fn r19_any_thread_connects(driver: DriverKind) {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound");
    let (make, saw) = Witness::make();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(make).expect("a free port");
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let handle = server.handle().clone();
            std::thread::spawn(move || {
                for number in 0..25 {
                    let tag = thread * 100 + number;
                    let conn = handle.connect(Connect::to(address).tag(tag)).expect("it begins");
                    // The name is good at once, and what is asked of it comes after the connect.
                    handle.write(conn, format!(" of {tag:03}").into_bytes()).expect("it is known");
                    handle.close(conn).expect("it is known");
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..100 {
        let text = String::from_utf8(read_to_end(target.accept().expect("it comes").0)).expect("text");
        seen.push(text.strip_prefix("greeting of ").expect(&text).parse::<u64>().expect(&text));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    seen.sort_unstable();
    let expected: Vec<u64> =
        (0..4).flat_map(|thread| (0..25).map(move |number| thread * 100 + number)).collect();
    assert_eq!(seen, expected);
    let loops: std::collections::HashSet<_> = saw
        .try_iter()
        .filter_map(|saw| if let Saw::Open(conn, _) = saw { Some(conn.event_loop()) } else { None })
        .collect();
    assert_eq!(loops.len(), 2, "each in its turn");
}

fn r19_a_connection_that_is_closed_before_it_is_made_closes_once(driver: DriverKind) {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (make, saw) = Witness::make();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(1).start(make).expect("a free port");
    for _ in 0..20 {
        let connect = Connect::to(target.local_addr().expect("bound")).tag(CLOSED_AT_ONCE);
        let conn = server.handle().connect(connect).expect("it begins");
        assert!(matches!(next(&saw), Saw::Open(opened, _) if opened == conn));
        assert_eq!(next(&saw), Saw::Close(conn, "closed by the handler".into()));
    }
    until("all are counted", || server.stats().connections == 0);
    assert!(saw.try_recv().is_err());
}

fn r20_a_socket_of_the_program_is_enrolled(driver: DriverKind) {
    let (make, saw) = Witness::make();
    let server = server(driver).listen("tcp://127.0.0.1:0").event_loops(2).start(make).expect("a free port");
    for tag in 0..4 {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        // The program has used it before: the bytes are the server's.
        ours.write_all(b"waiting").expect("connected");
        let conn = server.handle().enroll(theirs, tag).expect("a stream");
        assert_eq!(u64::from(conn.event_loop()), tag % 2, "each loop in its turn");
        assert_eq!(next(&saw), Saw::Open(conn, Origin::Enrolled { tag }));
        assert_eq!(next(&saw), Saw::Data(conn, b"waiting".to_vec()));
        server.handle().write(conn, "to you").expect("it is open");
        let mut bytes = [0; 6];
        ours.read_exact(&mut bytes).expect("the server writes");
        drop(ours);
        assert_eq!(next(&saw), Saw::Close(conn, "closed by the peer".into()));
    }
    // One that is not connected any more has a beginning and an end.
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    drop(ours);
    let conn = server.handle().enroll_on(1, theirs, 7).expect("a stream");
    assert_eq!(next(&saw), Saw::Open(conn, Origin::Enrolled { tag: 7 }));
    assert_eq!(next(&saw), Saw::Close(conn, "closed by the peer".into()));
    until("both loops are empty", || server.stats().connections == 0);
}

fn r27_outbound_connections_have_their_own_options(driver: DriverKind) {
    struct Report(Sender<(bool, usize, Option<SocketAddr>)>);
    impl Handler for Report {
        type Session = ();
        fn on_open(&mut self, _: &mut Conn<'_>) {}
        fn on_connect(&mut self, _: &mut (), conn: &mut Conn<'_>) -> Action {
            conn.set_options(&SocketOptions::new().receive_buffer(70_000)).expect("any size will do");
            let descriptor = conn.descriptor().expect("a real socket");
            let socket = socket2::SockRef::from(&descriptor);
            assert_eq!(socket.recv_buffer_size().expect("a socket"), 140_000);
            let (nodelay, buffer) = (socket.tcp_nodelay(), socket.send_buffer_size());
            let report = (nodelay.expect("TCP"), buffer.expect("a socket"), conn.local_address());
            let _ = self.0.send(report);
            Action::Close
        }
        fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
            Action::Close
        }
    }
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound");
    let (sender, reports) = channel();
    let server = server(driver)
        .listen("tcp://127.0.0.1:0")
        .event_loops(1)
        .outbound_options(SocketOptions::new().send_buffer(30_000))
        .start(move |_| Report(sender.clone()))
        .expect("a free port");
    let next = || reports.recv_timeout(PATIENCE).expect("a report");
    server.handle().connect(address).expect("it begins");
    let (nodelay, buffer, _) = next();
    assert_eq!((nodelay, buffer), (true, 60_000));
    let source: SocketAddr = ([127, 0, 0, 5], 0).into();
    let own = SocketOptions::new().nodelay(false).send_buffer(20_000);
    server.handle().connect(Connect::to(address).from(source).options(own)).expect("it begins");
    let (nodelay, buffer, local) = next();
    assert_eq!((nodelay, buffer), (false, 40_000));
    assert_eq!(local.map(|local| local.ip()), Some(source.ip()));
}

fn r27_first_bytes_go_with_the_first_packet(driver: DriverKind) {
    let (make, saw) = Witness::make();
    let running = server(driver)
        .listen("tcp://127.0.0.1:0?fastopen=16")
        .event_loops(1)
        .outbound_options(SocketOptions::new().fast_open(true))
        .start(make)
        .expect("a free port");
    let own: SocketAddr = running.addresses()[0].trim_start_matches("tcp://").parse().expect("an address");
    // The first connection brings the permission for the second, where the system gives it.
    for _ in 0..2 {
        let conn = running.handle().connect(own).expect("it begins");
        let (mut connected, mut greeted) = (false, false);
        while !(connected && greeted) {
            match next(&saw) {
                Saw::Connected(other) => connected = other == conn,
                Saw::Data(_, bytes) => greeted = bytes == b"greeting",
                Saw::Open(..) => {}
                Saw::Close(_, reason) => panic!("{reason}"),
            }
        }
        running.handle().close(conn).expect("it is open");
        let mut closed = 0;
        while closed < 2 {
            closed += u32::from(matches!(next(&saw), Saw::Close(..)));
        }
    }
}
