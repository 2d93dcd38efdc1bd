//! Many connections that send a little each, all at once.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use kolk::watcher::{Completion, Completions, Operation, Watcher};
use kolk::{ConnId, DriverChoice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::echo::{Echo, Reads};
use crate::{PATIENCE, Result, block, pattern};

/// Connections that are being made at once: fewer than any usual backlog holds.
const CONNECTING: usize = 100;

/// Descriptors of a process that are no connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// What to measure.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Arguments {
    /// Connections
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Bytes that each sends
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) size: u32,
    /// Times that all of them send
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
}

/// The client is a second watcher, as with gaio.
pub(crate) fn run(arguments: &Arguments, driver: DriverChoice) -> Result<String> {
    let count = arguments.connections as usize;
    allow_descriptors(2 * u64::from(arguments.connections) + OTHER_DESCRIPTORS)?;
    let echo = Echo::start(driver.clone(), Reads::Pooled)?;
    let size = arguments.size as usize;
    let mut client = Client::new(driver, size)?;
    let begin = Instant::now();
    client.connect(&echo, count)?;
    let connected = begin.elapsed().as_secs_f64();
    let mut seconds = Vec::new();
    for round in 0..arguments.rounds {
        let begin = Instant::now();
        client.round(round)?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let each: Vec<String> = seconds
        .iter()
        .map(|seconds| format!("{seconds:.3}"))
        .collect();
    Ok(format!(
        "crowd   {}  {count} connections of {size} B: {:.3} s until all is back (median; {}), {connected:.3} s to connect",
        echo.driver,
        median(seconds),
        each.join(" ")
    ))
}

/// All connections, with their numbers as contexts.
struct Client {
    watcher: Watcher<u32>,
    completions: Completions<u32>,
    conns: Vec<ConnId>,
    pattern: Bytes,
    size: usize,
}

impl Client {
    fn new(driver: DriverChoice, size: usize) -> Result<Self> {
        // The echo is number 0.
        let watcher = Watcher::builder().driver(driver).number(1).build()?;
        let completions = Completions::default();
        Ok(Self {
            watcher,
            completions,
            conns: Vec::new(),
            pattern: pattern(size),
            size,
        })
    }

    fn connect(&mut self, echo: &Echo, count: usize) -> Result<()> {
        let (mut begun, mut connecting) = (0, 0);
        while self.conns.len() < count {
            while begun < count && connecting < CONNECTING {
                self.watcher.connect(echo.address, begun as u32)?;
                begun += 1;
                connecting += 1;
            }
            let conns = &mut self.conns;
            wait(&mut self.watcher, &mut self.completions, |done| {
                done.result?;
                conns.push(done.conn);
                connecting -= 1;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Each connection sends its bytes; ends when all are back.
    fn round(&mut self, round: u32) -> Result<()> {
        let count = self.conns.len() as u32;
        let block = |number| block(&self.pattern, u64::from(round * count + number), self.size);
        for (number, &conn) in (0..).zip(&self.conns) {
            self.watcher.write(conn, number, block(number))?;
            self.watcher
                .read_exact(conn, number, BytesMut::with_capacity(self.size))?;
        }
        let mut back = 0;
        while back < count {
            wait(&mut self.watcher, &mut self.completions, |done| {
                let length = done.result?;
                if done.operation == Operation::ReadExact {
                    if length != self.size || *done.buffer != *block(done.context) {
                        return Err(
                            format!("connection {} got other bytes back", done.context).into()
                        );
                    }
                    back += 1;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// One batch of completions; an error if none comes.
fn wait(
    watcher: &mut Watcher<u32>,
    completions: &mut Completions<u32>,
    handle: impl FnMut(Completion<u32>) -> Result<()>,
) -> Result<()> {
    if watcher.wait(completions, Some(PATIENCE))? == 0 {
        return Err(format!("nothing came back for {PATIENCE:?}").into());
    }
    completions.drain().try_for_each(handle)
}

fn allow_descriptors(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Any process may raise its own limit so far.
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    match limit.maximum {
        Some(allowed) if allowed < needed => Err(format!(
            "{needed} descriptors are needed and {allowed} allowed: raise `ulimit -Hn`, or use fewer --connections"
        )
        .into()),
        _ => Ok(()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
