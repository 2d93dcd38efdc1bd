//! Codecs: where the frames of a stream begin and end.
//!
//! A decoder is shown the bytes that have arrived and not been consumed, and says where in them the next frame
//! lies. It neither copies nor keeps a byte: whoever calls it takes the payload out in the way that costs least.
//!
//! ```text
//!  arrived and not consumed                        decode(&view)
//!  ┌────────┬─────────────┬─────────┬ ─ ─ ─ ─      ─► Frame { header, payload, trailer }
//!  │ header │   payload   │ trailer │ next ...     ─► NeedMore(n): at least n more bytes have to come
//!  └────────┴─────────────┴─────────┴ ─ ─ ─ ─      ─► FrameError: the stream cannot be understood
//!   dropped   the frame     dropped
//! ```
//!
//! | codec | a frame is | state between calls |
//! |---|---|---|
//! | [`FixedLength`] | always as many bytes | none |
//! | [`Lines`] | what ends with LF or CR LF | how far it has looked |
//! | [`Delimiter`] | what ends with some bytes of yours | how far it has looked |
//! | [`LengthField`] | what a length field somewhere in its header says | none |
//! | [`VarintLength`] | what a varint in front of it says, as protobuf's streams have it | none |
//!
//! A codec without state may be shared by all connections of a loop; one with state belongs to a connection's
//! session. Both ways of a codec are one value: [`Decode`] for what comes, [`Encode`] for what goes. Codecs of
//! your own implement these traits.
//!
//! # Promises of every decoder
//!
//! - The same stream gives the same frames, however it is cut into pieces.
//! - `NeedMore(n)` is exact as far as one can know: with fewer than `n` more bytes no frame can be complete.
//! - A byte is searched once, not again each time more arrive: the cost of a stream is proportional to its length
//!   also when each byte comes alone.
//! - No input panics, and a frame over the limit is refused as soon as it is known to be, before it has arrived.
//!
//! # Examples
//!
//! ```
//! use bytes::BytesMut;
//! use kolk_proto::codec::{Decode, Encode, Lines};
//!
//! let mut lines = Lines::new(1024);
//! let mut arrived = BytesMut::from("GET a\r\nSET b\nGE");
//! assert_eq!(lines.take_frame(&mut arrived)?.unwrap(), "GET a");
//! assert_eq!(lines.take_frame(&mut arrived)?.unwrap(), "SET b");
//! assert_eq!(lines.take_frame(&mut arrived)?, None);
//!
//! let mut answer = BytesMut::new();
//! lines.encode_to(b"OK", &mut answer)?;
//! assert_eq!(answer, "OK\n");
//! # Ok::<(), kolk_proto::codec::FrameError>(())
//! ```

#[doc(hidden)]
pub mod check;
mod delimiter;
mod error;
mod fixed;
mod frame;
mod length_field;
mod lines;
mod varint;
mod view;

pub use delimiter::Delimiter;
pub use error::FrameError;
pub use fixed::FixedLength;
pub use frame::{Decode, Decoded, Encode, Envelope, Frame};
pub use length_field::{ByteOrder, LengthField, LengthFieldLayout};
pub use lines::Lines;
pub use varint::VarintLength;
pub use view::View;
