//! Timers of connections and of loops, and the idle time-out.
//!
//! A timer costs the same to set, to move and to cancel however many there are; it fires at most a tick (0.13 ms)
//! and the length of a turn late, never early. The idle time-out has one timer a connection, which is *not* moved
//! when something happens: the time is written down, and when the timer fires it is looked at again. So a
//! connection that talks costs one firing a time-out, and nothing a message.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use kolk_engine::timer::TimerId;
use kolk_engine::token::Key;

use super::conn::Conn;
use super::context::LoopContext;

/// What a timer of the loop is for, packed into its payload: eight bits of kind, and what a kind needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A graceful stop has lasted long enough.
    Stop,
    /// A stopping server has served long enough.
    Drain,
    Tick,
    /// The connection may have been idle for too long.
    Idle(Key),
    /// One of the connection's own timers.
    Conn(Key),
    /// A task of the loop, by its number.
    Task(u64),
    /// The datagram socket receives again.
    Receive(Key),
}

impl Due {
    const KIND_SHIFT: u32 = 56;

    pub(super) fn pack(self) -> u64 {
        let (kind, rest) = match self {
            Self::Stop => (0, 0),
            Self::Drain => (1, 0),
            Self::Tick => (2, 0),
            Self::Idle(key) => (3, key.to_u64()),
            Self::Conn(key) => (4, key.to_u64()),
            Self::Task(number) => (5, number),
            Self::Receive(key) => (6, key.to_u64()),
        };
        kind << Self::KIND_SHIFT | rest
    }

    pub(super) fn unpack(payload: u64) -> Option<Self> {
        let rest = payload & ((1 << Self::KIND_SHIFT) - 1);
        let key = || Key::from_u64(rest);
        Some(match payload >> Self::KIND_SHIFT {
            0 => Self::Stop,
            1 => Self::Drain,
            2 => Self::Tick,
            3 => Self::Idle(key()?),
            4 => Self::Conn(key()?),
            5 => Self::Task(rest),
            6 => Self::Receive(key()?),
            _ => return None,
        })
    }
}

/// How long a connection may be idle, in milliseconds; `NEVER` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdleTimeouts {
    /// Nothing received.
    pub(super) read: u32,
    /// Nothing written.
    pub(super) write: u32,
    /// Neither.
    pub(super) both: u32,
}

impl IdleTimeouts {
    pub(super) const NEVER: u32 = u32::MAX;
    pub(super) const NONE: Self = Self { read: Self::NEVER, write: Self::NEVER, both: Self::NEVER };

    /// Milliseconds until the first of them can be over, `u32::MAX` if none ever is; `None` if one is over.
    ///
    /// Times are known to a millisecond, so one more has to pass before it is certain.
    pub(super) fn left(&self, since_input: u32, since_output: u32) -> Option<u32> {
        let since = [since_input, since_output, since_input.min(since_output)];
        let limits = [self.read, self.write, self.both];
        let left = limits.into_iter().zip(since).filter(|(limit, _)| *limit != Self::NEVER);
        left.map(|(limit, since)| (limit + 1).checked_sub(since).filter(|left| *left > 0))
            .try_fold(u32::MAX, |least, left| Some(least.min(left?)))
    }
}

/// A time-out in milliseconds, rounded up. Half of what the clock can tell apart is the longest: 24 days.
pub(super) fn millis(timeout: Duration) -> u32 {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    u32::try_from(millis).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

/// What one of a connection's timers does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Tells the handler.
    Tag(u64),
    /// Closes, unless it is cleared before.
    ReadDeadline,
    /// Gives a connection up that is not made.
    Connect,
    /// Closes if something is queued.
    WriteDeadline,
}

