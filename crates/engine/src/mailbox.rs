//! How other threads reach a loop: a queue and one coalesced wake-up.
//!
//! A [`Sender`] pushes under a short lock; the loop takes everything that waits in one swap, so the two
//! meet once a turn however many messages there are:
//!
//! ```text
//!   Sender ─┐ push               swap, once a turn
//!   Sender ─┼────► shared queue ◄────────────────► batch ────► next_message()
//!   Sender ─┘      (one lock)                      (the loop's own, no lock)
//! ```
//!
//! The two buffers change places for ever, so nothing is allocated in steady state. A loop that is awake
//! is not disturbed, and one that sleeps is woken by the first sender only ([`wake`](crate::wake)).

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::{fmt, mem};

use crate::limits::RETAINED_MESSAGES;
use crate::sync::{Arc, AtomicBool, Mutex, MutexGuard, Ordering};
use crate::wake::{Wake, WakeState};

/// The loop's end: it takes the messages, and asks before it sleeps.
///
/// Belongs to the loop's thread. Dropping it closes the mailbox: messages that nobody took are dropped, and
/// later sends answer [`SendError::Closed`].
///
/// # Examples
///
/// A loop that sleeps by parking its thread:
///
/// ```
/// use kolk_engine::mailbox::Mailbox;
/// use kolk_engine::wake::Wake;
/// use std::thread::{self, Thread};
///
/// struct Unpark(Thread);
///
/// impl Wake for Unpark {
///     fn wake(&self) {
///         self.0.unpark();
///     }
/// }
///
/// let mut mailbox = Mailbox::new(Unpark(thread::current()), 1024);
/// let sender = mailbox.sender();
/// thread::spawn(move || (1..=100).for_each(|number| sender.send(number).unwrap()));
///
/// let mut sum = 0;
/// while sum < 5050 {
///     mailbox.begin_turn(64); // at most 64 messages, then the sockets get their turn
///     while let Some(number) = mailbox.next_message() {
///         sum += number;
///     }
///     if sum < 5050 && mailbox.prepare_sleep() {
///         thread::park();
///     }
///     mailbox.awake();
/// }
/// ```
pub struct Mailbox<M, W: Wake> {
    shared: Arc<Shared<M, W>>,
    /// Taken from the shared queue and not yet given out. Refilled only when empty: that keeps the order.
    batch: VecDeque<M>,
    /// How many messages the last swap brought.
    last_round: usize,
    /// How many messages this turn may still give out.
    budget: usize,
}

/// The other threads' end: any number of clones, on any thread.
///
/// The loop's own thread may send too; it is awake then, so that costs no wake-up.
pub struct Sender<M, W: Wake> {
    shared: Arc<Shared<M, W>>,
}

/// Why a message was not accepted, with what was to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendError<T> {
    /// The loop has ended; no later attempt can succeed.
    Closed(T),
    /// As many messages wait as the mailbox has room for; a later attempt may succeed.
    Full(T),
}

/// What went through a mailbox since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxStats {
    /// Messages accepted from senders.
    pub sent: u64,
    /// Times that a sender had to wake the loop; each is a system call.
    pub wake_ups: u64,
}

struct Shared<M, W> {
    queue: Mutex<Queue<M>>,
    /// Whether `queue.messages` has any. Written under the lock only; the loop reads it without.
    has_mail: AtomicBool,
    wake_state: WakeState,
    waker: W,
    /// A plain counter in both builds: nothing is ordered by it, so loom need not explore it.
    wake_ups: AtomicU64,
    capacity: usize,
}

struct Queue<M> {
    /// `0 <= messages.len() <= Shared::capacity`; empty for good once closed.
    messages: VecDeque<M>,
    closed: bool,
    sent: u64,
}

impl<M, W: Wake> Mailbox<M, W> {
    /// Makes an open mailbox whose loop is awake.
    ///
    /// `capacity` is the number of messages that may wait for the loop's next swap. As many again may lie in
    /// the batch that the loop works on, so the memory bound is twice the capacity.
    ///
    /// # Panics
    ///
    /// When `capacity` is zero.
    pub fn new(waker: W, capacity: usize) -> Self {
        assert!(capacity > 0, "a mailbox needs room for one message");
        let queue = Queue { messages: VecDeque::new(), closed: false, sent: 0 };
        let shared = Shared {
            queue: Mutex::new(queue),
            has_mail: AtomicBool::new(false),
            wake_state: WakeState::new(),
            waker,
            wake_ups: AtomicU64::new(0),
            capacity,
        };
        Self { shared: Arc::new(shared), batch: VecDeque::new(), last_round: 0, budget: 0 }
    }

