use super::tick::TICK_SHIFT;
use super::*;
use std::mem::size_of;

const TICK_NANOS: u64 = 1 << TICK_SHIFT;

fn at(ticks: u64) -> Timestamp {
    Timestamp::from_nanos(ticks * TICK_NANOS)
}

fn just_after(ticks: u64) -> Timestamp {
    Timestamp::from_nanos(ticks * TICK_NANOS + 1)
}

fn wheel() -> TimerWheel<u64> {
    TimerWheel::new(Timestamp::ZERO)
}

/// The payloads of one round.
fn round(wheel: &mut TimerWheel<u64>, now: Timestamp) -> Vec<u64> {
    std::iter::from_fn(|| wheel.pop_expired(now)).map(|(_, payload)| payload).collect()
}

#[test]
fn an_entry_with_eight_bytes_of_payload_is_forty_bytes() {
    assert_eq!(size_of::<Entry<u64>>(), 40);
    assert_eq!(size_of::<Entry<crate::token::Key>>(), 32);
    assert_eq!(size_of::<Option<TimerId>>(), 8);
}

#[test]
fn never_early_and_at_most_a_tick_late() {
    for ticks in [1, 63, 64, 65, 4095, 4096, 1 << 20, 1 << 40] {
        let mut wheel = wheel();
        wheel.insert(at(ticks), 1);
        wheel.insert(just_after(ticks), 2);
        assert_eq!(round(&mut wheel, Timestamp::from_nanos(at(ticks).as_nanos() - 1)), []);
        assert_eq!(round(&mut wheel, at(ticks)), [1]);
        assert_eq!(round(&mut wheel, just_after(ticks)), []);
        assert_eq!(round(&mut wheel, at(ticks + 1)), [2]);
    }
}

#[test]
fn one_tick_fires_by_deadline_and_ties_by_insertion() {
    let mut wheel = wheel();
    for (payload, nanos) in [(4, 900), (1, 300), (5, 900), (2, 300), (3, 500)] {
        wheel.insert(Timestamp::from_nanos(at(9).as_nanos() + nanos), payload);
    }
    assert_eq!(round(&mut wheel, at(10)), [1, 2, 3, 4, 5]);
}

#[test]
fn a_tie_between_a_far_and_a_near_insertion_keeps_its_order() {
    let mut wheel = wheel();
    wheel.insert(at(5000), 1);
    assert_eq!(round(&mut wheel, at(4990)), []);
    wheel.insert(at(5000), 2);
    assert_eq!(round(&mut wheel, at(6000)), [1, 2]);
}

#[test]
fn a_past_deadline_is_due_in_the_next_round_before_all_others() {
    let mut wheel = wheel();
    wheel.insert(at(101), 3);
    assert_eq!(round(&mut wheel, at(100)), []);
    wheel.insert(at(99), 2);
    wheel.insert(Timestamp::ZERO, 1);
    assert!(wheel.next_deadline() <= Some(at(100)));
    assert_eq!(round(&mut wheel, at(101)), [1, 2, 3]);
}

#[test]
fn what_is_set_during_a_round_and_due_already_waits_for_the_next() {
    let mut wheel = wheel();
    wheel.insert(at(10), 1);
    wheel.insert(at(30), 2);
    let now = at(50);
    assert_eq!(wheel.pop_expired(now).map(|(_, payload)| payload), Some(1));
    wheel.insert(at(20), 3);
    wheel.insert(now, 4);
    wheel.insert(just_after(50), 5);
    assert_eq!(round(&mut wheel, now), [2]);
    assert_eq!(round(&mut wheel, now), [3, 4]);
    assert_eq!(round(&mut wheel, at(51)), [5]);
}

