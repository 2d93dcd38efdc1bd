//! `load`: the loads that `kolk load` does not have, for `compare`.
//!
//! One thread, plain sockets and epoll: none of the contenders. Every byte that comes back is compared; the
//! first wrong one, or nothing for some seconds, ends the load with status 1 and without a report.
//!
//! | command | does |
//! |---|---|
//! | `hold` | opens connections, exchanges one message on each, holds them silently until SIGTERM |
//! | `churn` | connect, one message to and fro, close, again and again |
//! | `broadcast` | one publisher, many receivers; the next message leaves when all have the last |
//! | `udp` | datagrams of many peers, or one bulk flow |
//! | `relay` | streams through a relay to a listener of our own |

mod broadcast;
mod churn;
mod hold;
mod meter;
mod pattern;
mod readiness;
mod relay;
mod socket;
mod udp;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use harness::address::Address;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long nothing may come before it is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Load a server. Exit status: 0 all bytes were right, 1 they were not, or it could not be measured.
#[derive(Parser, Debug)]
#[command(name = "load")]
enum Arguments {
    /// Connections that stay silent, until SIGTERM
    Hold(hold::Arguments),
    #[command(flatten)]
    Measured(Measured),
}

#[derive(Subcommand, Debug)]
enum Measured {
    /// Connections that come, exchange one message and go
    Churn(churn::Arguments),
    /// One message to all
    Broadcast(broadcast::Arguments),
    /// Datagrams that come back
    Udp(udp::Arguments),
    /// Streams through a relay
    Relay(relay::Arguments),
}

/// What all measured loads are told.
#[derive(clap::Args, Clone, Debug)]
struct Common {
    /// Server: 127.0.0.1:PORT or unix:PATH
    #[arg(value_name = "ADDR")]
    address: Address,
    /// How long to measure, such as 2s or 500ms
    #[arg(long, default_value = "1s", value_parser = harness::duration::parse)]
    duration: Duration,
    /// Process id of the server, for its processor time and memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Connections, receivers, peers or streams
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    allow_descriptors();
    let report = match &arguments {
        Arguments::Hold(arguments) => hold::run(arguments).map(|()| None),
        Arguments::Measured(Measured::Churn(arguments)) => churn::run(arguments).map(Some),
        Arguments::Measured(Measured::Broadcast(arguments)) => broadcast::run(arguments).map(Some),
        Arguments::Measured(Measured::Udp(arguments)) => udp::run(arguments).map(Some),
        Arguments::Measured(Measured::Relay(arguments)) => relay::run(arguments).map(Some),
    };
    match report {
        Ok(report) => {
            report.inspect(|report| println!("{}", report.json()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Any process may raise its own limit so far; where that is too little, `socket` says so.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}
