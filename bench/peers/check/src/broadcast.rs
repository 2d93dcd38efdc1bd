//! Ten receivers, of which one is late; nobody misses a message.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::data::noise;
use crate::{Address, PATIENCE, Result};

/// Bytes of a message; its first four are its number.
pub(crate) const SIZE: usize = 1000;

const RECEIVERS: usize = 10;

/// With these the late receiver is some megabytes behind, more than sockets hold.
const MESSAGES: u32 = 8000;

/// The late receiver begins when the first receiver has had so many. Where nothing waits but in the sockets, all wait for
/// the late one before that; then it begins after this time.
const LATE: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(500);

/// Longest wait of a receiver for a message before the next one is sent to find out who is there.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) fn check(address: &Address) -> Result {
    let Address::Inet(address) = address else {
        return Err("the broadcast is over TCP".into());
    };
    let connect = |role: u8| -> Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[role])?;
        Ok(stream)
    };
    let receivers = (0..RECEIVERS)
        .map(|_| connect(b'R'))
        .collect::<Result<Vec<_>>>()?;
    let mut publisher = connect(b'P')?;
    let first = wait_for_all(&mut publisher, &receivers)?;
    thread::scope(|scope| {
        let (begin, may_begin) = mpsc::channel();
        let mut receivers = receivers.into_iter().enumerate();
        let late = receivers.next().map(|(_, stream)| {
            scope.spawn(move || {
                let _ = may_begin.recv_timeout(PAUSE);
                receive(stream, |_| ())
            })
        });
        let mut others = receivers.map(|(number, stream)| {
            let begin = (number == 1).then(|| begin.clone());
            scope.spawn(move || {
                receive(stream, |seen| {
                    // The late one may have failed already.
                    let _ = begin
                        .as_ref()
                        .filter(|_| seen == LATE)
                        .map(|begin| begin.send(()));
                })
            })
        });
        let others: Vec<_> = others.by_ref().collect();
        let published =
            (first..MESSAGES).try_for_each(|number| publisher.write_all(&message(number)));
        for (number, receiver) in late.into_iter().chain(others).enumerate() {
            receiver
                .join()
                .map_err(|_| "a receiver panicked")?
                .map_err(|error| format!("receiver {number}: {error}"))?;
        }
        Ok(published?)
    })
}

/// Sends messages until each receiver has had one, for they are told nothing; the number of the next message.
fn wait_for_all(publisher: &mut TcpStream, receivers: &[TcpStream]) -> Result<u32> {
    let end = Instant::now() + PATIENCE;
    for next in 0..LATE / 2 {
        publisher.write_all(&message(next))?;
        let mut missing = 0;
        for receiver in receivers {
            receiver.set_read_timeout(Some(LOOK))?;
            missing += usize::from(!matches!(receiver.peek(&mut [0]), Ok(1)));
            receiver.set_read_timeout(Some(PATIENCE))?;
        }
        if missing == 0 {
            return Ok(next + 1);
        }
        if Instant::now() > end {
            return Err(format!("{missing} receivers get nothing").into());
        }
    }
    Err("some receivers get nothing".into())
}

/// Reads messages to the last; each must be the one after the message before.
fn receive(mut stream: TcpStream, mut seen: impl FnMut(u32)) -> Result {
    let mut got = [0; SIZE];
    let mut last = None;
    while last != Some(MESSAGES - 1) {
        stream
            .read_exact(&mut got)
            .map_err(|error| format!("after message {last:?}: {error}"))?;
        let number = u32::from_be_bytes([got[0], got[1], got[2], got[3]]);
        if last.is_some_and(|last| number != last + 1) || got != *message(number) {
            return Err(
                format!("after message {last:?} came {number}, or its bytes are wrong").into(),
            );
        }
        seen(number);
        last = Some(number);
    }
    Ok(())
}

fn message(number: u32) -> Vec<u8> {
    let mut bytes = noise(SIZE, u64::from(number));
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}
