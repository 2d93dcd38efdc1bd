//! Writing to a connection, and how much may be queued.
//!
//! ```text
//!  bytes queued ──────────────────────────────────────────────────────────►
//!  0        low watermark           high watermark                     cap
//!  ├─────────────┼───────────────────────┼──────────────────────────────┤
//!       on_writable, and reading      is_writable is false,       Overflow says
//!       goes on, when it falls        reading pauses, when        what goes
//!       below this                    it rises above this
//! ```

use kolk_engine::Close;
use kolk_engine::buffer::{Chunk, Fill};

use super::conn::Conn;
use super::handler::CloseReason;
use super::limits::{OUTPUT_CAP, OUTPUT_HIGH, OUTPUT_LOW};
use super::state::Gate;

/// What happens to a write when more than the cap would be queued for its connection.
///
/// A message that is dropped is dropped as a whole, so the peer's stream stays well-formed: each call of a writing
/// method is one message. A message that alone is larger than the cap is queued when nothing else is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The connection is reset: [`CloseReason::OutputLimit`].
    #[default]
    Close,
    /// The message is dropped.
    DropNew,
    /// The oldest messages that have not begun to leave are dropped, until the new one fits.
    DropOld,
    /// All messages that have not begun to leave are dropped, but the new one: for states, of which only the last
    /// counts.
    KeepLatest,
}

/// Limits of what is queued for one connection, in bytes.
#[derive(Clone, Debug)]
pub(super) struct OutputLimits {
    /// 0 <= low <= high
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) cap: u64,
    pub(super) overflow: Overflow,
    /// Whether reading pauses above the high watermark.
    pub(super) pauses_reading: bool,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self {
            low: OUTPUT_LOW,
            high: OUTPUT_HIGH,
            cap: OUTPUT_CAP,
            overflow: Overflow::Close,
            pauses_reading: true,
        }
    }
}

impl OutputLimits {
    fn drops_old(&self) -> bool {
        matches!(self.overflow, Overflow::DropOld | Overflow::KeepLatest)
    }

    /// A write after which no more than this is queued needs no second look.
    pub(super) fn careless(&self) -> u64 {
        match self.overflow {
            Overflow::Close => self.high.min(self.cap),
            // The messages of a queue of which some may be dropped are all known.
            Overflow::DropOld | Overflow::KeepLatest | Overflow::DropNew => 0,
        }
    }
}