    /// A new handle for other threads.
    pub fn sender(&self) -> Sender<M, W> {
        Sender { shared: Arc::clone(&self.shared) }
    }

    /// Starts a turn in which [`next_message`](Self::next_message) gives out at most `limit` messages.
    ///
    /// Takes what waits in the shared queue, unless a rest of the last turn comes first. Messages that arrive
    /// later wait for the next turn, so a handler that sends to its own loop cannot keep the turn alive.
    pub fn begin_turn(&mut self, limit: usize) {
        self.budget = limit;
        if self.batch.is_empty() && self.shared.has_mail() {
            self.collect();
        }
    }

    /// Brings no more messages in this turn.
    pub fn end_turn(&mut self) {
        self.budget = 0;
    }

    /// The next message of this turn; `None` when there is no more, or when the turn's limit is reached.
    ///
    /// Messages of one sender thread come in the order in which it sent them.
    pub fn next_message(&mut self) -> Option<M> {
        self.budget = self.budget.checked_sub(1)?;
        self.batch.pop_front()
    }

    /// Asks to wait in the kernel. On false there are messages: poll the kernel without waiting, and go on.
    ///
    /// On true the next sender wakes the loop, until [`awake`](Self::awake) is called.
    #[must_use = "a loop that waits although messages are there may wait for ever"]
    pub fn prepare_sleep(&mut self) -> bool {
        // The common refusals, before a sender may see "asleep" and make a needless system call.
        if !self.batch.is_empty() || self.shared.has_mail() {
            return false;
        }
        self.shared.wake_state.announce_sleep();
        // Announced first and looked again, so a sender that came in between is not missed.
        let may_sleep = !self.shared.has_mail();
        if !may_sleep {
            self.awake();
        }
        may_sleep
    }

    /// Says that the wait is over, so that senders need not wake the loop.
    ///
    /// Call it right after the wait; until then a sender pays for a wake-up that the loop no longer needs.
    /// It costs a read when the loop is awake already, so a turn that only polled need not know.
    pub fn awake(&mut self) {
        self.shared.wake_state.awake();
    }

    /// What went through since the mailbox was made.
    pub fn stats(&self) -> MailboxStats {
        self.shared.stats()
    }

    /// Swaps the empty batch for the shared queue.
    fn collect(&mut self) {
        debug_assert!(self.batch.is_empty(), "a swap would break the order");
        // Judged by the last round and not by this buffer's size: under steady load the big buffers stay,
        // and when small rounds follow a burst both shrink within two of them.
        if self.last_round <= RETAINED_MESSAGES {
            self.batch.shrink_to(RETAINED_MESSAGES);
        }
        let mut queue = self.shared.lock();
        mem::swap(&mut queue.messages, &mut self.batch);
        self.shared.has_mail.store(false, Ordering::Relaxed);
        drop(queue);
        self.last_round = self.batch.len();
    }
}

impl<M, W: Wake> Drop for Mailbox<M, W> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        let untaken = mem::take(&mut queue.messages);
        // Unlock first: the drop of a message is foreign code, and may well send to this mailbox.
        drop(queue);
        drop(untaken);
    }
}

