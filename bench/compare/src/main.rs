//! `compare`: kolk beside its peers, in paired and interleaved rounds.
//!
//! ```text
//!  scenarios/*.toml ─┐                         ┌─► report   tables and charts in docs/performance.md
//!                    ├─► run ─► results.jsonl ─┤
//!  contenders.toml ──┘                         └─► record   a dated CSV
//! ```
//!
//! | module | is |
//! |---|---|
//! | `scenario`, `contender` | what is measured, and on whom: data |
//! | `run`, `measure` | the order of the rounds; one measurement |
//! | `metrics` | what is read from a load's report |
//! | `results`, `machine` | the file of results; where they are from |
//! | `statistics`, `analysis` | medians of ratios, and their intervals |
//! | `report`, `record` | what people and other programs read |

mod analysis;
mod contender;
mod machine;
mod measure;
mod metrics;
mod record;
mod report;
mod results;
mod run;
mod scenario;
mod statistics;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use contender::{Contender, Family};
use harness::{Result, process};
use measure::Bench;
use results::Results;
use run::Session;
use scenario::{Choice, Plan, Scenario};

/// The folder `bench`: scenarios, contenders and results are there.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Measure kolk beside its peers. Exit status: 0 done, 1 a measurement failed, 2 nothing could be done.
#[derive(Parser, Debug)]
#[command(name = "compare")]
struct Arguments {
    /// The file of results [default: results.jsonl in bench/]
    #[arg(long, value_name = "FILE", global = true)]
    results: Option<PathBuf>,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    /// Measure, and add to the file of results
    Run(RunArguments),
    /// Write the tables and charts of a page
    Report {
        /// The page, with blocks to fill; the charts go into a folder of its name
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md"))]
        page: PathBuf,
    },
    /// Write a dated CSV
    Record {
        /// The folder for it
        #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../records"))]
        folder: PathBuf,
    },
    /// Show the scenarios, their cells and the contenders
    List,
}

#[derive(clap::Args, Debug)]
struct RunArguments {
    /// Scenarios, or `all`
    #[arg(value_name = "SCENARIO", default_value = "all")]
    scenarios: Vec<String>,
    /// Rounds for each cell; each scenario's own number if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Only these contenders, such as `kolk-uring,tokio`; `kolk` means all whose names begin so
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Fewer cells, one short round: whether it works, not who wins
    #[arg(long, conflicts_with_all = ["cell", "full"])]
    quick: bool,
    /// Only these cells, such as `tcp-50x64x16` (see `list`)
    #[arg(
        long,
        value_name = "CELLS",
        value_delimiter = ',',
        conflicts_with = "full"
    )]
    cell: Vec<String>,
    /// Every cell of the matrix: hours
    #[arg(long)]
    full: bool,
    /// The kolk program, whose loads are used
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/kolk"))]
    kolk: PathBuf,
    /// Processor of the server
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of the load
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

impl RunArguments {
    fn choice(&self) -> Choice {
        match (self.quick, self.full, self.cell.is_empty()) {
            (true, ..) => Choice::Quick,
            (_, true, _) => Choice::Full,
            (.., true) => Choice::Default,
            _ => Choice::Named(self.cell.clone()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match process::note_interrupts().and_then(|()| perform(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

/// False if a measurement failed.
fn perform(arguments: &Arguments) -> Result<bool> {
    let folder = Path::new(FOLDER);
    let scenarios = Scenario::all(&folder.join("scenarios"))?;
    let contenders = Contender::all(&folder.join("contenders.toml"))?;
    let results = arguments
        .results
        .clone()
        .unwrap_or_else(|| folder.join("results.jsonl"));
    match &arguments.command {
        Subcommands::Run(chosen) => run::run(&Session {
            bench: Bench {
                programs: programs()?,
                kolk: chosen.kolk.clone(),
                server_cpu: chosen.server_cpu,
                load_cpu: chosen.load_cpu,
            },
            folder: folder.to_owned(),
            contenders: chosen_contenders(contenders, &chosen.only)?,
            plans: plans(&scenarios, chosen)?,
            quick: chosen.quick,
            results,
        }),
        Subcommands::Report { page } => {
            report::write(&Results::read(&results)?, &scenarios, &contenders, page)?;
            Ok(true)
        }
        Subcommands::Record { folder } => {
            record::write(&Results::read(&results)?, &scenarios, &contenders, folder)?;
            Ok(true)
        }
        Subcommands::List => {
            let plan = |scenario: &Scenario| scenario.plan(&Choice::Default, None);
            let plans = scenarios.iter().map(plan).collect::<Result<Vec<_>>>()?;
            run::list(&plans, &contenders, &programs()?);
            Ok(true)
        }
    }
}

/// The folder of this program: cargo puts the others beside it.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new(".")).to_owned())
}

fn plans(scenarios: &[Scenario], chosen: &RunArguments) -> Result<Vec<Plan>> {
    let all = chosen.scenarios.iter().any(|name| name == "all");
    let names: Vec<&str> = scenarios
        .iter()
        .map(|scenario| scenario.name.as_str())
        .collect();
    if let Some(stranger) = chosen
        .scenarios
        .iter()
        .find(|it| *it != "all" && !names.contains(&it.as_str()))
    {
        return Err(format!(
            "there is no scenario {stranger:?}: all, {}",
            names.join(", ")
        )
        .into());
    }
    let is_chosen = |scenario: &&Scenario| all || chosen.scenarios.contains(&scenario.name);
    let plan = |scenario: &Scenario| scenario.plan(&chosen.choice(), chosen.rounds);
    scenarios.iter().filter(is_chosen).map(plan).collect()
}

/// Those that are meant, or all.
fn chosen_contenders(contenders: Vec<Contender>, only: &[String]) -> Result<Vec<Contender>> {
    if let Some(stranger) = only
        .iter()
        .find(|name| !contenders.iter().any(|it| it.is_meant_by(name)))
    {
        let names: Vec<&str> = contenders.iter().map(|it| it.name.as_str()).collect();
        return Err(format!("there is no contender {stranger:?}: {}", names.join(", ")).into());
    }
    let is_meant = |it: &Contender| only.is_empty() || only.iter().any(|name| it.is_meant_by(name));
    let meant: Vec<Contender> = contenders.into_iter().filter(is_meant).collect();
    if !meant
        .iter()
        .any(|contender| contender.family == Family::Kolk)
    {
        eprintln!(
            "without kolk there is nothing to compare with: only the figures themselves are kept"
        );
    }
    Ok(meant)
}
