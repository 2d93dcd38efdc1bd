//! One connection that sends blocks, and waits for each to come back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kolk::DriverChoice;

use crate::echo::{Echo, Reads};
use crate::{PATIENCE, Result, block, pattern};

/// Blocks that are thrown away before it counts.
const WARM_UP: u64 = 100;

/// What to measure.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Arguments {
    /// How long to measure
    #[arg(long, default_value_t = 5.0, value_parser = parse_seconds)]
    pub(crate) seconds: f64,
    /// Bytes of a block
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) size: u32,
}

/// The client is a blocking socket of the standard library: as little as can be in front of the echo.
pub(crate) fn run(arguments: &Arguments, driver: DriverChoice) -> Result<String> {
    let size = arguments.size as usize;
    let echo = Echo::start(driver, Reads::Owned(size))?;
    let mut client = TcpStream::connect(echo.address)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let pattern = pattern(size);
    let mut answer = vec![0; size];
    let mut exchange = |number| -> Result<()> {
        let block = block(&pattern, number, size);
        client.write_all(&block)?;
        client.read_exact(&mut answer)?;
        if answer != block {
            return Err(format!("block {number} came back with other bytes").into());
        }
        Ok(())
    };

    (0..WARM_UP).try_for_each(&mut exchange)?;
    let duration = Duration::from_secs_f64(arguments.seconds);
    let (begin, mut blocks) = (Instant::now(), 0);
    while begin.elapsed() < duration {
        exchange(WARM_UP + blocks)?;
        blocks += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = blocks as f64 * size as f64 / seconds / 1e6;
    Ok(format!(
        "stream  {}  blocks of {size} B: {rate:.0} MB/s ({blocks} in {seconds:.2} s)",
        echo.driver
    ))
}

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds, 0.01 to 3600".to_owned()),
    }
}
