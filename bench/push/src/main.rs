//! `push`: what many receivers get from one kolk server, and what a flood takes from the others.
//!
//! ```text
//!  crowd      10 000 connections  ◄── the same 512 B to all, 10 times a second; 1 in 100 never reads
//!  fairness   99 connections ping ──► echo ◄── 1 floods
//!  idle       10 000 connections rest, say something now and then, and are closed at the time-out
//!  burst      4000 connections  ◄── 256 KiB queued for each, then read: the memory comes back
//!  offload    1000 connections ──► jobs of 8 ms, on a pool of 4 threads
//! ```
//!
//! The server is a process of its own, started by this one: both ends of 10 000 connections are more descriptors than
//! many systems give to one.

mod burst;
mod clients;
mod counting;
mod crowd;
mod fairness;
mod idle;
mod message;
mod observed;
mod offload;
mod receivers;
mod server;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kolk::{DriverChoice, DriverKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the kernel keeps of what is to be sent on a connection of the server: little, so that what a peer does not
/// read waits in the server.
const SEND_BUFFER: usize = 16 * 1024;

/// How long nothing may happen before it is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit status: 0 every bar holds, 1 one does not, 2 it could not be measured.
#[derive(Parser, Debug)]
#[command(name = "push")]
struct Arguments {
    /// Kernel interface of the server and of the clients
    #[arg(long, default_value = "auto", global = true)]
    driver: Driver,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand, Debug)]
enum Benchmark {
    /// One message to all, again and again, while some never read
    Crowd(crowd::Arguments),
    /// Round trips of many while one floods
    Fairness(fairness::Arguments),
    /// Connections that do next to nothing
    Idle(idle::Arguments),
    /// Much is queued for many, and read
    Burst(burst::Arguments),
    /// Slow work on the pool
    Offload(offload::Arguments),
    /// The server that `crowd` starts
    #[command(hide = true)]
    ServeCrowd(crowd::Arguments),
    /// The server that `fairness` starts
    #[command(hide = true)]
    ServeEcho,
    /// The server that the others start
    #[command(hide = true)]
    ServeObserved(observed::Arguments),
}

/// A kernel interface.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    Auto,
    #[value(name = "io_uring", alias = "uring")]
    IoUring,
    Epoll,
}

impl Driver {
    fn choice(self) -> DriverChoice {
        match self {
            Self::Auto => DriverChoice::Auto,
            Self::IoUring => DriverChoice::Only(DriverKind::IoUring),
            Self::Epoll => DriverChoice::Only(DriverKind::Epoll),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let driver = arguments.driver;
    let measured = match &arguments.benchmark {
        Benchmark::Crowd(arguments) => crowd::run(arguments, driver),
        Benchmark::Fairness(arguments) => fairness::run(arguments, driver),
        Benchmark::Idle(arguments) => idle::run(arguments, driver),
        Benchmark::Burst(arguments) => burst::run(arguments, driver),
        Benchmark::Offload(arguments) => offload::run(arguments, driver),
        Benchmark::ServeCrowd(arguments) => crowd::serve(arguments, driver).map(|()| true),
        Benchmark::ServeEcho => fairness::serve(driver).map(|()| true),
        Benchmark::ServeObserved(arguments) => observed::serve(arguments, driver).map(|()| true),
    };
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("push: {error}");
            ExitCode::from(2)
        }
    }
}

/// Says whether a bar holds.
fn bar(holds: bool, what: &str) -> bool {
    println!("{}  {what}", if holds { "ok  " } else { "FAIL" });
    holds
}

/// The value below which so many per mille of the values are.
fn per_mille(sorted: &[u32], part: usize) -> u32 {
    match sorted.len() {
        0 => 0,
        count => sorted[(count * part / 1000).min(count - 1)],
    }
}

/// Bytes of this process that are in memory, counted page by page: the quick counters are wrong by some 100 KiB.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("smaps_rollup cannot be read")? << 10)
}

fn allow_descriptors(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Any process may raise its own limit so far.
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    match limit.maximum {
        Some(allowed) if allowed < needed => Err(format!(
            "{needed} descriptors are needed and {allowed} allowed: raise `ulimit -Hn`, or use fewer --connections"
        )
        .into()),
        _ => Ok(()),
    }
}
