//! Where a loop keeps what it knows about each socket, and where the numbers of these places come
//! from.
//!
//! The two are apart because their threads are. *Numbers* are wanted everywhere: any thread that
//! adopts a socket or connects one needs its name at once, before the loop has heard of it.
//! *Entries* belong to one thread, without a lock.
//!
//! ```text
//!   any thread                              the loop's thread
//!   ----------                              -----------------
//!   SlotNumbers::reserve() --- Key ------>  Table<Slot>::insert(key, ..)      the engine's own
//!                                           Table<Session>::insert(key, ..)   a front end's
//!                                           Table::get_mut(key)               at each completion
//!   SlotNumbers::release() <-- Key -------  Table::remove(key)
//! ```
//!
//! So several tables can share the keys of one `SlotNumbers`, and each stays as dense as the other.

use crate::prefetch::prefetch;
use crate::token::{Generation, Key};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Gives out slot numbers, and takes them back, from any thread.
///
/// A number that comes back is given out again with the next generation, so keys of earlier owners
/// stay stale for ever. When a number's 2^24 - 1 generations are used up it is retired and a fresh
/// one takes its place; for that reason an index may, after many millions of connections, exceed
/// the limit.
///
/// One lock guards the lot. It is taken twice in the life of a connection, never for a message, so
/// it is not worth more.
///
/// Share it in an [`Arc`](std::sync::Arc); every method may be called from any thread.
///
/// # Examples
///
/// ```
/// use kolk_engine::slab::SlotNumbers;
///
/// let numbers = SlotNumbers::new(1);
/// let first = numbers.reserve().unwrap();
/// assert_eq!(numbers.reserve(), None);
///
/// assert!(numbers.release(first));
/// let second = numbers.reserve().unwrap();
/// assert_eq!(second.index(), first.index());
/// assert_ne!(second, first);
/// ```
#[derive(Debug)]
pub struct SlotNumbers {
    limit: u32,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// For each index ever given out: the generation of its present owner or, if it is free, of its
    /// next one. `None`: retired.
    generations: Vec<Option<Generation>>,
    /// The indexes that are free, the last released on top: its entries are the likeliest to be in
    /// the cache.
    free: Vec<u32>,
    /// Invariant: in_use + free.len() + retired == generations.len(), and in_use <= limit.
    in_use: u32,
}

impl SlotNumbers {
    /// Numbers for at most `limit` slots at a time.
    ///
    /// Nothing is allocated for them yet: memory follows the highest number in use.
    pub fn new(limit: u32) -> SlotNumbers {
        SlotNumbers { limit, ledger: Mutex::default() }
    }

    /// Takes a number that nobody has, or `None` when `limit` are in use.
    pub fn reserve(&self) -> Option<Key> {
        let mut ledger = self.lock();
        if ledger.in_use >= self.limit {
            return None;
        }
        let key = ledger.reuse().or_else(|| ledger.extend())?;
        ledger.in_use += 1;
        Some(key)
    }

    /// Gives a number back, for others to have.
    ///
    /// Release it after its entries have left every table. Returns whether the key was in use; a
    /// stale one changes nothing.
    pub fn release(&self, key: Key) -> bool {
        self.lock().release(key)
    }

    /// Whether a number that was given out is still in use; with other threads at work, a moment ago.
    pub fn is_in_use(&self, key: Key) -> bool {
        self.lock().generations.get(key.index() as usize) == Some(&Some(key.generation()))
    }

    /// How many numbers are out at the moment; with other threads at work, a moment ago.
    pub fn in_use(&self) -> u32 {
        self.lock().in_use
    }

