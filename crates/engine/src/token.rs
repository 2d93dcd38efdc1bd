//! Names: of a slot inside its loop ([`Key`]), of an operation inside the kernel ([`Token`]), of a
//! connection anywhere ([`ConnId`]).
//!
//! All three are plain numbers that carry a [`Generation`]. A slot's number is used again when its
//! socket is gone, its generation is not: whoever comes late with an old name finds nothing,
//! instead of finding a stranger.
//!
//! ```text
//!          63            48 47                    24 23                     0
//!         +---------------+------------------------+------------------------+
//!  Token  | kind |   0    |       generation       |         index          |
//!  ConnId |     loop      |       generation       |         index          |
//!         +---------------+------------------------+------------------------+
//!                         |<--------------------- Key --------------------->|
//! ```
//!
//! Each is one word, so it is passed in a register and written and read at once.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// How often a slot's number has been given out: 1 for its first owner, 2 for the second, and so on
/// up to 2^24 - 1.
///
/// Zero does not exist, so that a vacant entry needs no flag of its own, and 24 bits are what a
/// [`Token`] has room for.
///
/// Plain data: any thread may use it.
///
/// # Examples
///
/// ```
/// use kolk_engine::token::Generation;
///
/// let first = Generation::FIRST;
/// assert_eq!(first.next().map(Generation::get), Some(2));
/// assert_eq!(Generation::LAST.next(), None);
/// assert_eq!(Generation::new(0), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Invariant: 1 <= generation <= MAX.
pub struct Generation(NonZeroU32);

impl Generation {
    const BITS: u32 = 24;
    const MAX: u32 = (1 << Self::BITS) - 1;

    /// The generation of a slot's first owner.
    pub const FIRST: Generation = Generation(NonZeroU32::MIN);

    /// The generation after which a slot's number is retired.
    pub const LAST: Generation = match Generation::new(Self::MAX) {
        Some(last) => last,
        None => unreachable!(),
    };

    /// The generation with this number, if there is one: zero and what exceeds 24 bits are none.
    #[inline]
    pub const fn new(number: u32) -> Option<Generation> {
        match NonZeroU32::new(number) {
            Some(number) if number.get() <= Self::MAX => Some(Generation(number)),
            _ => None,
        }
    }

    /// The number, from 1 to 2^24 - 1.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The generation of the next owner, or `None` after the last one.
    #[inline]
    pub const fn next(self) -> Option<Generation> {
        Generation::new(self.get() + 1)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// The name of a slot inside its own loop: an index and the generation of its present owner. Eight
/// bytes.
///
/// Keys come from [`SlotNumbers`](crate::slab::SlotNumbers) and open
/// [`Table`](crate::slab::Table)s.
///
/// Plain data: any thread may use it; only in its own loop does it name anything.
///
/// # Examples
///
/// ```
/// use kolk_engine::token::{Generation, Key};
///
/// let key = Key::new(17, Generation::FIRST);
/// assert_eq!(key.index(), 17);
/// assert_eq!(format!("{key:?}"), "17#1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Invariant: the upper 16 bits are zero, and the next 24 are a Generation.
pub struct Key(NonZeroU64);

impl Key {
    /// The highest index.
    pub const MAX_INDEX: u32 = (1 << Self::INDEX_BITS) - 1;

    const INDEX_BITS: u32 = 24;
    const BITS: u32 = Self::INDEX_BITS + Generation::BITS;

    /// The key of the slot at `index` while its owner is the one of `generation`.
    ///
    /// # Panics
    ///
    /// If `index` exceeds [`MAX_INDEX`](Self::MAX_INDEX).
    #[inline]
    pub const fn new(index: u32, generation: Generation) -> Key {
        assert!(index <= Self::MAX_INDEX, "an index has 24 bits");
        Key::of_word((generation.get() as u64) << Self::INDEX_BITS | index as u64)
            .expect("it has a generation")
    }

    /// The slot's place, shared by all its owners, one after the other.
    #[inline]
    pub const fn index(self) -> u32 {
        self.0.get() as u32 & Self::MAX_INDEX
    }

    /// Which of the slot's owners is meant.
    #[inline]
    pub const fn generation(self) -> Generation {
        Generation::new((self.0.get() >> Self::INDEX_BITS) as u32).expect("it has a generation")
    }

    /// Whether `generation` is that of the owner.
    #[inline]
    pub const fn is_of(self, generation: Generation) -> bool {
        (self.0.get() >> Self::INDEX_BITS) as u32 == generation.get()
    }

    /// The key as a number of 48 bits, to be kept beside 16 others.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        self.0.get()
    }

    /// The key in the lower 48 bits of a number, or `None` if that cannot be one.
    #[inline]
    pub const fn from_u64(number: u64) -> Option<Key> {
        let word = number & ((1 << Self::BITS) - 1);
        if word >> Self::INDEX_BITS == 0 { None } else { Key::of_word(word) }
    }

    /// For a word that is known to be a key's, with anything above it.
    const fn of_word(number: u64) -> Option<Key> {
        match NonZeroU64::new(number & ((1 << Self::BITS) - 1)) {
            Some(word) => Some(Key(word)),
            None => None,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index(), self.generation().get())
    }
}

/// What an operation in the kernel is for; the top byte of a [`Token`].
///
/// Zero is no kind, so a zeroed completion is never mistaken for one of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum TokenKind {
    /// Bytes from a stream socket.
    Receive = 1,
    /// Bytes to a stream socket.
    Send = 2,
    /// Connections from a listening socket.
    Accept = 3,
    /// The outcome of connecting.
    Connect = 4,
    /// The readiness of a descriptor that is not ours to read.
    Watch = 5,
    /// Whether a socket can be read that is then read by ordinary calls.
    Poll = 6,
    /// The answer to a request to give up another operation.
    Cancel = 7,
    /// Another thread rings; see [`Token::WAKE`].
    Wake = 8,
    /// It is time to look for silent connections; see [`Token::PARK`].
    Park = 9,
}

