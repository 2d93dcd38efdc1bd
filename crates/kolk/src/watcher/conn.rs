//! What the watcher keeps for one connection.

use std::io;

use kolk_engine::buffer::Lease;
use kolk_engine::token::Key;

use super::adopt::Kind;
use super::pending::Lane;

/// What the watcher keeps for one connection; what it waits for lies in the lanes.
#[derive(Debug)]
pub(super) struct Conn {
    /// Reads; on a listener its accept, on a plain descriptor its watch, and in front of them a connect.
    pub(super) input: Lane,
    /// Writes.
    pub(super) output: Lane,
    /// Received, and asked for by no read. Never empty.
    pub(super) unread: Option<Box<Lease>>,
    /// Receives of the first operations of `input` that are in the kernel.
    pub(super) receiving: u32,
    /// First operations of `output` that are with the engine.
    pub(super) sending: u32,
    pub(super) input_end: Option<End>,
    pub(super) output_end: Option<io::ErrorKind>,
    pub(super) kind: Kind,
    pub(super) flags: Flags,
}

/// How the input ended, for the reads to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stream,
    Failure(io::ErrorKind),
}

/// What is so or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// It closes; what is pending ends when it is closed.
    pub(super) freed: bool,
    /// The connect is in flight.
    pub(super) connecting: bool,
    /// It is in the list of those that have something to send.
    pub(super) dirty: bool,
    /// Our direction ends after the writes that are queued.
    pub(super) shuts_down: bool,
    /// The engine reports each send.
    pub(super) reported: bool,
    /// Its readiness is watched: reading and writing is the program's.
    pub(super) watched: bool,
    /// A cancel of the receive, or of the send, is on its way.
    pub(super) stopping_receive: bool,
    pub(super) stopping_send: bool,
}

impl Conn {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            input: Lane::EMPTY,
            output: Lane::EMPTY,
            unread: None,
            receiving: 0,
            sending: 0,
            input_end: None,
            output_end: None,
            kind,
            flags: Flags::default(),
        }
    }

    /// Whether the first read needs the kernel, and may have it.
    #[inline]
    pub(super) fn awaits_bytes(&self) -> bool {
        let is_ready = !self.flags.freed && !self.flags.connecting && self.receiving == 0;
        is_ready && self.unread.is_none() && self.input_end.is_none()
    }

    pub(super) fn is_idle(&self) -> bool {
        let waits = !self.input.is_empty() || !self.output.is_empty() || self.flags.shuts_down;
        !waits && self.receiving == 0 && self.sending == 0
    }
}

/// What a timer of the loop ends, with whose it is: the payload of that timer.
///
/// ```text
///   63  56 55 48 47            0
///  +------+-----+---------------+
///  | due  |  0  |      key      |
///  +------+-----+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Due {
    Input,
    Output,
    Timer,
    Relay,
}

impl Due {
    pub(super) fn pack(self, key: Key) -> u64 {
        (self as u64) << 56 | key.to_u64()
    }

    pub(super) fn unpack(payload: u64) -> Option<(Self, Key)> {
        let due = match payload >> 56 {
            0 => Self::Input,
            1 => Self::Output,
            2 => Self::Timer,
            3 => Self::Relay,
            _ => return None,
        };
        Some((due, Key::from_u64(payload)?))
    }
}

#[cfg(test)]
mod tests {
    use kolk_engine::token::Generation;

    use super::*;

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Conn>() <= 48, "{}", size_of::<Conn>());
    }

    #[test]
    fn a_payload_says_what_is_due_and_whose() {
        let key = Key::new(Key::MAX_INDEX, Generation::LAST);
        for due in [Due::Input, Due::Output, Due::Timer, Due::Relay] {
            assert_eq!(Due::unpack(due.pack(key)), Some((due, key)));
        }
        assert_eq!(Due::unpack(u64::MAX), None);
    }
}
