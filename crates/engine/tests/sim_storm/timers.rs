//! Timers that are set, moved and cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kolk_engine::clock::Timestamp;
use kolk_engine::timer::{TICK, TimerId};
use kolk_engine::{Event, EventLoop};

use crate::sim_helper::{Dice, for_seeds};
use crate::station::{SEEDS, Station, TURNS_MAX, network};

/// The timers that are set, and when they are due. Only those set before the turn must have fired.
#[derive(Default)]
struct Alarms {
    set: BTreeMap<TimerId, (Timestamp, u64)>,
    /// Names of timers that fired or were cancelled.
    stale: VecDeque<TimerId>,
    payloads: u64,
}

impl Alarms {
    /// Sets, moves or cancels one.
    #[track_caller]
    fn act(&mut self, event_loop: &mut EventLoop<()>, dice: &mut Dice) {
        let magnitude = dice.below(34);
        let span = Duration::from_nanos(dice.below(1 << magnitude) as u64);
        // Now and then in the past.
        let deadline = Timestamp::from_nanos(event_loop.now().as_nanos().saturating_sub(1000)) + span;
        let chosen = self.set.keys().nth(dice.below(self.set.len() + 1)).copied();
        match (dice.below(4), chosen) {
            (0, Some(timer)) => {
                assert!(event_loop.move_timer(timer, deadline));
                self.set.get_mut(&timer).expect("chosen among them").0 = deadline;
            }
            (1, Some(timer)) => {
                assert!(event_loop.cancel_timer(timer));
                self.retire(timer);
            }
            (2, _) => {
                if let Some(timer) = self.stale.pop_front() {
                    assert!(!event_loop.cancel_timer(timer) && !event_loop.move_timer(timer, deadline));
                }
            }
            _ => {
                self.payloads += 1;
                let timer = event_loop.set_timer(deadline, self.payloads);
                let before = self.set.insert(timer, (deadline, self.payloads));
                assert!(before.is_none(), "{timer:?} is given out twice");
            }
        }
    }

    #[track_caller]
    fn retire(&mut self, timer: TimerId) -> (Timestamp, u64) {
        self.stale.push_back(timer);
        self.set.remove(&timer).expect("a timer fires once, and not after it was cancelled")
    }
}

#[test]
fn timers_fire_once_in_order_and_never_early() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let mut alarms = Alarms::default();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "some timer never fired");
            for _ in 0..dice.below(if turn < 100 { 8 } else { 1 }) {
                alarms.act(&mut station.event_loop, &mut dice);
            }
            if turn >= 100 && alarms.set.is_empty() {
                break;
            }
            // As long as it takes, or shorter.
            let limit = station.event_loop.now() + Duration::from_nanos(dice.below(1 << 34) as u64);
            let limit = (dice.below(2) == 0).then_some(limit);
            station.event_loop.turn(limit).expect("the simulated kernel loses nothing");
            let now = station.event_loop.now();
            let mut last = Timestamp::ZERO;
            while let Some(event) = station.next_event() {
                let Event::Timer(timer, payload) = event else { panic!("{event:?}") };
                let (deadline, expected) = alarms.retire(timer);
                assert_eq!(payload, expected);
                assert!(deadline <= now, "{timer:?} fires early");
                assert!(last <= deadline, "{timer:?} fires out of order");
                last = deadline;
            }
            let late = alarms.set.values().find(|(deadline, _)| *deadline + TICK <= now);
            assert_eq!(late, None, "a timer is late");
        }
        assert_eq!(station.event_loop.stats().timers, 0);
    });
}
