//! How the simulated kernel behaves.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How often a read or write moves less than it could, in the calm preset: chunking is no fault.
const CALM_SHORT_TRANSFERS: u16 = 300;

/// Behaviour of a [`SimNet`](super::SimNet). Every choice it leaves open is drawn from the seed.
///
/// Rates are *per mille*: 0 is never, 1000 is always. Start from a preset and change what the test is
/// about.
///
/// # Examples
///
/// ```
/// use kolk_engine::driver::SimConfig;
///
/// let config = SimConfig { backlog: 2, ..SimConfig::calm(7) };
/// assert_eq!((config.seed, config.resets), (7, 0));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// Chooses everything that is left to chance.
    pub seed: u64,
    /// Longest time that bytes, ends of streams and handshakes are under way, in virtual time.
    pub latency: Duration,
    /// Bytes that fit between a writer and its reader: each direction of each stream draws its own.
    pub socket_buffer: RangeInclusive<usize>,
    /// Datagrams that wait at a socket; further ones are lost, as UDP loses them.
    pub datagram_queue: usize,
    /// Connections that wait at a listener; further ones are refused.
    pub backlog: usize,
    /// Most blocks in a driver's receive pool, whatever its own configuration allows.
    pub receive_blocks: usize,
    /// Most bytes of one such block.
    pub receive_block_size: usize,
    /// Rate of reads and writes that move only a part of what they could.
    pub short_transfers: u16,
    /// Rate of operations with a single outcome that may end in `submit`, if they can.
    pub done_at_once: u16,
    /// Whether sockets that are ready in the same turn complete in random order.
    pub reordering: bool,
    /// Rate of completions that come later than they could.
    pub late_completions: u16,
    /// Longest such delay, in virtual time.
    pub lateness: Duration,
    /// Rate of accepts that fail (`ECONNABORTED`, `EMFILE`, `ENFILE`, `ENOBUFS`). No connection is lost
    /// by it: the next accept gets it.
    pub accept_errors: u16,
    /// Rate of writes that find the connection reset. Zero in both presets.
    pub resets: u16,
    /// Rate of datagrams that are lost on their way. Zero in both presets.
    pub datagram_loss: u16,
}

impl SimConfig {
    /// No fault and no delay; only how streams are cut into pieces is left to chance.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            latency: Duration::ZERO,
            socket_buffer: 16 * 1024..=64 * 1024,
            datagram_queue: 256,
            backlog: 128,
            receive_blocks: usize::MAX,
            receive_block_size: usize::MAX,
            short_transfers: CALM_SHORT_TRANSFERS,
            done_at_once: 500,
            reordering: false,
            late_completions: 0,
            lateness: Duration::ZERO,
            accept_errors: 0,
            resets: 0,
            datagram_loss: 0,
        }
    }

    /// Everything that a kernel may do to a program which loses no connection and no datagram: short
    /// reads and writes, tiny socket buffers, delays, completions out of order between sockets, failing
    /// accepts, and a receive pool that is always short.
    pub fn stormy(seed: u64) -> Self {
        Self {
            latency: Duration::from_millis(2),
            socket_buffer: 16..=4096,
            receive_blocks: 8,
            receive_block_size: 512,
            short_transfers: 700,
            reordering: true,
            late_completions: 200,
            lateness: Duration::from_millis(1),
            accept_errors: 100,
            ..Self::calm(seed)
        }
    }
}
