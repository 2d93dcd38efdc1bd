//! Very many connections that do next to nothing: what that costs, and when it ends.

use std::thread;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::{Driver, PATIENCE, Result, allow_descriptors, bar, observed};

/// Of the server: it is left in peace for less, and for more.
const TIMEOUT: Duration = Duration::from_secs(15);
const REST: Duration = Duration::from_secs(10);

/// Rounds of a message on each connection, in a second each.
const ROUNDS: u32 = 4;

/// Bytes of user memory for each of them.
const MEMORY: u64 = 288;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    connections: u32,
}

pub(crate) fn run(arguments: &Arguments, driver: Driver) -> Result<bool> {
    let count = arguments.connections;
    allow_descriptors(u64::from(count) + 64)?;
    let mut server = observed::start(driver, Some(TIMEOUT))?;
    let few = count / 10;
    let mut clients = Clients::connect(server.address, few, driver)?;
    clients.ask(b"hello", 5)?;
    let begin = observed::look(&mut server)?;
    clients.add(server.address, count - few)?;
    clients.ask(b"hello", 5)?;
    println!(
        "idle    {}  {count} connections, with a time-out of {TIMEOUT:?}",
        driver.name()
    );

    let before = observed::look(&mut server)?;
    let each = before.resident.saturating_sub(begin.resident) / u64::from(count - few);
    let mut holds = bar(
        each <= MEMORY,
        &format!("from {few} to {count} the server grew by {each} B each: at most {MEMORY}"),
    );
    thread::sleep(REST);
    let busy = observed::look(&mut server)?.busy - before.busy;
    let share = busy.as_secs_f64() / REST.as_secs_f64() * 100.0;
    holds &= bar(
        share < 0.1,
        &format!("at rest the server takes {share:.3} % of a processor: less than 0.1 %"),
    );

    let before = observed::look(&mut server)?;
    let mut begin = Instant::now();
    for _ in 0..ROUNDS {
        begin = Instant::now();
        clients.ask(b"still here", 10)?;
        thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    }
    let after = observed::look(&mut server)?;
    let operations = after.timer_operations - before.timer_operations;
    holds &= bar(
        operations == 0,
        &format!("{operations} timer operations for {ROUNDS} messages, one a second, on each"),
    );

    let ends = clients.wait_for_ends(begin)?;
    let (first, last) = (ends.iter().min(), ends.iter().max());
    let (first, last) = (*first.ok_or("none")?, *last.ok_or("none")?);
    holds &= bar(
        first >= TIMEOUT * 9 / 10 && last <= TIMEOUT * 11 / 10,
        &format!(
            "after the last message all were closed in {first:.2?} to {last:.2?}: within 10 % of the time-out"
        ),
    );
    // Each close waits for the end of the peer.
    let begin = Instant::now();
    let mut left = observed::look(&mut server)?.connections;
    while left > 0 && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
        left = observed::look(&mut server)?.connections;
    }
    Ok(bar(left == 0, &format!("{left} are left")) && holds)
}
