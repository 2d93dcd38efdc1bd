//! Which slots can run, and how many of them may still do so in this turn.

use crate::token::Key;

/// Slots in the order in which they became able to run.
///
/// ```text
///  taken in this turn │ may run in this turn │ later
///  ───────────────────┼──────────────────────┼────────► keys
///                   next                 turn_end
/// ```
///
/// A list that is read from its front and cleared now and then is cheaper than a ring.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    keys: Vec<Key>,
    /// 0 <= next <= turn_end <= keys.len()
    next: usize,
    turn_end: usize,
}

impl RunQueue {
    /// Whether no slot waits.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.keys.len()
    }

    /// A new turn, in which the first `share` of those that wait may run.
    pub(super) fn begin_turn(&mut self, share: usize) {
        // Those that wait are moved only over as many that were taken.
        if self.next * 2 >= self.keys.len() {
            self.keys.drain(..self.next);
            self.next = 0;
        }
        self.turn_end = self.keys.len().min(self.next + share);
    }

    /// The next that may run in this turn.
    #[inline(always)]
    pub(super) fn front(&self) -> Option<Key> {
        if self.next < self.turn_end { self.keys.get(self.next).copied() } else { None }
    }

    /// Takes what [`front`](Self::front) has shown.
    #[inline(always)]
    pub(super) fn take_front(&mut self) {
        debug_assert!(self.next < self.turn_end);
        self.next += 1;
    }

    #[inline(always)]
    pub(super) fn push(&mut self, key: Key) {
        self.keys.push(key);
    }

    /// Puts back what was taken last, and ends the turn.
    pub(super) fn put_back(&mut self) {
        debug_assert!(self.next > 0);
        self.next -= 1;
        self.turn_end = self.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Generation;

    fn take(queue: &mut RunQueue) -> Option<u32> {
        let key = queue.front()?;
        queue.take_front();
        Some(key.index())
    }

    fn queue_of(count: u32) -> RunQueue {
        let mut queue = RunQueue::default();
        (0..count).for_each(|index| queue.push(Key::new(index, Generation::FIRST)));
        queue
    }

    #[test]
    fn a_turn_has_its_share_and_the_next_goes_on_behind_it() {
        let mut queue = queue_of(3);
        assert_eq!(take(&mut queue), None, "no turn has begun");
        queue.begin_turn(2);
        assert_eq!([take(&mut queue), take(&mut queue), take(&mut queue)], [Some(0), Some(1), None]);
        queue.push(Key::new(0, Generation::FIRST));
        queue.begin_turn(9);
        assert_eq!([take(&mut queue), take(&mut queue), take(&mut queue)], [Some(2), Some(0), None]);
        assert!(queue.is_empty());
    }

    #[test]
    fn those_that_wait_for_many_turns_keep_their_order() {
        let mut queue = queue_of(100);
        let mut taken = Vec::new();
        while !queue.is_empty() {
            queue.begin_turn(7);
            taken.extend(std::iter::from_fn(|| take(&mut queue)));
            if taken.len() == 49 {
                queue.push(Key::new(100, Generation::FIRST));
            }
        }
        assert_eq!(taken, (0..=100).collect::<Vec<_>>());
        assert!(queue.keys.capacity() <= 256, "what was taken is forgotten");
    }

    #[test]
    fn one_that_is_put_back_is_the_first_of_the_next_turn() {
        let mut queue = queue_of(2);
        queue.begin_turn(2);
        assert_eq!(take(&mut queue), Some(0));
        queue.put_back();
        assert_eq!(take(&mut queue), None);
        queue.begin_turn(2);
        assert_eq!([take(&mut queue), take(&mut queue)], [Some(0), Some(1)]);
    }
}