impl TokenKind {
    #[inline]
    const fn from_u8(byte: u8) -> Option<TokenKind> {
        match byte {
            1 => Some(TokenKind::Receive),
            2 => Some(TokenKind::Send),
            3 => Some(TokenKind::Accept),
            4 => Some(TokenKind::Connect),
            5 => Some(TokenKind::Watch),
            6 => Some(TokenKind::Poll),
            7 => Some(TokenKind::Cancel),
            8 => Some(TokenKind::Wake),
            9 => Some(TokenKind::Park),
            _ => None,
        }
    }
}

/// The 64-bit key that goes into the kernel with an operation and comes back with its completion.
/// Never a pointer.
///
/// A pointer would have to stay valid until the last completion, however late; a token whose slot
/// has gone is merely stale.
///
/// Plain data: any thread may use it.
///
/// # Examples
///
/// ```
/// use kolk_engine::token::{Generation, Key, Token, TokenKind};
///
/// let token = Token::new(TokenKind::Send, Key::new(17, Generation::FIRST));
/// let returned = Token::from_u64(token.to_u64()).unwrap();
/// assert_eq!(returned.kind(), TokenKind::Send);
/// assert_eq!(returned.key().index(), 17);
///
/// assert_eq!(Token::from_u64(0), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Invariant: the top byte is a TokenKind, and the lower 48 bits are a Key.
pub struct Token(u64);

impl Token {
    const KIND_SHIFT: u32 = 56;

    /// The token of the loop's own wake-up. It belongs to no slot, and its key names none.
    pub const WAKE: Token = Token::new(TokenKind::Wake, Key::new(0, Generation::FIRST));

    /// Of the timeout that lets a driver look for silent connections.
    pub const PARK: Token = Token::new(TokenKind::Park, Key::new(0, Generation::FIRST));

    /// The token for an operation of this kind on this slot.
    #[inline]
    pub const fn new(kind: TokenKind, key: Key) -> Token {
        Token((kind as u64) << Self::KIND_SHIFT | key.to_u64())
    }

    /// What the operation is for.
    #[inline]
    pub const fn kind(self) -> TokenKind {
        Self::kind_of(self.0).expect("both constructors admit only a known kind")
    }

    /// The slot that the operation belongs to.
    #[inline]
    pub const fn key(self) -> Key {
        Key::of_word(self.0).expect("both constructors admit only a key")
    }

    /// The number for the kernel.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The token behind a number that came back from the kernel, or `None` if it cannot be one of
    /// ours.
    #[inline]
    pub const fn from_u64(number: u64) -> Option<Token> {
        match (Self::kind_of(number), Key::from_u64(number)) {
            (Some(_), Some(_)) => Some(Token(number)),
            _ => None,
        }
    }

