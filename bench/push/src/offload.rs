//! Slow work of many connections, and whether the event loop notices any of it.

use std::thread;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::{Driver, Result, allow_descriptors, bar, observed};

/// The longest that the loop may be deaf: less than one job.
const TURN_MAX: Duration = Duration::from_millis(5);

/// Jobs that each connection gives at a time, by their numbers.
const JOBS: &[u8] = b"j1j2j3j4";

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments, driver: Driver) -> Result<bool> {
    let count = arguments.connections;
    allow_descriptors(u64::from(count) + 64)?;
    let mut server = observed::start(driver, None)?;
    let mut clients = Clients::connect(server.address, count, driver)?;
    clients.ask(b"hello", 5)?;
    let before = observed::look(&mut server)?;
    let begin = Instant::now();
    let (mut done, mut refused, mut is_in_order) = (0, 0, true);
    while begin.elapsed() < Duration::from_secs(arguments.seconds.into()) {
        for answers in clients.ask(JOBS, JOBS.len())? {
            let results = answers
                .chunks(2)
                .filter(|answer| answer[0] == b'd')
                .map(|answer| answer[1]);
            let results: Vec<u8> = results.collect();
            is_in_order &= results.is_sorted();
            done += results.len() as u64;
            refused += (JOBS.len() / 2 - results.len()) as u64;
        }
        thread::sleep(observed::JOB);
    }
    let after = observed::look(&mut server)?;
    println!(
        "offload {}  {count} connections, jobs of {:?}: {} were done in {:.1?}",
        driver.name(),
        observed::JOB,
        done,
        begin.elapsed()
    );
    let jobs = after.jobs - before.jobs;
    let mut holds = bar(
        after.longest_turn < TURN_MAX,
        &format!(
            "the longest turn of the loop took {:.2?}, and {:.2?} before there were jobs: less than {TURN_MAX:?}",
            after.longest_turn, before.longest_turn
        ),
    );
    holds &= bar(
        is_in_order,
        "the results of a connection came in the order of its jobs",
    );
    holds &= bar(
        jobs == done && refused > 0,
        &format!("{jobs} jobs were taken and {done} answered; {refused} found the pool full"),
    );
    Ok(holds)
}
