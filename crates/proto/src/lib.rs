//! The protocols of [`kolk`](https://docs.rs/kolk) as machines: bytes in, bytes out.
//!
//! Nothing here knows a socket, a clock or a buffer of its own. A machine looks at the bytes that have arrived,
//! wherever they lie, and says what they are; who calls it reads, waits and writes.
//!
//! - [`codec`]: where the frames of a stream begin and end.
//!
//! Programs that use `kolk` find all of it there under the same names.

#![forbid(unsafe_code)]

pub mod codec;
