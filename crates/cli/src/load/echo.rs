//! `kolk load echo`: sends messages, checks every byte that comes back, measures.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::RangedI64ValueParser;

use crate::driver::DriverArg;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::units::{self, parse_duration, parse_size};

use super::control::{Control, Phase};
use super::pattern::Pattern;
use super::report::{Report, Setting};
use super::server::{Sample, Server};
use super::tally::Tally;
use super::target::Target;
use super::worker::{self, Job, Message};

/// Load before the measurement begins: some hundred round trips, in which caches and windows fill.
const RAMP: Duration = Duration::from_millis(300);

/// Largest message: it is held in memory once.
const SIZE_MAX: usize = 64 << 20;

/// What and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Server to load: tcp://HOST:PORT or unix:///PATH.
    #[arg(value_name = "ADDR")]
    address: String,
    /// Connections to open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Bytes of a message, such as 64, 4KiB or 1MiB.
    #[arg(long, value_name = "BYTES", value_parser = message_size)]
    size: usize,
    /// Most messages under way on one connection.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_most_1024())]
    depth: u32,
    /// How long to measure, such as 5s or 2m.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Threads to load with [default: half of the processors].
    #[arg(long, value_name = "N", value_parser = at_most_1024())]
    threads: Option<u32>,
    /// Open loop: send so many messages a second in all, whatever the answers, and count latency from
    /// when each was due. Without it, the next message leaves when one has come back.
    #[arg(long, value_name = "MSGS_PER_S", value_parser = message_rate)]
    rate: Option<f64>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Process id of the server, on this machine: shows its processor time a message and its memory.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Kernel interface for this command itself.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverArg,
}

fn at_most_1024() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1024)
}

fn message_size(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        size @ 1..=SIZE_MAX => Ok(size),
        _ => Err("a message has between 1 byte and 64MiB".to_owned()),
    }
}

fn message_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| format!("{text:?} is no number of messages a second"))?;
    if (0.001..=1e9).contains(&rate) { Ok(rate) } else { Err("a rate is between 0.001 and 1e9".to_owned()) }
}

/// Runs the load. Status 1 when an error or a wrong byte was seen.
pub(crate) fn run(args: &Args) -> Outcome {
    let target = Target::parse(&args.address)?;
    let server = Server::find(args.server_pid)?;
    let threads = args.threads.unwrap_or_else(half_of_the_processors).min(args.connections);
    super::check_limits(&target, args.connections, threads)?;

    let control = Control::new(threads);
    let jobs = jobs(args, &target, threads);
    let (tallies, samples) = thread::scope(|scope| {
        let start = |job: Job| {
            let name = format!("load-{}", job.thread);
            let control = &control;
            thread::Builder::new().name(name).spawn_scoped(scope, move || worker::run(job, control))
        };
        let workers = jobs.into_iter().map(start).collect::<Result<Vec<_>, _>>();
        let workers = workers.map_err(|error| {
            control.abandon();
            Failure::runtime(format!("cannot start {threads} threads: {error}"))
        })?;
        let samples = conduct(args, &control, server);
        let tallies = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        Ok::<_, Failure>((tallies.collect::<Result<Vec<Tally>, Failure>>()?, samples))
    })?;

    let setting = setting(args, threads);
    Ok(show(&Report::new(setting, tallies, samples), args.json))
}

fn half_of_the_processors() -> u32 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors as u32 / 2).max(1)
}

fn setting(args: &Args, threads: u32) -> Setting {
    Setting { address: args.address.clone(), size: args.size, depth: args.depth, threads, rate: args.rate }
}

/// Shares connections and rate out to the threads; the first ones take what does not divide.
fn jobs(args: &Args, target: &Target, threads: u32) -> Vec<Job> {
    let pattern = Pattern::new(args.size);
    let share = |thread: u32| args.connections / threads + u32::from(thread < args.connections % threads);
    let mut first_connection = 0;
    let mut job = |thread| {
        let connections = share(thread);
        let job = Job {
            thread,
            target: target.clone(),
            driver: args.driver,
            connections,
            first_connection,
            message: Message { size: args.size, depth: args.depth },
            rate: args.rate.map(|rate| rate * f64::from(connections) / f64::from(args.connections)),
            pattern,
        };
        first_connection += u64::from(connections);
        job
    };
    (0..threads).map(&mut job).collect()
}