/// Writing.
///
/// All writes of one turn of the loop leave together, in one send; from 32 KiB on, as soon as the callback
/// returns, and a piece of input of that size, with nothing queued before it, at once. On a connection that is closing
/// they go nowhere.
impl Conn<'_> {
    /// Queues bytes that are kept by reference: `Bytes`, `Vec<u8>`, static slices and strings, a
    /// [`FileRange`](crate::FileRange), what [`Input::take`](super::Input::take) gave. Up to 512 bytes are copied
    /// instead, which is cheaper.
    #[inline]
    pub fn write(&mut self, chunk: impl Into<Chunk>) {
        if self.home.careless == 0 {
            return self.write_if_admitted(chunk.into());
        }
        let chunk = chunk.into();
        let len = chunk.len();
        if let Ok(queued) = self.event_loop.write(self.id, chunk) {
            self.wrote(len, queued);
        }
    }

    /// The same where not every message may be queued.
    #[cold]
    fn write_if_admitted(&mut self, chunk: Chunk) {
        let len = chunk.len();
        if self.admits(len)
            && let Ok(queued) = self.event_loop.write(self.id, chunk)
        {
            self.wrote(len, queued);
        }
    }

    /// Queues a copy of `bytes`.
    #[inline]
    pub fn write_copy(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        if !self.admits(len) {
            return;
        }
        if let Ok(queued) = self.event_loop.write_copy(self.id, bytes) {
            self.wrote(len, queued);
        }
    }

    /// Queues several pieces as one message.
    ///
    /// # Examples
    ///
    /// ```
    /// use kolk::server::Conn;
    ///
    /// fn answer(conn: &mut Conn<'_>, body: bytes::Bytes) {
    ///     let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    ///     conn.write_vectored([head.into_bytes().into(), body.into()]);
    /// }
    /// ```
    pub fn write_vectored(&mut self, chunks: impl AsRef<[Chunk]> + IntoIterator<Item = Chunk>) {
        let len = chunks.as_ref().iter().map(Chunk::len).sum();
        if !self.admits(len) {
            return;
        }
        for chunk in chunks {
            if self.event_loop.write(self.id, chunk).is_err() {
                return;
            }
        }
        self.wrote(len, self.event_loop.queued(self.id));
    }

    /// Reserves room for `reserve` bytes behind what is queued, and lets `fill` write there: no buffer, and no copy,
    /// in between. It may write less or more. See [`BufMut`](bytes::BufMut) and [`std::io::Write`] for how.
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::BufMut;
    /// use kolk::server::Conn;
    ///
    /// fn send(conn: &mut Conn<'_>, payload: &[u8]) {
    ///     conn.write_with(4 + payload.len(), |fill| {
    ///         fill.put_u32(payload.len() as u32);
    ///         fill.put_slice(payload);
    ///     });
    /// }
    /// ```
    pub fn write_with(&mut self, reserve: usize, fill: impl FnOnce(&mut Fill<'_>)) {
        if !self.admits(reserve as u64) {
            return;
        }
        if let Ok((len, queued)) = self.event_loop.write_with(self.id, reserve, fill) {
            self.wrote(len, queued);
        }
    }

    /// Sends what is queued at once, instead of at the end of the turn: before a computation that takes its time.
    /// It costs a system call.
    pub fn flush(&mut self) {
        self.event_loop.flush(self.id);
    }

    /// Bytes that were written and have not left, as far as it is known: those of a send in flight count until
    /// it ends.
    pub fn queued(&self) -> u64 {
        self.event_loop.queued(self.id)
    }

    /// Whether more should be written: `false` from the high watermark on, until what is queued has fallen to the
    /// low one, which [`Handler::on_writable`](super::Handler::on_writable) tells. Nothing enforces it before the cap.
    pub fn is_writable(&self) -> bool {
        !self.state.is_full && self.state.gate.is_live()
    }

    /// Whether [`Handler::on_flush`](super::Handler::on_flush) is called before each send of this connection, and
    /// [`Handler::on_sent`](super::Handler::on_sent) after it. Default: no.
    pub fn hook_writes(&mut self, hook: bool) {
        self.state.hooks_writes = hook;
        self.update_reports();
    }

    /// Bytes were queued: `len` more, `queued` together.
    #[inline]
    pub(super) fn wrote(&mut self, len: u64, queued: u64) {
        self.home.stats.bytes_sent += len;
        self.state.last_output = self.home.now;
        if queued > self.home.careless || self.state.hooks_writes {
            self.look_at_output(len, queued);
        }
    }

    #[cold]
    fn look_at_output(&mut self, len: u64, mut queued: u64) {
        if len == 0 {
            return;
        }
        if self.home.settings.output.drops_old() {
            self.event_loop.end_message(self.id, len);
        }
        if self.state.hooks_writes {
            // The hook comes before the send.
            self.event_loop.hold_back(self.id);
            if !std::mem::replace(&mut self.state.hook_is_due, true) {
                self.home.hooked.push(self.id);
            }
        }
        let limits = &self.home.settings.output;
        // A message that comes alone is in memory anyway.
        if queued > limits.cap && queued > len {
            let excess = match limits.overflow {
                Overflow::Close => return self.overflow(),
                Overflow::DropNew => 0,
                Overflow::DropOld => queued - limits.cap,
                Overflow::KeepLatest => u64::MAX,
            };
            queued -= self.drop_oldest(excess);
        }
        if queued > self.home.settings.output.high && !self.state.is_full {
            self.fill_up();
        }
    }

    /// Whether a message of `len` bytes may be queued; if not, it is counted as dropped.
    #[inline]
    pub(super) fn admits(&mut self, len: u64) -> bool {
        self.home.careless > 0 || self.has_room(len)
    }

    #[cold]
    fn has_room(&mut self, len: u64) -> bool {
        let limits = &self.home.settings.output;
        let queued = self.queued();
        let is_refused =
            limits.overflow == Overflow::DropNew && queued > 0 && queued.saturating_add(len) > limits.cap;
        self.home.stats.messages_dropped += u64::from(is_refused);
        !is_refused
    }

    fn drop_oldest(&mut self, excess: u64) -> u64 {
        let (messages, bytes) = self.event_loop.drop_oldest(self.id, excess);
        self.home.stats.messages_dropped += messages;
        if bytes > 0 {
            self.notices_lose(bytes);
        }
        bytes
    }

    /// More is queued than may be, and nothing of it is to be dropped.
    fn overflow(&mut self) {
        self.state.note_reason(CloseReason::OutputLimit);
        self.state.gate.set(Gate::CLOSING, true);
        self.event_loop.close(self.id, Close::Reset);
    }

    /// Above the high watermark.
    fn fill_up(&mut self) {
        self.state.is_full = true;
        self.update_reports();
        if self.home.settings.output.pauses_reading {
            self.state.gate.set(Gate::OUTPUT, true);
            self.home.attention = true;
        }
    }

    /// Hears of each send that ends, if anybody wants to know.
    pub(super) fn update_reports(&mut self) {
        // A name that is stale has nothing to report.
        let _ = self.event_loop.report_sends(self.id, self.state.wants_reports());
    }
}
