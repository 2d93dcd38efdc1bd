//! The examples that speak a protocol: frames, lines, RESP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::{PATIENCE, Serving, pattern, run};

/// Sends in pieces of `piece` bytes and reads as many bytes as `expected` has; the connection stays open.
#[track_caller]
fn converse(mut stream: &TcpStream, bytes: &[u8], piece: usize, expected: &[u8]) {
    stream.set_nodelay(true).expect("connected");
    std::thread::scope(|scope| {
        scope.spawn(move || bytes.chunks(piece).for_each(|piece| stream.write_all(piece).expect("sent")));
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).expect("an answer");
        assert!(answer == expected, "{} in pieces of {piece}", String::from_utf8_lossy(&answer));
    });
}

/// Nothing comes any more: an end, or a reset if we had said more than was read.
#[track_caller]
fn ends(mut stream: &TcpStream) {
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "it goes on");
}

#[test]
fn length_field_answers_each_frame() {
    let texts = Serving::start("length_field", &["tcp://127.0.0.1:0"]);
    let long = vec![b'x'; 4096 - 3];
    let frame = |kind: u8, text: &[u8]| [&(text.len() as u16 + 3).to_be_bytes()[..], &[kind], text].concat();
    let requests = [frame(1, b"hello"), frame(2, b"abc"), frame(9, b"what"), frame(1, b""), frame(1, &long)];
    let answers = [
        frame(1, b"HELLO"),
        frame(2, b"cba"),
        frame(0, b"what"),
        frame(1, b""),
        frame(1, &long.to_ascii_uppercase()),
    ];
    let stream = texts.connect();
    for piece in [1, 7, 10_000] {
        converse(&stream, &requests.concat(), piece, &answers.concat());
    }
    // A length over the limit, and one that does not count itself: these connections end, and no other.
    for bad in [b"\xff\xff\x01".as_slice(), b"\x00\x01\x01"] {
        let other = texts.connect();
        (&other).write_all(bad).expect("sent");
        ends(&other);
    }
    converse(&stream, &requests.concat(), 10_000, &answers.concat());
}

/// A guest of the chat.
struct Guest {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Guest {
    #[track_caller]
    fn enter(chat: &Serving, name: &str) -> Self {
        Self::on(chat.connect(), name)
    }

    #[track_caller]
    fn on(stream: TcpStream, name: &str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("positive");
        let mut guest = Self { lines: BufReader::new(stream.try_clone().expect("a descriptor")), stream };
        guest.hears("* your name?");
        guest.says(name);
        guest.hears(&format!("* {name} is in lobby"));
        guest
    }

    #[track_caller]
    fn says(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("sent");
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.next(), format!("{line}\n"));
    }
}

#[test]
fn chat_has_names_and_rooms() {
    let chat = Serving::start("chat", &["tcp://127.0.0.1:0"]);
    let mut ada = Guest::enter(&chat, "ada");
    let mut bob = Guest::enter(&chat, "bob");
    ada.hears("* bob is in lobby");
    let mut eve = Guest::enter(&chat, "eve");
    ada.hears("* eve is in lobby");
    bob.hears("* eve is in lobby");
    ada.says("hello");
    for guest in [&mut ada, &mut bob, &mut eve] {
        guest.hears("ada: hello");
    }
    bob.says("/join garden");
    bob.hears("* bob is in garden");
    for guest in [&mut ada, &mut eve] {
        guest.hears("* bob has left lobby");
    }
    bob.says("is anybody here?");
    bob.hears("bob: is anybody here?");
    eve.says("/dance");
    eve.hears("* /join ROOM, or /quit");
    eve.says("/quit");
    assert_eq!(eve.next(), "");
    ada.hears("* eve has left lobby");
    drop(bob);
    ada.says("alone");
    ada.hears("ada: alone");

    let rude = chat.connect();
    (&rude).write_all(&[b'x'; 2000]).expect("sent");
    let mut complaint = String::new();
    (&rude).read_to_string(&mut complaint).expect("text and its end");
    assert_eq!(complaint, "* your name?\n* a frame of at least 1025 bytes is over the limit of 1024\n");
}

