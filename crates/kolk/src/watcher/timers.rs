//! Timers and intervals: operations without a socket.

use std::time::Duration;

use kolk_engine::clock::Timestamp;
use kolk_engine::timer::TimerId;
use kolk_engine::token::Key;

use super::Watcher;
use super::buffer::Buffer;
use super::completion::{Completion, Detail, Operation};
use super::conn::Due;
use super::request::Again;
use super::submit::Begin;
use crate::error::{Error, Result};

/// A timer or an interval.
pub(super) struct Alarm<C> {
    context: C,
    number: u64,
    timer: TimerId,
    /// Of an interval.
    beat: Option<Beat<C>>,
}

struct Beat<C> {
    every: Duration,
    next: Timestamp,
    again: Again<C>,
}

impl<C> Watcher<C> {
    pub(super) fn set_alarm(
        &mut self,
        begin: Begin,
        context: Option<C>,
        after: Duration,
        again: Option<Again<C>>,
    ) {
        let key = begin.id.key();
        let Some(context) = context else { return };
        let at = self.clock() + after;
        let timer = self.event_loop.set_timer(at, Due::Timer.pack(key));
        let beat = again.map(|again| Beat { every: after, next: at, again });
        self.alarms.insert(key, Alarm { context, number: begin.number, timer, beat });
    }

    pub(super) fn on_alarm(&mut self, key: Key) {
        let now = self.event_loop.now();
        let Some(alarm) = self.alarms.get_mut(key) else { return };
        let Some(beat) = &mut alarm.beat else { return self.end_alarm(key, Ok(0)) };
        let (beats, next) = beats_until(now, beat.next, beat.every);
        beat.next = next;
        let (context, number) = ((beat.again)(&alarm.context), alarm.number);
        alarm.timer = self.event_loop.set_timer(next, Due::Timer.pack(key));
        let conn = self.conn_id(key);
        self.ready.push(|| Completion {
            operation: Operation::Interval,
            conn,
            context,
            result: Ok(beats),
            count: 0,
            buffer: Buffer::Empty,
            number,
            detail: Detail::None,
        });
    }

    pub(super) fn cancel_alarm(&mut self, key: Key) {
        if let Some(alarm) = self.alarms.get(key) {
            self.event_loop.cancel_timer(alarm.timer);
            self.end_alarm(key, Err(Error::cancelled()));
        }
    }

    fn end_alarm(&mut self, key: Key, result: Result<usize>) {
        let Some(alarm) = self.alarms.remove(key) else { return };
        let conn = self.conn_id(key);
        self.names.release(conn);
        let operation = if alarm.beat.is_some() { Operation::Interval } else { Operation::Timer };
        self.ready.push(|| Completion {
            operation,
            conn,
            context: alarm.context,
            result,
            count: 0,
            buffer: Buffer::Empty,
            number: alarm.number,
            detail: Detail::None,
        });
    }
}

/// How many beats have passed, the one that was due at `due` the first, and when the next comes.
fn beats_until(now: Timestamp, due: Timestamp, every: Duration) -> (usize, Timestamp) {
    let late = (now - due).as_nanos() / every.as_nanos().max(1);
    let beats = u32::try_from(late).unwrap_or(u32::MAX - 1) + 1;
    (beats as usize, due + every.saturating_mul(beats))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_that_were_missed_are_counted_and_not_repeated() {
        let every = Duration::from_nanos(10);
        let at = Timestamp::from_nanos;
        assert_eq!(beats_until(at(100), at(100), every), (1, at(110)));
        assert_eq!(beats_until(at(109), at(100), every), (1, at(110)));
        assert_eq!(beats_until(at(110), at(100), every), (2, at(120)));
        assert_eq!(beats_until(at(145), at(100), every), (5, at(150)));
    }
}
