//! A list of which nearly all have one entry.

use crate::limits::SPARE_CHUNK_CAPACITY;

/// Entries in order, of which the first needs no memory of its own.
///
/// A queue that is one message, and that is most, is then looked at, sent and emptied without a list.
#[derive(Debug)]
pub(super) struct Pieces<T> {
    /// `None` only when there are none at all.
    first: Option<T>,
    #[expect(clippy::box_collection, reason = "few queues ever have any, and all have room for it")]
    rest: Option<Box<Vec<T>>>,
}

impl<T> Pieces<T> {
    #[inline(always)]
    pub(super) fn push(&mut self, piece: T) {
        if self.first.is_none() {
            // Nothing is there to be dropped, see `Row::set_send` of the drivers.
            std::mem::forget(self.first.replace(piece));
        } else {
            self.push_behind(piece);
        }
    }

    #[inline(never)]
    fn push_behind(&mut self, piece: T) {
        self.rest.get_or_insert_default().push(piece);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest().len()
    }

    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(behind) => self.rest().get(behind),
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(behind) => self.rest.as_mut()?.get_mut(behind),
        }
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut T> {
        let behind = self.rest.as_mut().and_then(|rest| rest.last_mut());
        behind.or(self.first.as_mut())
    }

    /// Takes the first out if it is the only one, and always was.
    #[inline(always)]
    pub(super) fn take_only(&mut self) -> Option<T> {
        if self.rest.is_none() { self.first.take() } else { None }
    }

    /// All but the first `count`.
    pub(super) fn skip(&self, count: usize) -> impl Iterator<Item = &T> {
        let first = self.first.as_ref().filter(|_| count == 0);
        first.into_iter().chain(self.rest().iter().skip(count.saturating_sub(1)))
    }

    /// The same, to change them.
    pub(super) fn skip_mut(&mut self, count: usize) -> impl Iterator<Item = &mut T> {
        let first = self.first.as_mut().filter(|_| count == 0);
        let rest = self.rest.as_mut().map_or(&mut [][..], |rest| rest);
        first.into_iter().chain(rest.iter_mut().skip(count.saturating_sub(1)))
    }

    /// Drops the first `count`.
    pub(super) fn drop_front(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let mut behind = self.rest.iter_mut().flat_map(|rest| rest.drain(..count.min(rest.len())));
        self.first = behind.nth(count - 1);
    }

    /// Drops all, and memory beyond what a spare queue may keep.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.first = None;
        if self.rest.is_some() {
            self.clear_rest();
        }
    }

    #[inline(never)]
    fn clear_rest(&mut self) {
        self.rest.take_if(|rest| {
            rest.clear();
            rest.capacity() > SPARE_CHUNK_CAPACITY
        });
    }

    /// Entries for which there is memory.
    pub(super) fn capacity(&self) -> usize {
        1 + self.rest.as_ref().map_or(0, |rest| rest.capacity())
    }

    #[inline(always)]
    fn rest(&self) -> &[T] {
        self.rest.as_ref().map_or(&[], |rest| rest)
    }
}

impl<T> Default for Pieces<T> {
    #[inline(always)]
    fn default() -> Self {
        Self { first: None, rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Pieces<usize> {
        let mut pieces = Pieces::default();
        (0..count).for_each(|piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn pieces_are_found_by_their_place() {
        for count in 0..5 {
            let mut pieces = numbered(count);
            assert_eq!(pieces.len(), count);
            assert_eq!(pieces.last_mut().copied(), count.checked_sub(1));
            for place in 0..6 {
                let expected = (place < count).then_some(place);
                assert_eq!(pieces.get(place).copied(), expected);
                assert_eq!(pieces.get_mut(place).copied(), expected);
                let rest: Vec<usize> = (place..count).collect();
                assert_eq!(pieces.skip(place).copied().collect::<Vec<_>>(), rest);
                assert_eq!(pieces.skip_mut(place).map(|piece| *piece).collect::<Vec<_>>(), rest);
            }
        }
    }

    #[test]
    fn the_front_is_dropped_and_the_others_move_up() {
        for count in 0..6 {
            for dropped in 0..=count {
                let mut pieces = numbered(count);
                pieces.drop_front(dropped);
                pieces.push(99);
                let left: Vec<usize> = (dropped..count).chain([99]).collect();
                assert_eq!(pieces.skip(0).copied().collect::<Vec<_>>(), left, "{dropped} of {count}");
            }
        }
    }

    #[test]
    fn little_memory_is_kept() {
        for count in [0, 1, 2, SPARE_CHUNK_CAPACITY, 1000] {
            let mut pieces = numbered(count);
            pieces.clear();
            assert_eq!(pieces.len(), 0);
            assert!(pieces.capacity() <= 1 + SPARE_CHUNK_CAPACITY);
        }
    }
}