#[test]
fn chat_lets_nobody_wait_for_a_slow_reader() {
    const LINES: usize = 6_000;
    let chat = Serving::start("chat", &["tcp://127.0.0.1:0"]);
    let place = chat.address.trim_start_matches("tcp://").parse().expect("an address");
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a descriptor");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket.connect(&socket2::SockAddr::from(std::net::SocketAddr::clone(&place))).expect("it listens");
    let mut slow = Guest::on(socket.into(), "slow");
    let mut ada = Guest::enter(&chat, "ada");
    let mut bob = Guest::enter(&chat, "bob");
    ada.hears("* bob is in lobby");
    let text = |number: usize| format!("{number:0>1000}");
    for number in 0..LINES {
        ada.says(&text(number));
        // Not faster than they hear it: what is lost is lost to the slow one only.
        for guest in [&mut ada, &mut bob] {
            guest.hears(&format!("ada: {}", text(number)));
        }
    }
    ada.says("/quit");
    slow.hears("* ada is in lobby");
    slow.hears("* bob is in lobby");
    let mut heard = Vec::new();
    loop {
        let line = slow.next();
        match line.trim_end().strip_prefix("ada: ") {
            Some(text) => {
                assert_eq!(text.len(), 1000, "a whole line");
                heard.push(text.parse::<usize>().expect("a number"));
            }
            None => {
                assert_eq!(line, "* ada has left lobby\n");
                break;
            }
        }
    }
    assert!(
        heard.is_sorted() && heard.last() == Some(&(LINES - 1)),
        "the newest is heard: {:?}",
        heard.last()
    );
    assert!(heard.len() < LINES, "the socket buffers took all of it, so nothing was tested");
}

#[test]
fn redis_ping_speaks_enough_resp() {
    let redis = Serving::start("redis_ping", &["tcp://127.0.0.1:0"]);
    let stream = redis.connect();
    let value = pattern(100_000);
    let requests = [
        b"PING\r\n\r\nping hello\r\n*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".as_slice(),
        b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$6\r\n12\r\n45\r\nSET k2 two\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n",
        &value,
        b"\r\nGET k\r\nget k2\r\nDEL k2\r\nDEL k2\r\nGET k2\r\nSET a b c d\r\nMULTI\r\n*0\r\nSET e \r\n",
        b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
    ]
    .concat();
    let unknown = b"-ERR unknown command, or wrong number of arguments\r\n".as_slice();
    let answers = [
        b"+PONG\r\n$5\r\nhello\r\n+PONG\r\n$-1\r\n".as_slice(),
        b"+OK\r\n+OK\r\n$6\r\n12\r\n45\r\n",
        b"+OK\r\n",
        b"$100000\r\n",
        &value,
        b"\r\n$3\r\ntwo\r\n:1\r\n:0\r\n$-1\r\n",
        unknown,
        unknown,
        unknown,
        b"+OK\r\n$0\r\n\r\n",
    ]
    .concat();
    for piece in [3, 1_000, usize::MAX] {
        converse(&stream, &requests, piece, &answers);
        converse(&stream, b"DEL k\r\n", 10, b":1\r\n");
    }
    for (bad, complaint) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*99999\r\n", "invalid multibulk length"),
        ("*1\r\n+PING\r\n", "expected '$'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$9999999999\r\n", "invalid bulk length"),
        (&"x".repeat(5000), "too big inline request"),
    ] {
        let other = redis.connect();
        (&other).write_all(bad.as_bytes()).expect("sent");
        other.shutdown(Shutdown::Write).expect("connected");
        let mut answer = String::new();
        (&other).read_to_string(&mut answer).expect("an answer and its end");
        assert_eq!(answer, format!("-ERR Protocol error: {complaint}\r\n"));
    }
    converse(&stream, b"PING\r\n", 10, b"+PONG\r\n");
}

#[test]
fn an_address_that_cannot_be_is_named() {
    for name in ["length_field", "chat", "redis_ping"] {
        let output = run(name, &["tpc://nowhere"]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}: {complaint}");
        assert!(complaint.contains("\"tpc://nowhere\""), "{name}: {complaint}");
    }
}
