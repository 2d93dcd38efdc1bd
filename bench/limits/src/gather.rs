//! A send of several pieces, for the kernel to read while the request is under way.

use std::mem;

/// Pieces that one send takes: 64 KiB in buffers of the usual size.
const PIECES: usize = 16;

/// The header of a `sendmsg` and the pieces that it names. Boxed, because the kernel holds its
/// address.
pub struct Gather(Box<Message>);

struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES],
}

impl Gather {
    /// Takes as many pieces as fit.
    pub fn fill(&mut self, pieces: impl Iterator<Item = libc::iovec>) -> *const libc::msghdr {
        let message = &mut *self.0;
        let mut count = 0;
        for (place, piece) in message.pieces.iter_mut().zip(pieces) {
            *place = piece;
            count += 1;
        }
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = count;
        &raw const message.header
    }
}

impl Default for Gather {
    fn default() -> Self {
        // SAFETY: both fields are C structs for which zeros mean "nothing".
        Self(Box::new(unsafe { mem::zeroed() }))
    }
}
