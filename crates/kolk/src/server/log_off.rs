//! Without the feature `tracing`, the server tells nothing.

use kolk_engine::token::ConnId;

pub(super) fn callback_panicked(_loop_number: u16, _conn: Option<ConnId>) {}

pub(super) fn job_panicked(_conn: ConnId) {}

pub(super) fn stopping(_loop_number: u16, _connections: u64) {}
