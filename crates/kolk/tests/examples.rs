//! Every example does what it says, over real sockets.

#[path = "examples/protocols.rs"]
mod protocols;
#[path = "examples/reactor.rs"]
mod reactor;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
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
        let mut command = example(name);
        command.args(arguments);
        Self::serve(command)
    }

    #[track_caller]
    fn serve(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        assert!(!address.ends_with(":0"), "{address}");
        Self { child, address, stdout }
    }

    /// Stops it as Ctrl-C does; what it still said, and its status.
    #[track_caller]
    fn interrupt(mut self) -> (String, Option<i32>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).expect("text");
        (output, self.child.wait().expect("our child").code())
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        let place = self.address.trim_start_matches("tcp://");
        let stream = TcpStream::connect(place).expect("it listens");
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
    let child = example(name).args(arguments).spawn().expect("it starts");
    let process = rustix::process::Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = told.recv_timeout(PATIENCE) else {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        panic!("{name} does not end");
    };
    output.expect("its output")
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
fn proxy_copies_both_ways_and_survives_a_target_that_is_not_there() {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound").to_string();
    let proxy = Serving::start("proxy", &["127.0.0.1:0", &address]);
    let (there, back) = (pattern(1_700_000), pattern(1_500_001));
    for _ in 0..3 {
        let client = proxy.connect();
        let server = target.accept().expect("the proxy connects").0;
        let (at_server, at_client) = thread::scope(|scope| {
            let at_server = scope.spawn(|| exchange(&server, &back));
            let at_client = exchange(&client, &there);
            (at_server.join().expect("no panic"), at_client)
        });
        assert!(at_server == there && at_client == back);
    }
    // One side resets: the other sees an end.
    let client = proxy.connect();
    let mut server = target.accept().expect("the proxy connects").0;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    server.set_read_timeout(Some(PATIENCE)).expect("positive");
    assert!(matches!(server.read(&mut [0; 1]), Ok(0) | Err(_)));

    drop(target);
    for _ in 0..2 {
        let mut refused = proxy.connect();
        assert!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)), "the target is not there");
    }
}

#[test]
fn proxy_does_not_read_what_the_other_side_has_no_room_for() {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("bound").to_string();
    let proxy = Serving::start("proxy", &["127.0.0.1:0", &address]);
    let mut client = proxy.connect();
    let mut server = target.accept().expect("the proxy connects").0;
    // The kernel takes some megabytes for each of the two connections, and the proxy next to nothing: then it is stuck.
    client.set_write_timeout(Some(Duration::from_millis(500))).expect("positive");
    let (piece, mut sent) = (vec![7; 1 << 16], 0);
    while let Ok(count) = client.write(&piece) {
        sent += count;
        assert!(sent < 64 << 20, "nobody reads, and the proxy takes everything");
    }
    let memory = resident_kib(&proxy.child);
    assert!(memory < 20 << 10, "{memory} KiB");
    // Once the other side reads, everything comes.
    client.shutdown(Shutdown::Write).expect("connected");
    server.set_read_timeout(Some(PATIENCE)).expect("positive");
    let mut received = 0;
    loop {
        match server.read(&mut vec![0; 1 << 16]).expect("the stream ends in order") {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, sent);
}

/// Memory of a process that is in RAM.
fn resident_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect(line)
}

#[test]
fn udp_echo_gives_datagrams_back_and_counts_its_system_calls() {
    let echo = Serving::start("udp_echo", &["127.0.0.1:0"]);
    let peers: Vec<_> = (0..10)
        .map(|_| {
            let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            peer.connect(&echo.address).expect("an address");
            peer.set_read_timeout(Some(PATIENCE)).expect("positive");
            peer
        })
        .collect();
    for round in 0..20u8 {
        for (number, peer) in peers.iter().enumerate() {
            peer.send(&vec![round; number * 100]).expect("sent");
        }
        for (number, peer) in peers.iter().enumerate() {
            let mut answer = [0; 2000];
            let len = peer.recv(&mut answer).expect("an answer");
            assert_eq!(answer[..len], vec![round; number * 100]);
        }
    }
    let (output, status) = echo.interrupt();
    assert!(output.starts_with("200 received, 200 sent, "), "{output}");
    assert_eq!(status, Some(0));
}

/// One client that asks for lines, and comes again when it is told to. Tells which process gave each answer.
fn ask_until(stop: &AtomicBool, address: &str, answered: &Sender<u32>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(address).expect("nobody is refused");
        stream.set_read_timeout(Some(PATIENCE)).expect("positive");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor"));
        loop {
            number += 1;
            stream.write_all(format!("line {number}\n").as_bytes()).expect("the server is there");
            let mut answer = String::new();
            lines.read_line(&mut answer).expect("no answer is lost");
            let (word, rest) = answer.split_once(' ').expect("no answer is lost");
            let (process, line) = rest.split_once(' ').expect("three parts");
            assert_eq!(line, format!("line {number}\n"));
            answered.send(process.parse().expect("a number")).expect("somebody counts them");
            match word {
                "ok" if stop.load(Ordering::Relaxed) => return,
                "ok" => {}
                "bye" => break,
                _ => panic!("{answer:?}"),
            }
        }
    }
}

/// Waits until a process has served for a while.
fn hear_of(process: u32, answers: &Receiver<u32>) {
    for _ in 0..1000 {
        while answers.recv_timeout(PATIENCE).expect("clients ask all the time") != process {}
    }
}

#[test]
fn graceful_is_replaced_under_load_and_nobody_notices() {
    let control = std::env::temp_dir().join(format!("kolk-examples-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&control);
    let control = control.to_str().expect("text");
    let mut server = Serving::start("graceful", &["127.0.0.1:0", control]);
    let (address, stop) = (server.address.clone(), AtomicBool::new(false));
    let (answered, answers) = mpsc::channel();
    thread::scope(|scope| {
        for answered in std::iter::repeat_n(answered, 8) {
            let (stop, address) = (&stop, &address);
            scope.spawn(move || ask_until(stop, address, &answered));
        }
        for _ in 0..3 {
            hear_of(server.child.id(), &answers);
            let successor = Serving::start("graceful", &["127.0.0.1:0", control]);
            assert_eq!(successor.address, address, "it has inherited the listener");
            let mut predecessor = std::mem::replace(&mut server, successor);
            let begin = Instant::now();
            let status = predecessor.child.wait().expect("our child");
            assert_eq!(status.code(), Some(0));
            assert!(begin.elapsed() < PATIENCE);
        }
        hear_of(server.child.id(), &answers);
        stop.store(true, Ordering::Relaxed);
    });
    let _ = std::fs::remove_file(control);
}

#[test]
fn r26_a_service_manager_passes_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let control = std::env::temp_dir().join(format!("kolk-manager-{}.sock", std::process::id()));
    let program = example("graceful").get_program().to_owned();
    // What a service manager does: the socket is descriptor 3, and the environment says for whom it is.
    let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(program).arg("127.0.0.1:0").arg(&control);
    command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let server = Serving::serve(command);
    assert_eq!(server.address, address);
    let stream = server.connect();
    (&stream).write_all(b"hello\n").expect("sent");
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).expect("an answer");
    assert_eq!(answer, format!("ok {} hello\n", server.child.id()));
    let _ = std::fs::remove_file(control);
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
        ("proxy", &["127.0.0.1:0", "target"]),
        ("udp_echo", &["7005"]),
        ("graceful", &["here"]),
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
