//! Counts primes, which takes its time, on a pool of threads. Try it with `nc 127.0.0.1 5004`, and say a number.
//!
//! The loops go on meanwhile; answers come in the order of the questions of a connection. When the pool has no
//! room, the answer is "busy", at once.

use kolk::server::{Action, Conn, Handler, Input, Server};

struct Primes;

impl Handler for Primes {
    type Session = u32; // questions answered

    fn on_open(&mut self, _conn: &mut Conn<'_>) -> u32 {
        0
    }

    fn on_data(&mut self, _: &mut u32, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        while let Some(end) = input.contiguous().iter().position(|&byte| byte == b'\n') {
            let line = input.take_exact(end + 1).expect("the line is there");
            match std::str::from_utf8(&line).ok().and_then(|text| text.trim().parse().ok()) {
                Some(limit) => answer(conn, limit),
                None => conn.write("say a number\n"),
            }
        }
        Action::Continue
    }
}

fn answer(conn: &mut Conn<'_>, limit: u32) {
    let offloaded = conn.offload(
        move || count_primes(limit),
        move |answered: &mut u32, conn, count| {
            *answered += 1;
            conn.write(format!("answer {answered}: {count} primes below {limit}\n").into_bytes());
        },
    );
    if offloaded.is_err() {
        conn.write("busy\n");
    }
}

fn count_primes(limit: u32) -> usize {
    let is_prime =
        |number: &u32| (2..).take_while(|by| by * by <= *number).all(|by| !number.is_multiple_of(by));
    (2..limit.min(10_000_000)).filter(is_prime).count()
}

fn main() -> kolk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5004".into());
    let server = Server::builder()
        .listen(format!("tcp://{address}"))
        .event_loops(1)
        .offload_pool(2, 8)
        .start(|_loop| Primes)?;
    println!("listening on {}", server.addresses()[0].trim_start_matches("tcp://"));
    server.wait()
}
