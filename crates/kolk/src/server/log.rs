//! What the server tells an operator, as `tracing` events.

use kolk_engine::token::ConnId;

pub(super) fn callback_panicked(loop_number: u16, conn: Option<ConnId>) {
    match conn {
        Some(conn) => tracing::error!(loop_number, %conn, "a callback panicked: its connection is closed"),
        None => tracing::error!(loop_number, "a callback of the loop panicked"),
    }
}

pub(super) fn job_panicked(conn: ConnId) {
    tracing::error!(%conn, "an offloaded job panicked: its connection is closed");
}

pub(super) fn stopping(loop_number: u16, connections: u64) {
    tracing::info!(loop_number, connections, "the server is stopping");
}