    const fn kind_of(number: u64) -> Option<TokenKind> {
        TokenKind::from_u8((number >> Self::KIND_SHIFT) as u8)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind(), self.key())
    }
}

/// The name of a connection: its loop and its slot there. `Copy`, and good in any thread.
///
/// Keep it as long as you like. When the connection is gone, the name is stale, and a request that
/// carries it is answered "closed"; it never reaches the connection that has the slot after it.
///
/// Printed as `loop:slot#generation`.
///
/// # Examples
///
/// ```
/// use kolk_engine::token::{ConnId, Generation, Key};
///
/// let id = ConnId::new(2, Key::new(17, Generation::new(5).unwrap()));
/// assert_eq!(id.to_string(), "2:17#5");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Invariant: the lower 48 bits are a Key.
pub struct ConnId(NonZeroU64);

impl ConnId {
    /// The name of the connection that has the slot `key` in the loop `loop_number`.
    #[inline]
    pub const fn new(loop_number: u16, key: Key) -> ConnId {
        let word = (loop_number as u64) << Key::BITS | key.to_u64();
        ConnId(NonZeroU64::new(word).expect("a key is not zero"))
    }

    /// The number of the loop that the connection lives in.
    #[inline]
    pub const fn event_loop(self) -> u16 {
        (self.0.get() >> Key::BITS) as u16
    }

    /// The connection's slot inside that loop.
    #[inline]
    pub const fn key(self) -> Key {
        Key::of_word(self.0.get()).expect("made from one")
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.event_loop(), self.key())
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    fn key(index: u32, generation: u32) -> Key {
        Key::new(index, Generation::new(generation).expect("1 to 2^24 - 1"))
    }

    #[test]
    fn names_are_small_and_an_absent_one_costs_nothing() {
        assert_eq!(size_of::<Option<Generation>>(), 4);
        assert_eq!(size_of::<Option<Key>>(), 8);
        assert_eq!(size_of::<Token>(), 8);
        assert_eq!(size_of::<Option<ConnId>>(), 8);
    }

    #[test]
    fn a_token_returns_what_was_put_in() {
        for byte in 1..=9 {
            let kind = TokenKind::from_u8(byte).expect("1 to 9 are kinds");
            for key in [key(0, 1), key(17, 5), key(Key::MAX_INDEX, Generation::MAX)] {
                let token = Token::from_u64(Token::new(kind, key).to_u64()).expect("made by new");
                assert_eq!((token.kind() as u8, token.key()), (byte, key));
            }
        }
    }

    #[test]
    fn a_number_with_an_unknown_kind_is_no_token() {
        let key = Token::new(TokenKind::Receive, key(3, 3)).to_u64() & (u64::MAX >> 8);
        for byte in (0..=255u8).filter(|byte| !(1..=9).contains(byte)) {
            assert_eq!(Token::from_u64((u64::from(byte) << 56) | key), None);
        }
    }

    #[test]
    fn a_number_without_a_generation_is_no_token() {
        assert_eq!(Token::from_u64((1 << 56) | 17), None);
    }

    #[test]
    fn generations_end_instead_of_wrapping() {
        assert_eq!(Generation::LAST.get(), (1 << 24) - 1);
        assert_eq!(Generation::LAST.next(), None);
        assert_eq!(Generation::new(1 << 24), None);
    }

    #[test]
    fn a_connection_has_loop_slot_and_generation_in_one_word() {
        for (number, key) in
            [(0, key(0, 1)), (u16::MAX, key(Key::MAX_INDEX, Generation::MAX)), (3, key(17, 5))]
        {
            let id = ConnId::new(number, key);
            assert_eq!((id.event_loop(), id.key(), Key::from_u64(key.to_u64())), (number, key, Some(key)));
        }
    }

    #[test]
    fn names_print_as_loop_slot_and_generation() {
        let id = ConnId::new(2, key(17, 5));
        assert_eq!(format!("{id} {id:?} {:?}", id.key()), "2:17#5 2:17#5 17#5");
        assert_eq!(format!("{:?}", Token::new(TokenKind::Accept, id.key())), "Accept(17#5)");
    }
}
