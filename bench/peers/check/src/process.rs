//! A peer's process: started, awaited and never left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Address, PATIENCE, Peer, Place, Result};

/// Exit status of a peer that has no honest way to do what it is asked.
const UNSUPPORTED: i32 = 3;

/// A port that was free a moment ago may be taken by the time the peer binds it.
const TRIES: usize = 3;

/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A folder that goes when this is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("peer-check-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: it lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A peer that listens, until it is stopped or dropped.
pub(crate) struct Process {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    pub(crate) address: Address,
    _scratch: Scratch,
}

impl Process {
    /// Starts a peer and waits until it listens; or the reason for which it does not support the scenario.
    pub(crate) fn start(
        peer: &Peer,
        scenario: &[&str],
        place: Place,
    ) -> Result<std::result::Result<Self, String>> {
        let mut failure = None;
        for _ in 0..TRIES {
            let scratch = Scratch::new()?;
            let address = address(place, &scratch)?;
            let mut child = Command::new(&peer.program)
                .args(scenario)
                .args(["--listen", &address.to_string()])
                .args(&peer.arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| format!("cannot start {}: {error}", peer.program.display()))?;
            let stdout = child.stdout.take().map(BufReader::new);
            let mut process = Self {
                child,
                stdout,
                address,
                _scratch: scratch,
            };
            let line = process.first_line()?;
            if line == "listening\n" {
                return Ok(Ok(process));
            }
            let status = process.wait()?;
            let said = process.stderr()?;
            if status.code() == Some(UNSUPPORTED)
                && let Some(why) = said.strip_prefix("unsupported: ")
            {
                return Ok(Err(why.trim().to_owned()));
            }
            failure = Some(format!(
                "it ended with {status} and said {line:?} and {said:?}"
            ));
        }
        Err(failure.unwrap_or_default().into())
    }

    /// Ends it by SIGTERM. It must be alive until then, and have said nothing more.
    pub(crate) fn stop(&mut self) -> Result {
        if let Some(status) = self.child.try_wait()? {
            let said = self.stderr()?;
            return Err(format!("the peer ended with {status} and said {said:?}").into());
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.wait()?;
        let mut rest = String::new();
        if let Some(stdout) = &mut self.stdout {
            stdout.read_to_string(&mut rest)?;
        }
        let said = self.stderr()?;
        // Death by the signal is as good as status 0.
        if !(status.success() || status.code().is_none()) || !rest.is_empty() || !said.is_empty() {
            return Err(
                format!("the peer ended with {status} and said {rest:?} and {said:?}").into(),
            );
        }
        Ok(())
    }

    fn first_line(&mut self) -> Result<String> {
        let Some(mut stdout) = self.stdout.take() else {
            return Ok(String::new());
        };
        let (tell, told) = mpsc::channel();
        // Ends with the process at the latest, which is killed when this is dropped.
        thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            tell.send(read.map(|_| (stdout, line)))
        });
        let (stdout, line) = told
            .recv_timeout(PATIENCE)
            .map_err(|_| "it does not say that it listens")??;
        self.stdout = Some(stdout);
        Ok(line)
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        Err("it does not end at SIGTERM".into())
    }

    /// What it said there, once it has ended.
    fn stderr(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text)?;
        }
        Ok(text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // No effect on one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody uses.
fn address(place: Place, scratch: &Scratch) -> Result<Address> {
    Ok(match place {
        Place::Tcp => Address::Inet(TcpListener::bind("127.0.0.1:0")?.local_addr()?),
        Place::Udp => Address::Inet(UdpSocket::bind("127.0.0.1:0")?.local_addr()?),
        Place::Unix => Address::Unix(scratch.path("peer")),
    })
}