#[test]
fn a_round_that_was_left_goes_on_and_then_takes_up_the_later_now() {
    let mut wheel = wheel();
    for ticks in [10, 11, 20] {
        wheel.insert(at(ticks), ticks);
    }
    assert_eq!(wheel.pop_expired(at(15)).map(|(_, payload)| payload), Some(10));
    wheel.insert(at(12), 12);
    assert_eq!(round(&mut wheel, at(25)), [11, 12, 20]);
}

#[test]
fn a_due_timer_can_still_be_cancelled_or_moved() {
    let mut wheel = wheel();
    let ids: Vec<TimerId> = (0..4).map(|payload| wheel.insert(at(5), payload)).collect();
    assert_eq!(wheel.pop_expired(at(5)), Some((ids[0], 0)));
    assert_eq!(wheel.cancel(ids[1]), Some(1));
    assert!(wheel.reschedule(ids[2], at(70)));
    assert_eq!(round(&mut wheel, at(5)), [3]);
    assert_eq!((wheel.deadline(ids[2]), wheel.len()), (Some(at(70)), 1));
    assert_eq!(round(&mut wheel, at(70)), [2]);
}

#[test]
fn a_stale_id_finds_nothing_even_when_its_entry_is_used_again() {
    let mut wheel = wheel();
    let fired = wheel.insert(at(1), 1);
    assert_eq!(round(&mut wheel, at(1)), [1]);
    let cancelled = wheel.insert(at(2), 2);
    assert_eq!(wheel.cancel(cancelled), Some(2));
    let live = wheel.insert(at(3), 3);
    assert_eq!((fired.index, cancelled.index), (live.index, live.index));
    for stale in [fired, cancelled] {
        assert_eq!((wheel.cancel(stale), wheel.deadline(stale)), (None, None));
        assert!(!wheel.reschedule(stale, at(9)));
    }
    assert_eq!(wheel.deadline(live), Some(at(3)));
}

#[test]
fn an_entry_is_left_unused_when_its_generations_are_used_up() {
    let mut wheel = wheel();
    wheel.insert(at(1), 1);
    wheel.entries[0].generation = NonZeroU32::MAX;
    let last = wheel.id(0);
    assert_eq!(wheel.cancel(last), Some(1));
    assert_ne!(wheel.insert(at(1), 2).index, last.index);
    assert_eq!((wheel.cancel(last), wheel.len()), (None, 1));
}

#[test]
fn sleeping_until_the_next_deadline_reaches_each_timer_in_few_steps() {
    for ticks in [1, 64, 100_000, 12_345_678, 1 << 40] {
        let mut wheel = wheel();
        wheel.insert(at(ticks), 1);
        assert_eq!(wheel.next_deadline(), Some(at(ticks)), "a timer alone is known exactly");
        wheel.insert(at(ticks), 2);
        let mut sleeps = 0;
        let fired = loop {
            let now = wheel.next_deadline().expect("two timers are set");
            assert!(now <= at(ticks));
            sleeps += 1;
            match round(&mut wheel, now) {
                fired if fired.is_empty() => assert!(sleeps < LEVELS),
                fired => break fired,
            }
        };
        assert_eq!((fired, wheel.next_deadline()), (vec![1, 2], None));
    }
}

#[test]
fn the_end_of_time_is_never() {
    let mut wheel = wheel();
    wheel.insert(Timestamp::MAX, 1);
    assert_eq!(wheel.next_deadline(), Some(Timestamp::MAX));
    assert_eq!(round(&mut wheel, Timestamp::MAX), []);
    wheel.insert(Timestamp::MAX, 2);
    assert_eq!((round(&mut wheel, Timestamp::MAX), wheel.len()), (vec![], 2));
}

#[test]
fn a_now_from_before_the_last_round_is_harmless() {
    let mut wheel = wheel();
    assert_eq!(round(&mut wheel, at(100)), []);
    wheel.insert(at(120), 1);
    assert_eq!(round(&mut wheel, at(50)), []);
    assert_eq!(round(&mut wheel, at(110)), []);
    assert_eq!(round(&mut wheel, at(120)), [1]);
}
