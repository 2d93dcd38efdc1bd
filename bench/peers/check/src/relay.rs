//! A target that answers only when the client has ended its stream: the other direction must go on then.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;

use crate::data::{Stream, compare, noise};
use crate::process::Scratch;
use crate::{Address, Outcome, PATIENCE, Peer, Place, Result};

const LARGE: usize = 1 << 20;

/// Connections one after the other, each with a connection of its own to the target.
const CLIENTS: u64 = 3;

pub(crate) fn check(peer: &Peer, place: Place) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let (target, to) = Target::listen(place, &scratch)?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || (0..CLIENTS).try_for_each(|_| tell.send(target.answer_one())));
    peer.serve(&["relay", "--to", &to.to_string()], place, |address| {
        for client in 0..CLIENTS {
            let there = noise(LARGE, client);
            let back = talk(address, &there)?;
            let arrived = told
                .recv_timeout(PATIENCE)
                .map_err(|_| "the target saw no end of the stream")??;
            compare("there", &there, &arrived)?;
            compare("and back", &answer(&there), &back)?;
        }
        Ok(())
    })
}

/// Sends all, ends the stream, and only then reads all.
fn talk(address: &Address, there: &[u8]) -> Result<Vec<u8>> {
    let mut stream = Stream::connect(address)?;
    stream.write_all(there)?;
    stream.shutdown_write()?;
    stream.read_all(there.len())
}

fn answer(there: &[u8]) -> Vec<u8> {
    there.iter().rev().copied().collect()
}

enum Target {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Target {
    fn listen(place: Place, scratch: &Scratch) -> Result<(Self, Address)> {
        Ok(match place {
            Place::Unix => {
                let path = scratch.path("target");
                (Self::Unix(UnixListener::bind(&path)?), Address::Unix(path))
            }
            _ => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?;
                (Self::Tcp(listener), Address::Inet(address))
            }
        })
    }

    /// Takes one connection to its end, and gives what arrived.
    fn answer_one(&self) -> Result<Vec<u8>> {
        let mut stream = match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0),
        };
        stream.be_patient()?;
        let there = stream.read_all(LARGE)?;
        stream.write_all(&answer(&there))?;
        Ok(there)
    }
}
