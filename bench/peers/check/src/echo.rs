//! A large stream, and many small ones at once.

use std::io::{Read, Write};
use std::thread;

use crate::data::{Stream, compare, noise};
use crate::{Address, Result};

const LARGE: usize = 1 << 20;

/// Connections that are open at the same time, and the bytes of a message of each.
const CROWD: usize = 200;
const SMALL: usize = 64;

pub(crate) fn check(address: &Address) -> Result {
    large(address)?;
    crowd(address)
}

/// Sent as fast as it goes while it is read; the end of the stream comes back, too.
fn large(address: &Address) -> Result {
    let mut stream = Stream::connect(address)?;
    let mut writer = stream.try_clone()?;
    let bytes = noise(LARGE, 1);
    let got = thread::scope(|scope| {
        let sends = scope.spawn(|| {
            writer.write_all(&bytes)?;
            writer.shutdown_write()
        });
        let got = stream.read_all(LARGE);
        let sent = sends.join().map_err(|_| "the writer panicked")?;
        sent?;
        got
    })?;
    compare("1 MiB", &bytes, &got)
}

/// All connect, all send, and only then all are read; twice.
fn crowd(address: &Address) -> Result {
    let connect = |_| Stream::connect(address);
    let mut streams = (0..CROWD).map(connect).collect::<Result<Vec<_>>>()?;
    for round in 0..2 {
        let message = |number: usize| noise(SMALL, (round * CROWD + number) as u64 + 2);
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&message(number))?;
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut got = [0; SMALL];
            stream.read_exact(&mut got)?;
            compare(&format!("connection {number}"), &message(number), &got)?;
        }
    }
    Ok(())
}
