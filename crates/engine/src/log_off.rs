//! Without the feature `tracing`, the engine tells nothing.

use std::io;
use std::time::Duration;

use crate::token::ConnId;

pub(crate) fn driver_chosen(_loop_number: u16, _reason: &str) {}

pub(crate) fn accept_paused(_listener: ConnId, _error: &io::Error, _pause: Duration) {}
