//! Between codecs and connections: frames are taken from where they lie, and written from where they are.

use std::io;

use kolk_engine::buffer::{Chunk, Lease};

use super::{Conn, Input};
use crate::codec::{Decode, Decoded, Encode, Envelope, Frame, FrameError, View};

impl View for Input<'_> {
    #[inline]
    fn len_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn piece_at(&self, at: usize) -> &[u8] {
        self.buffer.piece_at(at)
    }
}

impl Input<'_> {
    /// Consumes the next frame, and gives its payload; `None` if it is not complete. What there is of it then
    /// stays, and the handler is not called before there is as much as the codec said it [needs](Self::need).
    ///
    /// No byte is copied unless the frame lies in several pieces. The lease holds memory of the loop's, as that of
    /// [`take`](Self::take) does.
    ///
    /// # Errors
    ///
    /// The bytes are no frame of this codec. Nothing is consumed, and nothing that follows can be understood: answer
    /// if the protocol has an answer for it, and close.
    ///
    /// # Examples
    ///
    /// See [`codec`](crate::codec).
    #[inline]
    pub fn decode(&mut self, decoder: &mut impl Decode) -> Result<Option<Lease>, FrameError> {
        let Some(frame) = self.locate(decoder)? else { return Ok(None) };
        self.skip(frame.header);
        let payload = self.take_exact(frame.payload);
        self.skip(frame.trailer);
        Ok(payload)
    }

    /// Consumes the next frame after it was read by `read`, whose answer is passed on; `None` if the frame is not
    /// complete.
    ///
    /// This is for frames that need not outlive the call: cheaper than a lease by two atomic operations.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode); `read` was not called then.
    #[inline]
    pub fn decode_with<T>(
        &mut self,
        decoder: &mut impl Decode,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, FrameError> {
        let Some(frame) = self.locate(decoder)? else { return Ok(None) };
        self.skip(frame.header);
        let answer = self.buffer.contiguous(frame.payload).map(read);
        self.skip(frame.payload + frame.trailer);
        Ok(answer)
    }

    #[inline]
    fn locate(&mut self, decoder: &mut impl Decode) -> Result<Option<Frame>, FrameError> {
        let decoded = decoder.decode(self)?;
        if let Decoded::NeedMore(more @ 2..) = decoded
            && !self.is_empty()
        {
            self.need(self.len().saturating_add(more));
        }
        decoded.whole_frame(self)
    }
}

impl Conn<'_> {
    /// Queues the frame of `payload`: its header, the payload as [`write`](Self::write) does, by reference if it is
    /// long, and its trailer. They are one message.
    ///
    /// # Errors
    ///
    /// The payload cannot be a frame of this codec; nothing is queued then.
    ///
    /// # Examples
    ///
    /// See [`codec`](crate::codec).
    #[inline]
    pub fn write_frame<P>(&mut self, encoder: &impl Encode, payload: P) -> Result<(), FrameError>
    where
        P: AsRef<[u8]> + Into<Chunk>,
    {
        let envelope = encoder.encode(payload.as_ref())?;
        let len = payload.as_ref().len();
        self.write_enveloped(&envelope, len, |conn| conn.event_loop.write(conn.id, payload.into()));
        Ok(())
    }

    /// Queues the frame of a copy of `payload`, as one message.
    ///
    /// # Errors
    ///
    /// As [`write_frame`](Self::write_frame).
    #[inline]
    pub fn write_frame_copy(&mut self, encoder: &impl Encode, payload: &[u8]) -> Result<(), FrameError> {
        let envelope = encoder.encode(payload)?;
        self.write_enveloped(&envelope, payload.len(), |conn| conn.event_loop.write_copy(conn.id, payload));
        Ok(())
    }

    /// One message: of a frame, an output limit drops all or nothing.
    #[inline]
    fn write_enveloped(
        &mut self,
        envelope: &Envelope<'_>,
        payload_len: usize,
        write_payload: impl FnOnce(&mut Self) -> io::Result<u64>,
    ) {
        let (header, trailer) = (envelope.header(), envelope.trailer());
        let len = (header.len() + payload_len + trailer.len()) as u64;
        if !self.admits(len) {
            return;
        }
        let queued =
            self.write_part(header).and_then(|()| write_payload(self)).and_then(|_| self.write_part(trailer));
        // On a connection that is closing it goes nowhere.
        if queued.is_ok() {
            self.wrote(len, self.event_loop.queued(self.id));
        }
    }

    #[inline]
    fn write_part(&mut self, part: &[u8]) -> io::Result<()> {
        if part.is_empty() { Ok(()) } else { self.event_loop.write_copy(self.id, part).map(drop) }
    }
}
