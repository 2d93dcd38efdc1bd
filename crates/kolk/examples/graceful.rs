//! A server that another one replaces, while clients come and go: nobody is refused and no answer is lost.
//!
//! ```text
//!  old: serves ─────── sends its listeners ─────────── told that the new one serves ─── drains ─── ends
//!                              │  over the control socket      ▲
//!  new:       starts ── connects there, receives ── serves ────┘
//! ```
//!
//! Each line is answered with `ok`, the process and the line. A server that drains answers with `bye` instead and closes:
//! then the client comes again, and finds the new one. Start it twice with the same arguments, and try
//! `nc 127.0.0.1 5007` before and after.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process, thread};

use kolk::inherit;
use kolk::server::{Action, Conn, Handler, Input, Server, ServerHandle};

/// Time that clients have to send a line and to hear that they are to come again.
const DRAIN: Duration = Duration::from_secs(5);

struct Lines;

impl Handler for Lines {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        while let Some(end) = input.contiguous().iter().position(|&byte| byte == b'\n') {
            let Some(line) = input.take_exact(end + 1) else { break };
            let drains = conn.context().is_stopping();
            let word = if drains { "bye" } else { "ok" };
            conn.write(format!("{word} {} ", process::id()).into_bytes());
            conn.write(line);
            if drains {
                return Action::Close; // once the answer is sent
            }
        }
        Action::Continue
    }
}

fn main() -> kolk::Result<()> {
    let (address, control) = arguments();
    let builder = Server::builder().event_loops(2).drain_timeout(DRAIN);
    let predecessor = UnixStream::connect(&control).ok();
    let inherited = match &predecessor {
        Some(predecessor) => inherit::receive(predecessor)?,
        None => inherit::from_environment()?, // of a service manager, if one has started us
    };
    let builder = match inherited.is_empty() {
        true => builder.listen(format!("tcp://{address}")),
        false => builder.inherit(inherited),
    };
    let server = builder.start(|_loop| Lines)?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));

    let control = listen_for_successor(&control)?;
    if let Some(mut predecessor) = predecessor {
        predecessor.write_all(b"!")?; // we serve: it may go
    }
    let handle = server.handle().clone();
    thread::spawn(move || give_way(&control, &handle));
    server.wait()
}

/// The control socket of whoever serves now, in the place of its predecessor's.
fn listen_for_successor(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension(process::id().to_string());
    let listener = UnixListener::bind(&fresh)?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Waits for a successor that serves, and stops the server then.
fn give_way(control: &UnixListener, handle: &ServerHandle<Lines>) {
    for mut successor in control.incoming().flatten() {
        match handle.hand_over(&successor) {
            Ok(()) if successor.read_exact(&mut [0]).is_ok() => return handle.stop(),
            Ok(()) => eprintln!("the successor has ended before it served: going on"),
            Err(error) => eprintln!("{error}"),
        }
    }
}

/// The address and the path of the control socket.
fn arguments() -> (SocketAddr, PathBuf) {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().unwrap_or_else(|| "127.0.0.1:5007".into());
    let address = text.parse().unwrap_or_else(|error| {
        eprintln!("{text:?}: {error}; usage: graceful [ADDRESS:PORT [CONTROL_PATH]]");
        process::exit(2)
    });
    (address, arguments.next().unwrap_or_else(|| "/tmp/kolk-graceful.sock".into()).into())
}
