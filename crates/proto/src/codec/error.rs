//! Why a frame cannot be.

use std::fmt;
use std::io;

/// Why a frame cannot be decoded or encoded, or a codec cannot be made.
///
/// After an error from a decoder the stream cannot be understood any more, because nobody knows where the next
/// frame begins: the connection is to be closed, perhaps after an answer that says so.
///
/// # Examples
///
/// ```
/// use kolk_proto::codec::{Decode, FrameError, Lines};
///
/// let error = Lines::new(4).decode(b"hello, world".as_slice()).unwrap_err();
/// assert_eq!(error, FrameError::TooLong { len: 5, limit: 4 });
/// assert_eq!(error.to_string(), "a frame of at least 5 bytes is over the limit of 4");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is over the limit. `len` is its length where a header tells it, and one more than the limit
    /// where the end was not found.
    TooLong {
        /// Bytes at least.
        len: u64,
        /// Bytes at most.
        limit: usize,
    },
    /// The length that the header tells, with the adjustment, would end the frame inside its own header.
    TooShort {
        /// Length of the frame, negative if the adjustment is.
        len: i128,
        /// Bytes that it has at least: its header, and what is to be stripped.
        least: usize,
    },
    /// A varint goes on for more than ten bytes, or is more than 64 bits hold.
    Varint,
    /// Something that a codec of yours says of the input.
    Malformed(&'static str),
    /// A codec of yours told of a frame that has no byte, or more than have arrived.
    Impossible {
        /// Bytes of the frame, trailer and header included.
        frame: usize,
        /// Bytes that have arrived.
        arrived: usize,
    },
    /// The payload to encode has another length than all frames have.
    WrongLength {
        /// Bytes given.
        len: usize,
        /// Bytes of a frame.
        frame: usize,
    },
    /// The payload to encode holds what ends a frame, so the peer would see two.
    HoldsDelimiter {
        /// Where in the payload.
        at: usize,
    },
    /// The length does not fit into the length field.
    FieldTooSmall {
        /// What is to be written, negative if the adjustment is larger than the frame.
        value: i128,
        /// Bytes of the field.
        field: usize,
    },
    /// No codec can be made of these parameters.
    Parameters(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, limit } => {
                write!(f, "a frame of at least {len} bytes is over the limit of {limit}")
            }
            Self::TooShort { len, least } => {
                write!(f, "a frame of {len} bytes cannot be: its header alone has {least}")
            }
            Self::Varint => f.write_str("a varint of more than 64 bits is no length"),
            Self::Malformed(what) => f.write_str(what),
            Self::Impossible { frame, arrived } => {
                write!(
                    f,
                    "the codec is wrong: it found a frame of {frame} bytes in {arrived} that have arrived"
                )
            }
            Self::WrongLength { len, frame } => {
                write!(f, "a payload of {len} bytes is no frame: each has {frame}")
            }
            Self::HoldsDelimiter { at } => write!(f, "the payload holds the end of a frame at byte {at}"),
            Self::FieldTooSmall { value, field } => {
                write!(f, "the length {value} does not fit into a field of {field} bytes")
            }
            Self::Parameters(what) => write!(f, "no such codec: {what}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Invalid data, if it came from the peer; invalid input, if the program gave it.
impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        use FrameError::{Malformed, TooLong, TooShort, Varint};
        let kind = match error {
            TooLong { .. } | TooShort { .. } | Varint | Malformed(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
