//! `paired`: kolk against the limit programs in paired, interleaved rounds.
//!
//! Throughput over loopback wanders by 10 % within an hour, so two numbers taken apart say little.
//! A round measures both contenders one right after the other, in an order that alternates, and
//! only the ratio within a round counts; its median over the rounds is the result.
//!
//! ```text
//! for each driver and shape:   round 1: limit, kolk   round 2: kolk, limit   round 3: ...
//! for each contender:          start server on CPU 0 -> warm-up -> measured load on CPU 1 -> stop
//! ```

mod report;
mod shape;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use harness::address::Address;
use harness::duration::written;
use harness::process::{self, Server};
use harness::{Result, duration};
use report::{Measurement, Round, Series};
use shape::Shape;

/// The load that is thrown away before each measured one.
const WARM_UP: &str = "1s";

/// How much longer than its own duration a load may take to connect and to report.
const LOAD_SLACK: Duration = Duration::from_secs(30);

/// Measure kolk against the limit programs. Exit status: 0 every bar holds, 1 one does not,
/// 2 it could not be measured.
#[derive(Parser, Debug)]
#[command(name = "paired")]
struct Arguments {
    /// Rounds for each driver and shape
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each measured load runs, such as 3s or 500ms; the split into user and system time
    /// needs long ones
    #[arg(long, default_value = "3s", value_parser = duration::parse)]
    duration: Duration,
    /// One driver instead of both
    #[arg(long)]
    only: Option<Driver>,
    /// CONNECTIONSxBYTES or CONNECTIONSxBYTESxDEPTH instead of the four usual shapes; repeatable
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<Shape>,
    /// Front end that `kolk serve echo` runs on; its own default if not given
    #[arg(long)]
    api: Option<Api>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The kolk program
    #[arg(long, value_name = "PATH", default_value = "../target/release/kolk")]
    kolk: PathBuf,
    /// COUNTxBYTES of the buffer ring of `limit-uring`, such as 64x16384; its own default if not
    /// given
    #[arg(long, value_name = "COUNTxBYTES", value_parser = parse_buffers)]
    uring_buffers: Option<(u32, u32)>,
    /// Processor of the server
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of the load
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

/// A kernel interface, by the name that kolk gives its driver.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Driver {
    /// kolk's io_uring driver against `limit-uring`
    #[value(name = "uring", alias = "io_uring")]
    IoUring,
    /// kolk's epoll driver against `limit-epoll`
    Epoll,
}

impl Driver {
    const ALL: [Self; 2] = [Self::IoUring, Self::Epoll];

    fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    fn limit_program(self) -> &'static str {
        match self {
            Self::IoUring => "limit-uring",
            Self::Epoll => "limit-epoll",
        }
    }
}

/// A front end of kolk.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Api {
    /// The reactor
    Server,
    /// The proactor
    Watcher,
}

impl Api {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Watcher => "watcher",
        }
    }
}

/// Who serves in one half of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Contender {
    Limit,
    Kolk,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match process::note_interrupts().and_then(|()| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("paired: {error}");
            ExitCode::from(2)
        }
    }
}

/// Measures everything; true if every bar holds.
fn run(arguments: &Arguments) -> Result<bool> {
    let bench = Bench::new(arguments)?;
    let drivers = match arguments.only {
        Some(driver) => vec![driver],
        None => Driver::ALL.to_vec(),
    };
    let shapes = match arguments.shape.as_slice() {
        [] => Shape::USUAL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let mut all = Vec::new();
    for &driver in &drivers {
        for &shape in &shapes {
            let mut series = Series::new(driver.name(), shape);
            for number in 1..=arguments.rounds {
                let round = bench.round(driver, shape, number)?;
                println!("{}", report::round_line(&series, &round, arguments.rounds));
                series.rounds.push(round);
            }
            all.push(series);
        }
    }
    print!("\n{}", report::table(&all));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report::json(&all))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(all.iter().all(|series| series.holds()))
}

