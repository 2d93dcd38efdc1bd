//! The server's core by the numbers of its promises: callbacks, input and output, handles, timers, limits.
//!
//! Each test is written once, as a function of the [`World`](support::World) it runs in, and runs on io_uring, on
//! epoll and, unless it needs sockets of the real kernel, on the simulated one: calm, and in storms whose seed is
//! printed. `KOLK_SEED=n` runs one storm only.

#[path = "../support/dice.rs"]
mod dice;
mod support;

mod asking;
mod broadcasting;
mod differential;
mod faults;
mod input;
mod life;
mod limits;
mod offloading;
mod output;
mod pressure;
mod stopping;
mod timing;
