//! What the engine tells an operator, as `tracing` events.

use std::io;
use std::time::Duration;

use crate::token::ConnId;

pub(crate) fn driver_chosen(loop_number: u16, reason: &str) {
    tracing::info!(loop_number, "{reason}");
}

pub(crate) fn accept_paused(listener: ConnId, error: &io::Error, pause: Duration) {
    tracing::warn!(%listener, %error, ?pause, "accepting is paused for lack of a resource");
}
