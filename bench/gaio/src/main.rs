//! `gaio`: the two benchmarks that gaio measures itself by, on kolk's `Watcher`.
//!
//! ```text
//!  stream   one connection      block of 64 KiB ─► echo ─► all of it back, then the next block     MB/s
//!  crowd    8192 connections    1 KiB on each   ─► echo ─► until all is back on all              seconds
//! ```
//!
//! The echo is a watcher on a thread of its own. Every byte that comes back is compared.

mod crowd;
mod echo;
mod stream;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use clap::{Parser, Subcommand, ValueEnum};
use kolk::{DriverChoice, DriverKind};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long nothing may come back before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes from one place of the pattern to where it begins again: prime, so that no two blocks that follow each
/// other begin alike.
const PERIOD: usize = 65_521;

/// Benchmarks after gaio's. Exit status: 0 measured, 1 a byte was wrong or nothing came back.
#[derive(Parser, Debug)]
#[command(name = "gaio")]
struct Arguments {
    /// Kernel interface of all watchers
    #[arg(long, default_value = "auto", global = true)]
    driver: Driver,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand, Debug)]
enum Benchmark {
    /// One connection that sends blocks and waits for each: MB/s, each byte counted once
    Stream(stream::Arguments),
    /// Many connections that send a little each: seconds until all is back
    Crowd(crowd::Arguments),
}

/// A kernel interface.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    Auto,
    #[value(name = "io_uring", alias = "uring")]
    IoUring,
    Epoll,
}

impl From<Driver> for DriverChoice {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Auto => Self::Auto,
            Driver::IoUring => Self::Only(DriverKind::IoUring),
            Driver::Epoll => Self::Only(DriverKind::Epoll),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let driver = arguments.driver.into();
    let measured = match arguments.benchmark {
        Benchmark::Stream(arguments) => stream::run(&arguments, driver),
        Benchmark::Crowd(arguments) => crowd::run(&arguments, driver),
    };
    match measured {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gaio: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes of which any `size` from one of the first [`PERIOD`] places on tell when one is lost or out of place.
fn pattern(size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PERIOD + size);
    let mut state = 0x9e37_79b9_u32;
    for _ in 0..PERIOD + size {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.put_u8(state as u8);
    }
    bytes.freeze()
}

/// The block that is sent as number `number`.
fn block(pattern: &Bytes, number: u64, size: usize) -> Bytes {
    let start = (number.wrapping_mul(8191) % PERIOD as u64) as usize;
    pattern.slice(start..start + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVERS: [DriverKind; 2] = [DriverKind::IoUring, DriverKind::Epoll];

    #[test]
    fn blocks_that_follow_each_other_differ() {
        let pattern = pattern(1024);
        for number in 0..1000 {
            assert_ne!(
                block(&pattern, number, 1024),
                block(&pattern, number + 1, 1024)
            );
        }
    }

    #[test]
    fn a_short_stream_is_measured() {
        for driver in DRIVERS {
            let arguments = stream::Arguments {
                seconds: 0.05,
                size: 65_536,
            };
            let line = stream::run(&arguments, DriverChoice::Only(driver)).unwrap();
            assert!(line.contains("MB/s"), "{line}");
        }
    }

    #[test]
    fn a_small_crowd_is_measured() {
        for driver in DRIVERS {
            let arguments = crowd::Arguments {
                connections: 50,
                size: 1024,
                rounds: 2,
            };
            let line = crowd::run(&arguments, DriverChoice::Only(driver)).unwrap();
            assert!(line.contains("50 connections"), "{line}");
        }
    }
}
