//! The buffers against plain models: bytes against `Vec<u8>`, blocks against sets of those that are held.

mod arena;
mod linked;
mod out_queue;
mod pool;

/// Of the pools that pieces are taken from, in bytes.
const BLOCK_SIZE: usize = 96;
const BLOCKS: usize = 70;

/// Bytes that no other call with a nearby `stamp` gives.
fn stamped(stamp: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| (stamp * 31 + place * 7 + (place >> 8)) as u8).collect()
}

/// One of `0..=most`, by any number.
fn portion(any: usize, most: usize) -> usize {
    any % (most + 1)
}

/// A place in a list of `len`, by any number; `None` in an empty one.
fn place(any: usize, len: usize) -> Option<usize> {
    any.checked_rem(len)
}
