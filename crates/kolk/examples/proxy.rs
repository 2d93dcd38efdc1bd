//! A TCP proxy: each client gets a connection of its own to a target, on the same loop. Try it with an echo server on
//! port 5000 and `nc 127.0.0.1 5006`.
//!
//! Who sends faster than the other side reads is not read from until that has caught up, so the proxy holds at most
//! some 100 KiB for each direction, however much is sent. The end of one side's stream is passed on, and the
//! other direction goes on.

use std::collections::HashSet;
use std::net::SocketAddr;

use kolk::ConnId;
use kolk::server::{Action, CloseReason, Conn, Handler, Input, Origin, Server};

/// Bytes queued for one side from which on the other is not read.
const FULL: u64 = 64 << 10;

struct Proxy {
    target: SocketAddr,
    /// Connections whose other side has sent all that it will.
    half_closed: HashSet<ConnId>,
}

impl Handler for Proxy {
    type Session = Option<ConnId>; // the other side

    fn on_open(&mut self, conn: &mut Conn<'_>) -> Option<ConnId> {
        match conn.origin() {
            Origin::Outbound { opener, .. } => opener,
            // What the client sends waits in its queue until it is there.
            _ => conn.connect(self.target).ok(),
        }
    }

    fn on_data(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        let Some(other) = *other else { return Action::Close };
        conn.context().write(other, input.take());
        if conn.context().queued(other) > FULL {
            conn.pause_reading(); // until `on_writable` of the other
        }
        Action::Continue
    }

    fn on_writable(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>) -> Action {
        if let Some(other) = *other {
            conn.context().resume_reading(other);
        }
        Action::Continue
    }

    fn on_eof(&mut self, other: &mut Option<ConnId>, conn: &mut Conn<'_>) -> Action {
        let Some(other) = *other else { return Action::Close };
        if self.half_closed.remove(&conn.id()) {
            return Action::Close; // both have ended now, and `on_close` ends the other
        }
        self.half_closed.insert(other);
        conn.context().shutdown_write(other);
        Action::Continue
    }

    fn on_close(&mut self, other: Option<ConnId>, conn: &mut Conn<'_>, reason: CloseReason) {
        if let CloseReason::ConnectFailed(error) = reason {
            eprintln!("cannot connect to {}: {error}", self.target);
        }
        self.half_closed.remove(&conn.id());
        if let Some(other) = other {
            conn.context().close(other);
        }
    }
}

fn main() -> kolk::Result<()> {
    let [own, target] = addresses();
    let server = Server::builder()
        .listen(format!("tcp://{own}"))
        .output_watermarks(FULL / 4, FULL)
        .start(move |_loop| Proxy { target, half_closed: HashSet::new() })?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}

/// Our own address and the target's: the arguments, or the usual ones.
fn addresses() -> [SocketAddr; 2] {
    let mut arguments = std::env::args().skip(1);
    ["127.0.0.1:5006", "127.0.0.1:5000"].map(|usual| {
        let text = arguments.next().unwrap_or_else(|| usual.into());
        text.parse().unwrap_or_else(|error| {
            eprintln!("{text:?}: {error}; usage: proxy [ADDRESS:PORT [TARGET:PORT]]");
            std::process::exit(2)
        })
    })
}
