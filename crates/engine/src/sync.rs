//! The primitives that threads share, from `std` or, under `--cfg loom`, from the model checker.
//!
//! `mailbox` and `wake` take theirs from here, so the code that ships is the code that loom explores.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, Ordering, fence},
};

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, Ordering, fence},
};
