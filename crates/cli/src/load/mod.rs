//! Loading a server: what the kinds of load share.
//!
//! ```text
//!  echo, idle          what to do, in which order, and what to report
//!    worker            one thread: an event loop, its connections, its tally
//!    crowd             the idle connections, on the calling thread
//!      dial            opens connections at a pace that the listener can follow
//!      link            one connection: what it sent, what came back
//!        pattern       which bytes
//!      pace            when
//!    control           how the phases reach the threads, and their progress the terminal
//!    tally             what it counted
//!    report            the figures, as text and as JSON
//! ```

mod control;
mod crowd;
mod dial;
pub(crate) mod echo;
pub(crate) mod idle;
mod idle_report;
mod kernel;
mod link;
mod pace;
mod pattern;
mod report;

mod server;
mod tally;
mod target;
mod worker;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kolk_engine::driver::DriverConfig;
use kolk_engine::{Config, EventLoop};

use crate::driver::DriverArg;
use crate::failure::{Failure, reason};
use crate::system::{self, DESCRIPTOR_ADVICE};
use target::Target;

/// Descriptors of this command that are no connections: standard streams, what each loop's driver
/// opens, and a few in reserve.
fn other_descriptors(threads: u32) -> u64 {
    32 + 8 * u64::from(threads)
}

/// Whether this machine lets one process open so many connections to `target`; raises the soft limit
/// on descriptors if that helps.
fn check_limits(target: &Target, connections: u32, threads: u32) -> Result<(), Failure> {
    let needed = u64::from(connections) + other_descriptors(threads);
    let limit = system::raise_descriptor_limit().soft();
    if needed > limit {
        return Err(Failure::usage(format!(
            "cannot open {connections} connections: this process may have {limit} descriptors and \
             needs {needed} ({DESCRIPTOR_ADVICE}; or open at most {})",
            limit.saturating_sub(other_descriptors(threads))
        )));
    }
    match system::local_ports() {
        Some(ports) if target.needs_ports() && u64::from(connections) > ports.len() as u64 => {
            Err(Failure::usage(dial::too_few_ports(target, connections, &ports)))
        }
        _ => Ok(()),
    }
}

/// An event loop for the calling thread, to receive messages of `size` bytes.
fn open_event_loop(driver: DriverArg, size: usize) -> Result<EventLoop<()>, Failure> {
    let config = Config { driver: driver.into(), driver_config: receive_buffers(size), ..Config::default() };
    EventLoop::new(&config)
        .map_err(|error| Failure::usage(format!("cannot open the load's event loop: {}", reason(&error))))
}

/// Receive memory of the client's ring on io_uring, in buffers as long as a message. Measured: a 64 KiB
/// message in 4 KiB pieces costs the client half as much again as in one, and 1000 connections that
/// share 64 buffers a sixth more than with 512.
fn receive_buffers(size: usize) -> DriverConfig {
    let ring_buffer_size = size.clamp(RING_BUFFER_MIN, RING_BUFFER_MAX).next_power_of_two();
    let count = (RING_BYTES / ring_buffer_size) as u16;
    // As many in reserve: none is copied while a batch of answers is looked at.
    DriverConfig {
        ring_buffer_size,
        ring_buffers: count,
        ring_spare_buffers: count,
        ..DriverConfig::default()
    }
}

const RING_BUFFER_MIN: usize = 4 << 10;
const RING_BUFFER_MAX: usize = 64 << 10;
const RING_BYTES: usize = 2 << 20;

/// A progress bar on standard error, invisible unless that is a terminal.
fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    // The templates are constants of this program; a bad one would fail the first test.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

const CONNECTING: &str = "connecting  {bar:30} {human_pos}/{human_len}";
const MEASURING: &str = "measuring   {bar:30} {msg}";
const HOLDING: &str = "holding     {bar:30} {msg}";

/// How often progress is shown and phases are looked after.
const POLL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receive_buffers_are_as_long_as_a_message_within_bounds() {
        let shape = |size| {
            let config = receive_buffers(size);
            (config.ring_buffer_size, config.ring_buffers)
        };
        assert_eq!(shape(1), (4096, 512));
        assert_eq!(shape(5000), (8192, 256));
        assert_eq!(shape(64 << 10), (64 << 10, 32));
        assert_eq!(shape(64 << 20), (64 << 10, 32));
    }
}
