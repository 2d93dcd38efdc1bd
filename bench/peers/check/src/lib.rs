//! Starts a peer and checks that it does what its command line promises: whatever is compared must at least be right.
//!
//! Each check starts one process and ends it. Every wait has a limit, so a peer that hangs fails.

#![forbid(unsafe_code)]

mod broadcast;
mod data;
mod echo;
mod process;
mod relay;
mod udp;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use process::Process;

/// What a check found wrong.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for anything that a peer should do at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program and the arguments that it needs beside those of the scenario.
#[derive(Clone, Debug)]
pub struct Peer {
    program: PathBuf,
    arguments: Vec<String>,
}

/// What came of a check that found nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Passed,
    /// The peer says that it has no honest way to do this, and why (exit status 3).
    Unsupported(String),
}

/// A scenario, and over which sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every byte comes back over TCP.
    EchoTcp,
    /// Every byte comes back over a Unix socket.
    EchoUnix,
    /// Receivers get every message, in order, also one that is late.
    Broadcast,
    /// Every datagram comes back.
    Udp,
    /// Both ways, with the ends of the streams, TCP to TCP.
    RelayTcp,
    /// The same between Unix sockets.
    RelayUnix,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::EchoTcp,
        Self::EchoUnix,
        Self::Broadcast,
        Self::Udp,
        Self::RelayTcp,
        Self::RelayUnix,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EchoTcp => "echo, TCP",
            Self::EchoUnix => "echo, Unix",
            Self::Broadcast => "broadcast",
            Self::Udp => "UDP",
            Self::RelayTcp => "relay, TCP",
            Self::RelayUnix => "relay, Unix",
        })
    }
}

impl Peer {
    /// The program at a path.
    pub fn new<A: Into<String>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self {
            program: program.into(),
            arguments,
        }
    }

    /// Whether the program is there.
    pub fn is_built(&self) -> bool {
        self.program.is_file()
    }

    /// Starts the peer, does the check, and stops the peer.
    ///
    /// # Errors
    ///
    /// What is wrong, with everything that the peer said about it.
    pub fn check(&self, check: Check) -> Result<Outcome> {
        match check {
            Check::EchoTcp => self.serve(&["echo"], Place::Tcp, echo::check),
            Check::EchoUnix => self.serve(&["echo"], Place::Unix, echo::check),
            Check::Broadcast => {
                let size = broadcast::SIZE.to_string();
                self.serve(
                    &["broadcast", "--message", &size],
                    Place::Tcp,
                    broadcast::check,
                )
            }
            Check::Udp => self.serve(&["udp"], Place::Udp, udp::check),
            Check::RelayTcp => relay::check(self, Place::Tcp),
            Check::RelayUnix => relay::check(self, Place::Unix),
        }
    }

    fn serve(
        &self,
        scenario: &[&str],
        place: Place,
        check: impl FnOnce(&Address) -> Result,
    ) -> Result<Outcome> {
        let mut process = match Process::start(self, scenario, place)? {
            Ok(process) => process,
            Err(why) => return Ok(Outcome::Unsupported(why)),
        };
        let found = check(&process.address);
        let ended = process.stop();
        match (found, ended) {
            (Err(found), Err(ended)) => Err(format!("{found}; and {ended}").into()),
            (found, ended) => found.and(ended).map(|()| Outcome::Passed),
        }
    }
}

/// The kind of an address.
#[derive(Clone, Copy, Debug)]
enum Place {
    Tcp,
    Udp,
    Unix,
}

/// Where a peer listens.
#[derive(Clone, Debug)]
enum Address {
    Inet(std::net::SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