impl<M, W: Wake> Sender<M, W> {
    /// Puts a message into the loop's queue, and wakes the loop if it sleeps and nobody else does.
    ///
    /// Any thread may call; it waits for nothing but the queue's short lock.
    ///
    /// # Errors
    ///
    /// [`Closed`](SendError::Closed) when the loop has ended, [`Full`](SendError::Full) when it does not keep
    /// up; both give the message back.
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        let mut queue = self.shared.lock();
        if queue.closed {
            return Err(SendError::Closed(message));
        }
        if queue.messages.len() >= self.shared.capacity {
            return Err(SendError::Full(message));
        }
        queue.messages.push_back(message);
        self.shared.publish(queue, 1);
        Ok(())
    }

    /// What went through since the mailbox was made.
    pub fn stats(&self) -> MailboxStats {
        self.shared.stats()
    }

    /// Sends many messages under one lock and with at most one wake-up.
    ///
    /// Takes them from the front of `batch` and leaves the batch's allocation to the caller, for the next
    /// time. No message of another thread comes between them. Any thread may call.
    ///
    /// # Errors
    ///
    /// [`Closed`](SendError::Closed) when the loop has ended, with all messages still in `batch`;
    /// [`Full`](SendError::Full) when not all of them had room: those that had are sent, the rest is still in
    /// `batch`, in order.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kolk_engine::mailbox::{Mailbox, SendError};
    /// # struct Quiet;
    /// # impl kolk_engine::wake::Wake for Quiet { fn wake(&self) {} }
    /// let mailbox = Mailbox::new(Quiet, 2);
    /// let mut batch = vec!["a", "b", "c"];
    /// assert_eq!(mailbox.sender().send_batch(&mut batch), Err(SendError::Full(())));
    /// assert_eq!(batch, ["c"]);
    /// ```
    pub fn send_batch(&self, batch: &mut Vec<M>) -> Result<(), SendError<()>> {
        let mut queue = self.shared.lock();
        if queue.closed {
            return Err(SendError::Closed(()));
        }
        let room = self.shared.capacity - queue.messages.len();
        let accepted = room.min(batch.len());
        queue.messages.extend(batch.drain(..accepted));
        if accepted > 0 {
            self.shared.publish(queue, accepted);
        }
        if batch.is_empty() { Ok(()) } else { Err(SendError::Full(())) }
    }
}

impl<M, W: Wake> Clone for Sender<M, W> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M, W: Wake> Shared<M, W> {
    /// A panic under the lock leaves the queue whole, so the loop takes no notice of the poison.
    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MailboxStats {
        MailboxStats { sent: self.lock().sent, wake_ups: self.wake_ups.load(Ordering::Relaxed) }
    }

    /// Whether messages wait, without the lock. What a stale answer misses, the look after
    /// `announce_sleep` does not.
    fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    /// Makes `count` messages that were just pushed known to the loop. Unlocks before the system call.
    fn publish(&self, mut queue: MutexGuard<'_, Queue<M>>, count: usize) {
        queue.sent += count as u64;
        self.has_mail.store(true, Ordering::Relaxed);
        drop(queue);
        if self.wake_state.notify() {
            self.wake_ups.fetch_add(1, Ordering::Relaxed);
            self.waker.wake();
        }
    }
}

impl<T> SendError<T> {
    /// What was to be sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Closed(message) | Self::Full(message) => message,
        }
    }

    /// Whether the loop has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    /// Whether the loop did not keep up.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "cannot send to the event loop: it has ended",
            Self::Full(_) => {
                "cannot send to the event loop: its mailbox is full (send less, or try again later)"
            }
        })
    }
}

