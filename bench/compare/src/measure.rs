//! One measurement: a fresh server on its processor, a load on the other, and what the load says.
//!
//! ```text
//!  start server ─► it listens ─► connect ─► warm up ─► measure ─► SIGTERM
//!                                 └──────── the load's process ────────┘
//! ```
//!
//! The server is fresh each time: how its memory happens to lie would otherwise favour or harm it in all
//! rounds of a cell.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::Result;
use harness::address::Address;
use harness::duration::written;
use harness::process::{self, Readiness, START, Server};

use crate::contender::Contender;
use crate::metrics::{self, Figures, Metric};
use crate::results::Outcome;
use crate::scenario::{Cell, Load, Transport};

/// How much longer than its own duration a load may take to connect and to report.
const LOAD_SLACK: Duration = Duration::from_secs(20);

/// Where the programs are, and where they run.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// The servers and the load, where cargo builds them.
    pub(crate) programs: PathBuf,
    /// The `kolk` command, whose loads are used.
    pub(crate) kolk: PathBuf,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) load: Load,
    pub(crate) cell: Cell,
    pub(crate) measured: Duration,
    /// Messages a second of an open loop.
    pub(crate) rate: Option<f64>,
}

impl Bench {
    /// Whether all is there that every measurement needs.
    ///
    /// # Errors
    ///
    /// Names what is missing, and how to get it.
    pub(crate) fn check(&self) -> Result<()> {
        for cpu in [self.server_cpu, self.load_cpu] {
            process::check_cpu(cpu)?;
        }
        let load = self.programs.join(LOAD);
        for (program, remedy) in [
            (
                &self.kolk,
                "run `cargo build --release` in the root of kolk, or name it with --kolk",
            ),
            (&load, "run `cargo build --release` in bench/"),
        ] {
            if !program.is_file() {
                return Err(format!("there is no {}: {remedy}", program.display()).into());
            }
        }
        Ok(())
    }

    /// Measures; what fails, but for an interrupt, is an outcome too.
    pub(crate) fn measure(&self, task: Task<'_>) -> Result<Outcome> {
        match self.figures(task) {
            Ok(outcome) => Ok(outcome),
            Err(error) if process::is_interrupt(&*error) => Err(error),
            Err(error) => Ok(Outcome::Failed(error.to_string())),
        }
    }

    fn figures(&self, task: Task<'_>) -> Result<Outcome> {
        let Task {
            contender,
            load,
            cell,
            ..
        } = task;
        let (at, to) = (free_address(cell.transport)?, Address::free_tcp()?);
        let command = contender.command(&self.programs, load, cell, &at, &to);
        let mut server = Server::start(command, self.server_cpu)?;
        if let Readiness::Unsupported(why) = server.wait_until_it_listens(START)? {
            return Ok(Outcome::Unsupported(why));
        }
        let silent = self.silent_crowd(cell, &at)?;
        let output = process::run_to_end(
            self.load_command(task, &at, &to, server.pid()),
            self.load_cpu,
            task.measured + LOAD_SLACK,
        )?;
        server.check_alive()?;
        silent.map_or(Ok(()), Server::stop)?;
        server.stop()?;
        at.remove_file();
        let figures = metrics::read(metrics_of(task), &output)?;
        Ok(Outcome::Figures(figures))
    }

    /// Connections that stay silent: a program of their own holds them, and says at its end whether all
    /// of them lived.
    fn silent_crowd(&self, cell: Cell, at: &Address) -> Result<Option<Server>> {
        if cell.idle == 0 {
            return Ok(None);
        }
        let mut command = Command::new(self.programs.join(LOAD));
        command.args([
            "hold",
            &at.to_string(),
            "--connections",
            &cell.idle.to_string(),
        ]);
        let mut holder = Server::start(command, self.load_cpu)?;
        holder.wait_until_it_listens(LOAD_SLACK)?;
        Ok(Some(holder))
    }

    fn load_command(&self, task: Task<'_>, at: &Address, to: &Address, server: u32) -> Command {
        let Cell {
            connections,
            bytes,
            depth,
            ..
        } = task.cell;
        let [connections, bytes, depth] =
            [connections, bytes, depth].map(|number| number.to_string());
        let (server, measured) = (server.to_string(), written(task.measured));
        let mut words: Vec<&str> = Vec::new();
        let (url, plain, to) = (at.url(), at.to_string(), to.to_string());
        let rate = task
            .rate
            .map(|rate| format!("{rate:.0}"))
            .unwrap_or_default();
        let program = match task.load {
            Load::Echo | Load::Active | Load::Rate => {
                words.extend(["load", "echo", &url, "--size", &bytes, "--depth", &depth]);
                words.extend(["--duration", &measured, "--threads", "1", "--json"]);
                if task.rate.is_some() {
                    words.extend(["--rate", &rate]);
                }
                &self.kolk
            }
            Load::Idle | Load::Parked => {
                words.extend(["load", "idle", &url, "--hold", &measured, "--json"]);
                &self.kolk
            }
            Load::Churn => {
                words.extend(["churn", &plain, "--bytes", &bytes, "--duration", &measured]);
                &self.programs.join(LOAD)
            }
            Load::Broadcast => {
                words.extend([
                    "broadcast",
                    &plain,
                    "--bytes",
                    &bytes,
                    "--duration",
                    &measured,
                ]);
                &self.programs.join(LOAD)
            }
            Load::Udp => {
                words.extend(["udp", &plain, "--bytes", &bytes, "--window", &depth]);
                words.extend(["--duration", &measured]);
                &self.programs.join(LOAD)
            }
            Load::Relay => {
                words.extend(["relay", &plain, "--to", &to, "--duration", &measured]);
                &self.programs.join(LOAD)
            }
        };
        let mut command = Command::new(program);
        command
            .args(words)
            .args(["--connections", &connections, "--server-pid", &server]);
        command
    }
}

/// The program with the loads that `kolk load` does not have.
const LOAD: &str = "load";

fn free_address(transport: Transport) -> Result<Address> {
    match transport {
        Transport::Tcp => Address::free_tcp(),
        Transport::Udp => Address::free_udp(),
        Transport::Unix => Ok(Address::free_unix()),
    }
}

/// An open loop's capacity is found by a closed one, which reports as an echo does.
fn metrics_of(task: Task<'_>) -> &'static [Metric] {
    match (task.load, task.rate) {
        (Load::Rate, None) => metrics::ECHO,
        (load, _) => load.metrics(),
    }
}

/// The rate of an open loop: half of what the slowest does in a closed one.
pub(crate) fn half_of_the_slowest(capacities: &[Figures]) -> Option<f64> {
    let rates = capacities
        .iter()
        .filter_map(|figures| figures.get("per_second").copied());
    rates
        .min_by(f64::total_cmp)
        .map(|slowest| (slowest / 2.0).round().max(1.0))
}
