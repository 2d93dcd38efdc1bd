//! The mailbox and its wake state under the loom model checker, which tries every order of their steps.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p kolk-engine --test loom --release
//! ```
//!
//! A lost wake-up shows as a deadlock: the loop waits for a bell that nobody will ring.

#![cfg(loom)]

use kolk_engine::mailbox::{Mailbox, SendError, Sender};
use kolk_engine::wake::{Wake, WakeState};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A kernel wait in small: rings until heard.
#[derive(Clone)]
struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn wait(&self) {
        let (rung, signal) = &*self.0;
        let mut rung = rung.lock().unwrap();
        while !*rung {
            rung = signal.wait(rung).unwrap();
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }
}

/// Explores every schedule with at most three forced switches: enough for every known kind of lost
/// wake-up, and seconds instead of hours.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Turns of at most `limit` messages until `expected` have come, or a deadlock shows that one is lost.
///
/// Checks on the way that no announced sleep cost more than one wake-up.
fn receive<M>(mailbox: &mut Mailbox<M, Bell>, bell: &Bell, limit: usize, expected: usize) -> Vec<M> {
    let mut received = Vec::new();
    let mut announced = 0;
    while received.len() < expected {
        if mailbox.prepare_sleep() {
            bell.wait();
        }
        announced += 1;
        mailbox.awake();
        mailbox.begin_turn(limit);
        received.extend(std::iter::from_fn(|| mailbox.next_message()));
    }
    assert!(mailbox.stats().wake_ups <= announced);
    received
}

fn join(thread: thread::JoinHandle<()>) {
    thread.join().unwrap();
}

fn send_all(sender: Sender<u32, Bell>, messages: &'static [u32]) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for &message in messages {
            sender.send(message).unwrap();
        }
    })
}

/// The work is a relaxed counter, so nothing but the fences of `WakeState` orders it.
#[test]
fn wake_state_loses_no_wake_up_even_when_the_work_itself_orders_nothing() {
    explore(|| {
        let shared = Arc::new((WakeState::new(), AtomicUsize::new(0), Bell::new()));
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (state, work, bell) = &*shared;
                work.fetch_add(1, Ordering::Relaxed);
                if state.notify() {
                    bell.wake();
                }
            })
        });

        let (state, work, bell) = &*shared;
        let mut seen = 0;
        while seen < 2 {
            state.announce_sleep();
            let published = work.load(Ordering::Relaxed);
            if published == seen {
                bell.wait();
            }
            state.awake();
            seen = published;
        }
        threads.into_iter().for_each(join);
    });
}

#[test]
fn wake_state_gives_the_duty_of_one_sleep_to_one_thread() {
    explore(|| {
        let state = Arc::new(WakeState::new());
        state.announce_sleep();
        let threads = [(); 3].map(|()| {
            let state = Arc::clone(&state);
            thread::spawn(move || state.notify())
        });
        let duties = threads.map(|thread| thread.join().unwrap());
        assert_eq!(duties.iter().filter(|&&duty| duty).count(), 1);
    });
}

#[test]
fn two_senders_lose_no_message_and_no_wake_up() {
    explore(|| {
        let bell = Bell::new();
        let mut mailbox = Mailbox::new(bell.clone(), 16);
        let threads = [send_all(mailbox.sender(), &[10, 11]), send_all(mailbox.sender(), &[20])];

        let mut received = receive(&mut mailbox, &bell, 16, 3);
        threads.into_iter().for_each(join);

        assert_eq!(mailbox.stats().sent, 3);
        received.retain(|&message| message != 20);
        assert_eq!(received, [10, 11], "the order of one sender");
    });
}

#[test]
fn a_turn_of_one_message_does_not_sleep_on_the_others() {
    explore(|| {
        let bell = Bell::new();
        let mut mailbox = Mailbox::new(bell.clone(), 16);
        let sender = mailbox.sender();
        let thread = thread::spawn(move || {
            sender.send_batch(&mut vec![0, 1]).unwrap();
            sender.send(2).unwrap();
        });
        let received = receive(&mut mailbox, &bell, 1, 3);
        assert_eq!(received, [0, 1, 2]);
        join(thread);
    });
}

#[test]
fn a_send_against_close_is_refused_or_its_message_is_dropped() {
    explore(|| {
        let mailbox = Mailbox::new(Bell::new(), 16);
        // Keeps the queue alive, so a message that slipped in behind the close would be seen.
        let _keeper = mailbox.sender();
        let message = std::sync::Arc::new(());
        let threads = [(); 2].map(|()| {
            let sender = mailbox.sender();
            let message = std::sync::Arc::clone(&message);
            thread::spawn(move || match sender.send(message) {
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Full(_)) => unreachable!("there is room for sixteen"),
            })
        });
        drop(mailbox);
        threads.into_iter().for_each(join);
        assert_eq!(std::sync::Arc::strong_count(&message), 1);
    });
}
