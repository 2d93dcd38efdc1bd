//! Gives every datagram back to its sender. Try it with `nc -u 127.0.0.1 7005`.
//!
//! Datagrams are received and sent many at a time, on as many loops as there are CPUs. Ctrl-C stops it, and it says how
//! many a system call there were.

use kolk::server::{Action, Conn, Datagram, DatagramSocket, Handler, Input, Server};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_datagram(&mut self, socket: &mut DatagramSocket<'_>, datagram: Datagram) {
        // What does not fit the queue is lost, as on the way, and counted.
        let _ = socket.send_to(&datagram.from, datagram.bytes);
    }

    // No stream is listened on.
    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action {
        Action::Close
    }
}

fn main() -> kolk::Result<()> {
    let server = Server::builder().listen(format!("udp://{}", address())).start(|_loop| Echo)?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("udp://"));
    let handle = server.handle().clone();
    server.wait()?; // for Ctrl-C
    let stats = handle.stats();
    let datagrams = stats.datagrams_received + stats.datagrams_sent;
    let each = datagrams as f64 / stats.datagram_calls.max(1) as f64;
    println!("{} received, {} sent, {each:.1} a system call", stats.datagrams_received, stats.datagrams_sent);
    Ok(())
}

/// The one argument, or the usual address.
fn address() -> std::net::SocketAddr {
    let text = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7005".into());
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: udp_echo [ADDRESS:PORT]");
        std::process::exit(2)
    })
}
