//! `kolk serve echo`: gives every byte back.

mod status;

use std::process::{self, ExitCode};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};

use kolk::server::{Action, Conn, Handler, Input, RunningServer, Server};

use crate::driver::DriverArg;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::system::{self, DESCRIPTOR_ADVICE, Limit};
use crate::units::grouped;
use status::StatusLine;

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
    /// Event loops [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    loops: Option<u16>,
    /// Kernel interface.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverArg,
    /// Bind each loop's thread to a processor of its own.
    #[arg(long)]
    pin: bool,
}

/// One loop's handler. Its end is that of the loop, and says so to whoever watches the server.
struct Echo {
    ended: Sender<()>,
}

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) -> Self::Session {}

    fn on_data(&mut self, (): &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // The server's end needs no telling once nobody watches.
        let _ = self.ended.send(());
    }
}

/// Serves until Ctrl-C.
pub(crate) fn run(args: &Args) -> Outcome {
    let limit = system::raise_descriptor_limit();
    let (tell_ended, ended) = mpsc::channel();
    let server = start(args, tell_ended).map_err(Failure::usage)?;
    output::say(&greeting(&server, limit));
    show_status(&server, &ended);
    server.wait().map_err(Failure::runtime)?;
    Ok(ExitCode::SUCCESS)
}

fn start(args: &Args, tell_ended: Sender<()>) -> kolk::Result<RunningServer> {
    let mut builder = Server::builder().driver(args.driver.into()).pin(args.pin).stop_on_signals(true);
    for address in &args.listen {
        builder = builder.listen(address);
    }
    if let Some(loops) = args.loops {
        builder = builder.event_loops(usize::from(loops));
    }
    builder.start(move |_loop| Echo { ended: tell_ended.clone() })
}

/// Shows the traffic until a loop ends; returns at once where there is no terminal.
fn show_status(server: &RunningServer, ended: &Receiver<()>) {
    let mut status = StatusLine::new(server.stats());
    while status.is_visible() && ended.recv_timeout(status::PERIOD) == Err(RecvTimeoutError::Timeout) {
        status.update(server.stats());
    }
    status.clear();
}

/// Where it listens, on what, within which limits, and what to do next.
fn greeting(server: &RunningServer, limit: Limit) -> String {
    let addresses = server.addresses();
    let mut lines = vec!["kolk serves echo".to_owned()];
    lines.extend(addresses.iter().map(|address| format!("  listening  {address}")));
    lines.push(format!("  driver     {}", server.driver_reason()));
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
