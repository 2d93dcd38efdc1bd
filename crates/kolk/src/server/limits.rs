//! Every bound of the server, with the reason for its value.

use std::time::Duration;

/// Connections that may wait to be accepted: as many as the largest `somaxconn` that systems ship with.
pub(crate) const BACKLOG: i32 = 4096;

/// Bytes that a handler may leave unconsumed on one connection. A frame that is longer needs a higher
/// limit; without any, a peer that never ends its frame would take all memory.
pub(crate) const INPUT_LIMIT: usize = 1 << 20;

/// Time that connections have to send what is queued when the server stops. Short, because somebody who
/// pressed Ctrl-C waits for it.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Event loops of one server: their number is part of a connection's name and has 16 bits.
pub(crate) const EVENT_LOOPS_MAX: usize = 1 << 16;
