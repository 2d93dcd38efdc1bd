//! The loop itself: messages of other threads, timers, waiting.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kolk_engine::clock::Timestamp;
use kolk_engine::driver::Waker;
use kolk_engine::mailbox::Sender;
use kolk_engine::{Config, Event, EventLoop};

use crate::support::{Dice, Rig, World};

contract!(real_drivers: messages_of_eight_threads_arrive_and_are_answered);
contract!(each_driver:
    a_message_ends_a_wait,
    timers_fire_in_order_and_never_early,
    moved_and_cancelled_timers_keep_to_it,
    a_million_timers_fire,
    a_deadline_in_the_past_fires_at_once,
    a_timer_ends_a_wait,
);

const THREADS: u64 = 8;
const MESSAGES: u64 = 12_500;
const BURST: u64 = 125;

fn messages_of_eight_threads_arrive_and_are_answered(world: World) {
    let mut rig = Rig::new(world);
    let sender = rig.event_loop.sender();
    let (introduce, introduced) = mpsc::channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (sender, introduce) = (sender.clone(), introduce.clone());
            thread::spawn(move || converse(world, number, &sender, &introduce))
        })
        .collect();
    let mut answers: Vec<Option<Sender<u64, Waker>>> = vec![None; THREADS as usize];
    for _ in 0..THREADS {
        let (number, answer): (u64, _) = introduced.recv().expect("each thread makes a loop");
        answers[number as usize] = Some(answer);
    }
    let mut next = [0; THREADS as usize];
    let mut count = 0;
    rig.until("all messages", |rig| {
        for message in rig.messages.drain(..) {
            let (number, value) = (message / MESSAGES, message % MESSAGES);
            assert_eq!(value, next[number as usize], "the order of one sender is kept");
            next[number as usize] += 1;
            count += 1;
            let answer = answers[number as usize].as_ref().expect("introduced");
            answer.send(value).expect("the thread waits for it");
        }
        count == THREADS * MESSAGES
    });
    let wake_ups: u64 = threads.into_iter().map(|thread| thread.join().expect("all answers came")).sum();
    let stats = rig.event_loop.stats();
    assert_eq!(stats.messages, THREADS * MESSAGES);
    assert!(stats.wake_ups < stats.messages / 2, "{stats:?}");
    assert!(wake_ups < stats.messages / 2, "{wake_ups} wake-ups for as many answers");
}

/// One thread's side: bursts to the loop, and all answers back on a loop of its own. How often that had
/// to be woken.
fn converse(
    world: World,
    number: u64,
    sender: &Sender<u64, Waker>,
    introduce: &mpsc::Sender<(u64, Sender<u64, Waker>)>,
) -> u64 {
    let config =
        Config { driver: kolk_engine::driver::DriverChoice::Only(world.driver), ..Config::default() };
    let mut event_loop = EventLoop::<u64>::new(&config).expect("the kernel offers this driver");
    introduce.send((number, event_loop.sender())).expect("somebody waits");
    let mut expected = 0;
    for burst in 0..MESSAGES / BURST {
        for value in burst * BURST..(burst + 1) * BURST {
            assert!(sender.send(number * MESSAGES + value).is_ok(), "the loop is there and has room");
        }
        while expected < (burst + 1) * BURST {
            event_loop.turn(None).expect("the driver goes on");
            while let Some(event) = event_loop.next_event() {
                let Event::Message(value) = event else { panic!("{event:?}") };
                assert_eq!(value, expected);
                expected += 1;
            }
        }
    }
    event_loop.stats().wake_ups
}

fn a_message_ends_a_wait(world: World) {
    let mut rig = Rig::new(world);
    rig.turn();
    for round in 0..200 {
        let sender = rig.event_loop.sender();
        let thread = thread::spawn(move || sender.send(round).expect("the loop is there"));
        let give_up = Instant::now() + Duration::from_secs(10);
        while rig.messages.is_empty() {
            // Simulated time leaps over a silence, real time does not.
            let deadline = rig.event_loop.now() + Duration::from_secs(3600);
            rig.event_loop.turn(Some(deadline)).expect("the driver goes on");
            while let Some(Event::Message(message)) = rig.event_loop.next_event() {
                rig.messages.push(message);
            }
            assert!(Instant::now() < give_up, "round {round}: the message never came");
        }
        assert_eq!(rig.messages.drain(..).collect::<Vec<_>>(), [round]);
        thread.join().expect("sending does not panic");
    }
}

#[track_caller]
fn assert_not_early(
    fired: &[(kolk_engine::timer::TimerId, u64, Timestamp)],
    deadline: impl Fn(u64) -> Timestamp,
) {
    for (_, payload, at) in fired {
        assert!(*at >= deadline(*payload), "{payload}: {:?} early", deadline(*payload) - *at);
    }
}