/// Timers.
impl Conn<'_> {
    /// Calls [`Handler::on_timer`](super::Handler::on_timer) with `tag` after this time. A connection has one timer
    /// for each tag: setting it again moves it. Its timers end with it.
    ///
    /// Meant for a handful a connection: they are looked up one by one.
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        self.arm(Purpose::Tag(tag), Some(after));
    }

    /// Cancels the timer of a tag; `false` if there is none, or it has fired.
    pub fn cancel_timer(&mut self, tag: u64) -> bool {
        self.arm(Purpose::Tag(tag), None)
    }

    /// Closes the connection after this time, with [`CloseReason::ReadDeadline`](super::CloseReason::ReadDeadline),
    /// unless it is set again or cleared (`None`) before: when the request is complete that was waited for. Bytes
    /// that arrive do not move it.
    pub fn set_read_deadline(&mut self, after: Option<Duration>) {
        self.arm(Purpose::ReadDeadline, after);
    }

    /// Resets the connection with [`CloseReason::WriteDeadline`](super::CloseReason::WriteDeadline) if after this time
    /// something is still queued; unless it is set again or cleared (`None`) before.
    pub fn set_write_deadline(&mut self, after: Option<Duration>) {
        self.arm(Purpose::WriteDeadline, after);
    }

    /// Closes this connection, with [`CloseReason::Idle`](super::CloseReason::Idle), once it has neither received nor
    /// written anything for this time, instead of what the [`Builder`](super::Builder) says; `None` is never.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        let both = timeout.map_or(IdleTimeouts::NEVER, millis);
        self.state.extra().idle = Some(IdleTimeouts { both, ..IdleTimeouts::NONE });
        self.event_loop.cancel_conn_timer(self.id);
        self.watch_idle();
    }

    /// Sets the timer that looks whether the connection is idle, if it may become so.
    pub(super) fn watch_idle(&mut self) {
        let Some(left) = self.state.idle_left(&self.home.settings.idle, self.home.now) else { return };
        if left != u32::MAX && self.state.gate.is_live() {
            let due = self.event_loop.now() + Duration::from_millis(u64::from(left));
            // A name that is stale is not idle.
            let _ = self.event_loop.set_conn_timer(self.id, due, Due::Idle(self.id.key()).pack());
        }
    }

    /// Sets, moves or cancels; says whether there was a timer before.
    pub(super) fn arm(&mut self, purpose: Purpose, after: Option<Duration>) -> bool {
        if !self.state.gate.is_live() {
            return false;
        }
        let deadline = after.map(|after| self.event_loop.now() + after);
        let timers = &mut self.state.extra().timers;
        let known = timers.iter().position(|(_, known)| *known == purpose);
        match (known, deadline) {
            (None, None) => {}
            (Some(index), None) => {
                self.event_loop.cancel_timer(timers.swap_remove(index).0);
            }
            (Some(index), Some(deadline)) => {
                self.event_loop.move_timer(timers[index].0, deadline);
            }
            (None, Some(deadline)) => {
                let timer = self.event_loop.set_timer(deadline, Due::Conn(self.id.key()).pack());
                timers.push((timer, purpose));
            }
        }
        known.is_some()
    }
}

/// Names what [`LoopContext::run_after`] or [`LoopContext::run_every`] will run; stale once it has run for the last
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task(u64);

/// What waits to run on a loop.
#[derive(Default)]
pub(super) struct Tasks {
    last_number: u64,
    waiting: HashMap<u64, (TimerId, Work)>,
    /// The one that runs, unless it was cancelled meanwhile.
    running: Option<u64>,
}

