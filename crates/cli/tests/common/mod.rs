//! Running the built command: few verbs, used by every test file.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The command that the tests run.
pub(crate) const KOLK: &str = env!("CARGO_BIN_EXE_kolk");

/// A finished command.
pub(crate) struct Finished {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    fn new(output: Output) -> Self {
        Self {
            status: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The figures that `--json` printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}, stderr {:?}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout {}\nstderr {}", self.stdout, self.stderr);
        self
    }

    /// Asserts wrong use: status 2, and each of these words in the message.
    #[track_caller]
    pub(crate) fn expect_refused(self, words: &[&str]) {
        let finished = self.expect_status(2);
        for word in words {
            assert!(finished.stderr.contains(word), "no {word:?} in {:?}", finished.stderr);
        }
    }
}

/// Runs `kolk` with these arguments, separated by spaces, to its end.
#[track_caller]
pub(crate) fn kolk(arguments: &str) -> Finished {
    run(Command::new(KOLK).args(arguments.split_whitespace()))
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    Finished::new(command.stdin(Stdio::null()).output().expect("the command starts"))
}

/// A running `kolk serve echo`, killed when dropped.
pub(crate) struct Served {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    /// All that it printed before it was ready.
    pub(crate) greeting: String,
    /// Where it listens, such as `tcp://127.0.0.1:40123`.
    pub(crate) addresses: Vec<String>,
}

impl Served {
    /// Starts `kolk serve echo` with these options and waits until it listens.
    #[track_caller]
    pub(crate) fn start(options: &str) -> Self {
        Self::from_command(Command::new(KOLK).args(["serve", "echo"]).args(options.split_whitespace()))
    }

    /// Starts a server by this command and waits until it listens.
    #[track_caller]
    pub(crate) fn from_command(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the command starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut greeting = String::new();
        while !greeting.contains("Ctrl-C") {
            let read = stdout.read_line(&mut greeting).expect("text");
            assert!(read > 0, "the server ended after {greeting:?}");
        }
        let listening = greeting.lines().filter_map(|line| line.trim().strip_prefix("listening"));
        let addresses = listening.map(|address| address.trim().to_owned()).collect();
        Self { child, stdout: Some(stdout), greeting, addresses }
    }

    /// The first address.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes our end of its standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.stdout = None;
    }

    /// Presses Ctrl-C; the status and how long it took.
    pub(crate) fn interrupt(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        let status = self.child.wait().expect("it ends");
        (status, start.elapsed())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file name that no other test has, removed when dropped.
pub(crate) struct TempPath(PathBuf);

impl TempPath {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("kolk-{}-{name}", std::process::id())))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl std::ops::Deref for TempPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// A server of the test's own, a thread a connection. `serve` is given each connection and its number;
/// returning closes it. Gives its address.
pub(crate) fn plain_server(serve: impl Fn(TcpStream, usize) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.expect("accepted"), number));
        }
    });
    address
}

/// Echoes until the end of the stream; `change` may alter each piece.
pub(crate) fn echo(mut stream: TcpStream, mut change: impl FnMut(&mut Vec<u8>)) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let mut piece = buffer[..count].to_vec();
        change(&mut piece);
        if stream.write_all(&piece).is_err() {
            return;
        }
    }
}
