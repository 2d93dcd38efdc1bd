//! Every bound of the watcher, with the reason for its value.

/// Writes of one connection that go to the engine together: as many chunks as one send takes anyway. A longer
/// run would only have to be taken back when one of them is cancelled.
pub(super) const WRITES_PER_SEND: u32 = 64;

/// Bytes of one connection that go to the engine together, the last write excepted: past a socket buffer
/// nothing is gained, and what is not handed over can be cancelled without harm.
pub(super) const BYTES_PER_SEND: u64 = 1 << 20;

/// Completions that one wait brings, unless the program chooses: a batch that stays in the first-level cache.
pub(super) const BATCH: usize = 256;

/// Least capacity of a buffer that replaces one which cannot be recycled: a page.
pub(super) const RECYCLED_CAPACITY: usize = 4096;

/// Emptied boxes of one kind kept for reuse: several batches' worth, in a few hundred KiB. What a larger burst
/// leaves is given back.
pub(super) const SPARES: usize = 4096;

/// Longest delimiter in bytes: the end of an HTTP head takes four.
pub(super) const DELIMITER_MAX: usize = 7;