/// Without the message, so that `unwrap` and `Box<dyn Error>` ask nothing of its type.
impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "Closed(..)",
            Self::Full(_) => "Full(..)",
        })
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<M, W: Wake> fmt::Debug for Mailbox<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("batch", &self.batch.len())
            .field("budget", &self.budget)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<M, W: Wake> fmt::Debug for Sender<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Condvar;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// For tests that never wait.
    struct Quiet;

    impl Wake for Quiet {
        fn wake(&self) {}
    }

    /// A kernel wait in small: rings until heard.
    #[derive(Clone, Default)]
    struct Bell(Arc<(Mutex<bool>, Condvar)>);

    impl Wake for Bell {
        fn wake(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }

    impl Bell {
        #[track_caller]
        fn wait(&self) {
            let (rung, signal) = &*self.0;
            let (mut rung, waited) = signal
                .wait_timeout_while(rung.lock().unwrap(), Duration::from_secs(60), |rung| !*rung)
                .unwrap();
            assert!(!waited.timed_out(), "lost wake-up");
            *rung = false;
        }
    }

    fn quiet<M>(capacity: usize) -> (Sender<M, Quiet>, Mailbox<M, Quiet>) {
        let mailbox = Mailbox::new(Quiet, capacity);
        (mailbox.sender(), mailbox)
    }

    fn turn<M, W: Wake>(mailbox: &mut Mailbox<M, W>, limit: usize) -> Vec<M> {
        mailbox.begin_turn(limit);
        std::iter::from_fn(|| mailbox.next_message()).collect()
    }

    #[test]
    fn both_ends_may_move_and_senders_are_shared() {
        fn is_send<T: Send>(_: &T) {}
        fn is_sync<T: Sync>(_: &T) {}
        let (sender, mailbox) = quiet::<std::cell::Cell<u8>>(1);
        is_send(&mailbox);
        is_send(&sender);
        is_sync(&sender);
    }

    #[test]
    fn messages_come_in_the_order_sent_across_turns() {
        let (sender, mut mailbox) = quiet(16);
        (0..5).for_each(|n| sender.send(n).unwrap());
        assert_eq!(turn(&mut mailbox, 3), [0, 1, 2]);
        sender.send_batch(&mut vec![5, 6]).unwrap();
        assert_eq!(turn(&mut mailbox, 3), [3, 4]);
        assert_eq!(turn(&mut mailbox, 3), [5, 6]);
        assert_eq!(turn(&mut mailbox, 3), []);
    }

    #[test]
    fn a_turn_ends_at_its_limit_and_the_loop_may_not_sleep_on_the_rest() {
        let (sender, mut mailbox) = quiet(16);
        sender.send_batch(&mut vec![0, 1, 2]).unwrap();
        assert!(!mailbox.prepare_sleep(), "all three wait");
        assert_eq!(turn(&mut mailbox, 2), [0, 1]);
        assert!(!mailbox.prepare_sleep(), "one is left of the batch");
        assert_eq!(turn(&mut mailbox, 2), [2]);
        assert!(mailbox.prepare_sleep());
    }

    #[test]
    fn a_message_sent_within_a_turn_waits_for_the_next() {
        let (sender, mut mailbox) = quiet(16);
        sender.send(0).unwrap();
        mailbox.begin_turn(16);
        while let Some(n) = mailbox.next_message() {
            sender.send(n + 1).unwrap();
        }
        assert!(!mailbox.prepare_sleep());
        assert_eq!(turn(&mut mailbox, 16), [1]);
    }

    #[test]
    fn only_the_first_send_to_a_sleeping_loop_wakes_it() {
        let (sender, mut mailbox) = quiet(16);
        sender.send(0).unwrap();
        assert_eq!(mailbox.stats().wake_ups, 0, "the loop is awake");
        turn(&mut mailbox, 16);

        assert!(mailbox.prepare_sleep());
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        sender.send_batch(&mut vec![3, 4]).unwrap();
        mailbox.awake();
        sender.send(5).unwrap();
        let expected = MailboxStats { sent: 6, wake_ups: 1 };
        assert_eq!(mailbox.stats(), expected);
    }

    #[test]
    fn an_empty_batch_wakes_nobody() {
        let (sender, mut mailbox) = quiet::<u8>(16);
        assert!(mailbox.prepare_sleep());
        sender.send_batch(&mut Vec::new()).unwrap();
        assert_eq!(mailbox.stats(), MailboxStats::default());
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back_until_the_loop_has_swapped() {
        let (sender, mut mailbox) = quiet(2);
        sender.send(0).unwrap();
        sender.send(1).unwrap();
        assert_eq!(sender.send(2), Err(SendError::Full(2)));
        mailbox.begin_turn(1);
        sender.send(2).unwrap();
        assert_eq!(mailbox.stats().sent, 3);
    }

    #[test]
    fn a_batch_without_room_keeps_its_rest_in_order() {
        let (sender, mut mailbox) = quiet(3);
        let mut batch = vec![0, 1, 2, 3, 4];
        assert_eq!(sender.send_batch(&mut batch), Err(SendError::Full(())));
        assert_eq!(batch, [3, 4]);
        assert_eq!(sender.send_batch(&mut batch), Err(SendError::Full(())));
        assert_eq!(batch, [3, 4]);
        assert_eq!(turn(&mut mailbox, 16), [0, 1, 2]);
        sender.send_batch(&mut batch).unwrap();
        assert_eq!(turn(&mut mailbox, 16), [3, 4]);
    }

    #[test]
    fn a_closed_mailbox_gives_the_message_back() {
        let (sender, mailbox) = quiet(4);
        drop(mailbox);
        assert_eq!(sender.clone().send(7), Err(SendError::Closed(7)));
        let mut batch = vec![8, 9];
        assert_eq!(sender.send_batch(&mut batch), Err(SendError::Closed(())));
        assert_eq!(batch, [8, 9]);
    }

    #[test]
    fn untaken_messages_are_dropped_once_when_the_mailbox_closes() {
        let (sender, mut mailbox) = quiet(16);
        let message = Arc::new(());
        for _ in 0..6 {
            sender.send(Arc::clone(&message)).unwrap();
        }
        assert_eq!(turn(&mut mailbox, 2).len(), 2);
        sender.send(Arc::clone(&message)).unwrap();
        assert_eq!(Arc::strong_count(&message), 1 + 4 + 1);
        drop(mailbox);
        assert_eq!(Arc::strong_count(&message), 1, "batch and queue are gone");
        let back = sender.send(Arc::clone(&message)).unwrap_err().into_inner();
        assert!(Arc::ptr_eq(&back, &message));
    }

    #[test]
    fn a_message_may_send_while_it_is_dropped() {
        struct Farewell(Sender<Option<Farewell>, Quiet>);
        impl Drop for Farewell {
            fn drop(&mut self) {
                assert!(self.0.send(None).is_err_and(|refused| refused.is_closed()));
            }
        }
        let (sender, mailbox) = quiet(4);
        sender.send(Some(Farewell(sender.clone()))).unwrap();
        drop(mailbox);
    }

    #[test]
    fn a_poisoned_lock_stops_neither_end() {
        let (sender, mut mailbox) = quiet(4);
        sender.send(1).unwrap();
        let poisoned = catch_unwind(AssertUnwindSafe(|| {
            let _queue = sender.shared.queue.lock();
            panic!("under the lock");
        }));
        assert!(poisoned.is_err() && sender.shared.queue.is_poisoned());
        sender.send(2).unwrap();
        assert_eq!(turn(&mut mailbox, 4), [1, 2]);
    }

    #[test]
    fn buffers_shrink_when_a_burst_is_over_and_only_then() {
        const BURST: usize = 10 * RETAINED_MESSAGES;
        let (sender, mut mailbox) = quiet(BURST);
        let mut round = |size: usize| {
            sender.send_batch(&mut vec![0_u64; size]).unwrap();
            assert_eq!(turn(&mut mailbox, BURST).len(), size);
            mailbox.batch.capacity()
        };
        let big = [round(BURST), round(BURST), round(BURST), round(BURST)];
        assert!(big.iter().all(|&capacity| capacity >= BURST));
        let small = [round(1), round(1), round(1), round(1)];
        assert!(small[2..].iter().all(|&capacity| capacity <= RETAINED_MESSAGES));
    }

    #[test]
    fn an_error_says_what_was_tried_and_what_to_do() {
        let full = SendError::Full(()).to_string();
        assert!(full.contains("mailbox is full (send less, or try again later)"));
        assert!(SendError::Closed(()).to_string().contains("it has ended"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "800 000 messages take an interpreter too long")]
    fn eight_threads_lose_no_message_no_wake_up_and_no_order() {
        const THREADS: usize = 8;
        const MESSAGES: usize = 100_000;
        let bell = Bell::default();
        let mut mailbox = Mailbox::new(bell.clone(), 4096);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let sender = mailbox.sender();
                thread::spawn(move || {
                    for n in 0..MESSAGES {
                        send_patiently(&sender, (thread, n));
                    }
                })
            })
            .collect();

        let mut received = [0; THREADS];
        let mut announced = 0;
        while received.iter().sum::<usize>() < THREADS * MESSAGES {
            if mailbox.prepare_sleep() {
                bell.wait();
            }
            announced += 1;
            mailbox.awake();
            mailbox.begin_turn(1000);
            while let Some((thread, n)) = mailbox.next_message() {
                assert_eq!(received[thread], n, "thread {thread}: out of order");
                received[thread] += 1;
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        let stats = mailbox.stats();
        assert_eq!(stats.sent, (THREADS * MESSAGES) as u64);
        assert!(stats.wake_ups <= announced, "{stats:?} of {announced}");
    }

    /// Tries again while the mailbox is full; the loop is certainly busy then.
    fn send_patiently<M, W: Wake>(sender: &Sender<M, W>, mut message: M) {
        while let Err(refused) = sender.send(message) {
            assert!(refused.is_full());
            message = refused.into_inner();
            thread::yield_now();
        }
    }
}
