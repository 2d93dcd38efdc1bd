//! What the benchmarks share.
//!
//! | module | is |
//! |---|---|
//! | [`process`] | servers and loads as child processes: on a processor of their own, bounded in time, never left behind |
//! | [`address`] | where a server listens, as kolk and as the peers write it |
//! | [`account`] | processor time and memory of a process, as the kernel counts them |
//! | [`duration`] | times as the command lines write them |

pub mod account;
pub mod address;
pub mod duration;
pub mod process;

/// What went wrong, in a sentence: what was tried, on what.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
