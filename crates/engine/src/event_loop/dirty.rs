//! Who has something to send.

use std::num::NonZeroU32;

use crate::buffer::Lease;
use crate::token::Key;

/// Slots to which something was written since the last flush, in the order in which they got it.
///
/// Most answers are one piece of what was received. Such a lease stands here itself, and the slot knows where: no queue
/// is filled and emptied for it.
#[derive(Debug, Default)]
pub(super) struct DirtyList {
    entries: Vec<Dirty>,
}

#[derive(Debug)]
struct Dirty {
    key: Key,
    /// All that was written, if that is one lease. Else it is empty, and what was written is in the slot's queue.
    only: Lease,
}

/// Where a lease stands that is all that was written to a slot: its entry, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(NonZeroU32);

impl Place {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl DirtyList {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What was written is in the slot's queue.
    #[inline(always)]
    pub(super) fn push(&mut self, key: Key) {
        self.entries.push(Dirty { key, only: Lease::default() });
    }

    /// This lease is what was written.
    #[inline(always)]
    pub(super) fn push_only(&mut self, key: Key, lease: Lease) -> Place {
        self.entries.push(Dirty { key, only: lease });
        let number = u32::try_from(self.entries.len()).ok().and_then(NonZeroU32::new);
        Place(number.expect("there are fewer than 2^32 slots"))
    }

    /// The lease of an entry.
    pub(super) fn only(&self, place: Place) -> &Lease {
        &self.entries[place.index()].only
    }

    /// Takes the lease of an entry, which stays.
    #[inline]
    pub(super) fn take_only(&mut self, place: Place) -> Lease {
        std::mem::take(&mut self.entries[place.index()].only)
    }

    /// The slot of an entry, and its lease, which is taken.
    #[inline(always)]
    pub(super) fn take(&mut self, index: usize) -> (Key, Lease) {
        let entry = &mut self.entries[index];
        (entry.key, std::mem::take(&mut entry.only))
    }

    /// The slot of an entry, and whether what was written is in its queue.
    #[inline(always)]
    pub(super) fn peek(&self, index: usize) -> Option<(Key, bool)> {
        self.entries.get(index).map(|entry| (entry.key, entry.only.is_empty()))
    }

    /// Drops the last entry if it is that of `key`, and what was written is in the slot's queue.
    pub(super) fn pop_if_last(&mut self, key: Key) -> bool {
        self.entries.pop_if(|last| last.key == key && last.only.is_empty()).is_some()
    }

    /// Drops the first `count` entries, which were flushed. Those behind them have no lease: they know their place.
    pub(super) fn drop_front(&mut self, count: usize) {
        debug_assert!(self.entries[count..].iter().all(|entry| entry.only.is_empty()));
        self.entries.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::token::Generation;

    fn key(index: u32) -> Key {
        Key::new(index, Generation::FIRST)
    }

    fn lease() -> Lease {
        Lease::from(Bytes::from_static(b"pong"))
    }

    #[test]
    fn a_lease_is_found_at_its_place_and_taken_once() {
        let mut list = DirtyList::default();
        list.push(key(7));
        let place = list.push_only(key(8), lease());
        assert_eq!((&**list.only(place), list.peek(1)), (&b"pong"[..], Some((key(8), false))));
        assert_eq!(&*list.take_only(place), b"pong");
        assert_eq!(list.peek(1), Some((key(8), true)), "its entry stays");
        let (first, nothing) = list.take(0);
        assert!(first == key(7) && nothing.is_empty());
    }

    #[test]
    fn what_was_flushed_goes_and_what_came_meanwhile_stays() {
        let mut list = DirtyList::default();
        list.push_only(key(1), lease());
        list.push(key(2));
        let (flushed, lease) = list.take(0);
        assert!(flushed == key(1) && &*lease == b"pong");
        list.push(key(3));
        list.drop_front(2);
        assert_eq!((list.len(), list.peek(0)), (1, Some((key(3), true))));
        assert!(!list.pop_if_last(key(1)) && list.pop_if_last(key(3)));
        assert_eq!(list.peek(0), None);
        list.push_only(key(4), self::lease());
        assert!(!list.pop_if_last(key(4)), "its lease is still to be sent");
    }
}
