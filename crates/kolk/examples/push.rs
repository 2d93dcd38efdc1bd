//! Sends every second the same bytes to everybody. Try it with several `nc 127.0.0.1 5001`.
//!
//! Each loop beats by itself, and sends to its own connections: no lock, no hand-off, and one allocation a message
//! and loop. A receiver that does not keep up misses messages, whole ones, and delays nobody.

use std::time::Duration;

use bytes::Bytes;
use kolk::server::{Action, Conn, Handler, Input, LoopContext, Overflow, Server};

/// Bytes that wait for one receiver at most.
const CAP: u64 = 64 * 1024;

struct Push {
    beat: u64,
}

impl Handler for Push {
    type Session = ();

    fn on_open(&mut self, _conn: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), _conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        input.take(); // what they say is ignored
        Action::Continue
    }

    fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
        let message = format!("{:>1$}\n", format!("beat {}", self.beat), 1023);
        context.broadcast(Bytes::from(message)); // shared by all receivers
        self.beat += 1;
        Some(Duration::from_secs(1))
    }
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5001".into());
    let server = Server::builder()
        .listen(format!("tcp://{address}"))
        .output_cap(CAP, Overflow::DropOld)
        .start(|_loop| Push { beat: 0 })?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}
