//! `TimerWheel` against an ordered map of (deadline, order of setting): the same timers fire, in
//! the same order.

use kolk_engine::clock::Timestamp;
use kolk_engine::timer::{TICK, TimerId, TimerWheel};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    /// Sets a timer this far from now.
    Insert(i64),
    /// Cancels one of all ids ever given, live or stale.
    Cancel(usize),
    /// Moves one of all ids ever given to this far from now.
    Reschedule(usize, i64),
    /// Lets time pass, then runs a round.
    Advance(u64),
    /// Sleeps exactly as long as the wheel allows, then runs a round.
    Sleep,
    /// Lets time pass and starts a round, but leaves it after so many timers.
    Leave(u64, usize),
    /// Lets time pass, runs a round and sets a timer this far from now at each that fires.
    Breed(u64, i64),
}

/// Nanoseconds of every order of magnitude, from within a tick to centuries.
fn span() -> impl Strategy<Value = u64> {
    (0..62u32).prop_flat_map(|bits| 0..=(1u64 << bits))
}

/// Mostly ahead, sometimes in the past.
fn delay() -> impl Strategy<Value = i64> {
    prop_oneof![
        9 => span().prop_map(|nanos| nanos as i64),
        1 => span().prop_map(|nanos| -(nanos as i64)),
    ]
}

/// Whole ticks and what is just beside them: where rounding goes wrong first. Many timers share a
/// deadline.
fn near() -> impl Strategy<Value = i64> {
    (0..200i64, -1..=1i64).prop_map(|(ticks, beside)| ticks * TICK.as_nanos() as i64 + beside)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![delay(), near()].prop_map(Step::Insert),
        2 => any::<usize>().prop_map(Step::Cancel),
        3 => (any::<usize>(), prop_oneof![delay(), near()])
            .prop_map(|(nth, delay)| Step::Reschedule(nth, delay)),
        2 => (0..10_000_000u64).prop_map(Step::Advance),
        1 => span().prop_map(Step::Advance),
        2 => Just(Step::Sleep),
        1 => (0..10_000_000u64, 0..4usize).prop_map(|(nanos, count)| Step::Leave(nanos, count)),
        1 => (0..100_000_000u64, near())
            .prop_map(|(nanos, delay)| Step::Breed(nanos, delay - 100 * TICK.as_nanos() as i64)),
    ]
}

/// Where a timer stands in the model: its deadline, then when it was set or last moved.
type Rank = (Timestamp, usize);

struct Pair {
    now: Timestamp,
    wheel: TimerWheel<usize>,
    model: BTreeMap<Rank, (TimerId, usize)>,
    ranks: HashMap<TimerId, Rank>,
    /// Every id ever given, in that order; the place is the timer's payload.
    history: Vec<TimerId>,
    settings: usize,
}

