//! An echo for two at a time, and for ten new ones a second. Try it with three `nc 127.0.0.1 5002`.
//!
//! The third connection is closed at once, until one of the others has gone.

use std::time::Duration;

use kolk::server::{Action, CloseReason, Conn, Handler, Input, LoopContext, Server};

struct Echo {
    refused: u64,
}

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>) {
        println!("{} is here, {} are open", conn.id(), conn.context().connections());
    }

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }

    fn on_close(&mut self, _: (), conn: &mut Conn<'_>, reason: CloseReason) {
        println!("{} has gone: {reason}", conn.id());
    }

    /// Nobody hears of a connection that was refused; the counter tells.
    fn on_tick(&mut self, context: &mut LoopContext<'_>) -> Option<Duration> {
        let refused = context.stats().refused;
        if refused > self.refused {
            println!("{} refused", refused - self.refused);
            self.refused = refused;
        }
        Some(Duration::from_millis(100))
    }
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5002".into());
    let server = Server::builder()
        .listen(format!("tcp://{address}"))
        .event_loops(1)
        .max_connections(2)
        .accept_rate(10)
        .start(|_loop| Echo { refused: 0 })?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}