fn timers_fire_in_order_and_never_early(world: World) {
    let mut rig = Rig::new(world);
    let begin = rig.event_loop.now();
    let deadline = |payload: u64| begin + Duration::from_micros(payload * 700 % 70_000);
    for payload in 0..100 {
        rig.event_loop.set_timer(deadline(payload), payload);
    }
    let turns = rig.event_loop.stats().turns;
    rig.until("all timers", |rig| rig.fired.len() == 100);
    assert!(rig.fired.is_sorted_by_key(|(_, payload, _)| deadline(*payload)));
    assert_not_early(&rig.fired, deadline);
    // Each turn waits for a millisecond or for the next timer.
    let turns = rig.event_loop.stats().turns - turns;
    assert!(turns < 1000, "{turns} turns for 100 timers");
}

fn moved_and_cancelled_timers_keep_to_it(world: World) {
    let mut rig = Rig::new(world);
    let begin = rig.event_loop.now();
    let ms = |count| begin + Duration::from_millis(count);
    let [sooner, later, gone, kept] =
        [(50, 0), (5, 1), (10, 2), (20, 3)].map(|(at, payload)| rig.event_loop.set_timer(ms(at), payload));
    assert!(rig.event_loop.move_timer(sooner, ms(2)));
    assert!(rig.event_loop.move_timer(later, ms(30)));
    assert!(rig.event_loop.cancel_timer(gone));
    assert!(!rig.event_loop.cancel_timer(gone) && !rig.event_loop.move_timer(gone, ms(1)));
    rig.until("three timers", |rig| rig.fired.len() == 3);
    let order: Vec<_> = rig.fired.iter().map(|(timer, payload, _)| (*timer, *payload)).collect();
    assert_eq!(order, [(sooner, 0), (kept, 3), (later, 1)]);
    assert_not_early(&rig.fired, |payload| [ms(2), ms(30), ms(0), ms(20)][payload as usize]);
    assert!(!rig.event_loop.cancel_timer(kept) && !rig.event_loop.move_timer(kept, ms(100)));
    assert_eq!(rig.event_loop.stats().timers, 0);
}

fn a_million_timers_fire(world: World) {
    const COUNT: u64 = 1_000_000;
    let mut rig = Rig::new(world);
    let mut dice = Dice::new(3);
    let begin = rig.event_loop.now();
    let deadlines: Vec<_> =
        (0..COUNT).map(|_| begin + Duration::from_nanos(dice.below(1_000_000_000) as u64)).collect();
    let timers: Vec<_> =
        deadlines.iter().zip(0..).map(|(at, payload)| rig.event_loop.set_timer(*at, payload)).collect();
    let cancelled = timers.iter().step_by(10).filter(|timer| rig.event_loop.cancel_timer(**timer)).count();
    rig.until("the others", |rig| rig.fired.len() + cancelled == COUNT as usize);
    assert_not_early(&rig.fired, |payload| deadlines[payload as usize]);
    assert!(rig.fired.is_sorted_by_key(|(_, payload, _)| deadlines[*payload as usize]));
    assert!(rig.fired.iter().all(|(_, payload, _)| payload % 10 != 0), "a cancelled one fired");
    assert_eq!(rig.event_loop.stats().timers, 0);
}

fn a_deadline_in_the_past_fires_at_once(world: World) {
    let mut rig = Rig::new(world);
    rig.settle();
    let begin = Instant::now();
    rig.event_loop.set_timer(Timestamp::ZERO, 1);
    let now = rig.event_loop.now();
    rig.event_loop.set_timer(now, 2);
    // No turn waits for ever. The second timer is due when its tick has passed.
    while rig.messages.len() < 2 {
        rig.event_loop.turn(None).expect("the driver goes on");
        while let Some(event) = rig.event_loop.next_event() {
            let Event::Timer(_, payload) = event else { panic!("{event:?}") };
            rig.messages.push(payload);
        }
        assert!(!rig.messages.is_empty(), "the first timer is due in the first turn");
    }
    assert_eq!(rig.messages, [1, 2]);
    assert!(begin.elapsed() < Duration::from_secs(1));
}

fn a_timer_ends_a_wait(world: World) {
    let mut rig = Rig::new(world);
    for _ in 0..20 {
        let deadline = rig.event_loop.now() + Duration::from_millis(3);
        rig.event_loop.set_timer(deadline, 0);
        let turns = rig.event_loop.stats().turns;
        let mut fired = false;
        while !fired {
            rig.event_loop.turn(None).expect("the driver goes on");
            fired = matches!(rig.event_loop.next_event(), Some(Event::Timer(..)));
        }
        assert!(rig.event_loop.now() >= deadline);
        let turns = rig.event_loop.stats().turns - turns;
        assert!(turns <= 3, "{turns} turns for one timer");
    }
}
