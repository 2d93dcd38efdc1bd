//! Every bound of the engine, with the reason for its value.
//!
//! A queue without a bound hides a fault until memory runs out, and a loop without one starves its
//! neighbours, so each has a name here. Sizes that a program may want to change are defaults of
//! [`Config`](crate::Config). What was measured to choose some of them stands in `docs/decisions/`.

use std::time::Duration;

/// Completions taken from the kernel in one turn.
///
/// Large enough that one system call is shared by many messages, small enough that the batch
/// (about 20 KiB) stays in the first-level cache together with what the handlers touch.
pub const COMPLETIONS_PER_TURN: usize = 256;

/// Mailbox messages handled in one turn, so that busy senders cannot keep the loop from its sockets.
pub const MESSAGES_PER_TURN: usize = 1024;

/// Messages that may wait in a mailbox before senders are told that it is full.
pub const MAILBOX_CAPACITY: usize = 1 << 20;

/// Room for messages, in each of a mailbox's two buffers, that is kept when a burst is over.
///
/// Enough that the ordinary turn does not allocate; some ten KiB a loop when a message is a few words.
pub const RETAINED_MESSAGES: usize = 256;

/// Slots that the epoll driver lets run in one turn. Each receives, and its answer is sent, by system calls within the
/// turn: so few are done within a millisecond or two, and one wait for so many costs nothing that could be seen.
pub const RUNS_PER_TURN: usize = 64;

/// Timers fired in one turn; the rest fire in the next, which does not wait.
pub const TIMERS_PER_TURN: usize = 1024;

/// Connections taken from one listener in one turn: an accept storm must not stop those that are served.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Datagrams taken from one socket in one turn.
pub const DATAGRAMS_PER_TURN: usize = 64;

/// Datagrams that one socket may send in one turn: the time of about one such turn of receiving, since
/// a send costs the kernel more than a receive and many are one system call.
pub const DATAGRAMS_SENT_PER_TURN: usize = 256;

/// Messages of one system call that receives or sends datagrams.
///
/// With 32 the call itself is some 2 % of what the kernel does for them, and their first pages, which are all
/// that short datagrams touch, fit the second-level cache.
pub const DATAGRAMS_PER_CALL: usize = 32;

/// Datagrams that the kernel may be given as one: `UDP_MAX_SEGMENTS` of Linux before 6.9, larger since.
pub const SEGMENTS_PER_DATAGRAM: usize = 64;

/// Bytes one connection may receive with one system call on a readiness kernel.
///
/// A flood on one connection then takes at most a quarter of the arena before the others have
/// their turn, and 64 KiB already hides the cost of the call.
pub const RECEIVE_SIZE: usize = 64 * 1024;

/// The arena is not offered to a receive when less than this is left of it.
///
/// A shorter rest would cut messages into pieces for no saving of memory.
pub const RECEIVE_SIZE_MIN: usize = 4 * 1024;

/// Size of a readiness driver's arena block: half of a common second-level cache (512 KiB), so that
/// what one turn receives is still there when the same turn sends it.
pub const ARENA_BLOCK_SIZE: usize = 256 * 1024;

/// Arena blocks a loop may own. One is hot; the others replace it while leases pin it.
pub const ARENA_BLOCKS: usize = 4;

/// Size of one buffer of the shared receive ring.
pub const RING_BUFFER_SIZE: usize = 4 * 1024;

/// Buffers that the kernel may fill at one time: with [`RING_BUFFER_SIZE`], 512 KiB.
///
/// Measured with 64, 128 and 256: 64 cost 20 % more CPU a message at 1000 connections with 1 KiB, where
/// they ran out; 256 cost 20 % more at 64 KiB, since the more of a large message goes through small buffers, the
/// less is read in one piece.
pub const RING_BUFFERS: u16 = 128;

/// Further buffers that replace those which leases hold. When they are gone too, received bytes are
/// copied out, so the ring never runs dry because of a hoarder.
pub const RING_SPARE_BUFFERS: u16 = 128;

/// Silence after which a stream is parked on io_uring, see
/// [`DriverConfig::park_after`](crate::driver::DriverConfig::park_after).
///
/// To park a stream, and to bring it back once it speaks often, costs some 5 us together. At 30 s that is nothing
/// beside what happens meanwhile, and a silence of that length is likely to go on.
pub const PARK_AFTER: Duration = Duration::from_secs(30);

/// Rows at which one visit looks for silent streams: at most 0.4 ms.
pub const ROWS_PER_PARK_STEP: usize = 4096;

/// Streams parked at one visit: about 0.1 ms among 10 000.
pub const PARKED_PER_STEP: usize = 64;

/// In a crowd fewer are parked at one visit: this number divided by that of the rows. The kernel looks for what is to be
/// cancelled in lists as long as there are waiting operations, so a visit takes no longer than 2 ms.
pub const PARK_LOOK_UPS: usize = 1 << 20;

/// Pause between two visits of one round, which then takes some 3 % of the time at most.
pub const PARK_STEP: Duration = Duration::from_millis(50);

/// Rows beyond which a stream begins parked, since to park it later becomes dear.
pub const CROWD: usize = 16 * 1024;