impl Pair {
    fn new(now: Timestamp) -> Pair {
        let wheel = TimerWheel::new(now);
        Pair { now, wheel, model: BTreeMap::new(), ranks: HashMap::new(), history: Vec::new(), settings: 0 }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Insert(delay) => self.insert(self.after(delay)),
            Step::Cancel(nth) => self.cancel(nth),
            Step::Reschedule(nth, delay) => self.reschedule(nth, self.after(delay)),
            Step::Advance(nanos) => self.advance(nanos),
            Step::Sleep => self.sleep(),
            Step::Leave(nanos, count) => self.leave(nanos, count),
            Step::Breed(nanos, delay) => self.breed(nanos, delay),
        }
    }

    fn after(&self, delay: i64) -> Timestamp {
        Timestamp::from_nanos(self.now.as_nanos().saturating_add_signed(delay))
    }

    fn rank(&mut self, deadline: Timestamp) -> Rank {
        self.settings += 1;
        (deadline, self.settings)
    }

    fn insert(&mut self, deadline: Timestamp) {
        let (rank, payload) = (self.rank(deadline), self.history.len());
        let id = self.wheel.insert(deadline, payload);
        assert_eq!(self.ranks.insert(id, rank), None, "{id:?} was given twice");
        self.model.insert(rank, (id, payload));
        self.history.push(id);
    }

    fn any_id(&self, nth: usize) -> Option<TimerId> {
        let nth = nth.checked_rem(self.history.len())?;
        Some(self.history[nth])
    }

    fn forget(&mut self, id: TimerId) -> Option<usize> {
        let rank = self.ranks.remove(&id)?;
        self.model.remove(&rank).map(|(_, payload)| payload)
    }

    fn cancel(&mut self, nth: usize) {
        let Some(id) = self.any_id(nth) else { return };
        assert_eq!(self.wheel.cancel(id), self.forget(id));
        assert_eq!(self.wheel.cancel(id), None);
    }

    fn reschedule(&mut self, nth: usize, deadline: Timestamp) {
        let Some(id) = self.any_id(nth) else { return };
        let payload = self.forget(id);
        assert_eq!(self.wheel.reschedule(id, deadline), payload.is_some());
        if let Some(payload) = payload {
            let rank = self.rank(deadline);
            self.ranks.insert(id, rank);
            self.model.insert(rank, (id, payload));
        }
    }

    /// What fires next in the model: the first timer, if a whole tick has begun since its deadline.
    fn expect_next(&mut self) -> Option<(TimerId, usize)> {
        let (rank, (id, payload)) = self.model.first_key_value()?;
        let (deadline, id, payload) = (rank.0, *id, *payload);
        let ticks = |nanos: u64| nanos / TICK.as_nanos() as u64;
        let fires = deadline.as_nanos() == 0 || ticks(deadline.as_nanos() - 1) < ticks(self.now.as_nanos());
        fires.then(|| {
            self.forget(id);
            (id, payload)
        })
    }

    fn round(&mut self) -> usize {
        let mut fired = 0;
        loop {
            let timer = self.wheel.pop_expired(self.now);
            assert_eq!(timer, self.expect_next());
            if timer.is_none() {
                return fired;
            }
            fired += 1;
        }
    }

    fn advance(&mut self, nanos: u64) {
        self.now += Duration::from_nanos(nanos);
        self.round();
    }

    /// Sleeps until a timer fires; the wheel may ask for more than one sleep, but not for many.
    fn sleep(&mut self) {
        for _ in 0..8 {
            let Some(until) = self.wheel.next_deadline() else {
                return;
            };
            self.now = self.now.max(until);
            if self.round() > 0 || self.now == Timestamp::MAX {
                return;
            }
        }
        panic!("eight sleeps, and no timer fired");
    }

    fn leave(&mut self, nanos: u64, count: usize) {
        self.now += Duration::from_nanos(nanos);
        for _ in 0..count {
            assert_eq!(self.wheel.pop_expired(self.now), self.expect_next());
        }
        // Nothing is set before the round goes on, or the model would have to know about rounds.
        self.advance(nanos);
    }

    /// Only timers that were set before the round may fire in it; those set meanwhile fire, in
    /// their order, in the next.
    fn breed(&mut self, nanos: u64, delay: i64) {
        self.now += Duration::from_nanos(nanos);
        let known = self.history.len();
        let mut born = Vec::new();
        while let Some(timer) = self.wheel.pop_expired(self.now) {
            assert!(timer.1 < known, "set in this round and fired in it");
            assert_eq!(Some(timer), self.expect_next());
            born.push(self.wheel.insert(self.after(delay), known + born.len()));
        }
        for (nth, id) in born.into_iter().enumerate() {
            let rank = self.rank(self.after(delay));
            self.ranks.insert(id, rank);
            self.model.insert(rank, (id, known + nth));
            self.history.push(id);
        }
        self.round();
    }

    fn check(&self) {
        assert_eq!((self.wheel.len(), self.wheel.is_empty()), (self.model.len(), self.model.is_empty()));
        for id in &self.history {
            assert_eq!(self.wheel.deadline(*id), self.ranks.get(id).map(|rank| rank.0));
        }
        let Some(((deadline, _), _)) = self.model.first_key_value() else {
            return assert_eq!(self.wheel.next_deadline(), None);
        };
        let until = self.wheel.next_deadline().expect("a timer is set");
        let soon_enough = until <= self.now || until - *deadline < TICK;
        assert!(soon_enough, "{until:?} is too late for {deadline:?}");
    }
}

proptest! {
    #[test]
    fn a_wheel_behaves_like_an_ordered_map(
        start in span(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(Timestamp::from_nanos(start));
        for step in steps {
            pair.apply(step);
            pair.check();
        }
        pair.advance(u64::MAX);
    }
}

/// Marsaglia's xorshift: the same numbers in every run.
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow there; the model test covers the same code")]
fn a_million_timers_fire_in_order() {
    const COUNT: usize = 1_000_000;
    let mut random = numbers(0x9E37_79B9_7F4A_7C15);
    let mut random_deadline = || Timestamp::from_nanos(random() % 600_000_000_000);

    let mut wheel = TimerWheel::new(Timestamp::ZERO);
    let mut deadlines: Vec<Timestamp> = (0..COUNT).map(|_| random_deadline()).collect();
    let ids: Vec<TimerId> =
        deadlines.iter().enumerate().map(|(nth, deadline)| wheel.insert(*deadline, nth)).collect();
    for nth in (0..COUNT).step_by(3) {
        assert_eq!(wheel.cancel(ids[nth]), Some(nth));
    }
    for nth in (1..COUNT).step_by(3) {
        deadlines[nth] = random_deadline();
        assert!(wheel.reschedule(ids[nth], deadlines[nth]));
    }
    let mut expected: Vec<(Timestamp, usize)> =
        (0..COUNT).filter(|nth| nth % 3 != 0).map(|nth| (deadlines[nth], nth)).collect();
    // Among equal deadlines those that were moved come after those that were not.
    expected.sort_unstable_by_key(|(deadline, nth)| (*deadline, nth % 3 == 1, *nth));

    let mut fired = Vec::with_capacity(expected.len());
    while let Some(now) = wheel.next_deadline() {
        while let Some((_, nth)) = wheel.pop_expired(now) {
            assert!(deadlines[nth] <= now && now < deadlines[nth] + TICK);
            fired.push((deadlines[nth], nth));
        }
    }
    assert!(fired == expected, "another order than that of the deadlines");
}
