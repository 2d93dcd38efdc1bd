//! A place for what only few slots have at one time.

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
pub(super) struct Place(u32);

impl<T> Shelf<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn put(&mut self, thing: T) -> Place {
        if let Some(place) = self.free.pop() {
            self.places[place.0 as usize] = Some(thing);
            return place;
        }
        self.places.push(Some(thing));
        Place(self.places.len() as u32 - 1)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        self.places[place.0 as usize].as_mut().expect("a place is only known while something stands there")
    }

    pub(super) fn take(&mut self, place: Place) -> T {
        self.free.push(place);
        self.places[place.0 as usize].take().expect("a place is only known while something stands there")
    }
}
