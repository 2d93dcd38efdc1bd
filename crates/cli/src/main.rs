//! The command `kolk`: serve an echo, load a server, examine the machine.
//!
//! This file holds the arguments and the dispatch; each subcommand lives in the module of its name.
//! Exit status: 0 all well, 1 something failed or a byte came back wrong, 2 wrong use.
#![forbid(unsafe_code)]

mod doctor;
mod driver;
mod failure;
mod load;
mod output;
mod process;
mod serve;
mod system;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Serve and load very many connections.
#[derive(Debug, Parser)]
#[command(name = "kolk", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server.
    #[command(subcommand)]
    Serve(Serve),
    /// Load a server and measure it.
    #[command(subcommand)]
    Load(Load),
    /// Examine this machine: driver, features, limits, and what to do about each.
    Doctor(doctor::Args),
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// Give every byte back.
    Echo(serve::Args),
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Send messages to an echo server, check every byte that comes back, measure rate and latency.
    Echo(load::echo::Args),
    /// Hold idle connections to an echo server and measure what each one costs it.
    ///
    /// Measure a fresh server: memory that it used and freed before is used again, and does not show as
    /// growth.
    Idle(load::idle::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(Serve::Echo(args)) => serve::run(&args),
        Command::Load(Load::Echo(args)) => load::echo::run(&args),
        Command::Load(Load::Idle(args)) => load::idle::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(status) => status,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    output::complain(&format!("error: {failure}"));
    ExitCode::from(failure.status())
}