    /// How many numbers can be out at a time.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics between two steps of a change, so a poisoned ledger is still a sound one.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn reuse(&mut self) -> Option<Key> {
        let index = self.free.pop()?;
        let generation =
            self.generations[index as usize].expect("a retired index is never put on the free list");
        Some(Key::new(index, generation))
    }

    fn extend(&mut self) -> Option<Key> {
        let index = u32::try_from(self.generations.len()).ok().filter(|&index| index <= Key::MAX_INDEX)?;
        self.generations.push(Some(Generation::FIRST));
        Some(Key::new(index, Generation::FIRST))
    }

    fn release(&mut self, key: Key) -> bool {
        let Some(entry) = self.generations.get_mut(key.index() as usize) else {
            return false;
        };
        if *entry != Some(key.generation()) {
            return false;
        }
        *entry = key.generation().next();
        if entry.is_some() {
            self.free.push(key.index());
        }
        self.in_use -= 1;
        true
    }
}

/// How many entries a table allocates at a time.
///
/// With entries of a few hundred bytes a page is some hundred KiB: small beside what so many
/// sockets cost the kernel, large enough that the list of pages stays in the cache (1 KiB of it
/// names 65536 entries).
pub const PAGE_ENTRIES: usize = 1024;

/// Entries of one thread, found by [`Key`] with two loads, that never move.
///
/// Entries lie in pages of [`PAGE_ENTRIES`], and a page is allocated when its first entry comes. So
/// memory follows use, and growth copies no entry. Each access compares generations: a stale key
/// finds nothing.
///
/// ```text
///   pages      +---+---+---+        key = 2050#7: page 2, offset 2, generation 7
///              | * | - | * |        (-: not allocated)
///              +-|-+---+-|-+
///                |       +------->  +------+------+------+------+--
///                v                  |  #1  |      |  #7  |  #3  | ..
///               ...                 +------+------+------+------+--
/// ```
///
/// A table has no lock: it belongs to the thread that owns it.
///
/// # Examples
///
/// ```
/// use kolk_engine::slab::{SlotNumbers, Table};
///
/// let numbers = SlotNumbers::new(1000);
/// let mut names = Table::new();
///
/// let key = numbers.reserve().unwrap();
/// names.insert(key, "alice");
/// assert_eq!(names.get(key), Some(&"alice"));
///
/// assert_eq!(names.remove(key), Some("alice"));
/// numbers.release(key);
/// assert_eq!(names.get(key), None);
/// ```
pub struct Table<T> {
    /// `None` while a page is not allocated.
    pages: Vec<Option<Page<T>>>,
    /// Invariant: the number of entries that are `Some`.
    len: usize,
}

/// An array, and not a slice: its length is known, so an offset in it needs no check.
type Page<T> = Box<[Entry<T>; PAGE_ENTRIES]>;

/// The generation is never zero, so zero is how the compiler marks a vacant entry: no byte is spent
/// on a flag.
type Entry<T> = Option<Occupied<T>>;

struct Occupied<T> {
    generation: Generation,
    value: T,
}

impl<T> Table<T> {
    /// An empty table; it allocates nothing.
    pub const fn new() -> Table<T> {
        Table { pages: Vec::new(), len: 0 }
    }

    /// Puts `value` at `key`, and returns it in its place.
    ///
    /// # Panics
    ///
    /// If the entry is occupied, by this or by another generation. A number is released only after
    /// its entries are removed, so this is a bug of the engine, and to drop a live entry would hide
    /// it.
    pub fn insert(&mut self, key: Key, value: T) -> &mut T {
        let entry = reach(&mut self.pages, key);
        assert!(entry.is_none(), "slot {key:?} is given out while its entry is still occupied");
        let occupied = entry.insert(Occupied { generation: key.generation(), value });
        self.len += 1;
        &mut occupied.value
    }

