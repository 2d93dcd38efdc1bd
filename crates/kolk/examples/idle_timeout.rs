//! An echo that closes who says nothing for a while. Try it with `nc 127.0.0.1 5003`, and wait.
//!
//! The first line has a deadline of its own, which bytes without an end do not move.

use std::time::Duration;

use kolk::server::{Action, CloseReason, Conn, Handler, Input, Server};

struct Echo {
    idle: Duration,
}

impl Handler for Echo {
    type Session = bool; // whether the first line was complete

    fn on_open(&mut self, conn: &mut Conn<'_>) -> bool {
        conn.set_read_deadline(Some(2 * self.idle));
        false
    }

    fn on_data(&mut self, has_begun: &mut bool, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        let bytes = input.take();
        if !*has_begun && bytes.contains(&b'\n') {
            *has_begun = true;
            conn.set_read_deadline(None);
        }
        conn.write(bytes);
        Action::Continue
    }

    fn on_close(&mut self, _: bool, conn: &mut Conn<'_>, reason: CloseReason) {
        println!("{}: {reason}", conn.id());
    }
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5003".into());
    let millis = std::env::args().nth(2).map_or(Ok(5000), |text| text.parse()).unwrap_or_else(|_| {
        eprintln!("usage: idle_timeout [ADDRESS:PORT [MILLISECONDS]]");
        std::process::exit(2)
    });
    let idle = Duration::from_millis(millis);
    let server = Server::builder()
        .listen(format!("tcp://{address}"))
        .idle_timeout(idle)
        .start(move |_loop| Echo { idle })?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}
