//! `kolk serve echo`: gives every byte back.

mod proactor;
mod reactor;
mod status;

use std::process::{self, ExitCode};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use kolk::DriverConfig;

use crate::driver::{DriverArg, ParkAfter};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::system::{self, DESCRIPTOR_ADVICE, Limit};
use crate::units::grouped;
use status::{StatusLine, Traffic};

/// Descriptors that are no connections: standard streams, listeners, what each loop's driver opens.
const OTHER_DESCRIPTORS: u64 = 64;

/// Connections below which the limit is worth raising.
const MANY: u64 = 100_000;

/// Where and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Address to listen on, such as tcp://0.0.0.0:7000 or unix:///tmp/kolk.sock; may be given often.
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:7000")]
    listen: Vec<String>,
    /// Front end of the library that it runs on.
    #[arg(long, value_enum, default_value_t)]
    api: Api,
    /// Event loops [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    loops: Option<u16>,
    /// Kernel interface.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverArg,
    /// Silence after which a connection waits in less of the kernel's memory, on io_uring: such as 30s, or never
    /// [default: the library's].
    #[arg(long, value_name = "TIME", value_parser = ParkAfter::parse)]
    park_after: Option<ParkAfter>,
    /// Bind each loop's thread to a processor of its own.
    #[arg(long)]
    pin: bool,
}

impl Args {
    fn driver_config(&self) -> DriverConfig {
        let default = DriverConfig::default();
        match self.park_after {
            Some(ParkAfter(park_after)) => DriverConfig { park_after, ..default },
            None => default,
        }
    }
}

/// The front ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Api {
    /// The reactor: a server that calls a handler.
    #[default]
    Server,
    /// The proactor: one watcher a thread.
    Watcher,
}

/// An echo that runs, whichever front end it runs on.
trait Serving {
    /// With the ports that the kernel chose.
    fn addresses(&self) -> Vec<String>;

    fn driver_reason(&self) -> &str;

    fn traffic(&self) -> Traffic;

    /// Waits until all loops have ended.
    fn wait(self) -> kolk::Result<()>;
}

/// Serves until Ctrl-C.
pub(crate) fn run(args: &Args) -> Outcome {
    let limit = system::raise_descriptor_limit();
    let (tell_ended, ended) = mpsc::channel();
    match args.api {
        Api::Server => serve(reactor::start(args, tell_ended), limit, &ended),
        Api::Watcher => serve(proactor::start(args, &tell_ended), limit, &ended),
    }
}

fn serve(started: kolk::Result<impl Serving>, limit: Limit, ended: &Receiver<()>) -> Outcome {
    let serving = started.map_err(Failure::usage)?;
    output::say(&greeting(&serving, limit));
    show_status(&serving, ended);
    serving.wait().map_err(Failure::runtime)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the traffic until a loop ends; returns at once where there is no terminal.
fn show_status(serving: &impl Serving, ended: &Receiver<()>) {
    let mut status = StatusLine::new(serving.traffic());
    while status.is_visible() && ended.recv_timeout(status::PERIOD) == Err(RecvTimeoutError::Timeout) {
        status.update(serving.traffic());
    }
    status.clear();
}

/// Where it listens, on what, within which limits, and what to do next.
fn greeting(serving: &impl Serving, limit: Limit) -> String {
    let addresses = serving.addresses();
    let mut lines = vec!["kolk serves echo".to_owned()];
    lines.extend(addresses.iter().map(|address| format!("  listening  {address}")));
    lines.push(format!("  driver     {}", serving.driver_reason()));
    lines.push(format!("  limits     {}", limits(limit)));
    if let Some(address) = addresses.first() {
        let pid = process::id();
        lines.push("next, in another terminal:".to_owned());
        lines.push(format!("  kolk load echo {address} --connections 1000 --size 64 --server-pid {pid}"));
        lines.push(format!("  kolk load idle {address} --connections 10000 --server-pid {pid}"));
    }
    lines.push("Ctrl-C stops the server".to_owned());
    lines.join("\n")
}

/// The limits that bite first when many connections come.
fn limits(descriptors: Limit) -> String {
    let connections = descriptors.soft().saturating_sub(OTHER_DESCRIPTORS);
    let limit = descriptors.soft.map_or_else(|| "unlimited".to_owned(), grouped);
    let mut text = format!("{limit} descriptors, so about {} connections", grouped(connections));
    if connections < MANY {
        text.push_str("\n             (");
        text.push_str(DESCRIPTOR_ADVICE);
        text.push(')');
    }
    if let Some(backlog) = system::somaxconn() {
        let line = "backlog of connections not yet accepted, at most net.core.somaxconn";
        text.push_str(&format!("\n             {line} = {}", grouped(backlog)));
    }
    text
}
