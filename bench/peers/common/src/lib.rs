//! What all peers share and no measurement sees: the command line, the listening socket, the word
//! that it is ready. What is measured, the loop and its handlers, each peer has for itself.

mod address;
mod socket;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use address::Address;
pub use socket::{Listener, connect, enlarge, listen, make_way, prepare, udp};

/// Bytes of a receive buffer, where a peer has one: the same for all.
pub const RECEIVE_BUFFER: usize = 16 * 1024;

/// Bytes of a datagram buffer: the longest datagram that there is.
pub const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Messages that may wait for the slowest receiver of a broadcast; publishers are not read meanwhile.
pub const OUTSTANDING: usize = 1000;

/// The outcome of a peer that runs until it is stopped.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The arguments that all peers have.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// What to do with connections
    #[arg(value_enum)]
    scenario: Kind,
    /// Where to listen: IP:PORT or unix:PATH; only the former for udp
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// Length of a message of the broadcast
    #[arg(long, value_name = "BYTES", required_if_eq("scenario", "broadcast"))]
    message: Option<usize>,
    /// Where the relay connects to
    #[arg(long, value_name = "ADDRESS", required_if_eq("scenario", "relay"))]
    to: Option<Address>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Gives every byte back
    Echo,
    /// Gives each message of a publisher to all receivers; a connection's first byte says which it is, R or P
    Broadcast,
    /// Gives every datagram back
    Udp,
    /// Connects elsewhere for each connection, and copies both ways
    Relay,
}

/// What a peer is asked to serve, and where.
#[derive(Clone, Debug)]
pub enum Scenario {
    /// Every byte goes back on its connection.
    Echo {
        /// Where to listen.
        listen: Address,
    },
    /// Messages of a fixed length go from publishers to all receivers.
    Broadcast {
        /// Where to listen.
        listen: Address,
        /// Length of a message in bytes, at least 1.
        message: usize,
    },
    /// Every datagram goes back to its sender.
    Udp {
        /// Where to receive.
        listen: std::net::SocketAddr,
    },
    /// Each connection gets one of its own to somewhere else; bytes and ends of streams go both ways.
    Relay {
        /// Where to listen.
        listen: Address,
        /// Where to connect to.
        to: Address,
    },
}

impl Options {
    /// Checks what the command line alone cannot say.
    ///
    /// # Errors
    ///
    /// A message of no bytes, or an address that datagrams cannot have.
    pub fn scenario(self) -> Result<Scenario> {
        let Self {
            scenario,
            listen,
            message,
            to,
        } = self;
        Ok(match scenario {
            Kind::Echo => Scenario::Echo { listen },
            Kind::Broadcast => Scenario::Broadcast {
                listen,
                message: message
                    .filter(|&bytes| bytes > 0)
                    .ok_or("a message has at least one byte: --message 1 or more")?,
            },
            Kind::Udp => match listen {
                Address::Inet(listen) => Scenario::Udp { listen },
                Address::Unix(path) => {
                    let path = path.display();
                    return Err(
                        format!("udp cannot listen on unix:{path}: give it an IP:PORT").into(),
                    );
                }
            },
            Kind::Relay => Scenario::Relay {
                listen,
                to: to.ok_or("a relay needs --to ADDRESS")?,
            },
        })
    }
}

/// Reads the command line, raises the descriptor limit and runs the peer: all that a `main` does.
///
/// # Examples
///
/// ```no_run
/// peer_common::run("peer-none", |scenario| Err(format!("{scenario:?} is not served").into()));
/// ```
pub fn run(name: &'static str, serve: impl FnOnce(Scenario) -> Result) -> ExitCode {
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }
    let arguments = Arguments::parse();
    finish(name, arguments.options.scenario().and_then(prepared(serve)))
}

/// Raises the descriptor limit before it serves.
pub fn prepared(serve: impl FnOnce(Scenario) -> Result) -> impl FnOnce(Scenario) -> Result {
    move |scenario| {
        raise_descriptor_limit();
        serve(scenario)
    }
}

/// The exit status of an outcome: 0, or 1 with one line of what went wrong.
pub fn finish(name: &str, outcome: Result) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever started the peer that clients may connect: the one line that it prints.
///
/// # Errors
///
/// Those of writing to standard output.
pub fn announce() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening")?;
    out.flush()
}

/// Lifts the soft limit of descriptors to the hard one; a refusal only means fewer connections.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}
