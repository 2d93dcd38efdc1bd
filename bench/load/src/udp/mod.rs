//! Datagrams that come back: of many peers, or of one that sends in bulk.

mod bulk;
mod peers;

use std::net::SocketAddrV4;
use std::time::Duration;

use harness::Result;
use harness::address::Address;

use crate::Common;
use crate::meter::Report;

/// After so long a datagram counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// How long a receive waits, so that losses are noticed.
const LOOK: Duration = Duration::from_millis(20);

/// More lost datagrams than this part, and the figures say nothing.
const LOST_MOST: f64 = 0.01;

/// Bytes that both ends' sockets may hold, as far as the kernel allows it.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// `--connections` is the number of peers: each has an address of its own. One peer sends in bulk
    #[command(flatten)]
    common: Common,
    /// Bytes of a datagram
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16_384))]
    bytes: u32,
    /// Datagrams under way, in all
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let Address::Ip(std::net::SocketAddr::V4(server)) = arguments.common.address else {
        return Err(format!(
            "{}: datagrams go to an IPv4 address",
            arguments.common.address
        )
        .into());
    };
    let report = measure(arguments, server)?;
    if report.lost_part() > LOST_MOST {
        return Err(format!(
            "{:.1} % of the datagrams were lost: make --window smaller",
            report.lost_part() * 100.0
        )
        .into());
    }
    Ok(report)
}

fn measure(arguments: &Arguments, server: SocketAddrV4) -> Result<Report> {
    if arguments.common.connections == 1 {
        bulk::run(arguments, server)
    } else {
        peers::run(arguments, server)
    }
}
