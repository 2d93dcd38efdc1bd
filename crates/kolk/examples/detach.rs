//! An echo until somebody says `take over`: then a thread of its own goes on with the socket, in blocking calls.
//! Try it with `nc 127.0.0.1 5005`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use kolk::server::{Action, Conn, Detached, Handler, Input, Server};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _conn: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        while let Some(end) = input.contiguous().iter().position(|&byte| byte == b'\n') {
            let line = input.take_exact(end + 1).expect("the line is there");
            if &*line == b"take over\n" {
                conn.write("a thread has you\n"); // is sent before the socket leaves
                return Action::Detach; // what is left in `input` goes with it
            }
            conn.write(line);
        }
        Action::Continue
    }

    fn on_detach(&mut self, _: &mut (), conn: &mut Conn<'_>, detached: Detached) {
        let (id, unread) = (conn.id(), detached.unread().to_vec());
        thread::spawn(move || match detached.into_tcp_stream().and_then(|stream| shout(&stream, &unread)) {
            Ok(()) => println!("{id}: the thread is done"),
            Err(error) => println!("{id}: {error}"),
        });
    }
}

/// Gives every line back in capitals.
fn shout(stream: &TcpStream, unread: &[u8]) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut writer = stream;
    for line in BufReader::new(unread.chain(stream)).lines() {
        writeln!(writer, "{}", line?.to_uppercase())?;
    }
    Ok(())
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5005".into());
    let server = Server::builder().listen(format!("tcp://{address}")).event_loops(1).start(|_loop| Echo)?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}
