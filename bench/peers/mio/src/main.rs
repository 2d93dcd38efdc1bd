//! `peer-mio`: a loop written by hand for each scenario.
//!
//! Everything is registered once, for both directions, and never again; mio is edge-triggered. A connection is one
//! entry of a slab, whose number is its token. One receive buffer serves all. Where a read brought less than the
//! buffer holds, the socket is drained, and no second read asks whether it is: what mio guarantees on Linux only.

mod broadcast;
mod echo;
mod net;
mod relay;
mod udp;

use std::process::ExitCode;

use peer_common::{Result, Scenario};

fn main() -> ExitCode {
    peer_common::run("peer-mio", serve)
}

fn serve(scenario: Scenario) -> Result {
    match scenario {
        Scenario::Echo { listen } => net::run(&listen, echo::Echo::default()),
        Scenario::Broadcast { listen, message } => {
            net::run(&listen, broadcast::Broadcast::new(message))
        }
        Scenario::Relay { listen, to } => net::run(&listen, relay::Relay::new(to)),
        Scenario::Udp { listen } => udp::run(listen),
    }
}
