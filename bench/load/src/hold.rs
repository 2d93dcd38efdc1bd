//! Connections that have exchanged one message and stay silent, until SIGTERM.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::Result;
use harness::address::Address;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{pattern, socket};

/// Bytes of the one message.
const SIZE: usize = 64;

/// Connections that wait for their answer at a time: fewer than a listener's queue takes.
const BATCH: usize = 128;

/// Held no longer than this, whoever has forgotten us.
const LONGEST: Duration = Duration::from_secs(600);

/// How often the signal is looked for: rare enough to disturb nobody.
const LOOK: Duration = Duration::from_millis(50);

/// What to hold.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Server: 127.0.0.1:PORT or unix:PATH
    #[arg(value_name = "ADDR")]
    address: Address,
    /// Connections
    #[arg(long, value_name = "N")]
    connections: u32,
}

/// Holds, and prints `holding` when all are there. An error if one of them was lost or got bytes unasked.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut crowd = Vec::with_capacity(arguments.connections as usize);
    while crowd.len() < arguments.connections as usize {
        let count = BATCH.min(arguments.connections as usize - crowd.len());
        greet(&arguments.address, &mut crowd, count)?;
    }
    println!("holding {} connections", crowd.len());
    std::io::stdout().flush()?;
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < LONGEST {
        thread::sleep(LOOK);
    }
    crowd.iter().try_for_each(check_silence)
}

/// Opens some more connections, and has one message back on each.
fn greet(address: &Address, crowd: &mut Vec<OwnedFd>, count: usize) -> Result<()> {
    let first = crowd.len();
    let message = |number: usize| pattern::message(number as u64, SIZE);
    for number in first..first + count {
        let connection = socket::connect(address)?;
        socket::send_all(&connection, message(number))?;
        crowd.push(connection);
    }
    for (number, connection) in crowd.iter().enumerate().skip(first) {
        socket::expect(connection, message(number))
            .map_err(|error| format!("connection {number}: {error}"))?;
    }
    Ok(())
}

/// Nothing came, and it is still open.
fn check_silence(connection: &OwnedFd) -> Result<()> {
    match net::recv(connection, &mut [0; 1], RecvFlags::DONTWAIT) {
        Err(Errno::AGAIN) => Ok(()),
        Ok((0, _)) => Err("the server closed a silent connection".into()),
        Ok(_) => Err("the server sent something to a silent connection".into()),
        Err(error) => Err(format!("a silent connection was lost: {error}").into()),
    }
}