    /// The value at `key`, unless the key is stale.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let (page, offset) = place(key);
        let occupied = self.pages.get(page)?.as_ref()?[offset].as_ref()?;
        key.is_of(occupied.generation).then_some(&occupied.value)
    }

    /// The value at `key`, to change it, unless the key is stale.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (page, offset) = place(key);
        let occupied = self.pages.get_mut(page)?.as_mut()?[offset].as_mut()?;
        key.is_of(occupied.generation).then_some(&mut occupied.value)
    }

    /// Starts to fetch what is at `key`, which is soon needed, into the cache.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        let (page, offset) = place(key);
        if let Some(Some(page)) = self.pages.get(page) {
            prefetch(&page[offset]);
        }
    }

    /// Takes the value at `key` out, unless the key is stale.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (page, offset) = place(key);
        let entry = &mut self.pages.get_mut(page)?.as_mut()?[offset];
        let occupied = entry.take_if(|occupied| key.is_of(occupied.generation))?;
        self.len -= 1;
        Some(occupied.value)
    }

    /// Whether there is a value at `key`.
    #[inline]
    pub fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// How many values there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values with their keys, in the order of their indexes. Visits vacant entries too: not
    /// for the way of a message.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let pages = self.pages.iter().enumerate();
        let entries = pages.flat_map(|(page, entries)| {
            (page * PAGE_ENTRIES..).zip(entries.iter().flat_map(|page| page.iter()))
        });
        entries.filter_map(|(index, entry)| {
            let occupied = entry.as_ref()?;
            Some((Key::new(index as u32, occupied.generation), &occupied.value))
        })
    }

    /// All values with their keys, to change them, in the order of their indexes. Visits vacant
    /// entries too.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        let pages = self.pages.iter_mut().enumerate();
        let entries = pages.flat_map(|(page, entries)| {
            (page * PAGE_ENTRIES..).zip(entries.iter_mut().flat_map(|page| page.iter_mut()))
        });
        entries.filter_map(|(index, entry)| {
            let occupied = entry.as_mut()?;
            Some((Key::new(index as u32, occupied.generation), &mut occupied.value))
        })
    }

    /// Frees the pages that hold no value. Moves nothing.
    ///
    /// Never done by `remove`, where a table that breathes around a page's edge would allocate at
    /// every breath; call it after a peak, when there is time. It visits every entry.
    pub fn shrink(&mut self) {
        for page in &mut self.pages {
            page.take_if(|entries| entries.iter().all(Option::is_none));
        }
        while self.pages.pop_if(|page| page.is_none()).is_some() {}
        self.pages.shrink_to_fit();
    }
}

/// The entry for `key`, in a page that is allocated if it has to be.
fn reach<T>(pages: &mut Vec<Option<Page<T>>>, key: Key) -> &mut Entry<T> {
    let (page, offset) = place(key);
    if page >= pages.len() {
        pages.resize_with(page + 1, || None);
    }
    &mut pages[page].get_or_insert_with(vacant_page)[offset]
}

/// A page without entries, made where it stays: it is too large for the stack.
fn vacant_page<T>() -> Page<T> {
    let entries: Box<[Entry<T>]> = (0..PAGE_ENTRIES).map(|_| None).collect();
    entries.try_into().unwrap_or_else(|_| unreachable!("it has PAGE_ENTRIES entries"))
}

