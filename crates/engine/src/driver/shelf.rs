//! A place for what only few slots have at one time.

use std::num::NonZeroU32;

/// Things in numbered places, so that a slot which has none pays four bytes for the possibility.
///
/// Places are used again, the last one first; nothing is allocated in steady state.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    places: Vec<Option<T>>,
    free: Vec<Place>,
}

/// Where something stands on a [`Shelf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// One more than the index, so that `Option<Place>` is four bytes as well.
pub(super) struct Place(NonZeroU32);

impl Place {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl<T> Shelf<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    #[inline]
    pub(super) fn put(&mut self, thing: T) -> Place {
        if let Some(place) = self.free.pop() {
            self.places[place.index()] = Some(thing);
            return place;
        }
        self.places.push(Some(thing));
        Place(NonZeroU32::new(self.places.len() as u32).expect("fewer than 2^32 things"))
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        self.places[place.index()].as_mut().expect("a place is only known while something stands there")
    }

    #[inline]
    pub(super) fn take(&mut self, place: Place) -> T {
        self.free.push(place);
        self.places[place.index()].take().expect("a place is only known while something stands there")
    }
}
