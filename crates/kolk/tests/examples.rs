//! Every example does what it says, over real sockets.

#[path = "examples/reactor.rs"]
mod reactor;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program that cargo built beside this one.
fn example(name: &str) -> Command {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own.ancestors().nth(2).expect("target/PROFILE/deps/NAME");
    let path: PathBuf = profile.join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build -p kolk --examples`", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// An example that serves until it is dropped.
struct Serving {
    child: Child,
    address: String,
    stdout: BufReader<ChildStdout>,
}

impl Serving {
    /// Starts one on a free port, and waits until it says which.
    #[track_caller]
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = example(name).args(arguments).spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        assert!(!address.ends_with(":0"), "{address}");
        Self { child, address, stdout }
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("positive");
        stream.set_write_timeout(Some(PATIENCE)).expect("positive");
        stream
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an example that ends by itself.
#[track_caller]
fn run(name: &str, arguments: &[&str]) -> Output {
    let mut child = example(name).args(arguments).spawn().expect("it starts");
    let begin = Instant::now();
    while child.try_wait().expect("it is our child").is_none() {
        if begin.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{name} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place ^ (place >> 8) ^ (place >> 15)) as u8).collect()
}

/// Sends and receives at the same time, so that neither waits for the other; then ends its direction.
#[track_caller]
fn exchange(mut stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(bytes).expect("sent");
            stream.shutdown(Shutdown::Write).expect("connected");
        });
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer and its end");
        answer
    })
}

#[test]
fn watcher_echo_gives_every_byte_back() {
    let echo = Serving::start("watcher_echo", &["127.0.0.1:0"]);
    let sent = pattern(1 << 20);
    let streams: Vec<_> = (0..3).map(|_| echo.connect()).collect();
    for stream in &streams {
        assert!(exchange(stream, &sent) == sent);
    }
}

#[test]
fn watcher_push_sends_the_same_bytes_to_everybody() {
    let push = Serving::start("watcher_push", &["127.0.0.1:0"]);
    let mut gone = push.connect();
    let here: Vec<_> = (0..3).map(|_| push.connect()).collect();
    gone.read_exact(&mut [0; 1]).expect("a first message");
    drop(gone); // with unread bytes: the server sees a reset
    (&here[0]).write_all(b"nobody asked").expect("sent");
    for mut stream in here {
        let mut messages = [0; 2 * 1024];
        stream.read_exact(&mut messages).expect("two messages");
        let text = std::str::from_utf8(&messages).expect("text");
        let first: u64 =
            text.lines().next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect(text);
        let expected: String =
            [first, first + 1].map(|beat| format!("{:>1023}\n", format!("beat {beat}"))).concat();
        assert_eq!(text, expected);
    }
}

#[test]
fn watcher_relay_copies_both_ways_and_survives_a_target_that_is_not_there() {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound").to_string();
    let mut relay = Serving::start("watcher_relay", &["127.0.0.1:0", &address]);
    let (there, back) = (pattern(700_000), pattern(500_001));
    let client = relay.connect();
    let server = target.accept().expect("the relay connects").0;
    let (at_server, at_client) = thread::scope(|scope| {
        let at_server = scope.spawn(|| exchange(&server, &back));
        let at_client = exchange(&client, &there);
        (at_server.join().expect("no panic"), at_client)
    });
    assert!(at_server == there && at_client == back);
    let mut line = String::new();
    relay.stdout.read_line(&mut line).expect("text");
    assert_eq!(line, "700000 bytes there, 500001 bytes back\n");

    drop(target);
    for _ in 0..2 {
        let mut refused = relay.connect();
        assert!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)));
        relay.stdout.read_line(&mut line).expect("it goes on");
    }
    assert!(line.ends_with("\n0 bytes there, 0 bytes back\n"), "{line}");
}

#[test]
fn watcher_udp_echo_answers_each_sender() {
    let echo = Serving::start("watcher_udp_echo", &["127.0.0.1:0"]);
    let sockets = [(); 2].map(|()| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(&echo.address).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("positive");
        socket
    });
    sockets[0].send(b"").expect("sent"); // no answer, and no harm
    for number in 0..200_u32 {
        let text = [&number.to_le_bytes()[..], &pattern(number as usize)].concat();
        let socket = &sockets[number as usize % 2];
        socket.send(&text).expect("sent");
        let mut answer = [0; 1024];
        let count = socket.recv(&mut answer).expect("an answer");
        assert!(answer[..count] == text, "datagram {number}");
    }
}

#[test]
fn watcher_timers_beat_until_they_are_cancelled() {
    let begin = Instant::now();
    let output = run("watcher_timers", &["50"]);
    assert!(begin.elapsed() >= Duration::from_millis(175));
    let text = String::from_utf8(output.stdout).expect("text");
    let words: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(" ms: ")).map(|line| line.1).collect();
    let beats: u32 = words.iter().filter_map(|word| word.strip_suffix(" beat")?.parse::<u32>().ok()).sum();
    assert!(beats >= 3, "{text}");
    for word in ["End passed", "Beat cancelled", "Never cancelled"] {
        assert_eq!(words.iter().filter(|seen| **seen == word).count(), 1, "{word} in {text}");
    }
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn watcher_http_client_reads_until_the_server_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let page = pattern(300_000);
    let expected = page.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let mut request = String::new();
        let mut lines = BufReader::new(&stream);
        while !request.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut request).expect("text") > 0, "a whole request");
        }
        stream.write_all(&page).expect("sent");
        request
    });
    let mut child = example("watcher_http_client").args([&address, "/page"]).spawn().expect("it starts");
    let mut got = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut got).expect("its output");
    assert!(got == expected);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let request = server.join().expect("no panic");
    assert_eq!(request, format!("GET /page HTTP/1.0\r\nHost: {address}\r\n\r\n"));
}

#[test]
fn watcher_http_client_says_what_failed() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let output = run("watcher_http_client", &[&free.to_string()]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&free.to_string()) && complaint.contains("refused"), "{complaint}");
}

#[test]
fn watcher_handshake_adopts_after_the_greeting() {
    let server = Serving::start("watcher_handshake", &["127.0.0.1:0"]);
    let silent = server.connect();
    let mut stream = server.connect();
    // The first line behind the greeting comes with it, and is not lost.
    stream.write_all(b"HELLO ada\nfirst\n").expect("sent");
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut text = String::new();
    for _ in 0..2 {
        lines.read_line(&mut text).expect("a line");
    }
    stream.write_all(b"second\n").expect("sent");
    lines.read_line(&mut text).expect("a line");
    assert_eq!(text, "WELCOME\nada: first\nada: second\n");

    let rude = server.connect();
    assert_eq!(exchange(&rude, b"GOOD DAY\n"), b"SAY HELLO\n");
    drop(silent);
}

#[test]
fn wrong_arguments_are_refused_with_status_2() {
    for (name, arguments) in [
        ("watcher_echo", &["nowhere"][..]),
        ("watcher_push", &["127.0.0.1"]),
        ("watcher_relay", &["127.0.0.1:0", "localhost"]),
        ("watcher_udp_echo", &["7003"]),
        ("watcher_timers", &["0"]),
        ("watcher_http_client", &["127.0.0.1:1", "page"]),
        ("watcher_handshake", &[":7004"]),
    ] {
        let output = run(name, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {complaint}");
        let wrong = arguments.last().expect("one at least");
        assert!(
            complaint.contains(&format!("{wrong:?}")) && complaint.contains("usage"),
            "{name}: {complaint}"
        );
    }
}
