//! Much that is queued for many, and what is left of it when they have read.

use std::thread;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::{Driver, Result, allow_descriptors, bar, observed};

/// What the kernel takes of it at most, for a peer that does not read: the rest waits in the server.
const IN_KERNEL: usize = 96 << 10;

/// Time that memory may take to come back.
const SETTLE: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Connections
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// KiB that are queued in the server for each
    #[arg(long, default_value_t = 256)]
    queued: usize,
    /// Bursts, one after the other
    #[arg(long, default_value_t = 2)]
    bursts: u32,
}

pub(crate) fn run(arguments: &Arguments, driver: Driver) -> Result<bool> {
    let count = arguments.connections;
    allow_descriptors(u64::from(count) + 64)?;
    let mut server = observed::start(driver, None)?;
    let mut clients = Clients::connect(server.address, count, driver)?;
    clients.ask(b"hello", 5)?;
    // What it keeps for the next broadcast is no remains of a burst.
    observed::burst(&mut server, observed::PIECE)?;
    clients.receive(observed::PIECE)?;
    let before = observed::look(&mut server)?.resident;
    println!(
        "burst   {}  {count} connections, {} KiB queued for each; {} KiB in memory before",
        driver.name(),
        arguments.queued,
        before >> 10
    );
    let bytes = (arguments.queued << 10) + IN_KERNEL;
    let queued = (u64::from(count) * arguments.queued as u64) << 10;
    let mut holds = true;
    for _ in 0..arguments.bursts {
        let most = observed::burst(&mut server, bytes)?.resident;
        if clients
            .receive(bytes)?
            .iter()
            .any(|read| read.iter().any(|&byte| byte != b'b'))
        {
            return Err("something else arrived".into());
        }
        let begin = Instant::now();
        let mut after = observed::look(&mut server)?.resident;
        while after > before + before / 10 && begin.elapsed() < SETTLE {
            thread::sleep(SETTLE / 20);
            after = observed::look(&mut server)?.resident;
        }
        holds &= bar(
            most - before >= queued,
            &format!(
                "in the midst of it {} KiB more: so much was queued",
                (most - before) >> 10
            ),
        );
        holds &= bar(
            after <= before + before / 10,
            &format!(
                "when all is read {} KiB more: at most a tenth",
                after.saturating_sub(before) >> 10
            ),
        );
    }
    Ok(holds)
}
