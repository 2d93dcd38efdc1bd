//! `kolk load idle`: holds connections that do nothing, and measures what each costs the server.
//!
//! ```text
//!   user memory
//!       │                                     ●  N connections
//!       │                         ·   ·   ·        slope: bytes a connection
//!       │        ●  1000      ·
//!       │     ·
//!       │  ·
//!       ●  none          ├ one-time part: what a line through the two upper points has at none
//! ```
//!
//! The slope between 1000 and N does not hold what a server allocates once, such as its buffers.

use std::process::ExitCode;
use std::time::Duration;

use crate::driver::DriverArg;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::process::Memory;
use crate::units::parse_duration;

use super::crowd::Crowd;
use super::idle_report::{Look, Looks, Report};
use super::kernel::KernelMemory;
use super::server::Server;
use super::target::Target;

/// Connections after which one-time allocations are done.
const FIRST: u32 = 1000;

/// Time between two looks at a memory that has not come to rest yet.
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// Equal looks in a row that count as rest.
const SETTLE_LOOKS: u32 = 5;

/// Most looks: memory that still moves then is taken as it is.
const SETTLE_LOOKS_MAX: u32 = 50;

/// What and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Server to load: tcp://HOST:PORT or unix:///PATH.
    #[arg(value_name = "ADDR")]
    address: String,
    /// Connections to open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// How long to hold them, such as 10s or 2m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    hold: Duration,
    /// Process id of the server, on this machine: shows the growth of its memory.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Kernel interface for this command itself.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverArg,
}

/// Runs the load. Status 1 when a connection was lost or a byte came back wrong.
pub(crate) fn run(args: &Args) -> Outcome {
    let target = Target::parse(&args.address)?;
    let server = Server::find(args.server_pid)?;
    super::check_limits(&target, args.connections, 1)?;

    let mut crowd = Crowd::new(&target, args.driver)?;
    let looks = open_in_steps(args, &mut crowd, server)?;
    hold(args.hold, &mut crowd)?;
    let looks = Looks { held: look(crowd.alive(), server), ..looks };
    let report = Report::new(args.address.clone(), args.hold, looks, &crowd);
    Ok(show(&report, args.json))
}

/// Opens the connections, looking at the memory before, on the way and after. Nothing is held yet.
fn open_in_steps(args: &Args, crowd: &mut Crowd, server: Server) -> Result<Looks, Failure> {
    let none = look(0, server);
    // Too short a way from 1000 to N would show noise as a slope.
    let first = if args.connections >= 2 * FIRST { Some(open(crowd, FIRST, server)?) } else { None };
    let all = open(crowd, args.connections, server)?;
    Ok(Looks { none, first, all, held: all })
}

fn open(crowd: &mut Crowd, connections: u32, server: Server) -> Result<Look, Failure> {
    let bar = super::progress_bar(u64::from(connections), super::CONNECTING);
    crowd.grow_to(connections, |settled| bar.set_position(settled))?;
    bar.finish_and_clear();
    settle(crowd, server)
}

/// Serves the connections until the server's memory has come to rest.
fn settle(crowd: &mut Crowd, server: Server) -> Result<Look, Failure> {
    let connections = crowd.alive();
    let mut last = look(connections, server);
    let mut equal = 0;
    for _ in 0..SETTLE_LOOKS_MAX {
        crowd.run_for(SETTLE_STEP)?;
        let next = look(connections, server);
        equal = if next.server == last.server { equal + 1 } else { 0 };
        last = next;
        if equal == SETTLE_LOOKS {
            break;
        }
    }
    Ok(last)
}

fn look(connections: u64, server: Server) -> Look {
    let memory = |sample: super::server::Sample| -> Memory { sample.memory };
    Look { connections, server: server.sample().map(memory), kernel: KernelMemory::sample() }
}

fn hold(duration: Duration, crowd: &mut Crowd) -> Result<(), Failure> {
    let bar = super::progress_bar(duration.as_millis() as u64, super::HOLDING);
    let mut held = Duration::ZERO;
    while held < duration && crowd.alive() > 0 {
        bar.set_position(held.as_millis() as u64);
        bar.set_message(format!("{} connections, {} lost", crowd.alive(), crowd.lost()));
        let step = super::POLL.min(duration - held);
        crowd.run_for(step)?;
        held += step;
    }
    bar.finish_and_clear();
    Ok(())
}

fn show(report: &Report, json: bool) -> ExitCode {
    output::say(&if json { output::json(report) } else { report.text() });
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
