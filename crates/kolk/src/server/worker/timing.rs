//! Timers are due.

use kolk_engine::Close;
use kolk_engine::timer::TimerId;
use kolk_engine::token::ConnId;

use super::{Running, Worker};
use crate::server::context::{Later, LoopContext};
use crate::server::handler::{CloseReason, Handler};
use crate::server::timers::{Due, Purpose, Work};

impl<H: Handler<M> + 'static, M: 'static> Worker<H, M> {
    pub(super) fn on_timer(&mut self, timer: TimerId, payload: u64) {
        match Due::unpack(payload) {
            Some(Due::Stop) => self.stop_now(),
            // What `on_stop` asked for comes first.
            Some(Due::Drain) => self.home.later.push_back(Later::FlushAll),
            Some(Due::Tick) => self.tick(),
            Some(Due::Idle(key)) => self.look_whether_idle(self.conn_id(key)),
            Some(Due::Conn(key)) => self.on_conn_timer(self.conn_id(key), timer),
            Some(Due::Task(number)) => self.run_task(number),
            Some(Due::Receive(key)) => self.receive_again(key),
            None => debug_assert!(false, "a timer of nobody"),
        }
    }

    /// The handler's own beat.
    pub(super) fn tick(&mut self) {
        self.running = Running::Loop;
        let mut context = LoopContext { event_loop: &mut self.event_loop, state: &mut self.home };
        let next = self.handler.on_tick(&mut context);
        self.running = Running::Nothing;
        if let Some(after) = next {
            let due = self.event_loop.now() + after;
            self.event_loop.set_timer(due, Due::Tick.pack());
        }
    }

    /// The time-out was set when the connection was last looked at; it may have been busy since.
    fn look_whether_idle(&mut self, id: ConnId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        if entry.state.idle_left(&self.home.settings.idle, self.home.now).is_none() {
            return self.close(id, CloseReason::Idle, Close::Flush);
        }
        self.ask(id, |conn| conn.watch_idle());
    }

    fn on_conn_timer(&mut self, id: ConnId, timer: TimerId) {
        let Some(entry) = self.sessions.get_mut(id.key()) else { return };
        let timers = &mut entry.state.extra().timers;
        let Some(index) = timers.iter().position(|(known, _)| *known == timer) else { return };
        match timers.swap_remove(index).1 {
            Purpose::Tag(tag) => {
                self.call(id, |handler, session, conn| handler.on_timer(session, conn, tag));
            }
            Purpose::ReadDeadline => self.close(id, CloseReason::ReadDeadline, Close::Flush),
            Purpose::WriteDeadline if self.event_loop.queued(id) > 0 => {
                self.close(id, CloseReason::WriteDeadline, Close::Reset);
            }
            Purpose::WriteDeadline => {}
            Purpose::Connect => self.on_connect_timeout(id),
        }
    }

    fn run_task(&mut self, number: u64) {
        let Some(work) = self.home.tasks.begin(number) else { return };
        self.running = Running::Loop;
        let mut context = LoopContext { event_loop: &mut self.event_loop, state: &mut self.home };
        match work {
            Work::Once(task) => task(&mut context),
            Work::Every(period, mut task) => {
                task(&mut context);
                if context.state.tasks.end() {
                    context.plan(number, period, Work::Every(period, task));
                }
            }
        }
        self.running = Running::Nothing;
    }
}
