//! Who has to wake a sleeping loop: one thread, once for each sleep.
//!
//! A wake-up is a system call, and most of them are needless: the loop is awake and will look at its
//! queue anyway, or another thread is about to wake it. [`WakeState`] finds the one caller that has to
//! make the call. It makes none itself; that is the part of a [`Wake`].
//!
//! ```text
//!   any thread                          state            loop thread
//!   ──────────                          ─────            ───────────
//!                                       Awake            runs its turn
//!   publish work                          │
//!   notify() -> false                     │              will look before it sleeps
//!                                         ▼
//!                                       Asleep      ◄──  announce_sleep()
//!                                         │              look for work: none
//!                                         │              wait in the kernel
//!   publish work                          ▼                  :
//!   notify() -> true, the duty   ──►    Notified             :
//!   wake() ·············································►   woken
//!   publish work                          │
//!   notify() -> false, it is on its way   │
//!                                         ▼
//!                                       Awake       ◄──  awake()
//! ```
//!
//! The loop also goes from `Asleep` straight to `Awake`: when its look for work found some, or when the
//! kernel ended the wait for another reason.

use crate::sync::{AtomicU8, Ordering, fence};

/// Ends the wait of a loop that sleeps in the kernel.
///
/// A driver supplies it: an eventfd for io_uring and epoll, a flag for the simulated kernel.
pub trait Wake: Send + Sync {
    /// Makes the current wait of the loop return, or the next one if it does not wait at this moment.
    ///
    /// Any thread may call. It does not block, and calling it once too often costs the loop one turn
    /// without work. There is no error to report: a wake-up that finds the kernel object "full" of
    /// wake-ups has already done its work.
    fn wake(&self);
}

/// What the loop does, as far as the other threads are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// The loop runs, and looks for work before it sleeps. Left by the loop only.
    Awake,
    /// The loop waits in the kernel, or is about to; nobody has taken the duty to wake it.
    Asleep,
    /// A thread has taken the duty to wake the loop.
    Notified,
}

/// The state machine behind coalesced wake-ups. It makes no system call.
///
/// Two rules make a lost wake-up impossible. Each says "first tell, then look":
///
/// - other threads publish their work, then call [`notify`](Self::notify);
/// - the loop calls [`announce_sleep`](Self::announce_sleep), then looks for work, then waits.
///
/// # Examples
///
/// ```
/// use kolk_engine::wake::WakeState;
///
/// let state = WakeState::new();
/// assert!(!state.notify(), "an awake loop needs no wake-up");
///
/// state.announce_sleep();
/// assert!(state.notify(), "the first to come has the duty");
/// assert!(!state.notify(), "the others leave it to the first");
///
/// state.awake();
/// assert!(!state.notify());
/// ```
#[derive(Debug)]
pub struct WakeState {
    /// A [`State`]. Other threads make one step only: `Asleep` to `Notified`.
    state: AtomicU8,
}

// Why no wake-up is lost. Published work is a flag or a queue ("work"); both sides write, then read what
// the other one wrote (Dekker's pattern):
//
//     any thread                      loop thread
//     W1  work = published            L1  state = Asleep
//     W2  fence(SeqCst)               L2  fence(SeqCst)
//     W3  read state                  L3  read work
//
// The wake-up is lost if W3 misses L1 and L3 misses W1. Acquire and release cannot rule that out: they
// order a write after earlier ones, never a read after an earlier write to another place, and every CPU
// with a store buffer lets the read overtake. Sequentially consistent fences have one total order, so
// either W2 comes first and L3 sees the work, or L2 comes first and W3 sees `Asleep`, or what followed it:
//
// - `Asleep`: the compare-exchange is atomic, so one thread turns it into `Notified` and has the duty.
// - `Notified`: that thread does its duty for all.
// - `Awake`: the loop has woken since then, and passes L1..L3 once more before it can sleep.
//
// A thread may be delayed between W3 and its compare-exchange, and so take the duty for a later sleep than
// the one it saw: a wake-up without need, which is harmless.
//
// The fences stand here and not at the caller, so the work may be written and read with relaxed accesses.
// All accesses to `state` are relaxed for the same reason.
impl WakeState {
    /// The state of a loop that is awake.
    #[must_use]
    pub fn new() -> Self {
        Self { state: AtomicU8::new(State::Awake as u8) }
    }

    /// Tells the loop about work that was published before. True when the caller now has the duty to wake it.
    ///
    /// Any thread may call. Of all calls between two [`announce_sleep`](Self::announce_sleep) at most one
    /// answers true; that caller must wake the loop, since the others rely on it.
    #[must_use = "on true the caller must wake the loop, nobody else will"]
    pub fn notify(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain read keeps the cache line shared among the senders while the loop is awake.
        self.state.load(Ordering::Relaxed) == State::Asleep as u8
            && self
                .state
                .compare_exchange(
                    State::Asleep as u8,
                    State::Notified as u8,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Says that the loop is about to wait. The caller looks for work after this, and waits if there is none.
    ///
    /// Loop thread only.
    pub fn announce_sleep(&self) {
        self.state.store(State::Asleep as u8, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the loop runs and needs no wake-up: after a wait, or instead of one.
    ///
    /// Loop thread only. Calling it on an awake loop changes nothing.
    pub fn awake(&self) {
        // A busy loop comes here every turn: reading first leaves the cache line to the senders.
        if self.state.load(Ordering::Relaxed) != State::Awake as u8 {
            // A store would do. Loom orders one too loosely after another thread's compare-exchange, and
            // then reports a duty that two threads took; it checks a swap exactly.
            self.state.swap(State::Awake as u8, Ordering::Relaxed);
        }
    }
}

impl Default for WakeState {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_awake_loop_needs_no_wake_up() {
        let state = WakeState::new();
        assert!(!state.notify());
        assert!(!state.notify());
    }

    #[test]
    fn each_sleep_hands_out_the_duty_once() {
        let state = WakeState::new();
        for _ in 0..3 {
            state.announce_sleep();
            assert!(state.notify());
            assert!(!state.notify());
            state.awake();
        }
    }

    #[test]
    fn a_sleep_that_was_called_off_hands_out_no_duty() {
        let state = WakeState::new();
        state.announce_sleep();
        state.awake();
        assert!(!state.notify());
    }

    #[test]
    fn of_many_threads_one_gets_the_duty() {
        let state = WakeState::new();
        state.announce_sleep();
        let duties = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| state.notify())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&duty| duty).count()
        });
        assert_eq!(duties, 1);
    }
}