/// Receives of a parked stream between two visits after which it is worth a multishot receive again: that costs about as
/// much as it saves with so many messages.
pub const HEARD_IN_RING: u8 = 8;

/// Descriptors for which a process has room from the start: 64 KiB of kernel memory. To make room for more takes
/// the kernel milliseconds; it is done before it is needed, see the driver's `descriptors`.
pub const DESCRIPTOR_ROOM: u32 = 8 * 1024;

/// Entries of the submission queue. What does not fit is submitted early.
pub const SUBMISSION_ENTRIES: u32 = 512;

/// Entries of the completion queue: never below 4096, because accept floods overflow a smaller one.
pub const COMPLETION_ENTRIES: u32 = 4096;

/// Chunks passed to the kernel in one send. Linux takes 1024 (`UIO_MAXIOV`); past 64 the call is no
/// longer what costs.
pub const CHUNKS_PER_SEND: usize = 64;

/// Bytes one connection may send in one turn by calls that do not wait, and most bytes of a file in one such
/// call: a fast reader of a large file or queue would hold the loop for as long as it lasts.
pub const SEND_BYTES_PER_TURN: u64 = 1 << 20;

/// Sockets whose state stays in the first-level cache while a loop goes through its completions. With more it fetches
/// what the next messages need ahead of them, which costs an eighth of a message's instructions. A driver whose
/// operations are calls always does: the kernel's work in each of them displaces the cache.
pub const CACHED_SLOTS: usize = 256;

/// Bytes from which on what was written leaves before the next event instead of with the turn: a message of this
/// size displaces the last from the first-level cache, and its send costs so much that a system call is nothing.
pub const EAGER_SEND: u64 = 32 * 1024;

/// A write up to this many bytes is copied into the out-queue; a longer one is kept by reference.
///
/// Copying so little costs less than keeping a reference and a further entry of the send. A lease that is all that is
/// written is sent as it is, where the driver has memory for all of them.
pub const COPY_SIZE: usize = 512;

/// Copied bytes that an out-queue counts as its lead, which is sent before all else; what follows is a piece.
pub const LEAD_SIZE: usize = 1024 * 1024;

/// Emptied out-queues kept for reuse by one loop: as many as one turn can have in flight.
pub const SPARE_OUT_QUEUES: usize = COMPLETIONS_PER_TURN;

/// Bytes of copy space an out-queue keeps when it goes back to the spares; a larger one is freed, so
/// a burst leaves nothing behind.
pub const SPARE_COPY_CAPACITY: usize = 2 * 1024;

/// Bytes that an out-queue may have held and still be kept. One that held more was probably made in a burst,
/// and lies between the large blocks of that: kept, it would keep the allocator from giving these back. To make a
/// new one is nothing beside sending so much.
pub const SPARE_QUEUE_HELD: u64 = 128 * 1024;

/// Bytes from which on an out-queue counts towards a burst: more than most answers have, and so many that to
/// count them costs nothing beside sending them.
pub const LARGE_QUEUE: u64 = 8 * 1024;

/// Bytes that large out-queues held before the system is to get back what they took: less is not worth it.
pub const BURST_BYTES: u64 = 16 << 20;

/// The same after a burst, for what its slowest readers have not read yet.
pub const BURST_REST: u64 = 256 << 10;

/// Time without any large out-queue after which a burst is over. Long enough that who sends much all the time keeps
/// its memory, which it would only have to ask for again.
pub const BURST_PAUSE: Duration = Duration::from_millis(500);

/// Chunks an out-queue keeps room for when it goes back to the spares.
pub const SPARE_CHUNK_CAPACITY: usize = 16;

/// Datagrams a queue of them keeps room for when it is empty: some turns of receiving and answering. There are few
/// such queues, two for each datagram socket, so they may keep more than connections do.
pub const SPARE_DATAGRAM_CAPACITY: usize = 4 * DATAGRAMS_PER_TURN;

/// Bytes of copy space such a queue keeps: as many datagrams of the usual Ethernet packet's size.
pub const SPARE_DATAGRAM_BYTES: usize = DATAGRAMS_PER_TURN * 1500;

/// Bytes thrown away from a peer that still sends while the connection closes.
///
/// Closing with unread input turns the FIN into a reset, which may destroy our last bytes on their
/// way (RFC 2525, section 2.17). Reading a little more lets most peers end in order; reading for ever
/// would be an attack. Past this, the loop reads no more and waits until the peer's kernel has
/// everything.
pub const DRAIN_BYTES: usize = 256 * 1024;

/// How often it asks whether that is so: a round trip on a long line, and seldom enough to cost nothing.
pub const UNSENT_CHECK: Duration = Duration::from_millis(20);

/// Time a closing connection has to send what is queued and to see the peer's end of stream.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// First pause after an accept failed for lack of a resource (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`).
pub const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(5);

/// Longest pause after repeated accept failures: a second is soon enough for an operator's repair
/// and rare enough to cost nothing.
pub const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Turns a dropped driver waits for what is in flight before it leaks that memory on purpose.
pub const TEARDOWN_TURNS: usize = 1000;

/// Longest wait of one of these turns.
pub const TEARDOWN_WAIT: Duration = Duration::from_millis(1);

/// Slots of one loop, unless configured otherwise.
pub const SLOTS: u32 = 1 << 24;
