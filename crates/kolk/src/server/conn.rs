//! One connection, as its handler sees it for one callback.

use std::fmt;
use std::net::SocketAddr;

use kolk_engine::Core;
use kolk_engine::token::ConnId;

use super::connect::{ENROLLED, OUTBOUND, Origin};
use super::context::{Later, LoopContext, LoopState};
use super::groups::Group;
use super::state::{Ask, ConnState, Gate};

/// One connection, for the time of one callback.
///
/// To speak of it later or elsewhere, keep its [`id`](Self::id). What concerns the loop as a whole, or other
/// connections on it, is asked of its [`context`](Self::context).
pub struct Conn<'a> {
    pub(super) event_loop: &'a mut Core,
    pub(super) home: &'a mut LoopState,
    pub(super) state: &'a mut ConnState,
    pub(super) id: ConnId,
}

/// Who it is.
impl Conn<'_> {
    /// The name of the connection; it stays harmless when the connection is gone.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Which address the connection came from: counted from zero, in the order in which they were given
    /// to [`Builder::listen`](super::Builder::listen), and behind these the
    /// [inherited](super::Builder::inherit) ones. `usize::MAX` for a connection that was not accepted, see
    /// [`origin`](Self::origin).
    pub fn listener(&self) -> usize {
        match self.origin() {
            Origin::Accepted { listener } => listener,
            _ => usize::MAX,
        }
    }

    /// How the connection came to be.
    pub fn origin(&self) -> Origin {
        match self.state.listener {
            OUTBOUND => Origin::Outbound { tag: self.state.tag(), opener: self.state.opener() },
            ENROLLED => Origin::Enrolled { tag: self.state.tag() },
            listener => Origin::Accepted { listener: usize::from(listener) },
        }
    }

    /// The peer's address; `None` for a Unix socket and when the peer has gone.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.event_loop.socket(self.id)?.peer_address().ok()?.as_inet()
    }

    /// Our own address; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.event_loop.socket(self.id)?.local_address().ok()?.as_inet()
    }

    /// The loop that the connection lives on, and the other connections there.
    pub fn context(&mut self) -> LoopContext<'_> {
        LoopContext { event_loop: self.event_loop, state: self.home }
    }
}

/// Ending, pausing and belonging.
impl Conn<'_> {
    /// As [`Action::Close`](super::Action::Close), once the callback returns.
    pub fn close(&mut self) {
        self.ask(Ask::Close);
    }

    /// As [`Action::CloseNow`](super::Action::CloseNow), once the callback returns.
    pub fn close_now(&mut self) {
        self.ask(Ask::CloseNow);
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.state.asked = self.state.asked.max(Some(ask));
        self.home.attention = true;
    }

    /// Stops receiving: the peer's window closes, and `on_data` is not called before
    /// [`resume_reading`](Self::resume_reading). What arrived already is kept.
    pub fn pause_reading(&mut self) {
        self.state.gate.set(Gate::PAUSED, true);
        self.home.attention = true;
    }

    /// Goes on receiving. What was kept meanwhile is delivered once the events of this turn are handled.
    pub fn resume_reading(&mut self) {
        if self.state.gate.has(Gate::PAUSED) {
            self.state.gate.set(Gate::PAUSED, false);
            self.home.later.push_back(Later::Deliver(self.id.key()));
        }
    }

    /// Makes the connection a member of a group until it leaves or closes; `false` if it was one before.
    pub fn join(&mut self, group: impl Into<Group>) -> bool {
        if !self.state.gate.is_live() {
            return false;
        }
        let Some(group) = self.home.groups.join(group.into(), self.id.key()) else { return false };
        let groups = &mut self.state.extra().groups;
        if groups.is_empty() {
            // Most never join another.
            groups.reserve_exact(1);
        }
        groups.push(group);
        true
    }

    /// Leaves a group; `false` if it was no member.
    pub fn leave(&mut self, group: &Group) -> bool {
        let left = self.home.groups.leave(group, self.id.key());
        if left {
            self.state.extra().groups.retain(|each| each != group);
        }
        left
    }
}

impl fmt::Debug for Conn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("id", &self.id).field("state", &self.state).finish_non_exhaustive()
    }
}
