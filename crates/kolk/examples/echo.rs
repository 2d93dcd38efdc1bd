//! Gives every byte back. Try it with `nc 127.0.0.1 5000`.

use kolk::server::{Action, Conn, Handler, Input, Server};

struct Echo; // one value for each loop: no locks

impl Handler for Echo {
    type Session = (); // what one connection remembers

    fn on_open(&mut self, _conn: &mut Conn<'_>) -> Self::Session {}

    fn on_data(&mut self, _session: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

fn main() -> kolk::Result<()> {
    Server::builder()
        .listen("tcp://127.0.0.1:5000")
        .listen("unix:///tmp/echo.sock")
        .event_loops(4)
        .run(|_loop| Echo)
}
