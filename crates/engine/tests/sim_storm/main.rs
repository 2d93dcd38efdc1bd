//! Event loops on the simulated kernel, with peers that do whatever a network does. `KOLK_SEED=n` runs one
//! seed.

mod connects;
mod echo;
mod ends;
mod receives;
#[path = "../sim_helper/mod.rs"]
mod sim_helper;
mod station;
mod talks;
mod timers;