/// Where the programs are and how they are run.
struct Bench<'a> {
    arguments: &'a Arguments,
    /// The folder of this program: cargo puts the limit programs beside it.
    limits: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self> {
        let own = std::env::current_exe()?;
        let limits = own.parent().unwrap_or(Path::new(".")).to_owned();
        let bench = Self { arguments, limits };
        for driver in Driver::ALL {
            let path = bench.limits.join(driver.limit_program());
            require(&path, "run `cargo build --release` in bench/")?;
        }
        require(
            &arguments.kolk,
            "run `cargo build --release` in the root of kolk, and start `paired` in bench/ or name the program with --kolk",
        )?;
        for cpu in [arguments.server_cpu, arguments.load_cpu] {
            process::check_cpu(cpu)?;
        }
        Ok(bench)
    }

    /// Both contenders, one right after the other; who is first alternates.
    fn round(&self, driver: Driver, shape: Shape, number: u32) -> Result<Round> {
        let limit_first = number % 2 == 1;
        let measure = |contender| self.measure(driver, shape, contender, number);
        let (limit, kolk) = if limit_first {
            let limit = measure(Contender::Limit)?;
            (limit, measure(Contender::Kolk)?)
        } else {
            let kolk = measure(Contender::Kolk)?;
            (measure(Contender::Limit)?, kolk)
        };
        Ok(Round {
            number,
            limit_first,
            limit,
            kolk,
        })
    }

    /// One contender: a fresh server, a warm-up, the measured load.
    fn measure(
        &self,
        driver: Driver,
        shape: Shape,
        who: Contender,
        number: u32,
    ) -> Result<Measurement> {
        let address = Address::free_tcp()?;
        let command = self.server_command(driver, who, &address);
        eprintln!(
            "{} {shape} round {number}/{}: {}",
            driver.name(),
            self.arguments.rounds,
            command.get_program().display()
        );
        let mut server = Server::start(command, self.arguments.server_cpu)?;
        server.wait_until_it_accepts(&address)?;
        self.load(shape, &address, &mut server, WARM_UP)?;
        let measured = written(self.arguments.duration);
        let output = self.load(shape, &address, &mut server, &measured)?;
        server.stop()?;
        Measurement::parse(&output).map_err(Into::into)
    }

    fn server_command(&self, driver: Driver, contender: Contender, address: &Address) -> Command {
        match contender {
            Contender::Limit => {
                let mut command = Command::new(self.limits.join(driver.limit_program()));
                command.args(["--listen", &address.to_string()]);
                if let (Driver::IoUring, Some((count, bytes))) =
                    (driver, self.arguments.uring_buffers)
                {
                    command.args(["--buffers", &count.to_string()]);
                    command.args(["--buffer-size", &bytes.to_string()]);
                }
                command
            }
            Contender::Kolk => {
                let mut command = Command::new(&self.arguments.kolk);
                command.args(["serve", "echo", "--listen", &address.url()]);
                command.args(["--loops", "1", "--driver", driver.name()]);
                if let Some(api) = self.arguments.api {
                    command.args(["--api", api.name()]);
                }
                command
            }
        }
    }

    /// Runs `kolk load echo` against the server and returns what it printed.
    fn load(
        &self,
        shape: Shape,
        address: &Address,
        server: &mut Server,
        duration: &str,
    ) -> Result<String> {
        let mut command = Command::new(&self.arguments.kolk);
        command
            .args(["load", "echo", &address.url()])
            .args(["--connections", &shape.connections.to_string()])
            .args(["--size", &shape.bytes.to_string()])
            .args(["--depth", &shape.depth.to_string()])
            .args(["--duration", duration, "--threads", "1", "--json"])
            .args(["--server-pid", &server.pid().to_string()]);
        let bound = self.arguments.duration + LOAD_SLACK;
        let output = process::run_to_end(command, self.arguments.load_cpu, bound)?;
        server.check_alive()?;
        Ok(output)
    }
}

fn require(program: &Path, remedy: &str) -> Result<()> {
    if program.is_file() {
        return Ok(());
    }
    Err(format!("there is no {}: {remedy}", program.display()).into())
}

fn parse_buffers(text: &str) -> std::result::Result<(u32, u32), String> {
    let parts = text.split_once('x');
    match parts.map(|(count, bytes)| (count.parse(), bytes.parse())) {
        Some((Ok(count), Ok(bytes))) => Ok((count, bytes)),
        _ => Err("expected COUNTxBYTES, such as 64x16384".to_owned()),
    }
}
