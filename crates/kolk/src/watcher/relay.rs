//! Copying between two connections: a pooled read on one, its write on the other, and only then the next read.
//!
//! ```text
//!   a ──read_pooled──► lease ──write──► b        way 0
//!   a ◄──write── lease ◄──read_pooled── b        way 1
//! ```

use kolk_engine::token::{ConnId, Key};

use super::Watcher;
use super::buffer::Buffer;
use super::completion::{Completion, Detail, Operation};
use super::conn::{Conn, Due};
use super::pending::{Owner, Pending, Stop, Task};
use super::request::Ends;
use super::submit::Begin;
use crate::error::{Error, Result};

/// Two connections, and how far each way is.
pub(super) struct Relay<C> {
    context: C,
    number: u64,
    ends: [ConnId; 2],
    ways: [Way; 2],
    /// Bytes that were copied, each way.
    counts: [u64; 2],
    /// The first thing that went wrong.
    error: Option<Error>,
    timer: Option<kolk_engine::timer::TimerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Reading,
    Writing,
    Done,
}

impl<C> Watcher<C> {
    /// Both must be streams of this watcher, and not the same.
    pub(super) fn check_relay(&self, ends: &Ends) -> Result<()> {
        let is_free_stream = |conn: &Conn| conn.kind.is_stream() && !conn.flags.watched;
        let streams = [ends.from, ends.to].map(|end| self.open_conn(end).map(is_free_stream));
        match streams {
            [None, _] | [_, None] => Err(Error::not_connected()),
            [Some(true), Some(true)] if ends.from != ends.to => Ok(()),
            _ => Err(Error::invalid("a relay needs two different streams")),
        }
    }

    pub(super) fn begin_relay(&mut self, begin: Begin, context: Option<C>, ends: Ends) {
        let key = begin.id.key();
        let Some(context) = context else { return };
        let timer = begin.deadline.map(|at| self.event_loop.set_timer(at, Due::Relay.pack(key)));
        let back = if ends.both_ways { Way::Reading } else { Way::Done };
        self.relays.insert(
            key,
            Relay {
                context,
                number: begin.number,
                ends: [ends.from, ends.to],
                ways: [Way::Reading, back],
                counts: [0; 2],
                error: None,
                timer,
            },
        );
        self.relay_read(key, 0);
        if ends.both_ways {
            self.relay_read(key, 1);
        }
    }

    fn relay_read(&mut self, key: Key, way: usize) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.ways[way] = Way::Reading;
        let end = relay.ends[way];
        if self.open_conn(end).is_none() {
            return self.end_way(key, way, Some(Error::not_connected()));
        }
        self.push_input(end.key(), relayed(key, way, Task::ReadPooled));
    }

    fn relay_write(&mut self, key: Key, way: usize, buffer: Buffer) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.ways[way] = Way::Writing;
        let end = relay.ends[1 - way];
        if self.open_conn(end).is_none() {
            return self.end_way(key, way, Some(Error::not_connected()));
        }
        let send = self.shelves.outgoing.take_for(buffer);
        self.push_output(end.key(), relayed(key, way, Task::Write(send)));
    }

    /// A read or a write of a relay is done.
    pub(super) fn relay_step(
        &mut self,
        key: Key,
        way: usize,
        result: Result<usize>,
        count: u64,
        buffer: Buffer,
    ) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        let writing = relay.ways[way] == Way::Writing;
        if writing {
            relay.counts[way] += count;
        }
        match result {
            _ if relay.error.is_some() => self.end_way(key, way, None),
            Err(error) => self.end_way(key, way, Some(error)),
            Ok(_) if writing => self.relay_read(key, way),
            Ok(0) => {
                let to = relay.ends[1 - way].key();
                if let Some(conn) = self.open_conn_mut(to) {
                    conn.flags.shuts_down = conn.output_end.is_none();
                    // At once: the program may wait for the peer before it waits for the watcher again.
                    self.start_output(to);
                }
                self.end_way(key, way, None);
            }
            Ok(_) => self.relay_write(key, way, buffer),
        }
    }

    /// One way is over. A failure ends the other one, too.
    fn end_way(&mut self, key: Key, way: usize, error: Option<Error>) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.ways[way] = Way::Done;
        let failed = error.is_some() && relay.error.is_none();
        if failed {
            relay.error = error;
        }
        if relay.ways == [Way::Done; 2] {
            self.end_relay(key);
        } else if failed {
            self.stop_way(key, 1 - way, Stop::Cancelled);
        }
    }

    /// Ends what a way has pending; that completes, and so ends the way.
    fn stop_way(&mut self, key: Key, way: usize, stop: Stop) {
        let Some(relay) = self.relays.get(key) else { return };
        let end = match relay.ways[way] {
            Way::Reading => relay.ends[way],
            Way::Writing => relay.ends[1 - way],
            Way::Done => return,
        };
        let step = Due::Relay.pack(key);
        self.stop_where(
            end.key(),
            stop,
            |pending| matches!(pending.owner, Owner::Relay(w) if (pending.number, usize::from(w)) == (step, way)),
        );
    }

    /// The relay is cancelled, or its deadline has passed.
    pub(super) fn stop_relay(&mut self, key: Key, stop: Stop) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.error.get_or_insert_with(|| stop.error());
        self.stop_way(key, 0, stop);
        self.stop_way(key, 1, stop);
    }

    fn end_relay(&mut self, key: Key) {
        let Some(relay) = self.relays.remove(key) else { return };
        let name = self.conn_id(key);
        self.names.release(name);
        if let Some(timer) = relay.timer {
            self.event_loop.cancel_timer(timer);
        }
        let count: u64 = relay.counts.iter().sum();
        self.ready.push(|| Completion {
            operation: Operation::Relay,
            conn: relay.ends[0],
            context: relay.context,
            result: relay.error.map_or(Ok(count as usize), Err),
            count,
            buffer: Buffer::Empty,
            number: relay.number,
            detail: Detail::Relayed(name, relay.counts[0]),
        });
    }
}

/// A step of a relay: its end is told to the relay.
fn relayed<C>(relay: Key, way: usize, task: Task<C>) -> Pending<C> {
    let number = Due::Relay.pack(relay);
    Pending { owner: Owner::Relay(way as u8), task, number, timer: None, stop: None }
}