/// Leads the threads through the phases, and looks at the server around the measurement.
fn conduct(args: &Args, control: &Control, server: Server) -> Option<(Sample, Sample)> {
    await_connections(u64::from(args.connections), control);
    control.enter(Phase::Warm);
    pause(RAMP, control, |_| ());
    let before = server.sample();
    control.enter(Phase::Measure);
    show_measuring(args.duration, control);
    let after = server.sample();
    control.enter(Phase::Drain);
    before.zip(after)
}

fn await_connections(wanted: u64, control: &Control) {
    let bar = super::progress_bar(wanted, super::CONNECTING);
    while control.settled() < wanted && !control.is_abandoned() {
        bar.set_position(control.settled());
        thread::sleep(super::POLL / 10);
    }
    bar.finish_and_clear();
}

fn show_measuring(duration: Duration, control: &Control) {
    let bar = super::progress_bar(duration.as_millis() as u64, super::MEASURING);
    let before = control.messages();
    pause(duration, control, |elapsed| {
        let rate = (control.messages() - before) as f64 / elapsed.as_secs_f64().max(1e-3);
        bar.set_position(elapsed.as_millis() as u64);
        bar.set_message(format!(
            "{} messages/s, {} connections lost",
            units::grouped(rate as u64),
            control.lost()
        ));
    });
    bar.finish_and_clear();
}

/// Waits, calling `tick` now and then; ends early when there is nothing left to wait for.
fn pause(duration: Duration, control: &Control, mut tick: impl FnMut(Duration)) {
    let start = Instant::now();
    while start.elapsed() < duration && !control.is_abandoned() && control.lost() < control.settled() {
        tick(start.elapsed());
        thread::sleep(super::POLL.min(duration.saturating_sub(start.elapsed())));
    }
}

fn show(report: &Report, json: bool) -> ExitCode {
    if json {
        output::say(&output::json(report));
    } else {
        output::say(&report.text());
    }
    for warning in report.warnings() {
        output::complain(&format!("note: {warning}"));
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Args, String> {
        let all = ["load", "tcp://127.0.0.1:1"].iter().chain(arguments);
        Wrapper::try_parse_from(all).map(|wrapper| wrapper.args).map_err(|error| error.to_string())
    }

    #[test]
    fn connections_and_rate_are_shared_out_without_rest() {
        let args = parse(&["--connections", "10", "--size", "64", "--rate", "1000"]).unwrap();
        let jobs = jobs(&args, &Target::parse(&args.address).unwrap(), 3);
        let shares: Vec<_> = jobs.iter().map(|job| (job.first_connection, job.connections)).collect();
        assert_eq!(shares, [(0, 4), (4, 3), (7, 3)]);
        let rates: Vec<_> = jobs.iter().map(|job| job.rate.unwrap()).collect();
        assert_eq!(rates, [400.0, 300.0, 300.0]);
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = parse(&["--connections", "1", "--size", "4KiB"]).unwrap();
        assert_eq!((args.depth, args.duration, args.size), (1, Duration::from_secs(5), 4096));
        assert_eq!((args.rate, args.json, args.driver), (None, false, DriverArg::Auto));
    }

    #[test]
    fn wrong_values_are_refused_with_a_reason() {
        let refused = |extra: &[&str]| {
            let all: Vec<_> = ["--connections", "1", "--size", "64"].iter().chain(extra).copied().collect();
            parse(&all).unwrap_err()
        };
        assert!(parse(&["--connections", "0", "--size", "64"]).unwrap_err().contains("0 is not in 1.."));
        assert!(
            parse(&["--connections", "1", "--size", "0"]).unwrap_err().contains("between 1 byte and 64MiB")
        );
        assert!(refused(&["--depth", "0"]).contains("--depth"));
        assert!(refused(&["--duration", "5"]).contains("write 5s"));
        assert!(refused(&["--rate", "-1"]).contains("unexpected argument '-1'"));
        assert!(refused(&["--rate", "0"]).contains("a rate is between"));
        assert!(refused(&["--driver", "kqueue"]).contains("io_uring"));
    }
}
