//! Codecs: frames in a stream, for servers and for any other bytes.
//!
//! A server's handler asks its [`Input`](crate::server::Input) for the next frame with
//! [`decode`](crate::server::Input::decode), and writes one with
//! [`write_frame`](crate::server::Conn::write_frame). No byte of a frame that lies in one piece is copied. A program
//! on a [`Watcher`](crate::watcher::Watcher) takes frames off its own buffers with
//! [`take_frame`](Decode::take_frame).
//!
//! | codec | a frame is | lives in |
//! |---|---|---|
//! | [`FixedLength`] | always as many bytes | the handler |
//! | [`Lines`] | what ends with LF or CR LF | each session |
//! | [`Delimiter`] | what ends with some bytes of yours | each session |
//! | [`LengthField`] | what a length field somewhere in its header says | the handler |
//! | [`VarintLength`] | what a varint in front of it says | the handler |
//!
//! Lines and delimiters remember how far they have looked, so that a byte is not searched again each time more
//! arrive; the others look at a few bytes of the header again, and one value serves all connections of a loop.
//! A codec of your own implements [`Decode`] and [`Encode`]: it is told no more than the bytes that have arrived.
//!
//! A frame may be as long as the codec's limit and [`input_limit`](crate::server::Builder::input_limit) allow, of
//! which the smaller one counts.
//!
//! # Examples
//!
//! Upper-case lines:
//!
//! ```
//! use kolk::codec::Lines;
//! use kolk::server::{Action, Conn, Handler, Input};
//!
//! struct Louder;
//!
//! impl Handler for Louder {
//!     type Session = Lines;
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_>) -> Lines {
//!         Lines::new(1024)
//!     }
//!
//!     fn on_data(&mut self, lines: &mut Lines, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
//!         loop {
//!             match input.decode(lines) {
//!                 Ok(Some(line)) => {
//!                     let louder = line.to_ascii_uppercase();
//!                     conn.write_frame(lines, louder).expect("no line's end in a line");
//!                 }
//!                 Ok(None) => return Action::Continue, // what there is of the next line stays in `input`
//!                 Err(error) => {
//!                     conn.write(format!("{error}\n").into_bytes());
//!                     return Action::Close;
//!                 }
//!             }
//!         }
//!     }
//! }
//! ```

pub use kolk_proto::codec::{
    ByteOrder, Decode, Decoded, Delimiter, Encode, Envelope, FixedLength, Frame, FrameError, LengthField,
    LengthFieldLayout, Lines, VarintLength, View,
};

use crate::error::Error;

/// For programs that use `?` on codecs beside this library. [`Error::is_invalid_input`] tells a program's own fault
/// from the peer's.
impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        let text = error.to_string();
        Self::of_kind(std::io::Error::from(error).kind(), text.into())
    }
}
