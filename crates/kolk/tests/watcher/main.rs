//! The promises of the watcher, by number, on each kernel interface.

mod reading;
mod support;
mod writing;
