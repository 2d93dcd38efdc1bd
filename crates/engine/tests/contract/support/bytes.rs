//! Bytes to send, chance, and what failures print.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kolk_engine::buffer::OutQueue;

/// Bytes in which no place looks like another nearby.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place ^ (place >> 8) ^ (place >> 15)) as u8).collect()
}

pub(crate) fn queue(bytes: &[u8]) -> Box<OutQueue> {
    let mut queue = Box::new(OutQueue::default());
    queue.push_copy(bytes);
    queue
}

/// A file without a name.
pub(crate) fn temporary_file(bytes: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("kolk-contract-{}", std::process::id()));
    fs::write(&path, bytes).expect("the temporary folder takes a file");
    let file = File::options().read(true).write(true).open(&path).expect("just written");
    fs::remove_file(&path).expect("just written");
    file
}

/// Counts the shared bytes that it made and that are not dropped yet.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub(crate) fn bytes(&self, bytes: Vec<u8>) -> Bytes {
        self.0.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Counted(bytes, self.clone()))
    }

    /// How many are alive. Dropping one twice would make it wrap.
    pub(crate) fn alive(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted(Vec<u8>, Counter);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Chance, the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The beginning of what is printed of something that may hold megabytes.
pub(crate) fn brief(thing: &impl std::fmt::Debug) -> String {
    format!("{thing:?}").chars().take(500).collect()
}

#[track_caller]
pub(crate) fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, errno: i32) {
    let error = result.expect_err("an error is due");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
}

#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(result: io::Result<T>, kind: io::ErrorKind) {
    assert_eq!(result.expect_err("an error is due").kind(), kind);
}
