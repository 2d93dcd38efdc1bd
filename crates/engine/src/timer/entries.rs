//! Where timers lie, and the lists through them.

use std::num::NonZeroU32;

use super::tick::{LATE, ListId, SLOTS, Tick};
use super::{TimerId, TimerWheel};
use crate::clock::Timestamp;

/// A timer, or a vacant place for one: 32 bytes and a `T`, or 24 and a `T` that can spare a value
/// to mean "vacant".
pub(super) struct Entry<T> {
    pub(super) deadline: Timestamp,
    /// `None` while vacant.
    pub(super) payload: Option<T>,
    pub(super) generation: NonZeroU32,
    pub(super) previous: u32,
    pub(super) next: u32,
    pub(super) list: ListId,
}

/// In `previous`, `next`, `head`, `tail` and `vacant`: no entry.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl<T> Entry<T> {
    pub(super) fn tick(&self) -> Tick {
        Tick::not_before(self.deadline)
    }
}

/// The entries and the lists through them.
impl<T> TimerWheel<T> {
    pub(super) fn find(&self, id: TimerId) -> Option<u32> {
        let entry = self.entries.get(id.index as usize)?;
        (entry.generation == id.generation && entry.payload.is_some()).then_some(id.index)
    }

    pub(super) fn id(&self, index: u32) -> TimerId {
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Fills a vacant entry, or a fresh one; it is in no list yet.
    pub(super) fn occupy(&mut self, deadline: Timestamp, payload: T) -> u32 {
        self.len += 1;
        if let Some(entry) = self.entries.get_mut(self.vacant as usize) {
            let index = self.vacant;
            self.vacant = entry.next;
            (entry.deadline, entry.payload) = (deadline, Some(payload));
            return index;
        }
        let index = self.entries.len() as u32;
        assert!(index < NONE, "at most 2^32 - 1 timers");
        let generation = NonZeroU32::MIN;
        self.entries.push(Entry {
            deadline,
            payload: Some(payload),
            generation,
            previous: NONE,
            next: NONE,
            list: LATE,
        });
        index
    }

    /// Vacates an entry that is in no list.
    pub(super) fn vacate(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        let payload = entry.payload.take();
        self.len -= 1;
        // After 2^32 - 1 owners the entry is left unused: 40 bytes are cheaper than an id that
        // means another's timer.
        if let Some(generation) = entry.generation.checked_add(1) {
            entry.generation = generation;
            entry.next = self.vacant;
            self.vacant = index;
        }
        payload
    }

    /// Puts an entry into the list where its deadline belongs.
    pub(super) fn link(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick();
        let list = if tick <= self.horizon { LATE } else { self.cursor.list_for(tick) };
        self.append(list, index);
    }

    pub(super) fn append(&mut self, list: ListId, index: u32) {
        let tail = std::mem::replace(&mut self.lists[list.at()].tail, index);
        let entry = &mut self.entries[index as usize];
        (entry.list, entry.previous, entry.next) = (list, tail, NONE);
        match self.entries.get_mut(tail as usize) {
            Some(previous) => previous.next = index,
            None => {
                self.lists[list.at()].head = index;
                self.mark(list, true);
            }
        }
    }

    pub(super) fn unlink(&mut self, index: u32) {
        let Entry { previous, next, list, .. } = self.entries[index as usize];
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.next = next,
            None => self.lists[list.at()].head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(entry) => entry.previous = previous,
            None => self.lists[list.at()].tail = previous,
        }
        if self.is_drained(list) {
            self.mark(list, false);
        }
    }

    /// Leaves a list empty and returns its former head, from which `Entry::next` still leads on.
    pub(super) fn detach(&mut self, list: ListId) -> u32 {
        let List { head, .. } =
            std::mem::replace(&mut self.lists[list.at()], List { head: NONE, tail: NONE });
        self.mark(list, false);
        head
    }

    pub(super) fn is_drained(&self, list: ListId) -> bool {
        self.lists[list.at()].head == NONE
    }

    /// Notes whether a slot is in use. The two lists beside the levels have no bit.
    pub(super) fn mark(&mut self, list: ListId, in_use: bool) {
        let bit = 1 << (list.at() % SLOTS);
        match self.occupied.get_mut(list.level()) {
            Some(slots) if in_use => *slots |= bit,
            Some(slots) => *slots &= !bit,
            None => {}
        }
    }
}
