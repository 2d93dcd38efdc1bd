//! The echo on the reactor: the library accepts and reads, and calls a handler.

use std::sync::mpsc::Sender;

use kolk::server::{Action, Conn, Handler, Input, RunningServer, Server, Stats};

use super::status::Traffic;
use super::{Args, Serving};

/// Starts the loops of a server.
pub(super) fn start(args: &Args, tell_ended: Sender<()>) -> kolk::Result<RunningServer<Echo>> {
    let mut builder = Server::builder()
        .driver(args.driver.into())
        .driver_config(args.driver_config())
        .pin(args.pin)
        .stop_on_signals(true);
    for address in &args.listen {
        builder = builder.listen(address);
    }
    if let Some(loops) = args.loops {
        builder = builder.event_loops(usize::from(loops));
    }
    builder.start(move |_loop| Echo { ended: tell_ended.clone() })
}

/// One loop's handler. Its end is that of the loop, and says so to whoever watches the server.
pub(super) struct Echo {
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

impl Serving for RunningServer<Echo> {
    fn addresses(&self) -> Vec<String> {
        self.addresses().to_vec()
    }

    fn driver_reason(&self) -> &str {
        self.driver_reason()
    }

    fn traffic(&self) -> Traffic {
        self.stats().into()
    }

    fn wait(self) -> kolk::Result<()> {
        self.wait()
    }
}

impl From<Stats> for Traffic {
    fn from(stats: Stats) -> Self {
        Self {
            connections: stats.connections,
            messages: stats.messages,
            bytes_received: stats.bytes_received,
            bytes_sent: stats.bytes_sent,
        }
    }
}
