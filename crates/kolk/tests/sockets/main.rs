//! How connections and datagrams come to a server, by number, on each kernel interface.

#[path = "../support/mod.rs"]
mod support;

mod accepting;
mod datagrams;
mod inheriting;
mod outbound;
mod simulated;
