//! The promises of the watcher, by number, on each kernel interface.

mod alone;
mod bulk;
mod descriptors;
#[path = "../support/dice.rs"]
mod dice;
mod differential;
mod ending;
mod reading;
mod relaying;
mod sockets;
mod storms;
mod support;
mod threads;
mod timing;
mod writing;
