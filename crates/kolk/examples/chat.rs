//! Rooms in which everybody hears everybody, on as many loops as there are processors. Try it with several
//! `nc 127.0.0.1 5011`: the first line is your name, `/join ROOM` goes elsewhere, `/quit` leaves.
//!
//! A room is a group: what one says is encoded once, shared by all who hear it, and wakes each loop once. Whoever reads
//! too slowly misses the oldest lines, always whole ones, and costs no more than 64 KiB.

use bytes::Bytes;
use kolk::codec::Lines;
use kolk::server::{
    Action, CloseReason, Conn, Group, Handler, Input, LoopContext, Overflow, Server, ServerHandle,
};

/// Longest line, and longest name, in bytes.
const LINE_MAX: usize = 1024;
const NAME_MAX: usize = 32;
/// What may wait for one who does not read.
const BACKLOG: u64 = 64 * 1024;

#[derive(Default)]
struct Chat {
    handle: Option<ServerHandle<Self>>, // reaches the other loops; there from `on_start` on
}

struct Guest {
    lines: Lines,
    /// Empty before it is told.
    name: String,
    room: Group,
}

impl Handler for Chat {
    type Session = Guest;

    fn on_start(&mut self, handle: &ServerHandle<Self>, _context: &mut LoopContext<'_>) {
        self.handle = Some(handle.clone());
    }

    fn on_open(&mut self, conn: &mut Conn<'_>) -> Guest {
        conn.write("* your name?\n");
        Guest { lines: Lines::new(LINE_MAX), name: String::new(), room: Group::new("lobby") }
    }

    fn on_data(&mut self, guest: &mut Guest, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        loop {
            let line = match input
                .decode_with(&mut guest.lines, |line| String::from_utf8_lossy(line).into_owned())
            {
                Ok(Some(line)) => line,
                Ok(None) => return Action::Continue,
                Err(error) => {
                    conn.write(format!("* {error}\n").into_bytes());
                    return Action::Close;
                }
            };
            match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
                ("/quit", _) => return Action::Close,
                _ if guest.name.is_empty() => self.enter(guest, conn, line.trim()),
                ("/join", room) if is_name(room) => {
                    self.leave(guest);
                    conn.leave(&guest.room);
                    guest.room = Group::new(room);
                    self.arrive(guest, conn);
                }
                (command, _) if command.starts_with('/') => conn.write("* /join ROOM, or /quit\n"),
                _ => self.say(guest, &format!("{}: {line}\n", guest.name)),
            }
        }
    }

    fn on_close(&mut self, guest: Guest, _conn: &mut Conn<'_>, _reason: CloseReason) {
        if !guest.name.is_empty() {
            self.leave(&guest);
        }
    }
}

impl Chat {
    fn enter(&self, guest: &mut Guest, conn: &mut Conn<'_>, name: &str) {
        if is_name(name) {
            name.clone_into(&mut guest.name);
            self.arrive(guest, conn);
        } else {
            conn.write("* a name has letters and digits, at most 32; yours?\n");
        }
    }

    fn arrive(&self, guest: &Guest, conn: &mut Conn<'_>) {
        conn.join(&guest.room);
        self.say(guest, &format!("* {} is in {}\n", guest.name, guest.room.name()));
    }

    fn leave(&self, guest: &Guest) {
        self.say(guest, &format!("* {} has left {}\n", guest.name, guest.room.name()));
    }

    /// To everybody in the room, the guest included, on all loops.
    fn say(&self, guest: &Guest, text: &str) {
        let Some(handle) = &self.handle else { return };
        if let Err(error) = handle.broadcast_to(&guest.room, Bytes::copy_from_slice(text.as_bytes())) {
            eprintln!("{}: {error}", guest.room.name()); // a loop does not keep up, or the server stops
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(char::is_alphanumeric)
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5011".into());
    let server = Server::builder()
        .listen(address)
        .output_cap(BACKLOG, Overflow::DropOld)
        .start(|_loop| Chat::default())?;
    println!("listening on {}", server.addresses()[0]);
    server.wait()
}
