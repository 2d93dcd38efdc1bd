//! Each accepted connection gets one of its own to the target; two ways, each with what its far end had no room for.

use std::io;

use mio::{Registry, Token};
use peer_common::{Address, RECEIVE_BUFFER};
use slab::Slab;

use crate::net::{BOTH, Handler, READS_A_TURN, Ready, Stream};

/// All pairs.
pub(crate) struct Relay {
    to: Address,
    pairs: Slab<Pair>,
    /// Shared by all; holds nothing between two events.
    buffer: Box<[u8]>,
}

/// End 0 was accepted, end 1 connects. The token of an end is twice the number of its pair, plus its own.
struct Pair {
    ends: [Stream; 2],
    /// Way 0 leads from end 0 to end 1.
    ways: [Way; 2],
    connected: bool,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Received bytes that the far end had no room for, and how many of them are sent.
    rest: Vec<u8>,
    sent: usize,
    /// The near end has ended its stream.
    ended: bool,
    /// The far end was told.
    shut: bool,
}

/// Whether a way needs another turn although no edge will come.
type Again = bool;

impl Relay {
    pub(crate) fn new(to: Address) -> Self {
        Self {
            to,
            pairs: Slab::new(),
            buffer: vec![0; RECEIVE_BUFFER].into(),
        }
    }
}

impl Handler for Relay {
    fn open(&mut self, registry: &Registry, stream: Stream) -> io::Result<()> {
        let entry = self.pairs.vacant_entry();
        let mut ends = [stream, Stream::connect(&self.to)?];
        for (number, end) in ends.iter_mut().enumerate() {
            registry.register(end, Token(2 * entry.key() + number), BOTH)?;
        }
        entry.insert(Pair {
            ends,
            ways: Default::default(),
            connected: false,
        });
        Ok(())
    }

    fn ready(&mut self, registry: &Registry, number: usize, ready: Ready) {
        let (number, end) = (number / 2, number % 2);
        let Some(pair) = self.pairs.get_mut(number) else {
            return;
        };
        let moved = pair.ready(end, ready, &mut self.buffer).and_then(|again| {
            for near in (0..2).filter(|&near| again[near]) {
                registry.reregister(&mut pair.ends[near], Token(2 * number + near), BOTH)?;
            }
            Ok(())
        });
        if moved.is_err() || pair.ways.iter().all(|way| way.shut) {
            self.pairs.remove(number);
        }
    }
}

impl Pair {
    fn ready(&mut self, end: usize, ready: Ready, buffer: &mut [u8]) -> io::Result<[Again; 2]> {
        if !self.connected {
            if end == 0 || !ready.writable {
                return Ok([false; 2]);
            }
            // What the accepted end said meanwhile waits in its socket, and its edge is gone.
            self.connected = true;
            return Ok([self.copy(0, true, buffer)?, self.copy(1, true, buffer)?]);
        }
        let mut again = [false; 2];
        if ready.readable {
            again[end] = self.copy(end, ready.hang_up, buffer)?;
        }
        if ready.writable && !self.ways[1 - end].rest.is_empty() {
            // The near end may have told its end of stream before.
            again[1 - end] = self.copy(1 - end, true, buffer)?;
        }
        Ok(again)
    }

    /// Copies what can be copied from one end to the other. With `to_the_end` a short read is not believed to be all.
    fn copy(&mut self, near: usize, to_the_end: bool, buffer: &mut [u8]) -> io::Result<Again> {
        let way = &mut self.ways[near];
        let [first, second] = &mut self.ends;
        let (near, far) = if near == 0 {
            (first, second)
        } else {
            (second, first)
        };
        for _ in 0..READS_A_TURN {
            if !way.flush(far)? || way.ended {
                return Ok(false);
            }
            let received = match near.receive(buffer)? {
                Some(0) => {
                    way.ended = true;
                    continue;
                }
                Some(received) => received,
                None => return Ok(false),
            };
            let sent = far.send(&buffer[..received])?;
            way.rest.extend_from_slice(&buffer[sent..received]);
            if sent == received && received < buffer.len() && !to_the_end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Way {
    /// Sends the rest, and behind it the end of the stream; true once nothing is left.
    fn flush(&mut self, far: &mut Stream) -> io::Result<bool> {
        if !self.rest.is_empty() {
            self.sent += far.send(&self.rest[self.sent..])?;
            if self.sent < self.rest.len() {
                return Ok(false);
            }
            self.rest.clear();
            self.sent = 0;
        }
        if self.ended && !self.shut {
            far.shutdown_write()?;
            self.shut = true;
        }
        Ok(true)
    }
}