/// The page, and the offset in it, where `key` belongs.
#[inline]
fn place(key: Key) -> (usize, usize) {
    let index = key.index() as usize;
    (index / PAGE_ENTRIES, index % PAGE_ENTRIES)
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::mem::size_of;
    use std::thread;

    fn key(index: usize) -> Key {
        Key::new(index as u32, Generation::FIRST)
    }

    #[test]
    fn no_more_than_the_limit_are_out_at_a_time() {
        let numbers = SlotNumbers::new(3);
        let keys: Vec<Key> = std::iter::from_fn(|| numbers.reserve()).collect();
        assert_eq!((keys.len(), numbers.in_use(), numbers.limit()), (3, 3, 3));
        assert!(numbers.release(keys[1]));
        assert_eq!(numbers.in_use(), 2);
        assert_eq!(numbers.reserve().map(Key::index), Some(keys[1].index()));
        assert_eq!(numbers.reserve(), None);
    }

    #[test]
    fn a_stale_key_releases_nothing() {
        let numbers = SlotNumbers::new(2);
        let first = numbers.reserve().expect("the first of two");
        assert!(numbers.release(first));
        assert!(!numbers.release(first));
        let second = numbers.reserve().expect("none is in use");
        assert!(!numbers.release(first));
        assert!(!numbers.release(key(99)));
        assert_eq!((second.generation().get(), numbers.in_use()), (2, 1));
    }

    #[test]
    fn a_number_is_retired_when_its_generations_are_used_up() {
        let numbers = SlotNumbers::new(1);
        numbers.reserve().expect("the first");
        numbers.lock().generations[0] = Some(Generation::LAST);
        assert!(numbers.release(Key::new(0, Generation::LAST)));
        assert!(!numbers.release(Key::new(0, Generation::LAST)));
        assert_eq!(numbers.reserve(), Some(key(1)), "a fresh number keeps up the limit");
        assert_eq!(numbers.reserve(), None);
    }

    #[test]
    fn threads_never_share_a_number() {
        let numbers = SlotNumbers::new(64);
        let work = || {
            let mut seen = Vec::new();
            for round in 0..500 {
                let keys: Vec<Key> = (0..round % 16).filter_map(|_| numbers.reserve()).collect();
                assert!(keys.iter().all(|key| numbers.release(*key)));
                seen.extend(keys);
            }
            seen
        };
        let seen: Vec<Key> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no assertion failed")).collect()
        });
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
        assert_eq!(numbers.in_use(), 0);
    }

    #[test]
    fn a_key_of_another_generation_finds_nothing() {
        let (mut table, old, new) =
            (Table::new(), key(5), Key::new(5, Generation::FIRST.next().expect("the second")));
        table.insert(old, 'a');
        assert_eq!(table.remove(old), Some('a'));
        *table.insert(new, 'b') = 'c';
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!((table.get(new), table.contains(old), table.len()), (Some(&'c'), false, 1));
    }

    #[test]
    #[should_panic(expected = "slot 5#2 is given out while its entry is still occupied")]
    fn an_occupied_entry_is_not_overwritten() {
        let mut table = Table::new();
        table.insert(key(5), ());
        table.insert(Key::new(5, Generation::FIRST.next().expect("the second")), ());
    }

    #[test]
    fn growth_moves_no_entry_and_allocates_only_the_pages_in_use() {
        let mut table = Table::new();
        let before: *const u64 = table.insert(key(0), 7u64);
        table.insert(key(100 * PAGE_ENTRIES), 8);
        assert!(std::ptr::eq(before, table.get(key(0)).expect("inserted above")));
        assert_eq!(table.pages.iter().flatten().count(), 2);
    }

    #[test]
    fn shrinking_frees_empty_pages_and_keeps_the_rest() {
        let mut table = Table::new();
        let keys = [key(1), key(PAGE_ENTRIES), key(2 * PAGE_ENTRIES), key(3 * PAGE_ENTRIES)];
        for key in keys {
            table.insert(key, key.index());
        }
        table.remove(keys[1]);
        table.remove(keys[3]);
        table.shrink();
        assert_eq!(table.pages.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(table.iter().map(|(key, _)| key).collect::<Vec<_>>(), [keys[0], keys[2]]);
    }

    #[test]
    fn values_are_visited_in_order_with_their_keys() {
        let mut table = Table::new();
        for index in [PAGE_ENTRIES + 1, 3, 2] {
            table.insert(key(index), index as u32);
        }
        for (key, value) in table.iter_mut() {
            *value += key.index();
        }
        let end = PAGE_ENTRIES as u32 + 1;
        assert_eq!(table.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [4, 6, 2 * end]);
        assert_eq!(format!("{table:?}"), format!("{{2#1: 4, 3#1: 6, {end}#1: {}}}", 2 * end));
    }

    #[test]
    fn an_entry_costs_four_bytes_beside_its_value() {
        assert_eq!(size_of::<Entry<[u32; 7]>>(), 32);
    }
}
