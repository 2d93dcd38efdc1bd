//! Requests with a length in their header, by Netty's five parameters. Try it with
//! `printf '\0\10\1hello' | nc -q 1 127.0.0.1 5010`.
//!
//! ```text
//!  ┌───────────────────────────┬──────┬──────┐
//!  │ length of all of it (u16) │ kind │ text │      kind 1: in upper case, 2: backwards
//!  └───────────────────────────┴──────┴──────┘
//! ```

use kolk::codec::{ByteOrder, LengthField, LengthFieldLayout};
use kolk::server::{Action, Conn, Handler, Input, Server};

const LAYOUT: LengthFieldLayout = LengthFieldLayout {
    max_frame_length: 4096,
    length_field_offset: 0,    // nothing before the length
    length_field_length: 2,    // u16
    length_adjustment: -2,     // it counts itself too
    initial_bytes_to_strip: 2, // kind and text are what we want to see
    byte_order: ByteOrder::BigEndian,
};

struct Texts {
    codec: LengthField, // has no state: one for all connections of the loop
}

impl Handler for Texts {
    type Session = ();

    fn on_open(&mut self, _conn: &mut Conn<'_>) {}

    fn on_data(&mut self, _session: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        loop {
            let answer = match input.decode_with(&mut self.codec, answer) {
                Ok(Some(answer)) => answer,
                Ok(None) => return Action::Continue, // the rest of the frame is on its way
                Err(error) => {
                    eprintln!("{}: {error}", conn.id());
                    return Action::Close;
                }
            };
            conn.write_frame(&self.codec, answer).expect("as long as the request");
        }
    }
}

/// The answer to a request, each of kind and text.
fn answer(request: &[u8]) -> Vec<u8> {
    let mut answer = request.to_vec();
    match answer.split_first_mut() {
        Some((1, text)) => text.make_ascii_uppercase(),
        Some((2, text)) => text.reverse(),
        Some((kind, _)) => *kind = 0, // we do not know it
        None => {}
    }
    answer
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5010".into());
    let codec = LengthField::new(LAYOUT)?;
    let server = Server::builder().listen(address).start(move |_loop| Texts { codec })?;
    println!("listening on {}", server.addresses()[0]);
    server.wait()
}
