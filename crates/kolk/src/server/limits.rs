//! Every bound of the server, with the reason for its value.

use std::time::Duration;

/// Connections that may wait to be accepted: as many as the largest `somaxconn` that systems ship with.
pub(crate) const BACKLOG: i32 = 4096;

/// Bytes queued for one connection from which on it is not writable, and its reading pauses: the kernel has some
/// megabytes more, so a peer that reads at all is never kept waiting by it.
pub(crate) const OUTPUT_HIGH: u64 = 1 << 20;

/// Bytes queued for one connection at which it is writable again.
pub(crate) const OUTPUT_LOW: u64 = 256 << 10;

/// Bytes that may be queued for one connection at all. High enough for a large answer; without any, a peer that
/// never reads would take all memory.
pub(crate) const OUTPUT_CAP: u64 = 64 << 20;

/// Addresses of one server: a connection remembers its own in 16 bits.
pub(crate) const ADDRESSES_MAX: usize = 1 << 15;

/// Acceptors of one server. One serves more connections a second than a machine can open, so a few are
/// plenty; each has a listener of every address.
pub(crate) const ACCEPTORS_MAX: usize = 64;

/// Time that an outbound connection has to be made: three retries of the first packet, after 1, 3 and 7 s.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a loop has to answer a question of another thread before that gives up: longer than any turn of a
/// loop that works.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest payload of a datagram: 65 535 bytes of an IPv4 packet, less its header and that of UDP.
pub(crate) const DATAGRAM_SIZE_MAX: usize = 65_507;

/// Datagrams that may wait on one socket: those of some turns of receiving and answering.
pub(crate) const DATAGRAMS_QUEUED: usize = 4096;

/// Bytes of them.
pub(crate) const DATAGRAM_BYTES_QUEUED: usize = 8 << 20;

/// Pauses after receives of datagrams that failed one after the other, as after an accept.
pub(crate) const RECEIVE_BACKOFF_MIN: Duration = kolk_engine::limits::ACCEPT_BACKOFF_MIN;

/// The longest of them.
pub(crate) const RECEIVE_BACKOFF_MAX: Duration = kolk_engine::limits::ACCEPT_BACKOFF_MAX;

/// What the kernel is asked to keep of the datagrams that arrive on one UDP socket. The usual 208 KiB hold some
/// 90 short ones, 5 ms of 20 000 a second; a scheduler may keep a loop away for longer.
pub(crate) const DATAGRAM_RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes that a handler may leave unconsumed on one connection. A frame that is longer needs a higher
/// limit; without any, a peer that never ends its frame would take all memory.
pub(crate) const INPUT_LIMIT: usize = 1 << 20;

/// Time that connections have to send what is queued when the server stops. Short, because somebody who
/// pressed Ctrl-C waits for it.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Time that a closing connection has, unless configured otherwise.
pub(crate) const CLOSE_TIMEOUT: Duration = kolk_engine::limits::CLOSE_TIMEOUT;

/// How far accepting may run ahead of its rate before it pauses: pausing after each connection would cost two
/// timers for it.
pub(crate) const ACCEPT_SLACK: Duration = Duration::from_millis(10);

/// Threads for slow work: enough to wait for several disks or databases at a time.
pub(crate) const POOL_THREADS: usize = 4;

/// Jobs that may wait for one of them; at 10 ms a job and four threads, a queue of 2.5 s.
pub(crate) const POOL_QUEUE: usize = 1024;

/// Pause of a pool thread that finds a loop's mailbox full, before it tries again.
pub(crate) const GIVE_BACK_PAUSE: Duration = Duration::from_millis(1);

/// Requests of callbacks that a turn carries out; the rest wait for the next, which does not wait. Two
/// connections that ask each other for something would else never let the loop see its sockets.
pub(crate) const LATER_PER_TURN: usize = 1024;

/// Event loops of one server: their number is part of a connection's name and has 16 bits.
pub(crate) const EVENT_LOOPS_MAX: usize = 1 << 16;

/// Connections to which broadcasts write in one turn of a loop; the rest follows in the next turns, which do not
/// wait. As many as a loop has spare out-queues: each turn's are back before the next, so a message to 10 000 needs no
/// memory for 10 000 sends, and who is not concerned waits for no more than these.
pub(crate) const BROADCAST_WRITES_PER_TURN: usize = kolk_engine::limits::SPARE_OUT_QUEUES;

/// Names of receivers for which a loop keeps room between broadcasts: 128 KiB.
pub(crate) const RETAINED_RECEIVERS: usize = 16 * 1024;