pub(super) enum Work {
    Once(Box<dyn FnOnce(&mut LoopContext<'_>)>),
    Every(Duration, Box<dyn FnMut(&mut LoopContext<'_>)>),
}

impl Tasks {
    /// Takes a task out to run it; `None` if it was cancelled.
    pub(super) fn begin(&mut self, number: u64) -> Option<Work> {
        self.running = Some(number);
        self.waiting.remove(&number).map(|(_, work)| work)
    }

    /// Whether the task that ran is to run again: it was not cancelled.
    pub(super) fn end(&mut self) -> bool {
        self.running.take().is_some()
    }
}

/// Timers of the loop.
impl LoopContext<'_> {
    /// Runs a closure on this loop after this time. One that panics is counted, and the loop goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use kolk::server::{Action, Conn, Handler, Input, LoopContext, ServerHandle};
    ///
    /// struct Greeter;
    ///
    /// impl Handler for Greeter {
    ///     type Session = ();
    ///
    ///     fn on_start(&mut self, _: &ServerHandle<Self>, context: &mut LoopContext<'_>) {
    ///         context.run_every(Duration::from_secs(1), |context| context.broadcast("still here\n"));
    ///     }
    ///     # fn on_open(&mut self, _: &mut Conn<'_>) {}
    ///     # fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, _: &mut Input<'_>) -> Action { Action::Close }
    /// }
    /// ```
    pub fn run_after(&mut self, after: Duration, task: impl FnOnce(&mut LoopContext<'_>) + 'static) -> Task {
        let number = self.next_number();
        self.plan(number, after, Work::Once(Box::new(task)))
    }

    /// Runs a closure on this loop again and again, each time so long after the last. One that panics is counted,
    /// and does not run again.
    pub fn run_every(&mut self, period: Duration, task: impl FnMut(&mut LoopContext<'_>) + 'static) -> Task {
        let number = self.next_number();
        self.plan(number, period, Work::Every(period, Box::new(task)))
    }

    /// Cancels a task; `false` if there is none of this name any more. A task may cancel itself.
    pub fn cancel(&mut self, task: Task) -> bool {
        let tasks = &mut self.state.tasks;
        match tasks.waiting.remove(&task.0) {
            Some((timer, _)) => self.event_loop.cancel_timer(timer),
            None => tasks.running.take_if(|running| *running == task.0).is_some(),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.state.tasks.last_number += 1;
        self.state.tasks.last_number
    }

    pub(super) fn plan(&mut self, number: u64, after: Duration, work: Work) -> Task {
        let due = self.event_loop.now() + after;
        let timer = self.event_loop.set_timer(due, Due::Task(number).pack());
        self.state.tasks.waiting.insert(number, (timer, work));
        Task(number)
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use kolk_engine::token::Generation;

    use super::*;

    #[test]
    fn what_a_timer_is_for_comes_back_as_it_was() {
        let key = Key::new(Key::MAX_INDEX, Generation::LAST);
        for due in [
            Due::Stop,
            Due::Drain,
            Due::Tick,
            Due::Idle(key),
            Due::Conn(key),
            Due::Task((1 << 56) - 1),
            Due::Receive(key),
        ] {
            assert_eq!(Due::unpack(due.pack()), Some(due));
        }
        assert_eq!(Due::unpack(u64::MAX), None);
    }

    #[test]
    fn idle_is_what_is_longer_than_allowed() {
        const NEVER: u32 = IdleTimeouts::NEVER;
        let read = IdleTimeouts { read: 10, ..IdleTimeouts::NONE };
        assert_eq!(read.left(0, 0), Some(11));
        assert_eq!(read.left(10, 0), Some(1), "the tenth millisecond may not be over");
        assert_eq!(read.left(11, 0), None);
        let both = IdleTimeouts { both: 10, ..IdleTimeouts::NONE };
        assert_eq!((both.left(50, 3), both.left(3, 50), both.left(11, 12)), (Some(8), Some(8), None));
        assert_eq!(IdleTimeouts::NONE.left(NEVER, NEVER), Some(u32::MAX));
        assert_eq!(IdleTimeouts { write: 5, ..read }.left(9, 1), Some(2));
    }

    #[test]
    fn time_outs_are_rounded_up_and_have_an_end() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(30)), 30_000);
        assert_eq!(millis(Duration::MAX), i32::MAX as u32);
    }
}
