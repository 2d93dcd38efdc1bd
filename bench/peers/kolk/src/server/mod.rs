//! The reactor: one event loop, one handler for each scenario.

mod broadcast;
mod relay;

use kolk::server::{Action, Builder, Conn, Datagram, DatagramSocket, Handler, Input, Server};
use peer_common::{Result, Scenario, announce};

use crate::{Kernel, target, url};

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(kernel: Kernel, scenario: Scenario) -> Result {
    let server = Server::builder()
        .driver(kernel.driver)
        .driver_config(kernel.sizes)
        .event_loops(1);
    match scenario {
        Scenario::Echo { listen } => run(server.listen(url(&listen)), |_| Echo),
        Scenario::Broadcast { listen, message } => {
            let server = broadcast::limits(server, message);
            run(server.listen(url(&listen)), move |_| {
                broadcast::Broadcast::new(message)
            })
        }
        Scenario::Relay { listen, to } => {
            let to = target(to);
            let server = relay::limits(server);
            run(server.listen(url(&listen)), move |_| {
                relay::Relay::new(to.clone())
            })
        }
        Scenario::Udp { listen } => run(server.listen(format!("udp://{listen}")), |_| DatagramEcho),
    }
}

fn run<H: Handler + 'static>(
    server: Builder,
    handler: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result {
    let server = server.start(handler)?;
    announce()?;
    Ok(server.wait()?)
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, (): &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

struct DatagramEcho;

impl Handler for DatagramEcho {
    type Session = ();

    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        // What does not fit the queue is lost, as on the way.
        let _ = socket.send_to(&datagram.from, datagram.bytes);
    }

    // No stream is listened on.
    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, (): &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
        Action::Close
    }
}
