//! What must hold of any decoder and any input: called by the property tests and the fuzz targets.

use std::collections::VecDeque;

use super::{Decode, Decoded, FrameError, View};

/// What a stream is decoded to: its frames, and what ended it, if anything did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub frames: Vec<Vec<u8>>,
    pub error: Option<FrameError>,
}

/// Decodes a stream that arrives at once, and in pieces whose lengths `cuts` repeats, and says what came of it.
///
/// `most` is the number of bytes that may have to be kept for a frame.
///
/// # Panics
///
/// If the outcome depends on the cuts, a decoder wants more than `most` bytes, or one that said how much is missing
/// could do with less.
pub fn decode_however_cut<D: Decode>(
    make: impl Fn() -> D,
    stream: &[u8],
    cuts: &[u8],
    most: usize,
) -> Outcome {
    let whole = Arrival::new(make(), most).run([stream].into_iter(), Caller::Eager);
    for caller in [Caller::Eager, Caller::Patient] {
        let pieces = Pieces { stream, cuts: cuts.iter().cycle() };
        let outcome = Arrival::new(make(), most).run(pieces, caller);
        assert_eq!(outcome, whole, "cut into pieces of {cuts:?} for a caller that is {caller:?}");
    }
    whole
}

/// When a decoder is called.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// As soon as anything has arrived.
    Eager,
    /// Not before as many bytes have arrived as the decoder said it needs, or the stream ends.
    Patient,
}

/// A stream in pieces of the lengths that `cuts` says; zero counts as one.
struct Pieces<'a, I> {
    stream: &'a [u8],
    cuts: I,
}

impl<'a, I: Iterator<Item = &'a u8>> Iterator for Pieces<'a, I> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = self.cuts.next().map_or(self.stream.len(), |&cut| usize::from(cut).max(1));
        let (piece, rest) = self.stream.split_at(len.min(self.stream.len()));
        self.stream = rest;
        (!piece.is_empty()).then_some(piece)
    }
}

/// A decoder and what has arrived for it, each piece where it came.
struct Arrival<D> {
    decoder: D,
    pieces: Linked,
    /// Bytes that have to be there before another frame can be.
    needed: usize,
    most: usize,
    outcome: Outcome,
}

impl<D: Decode> Arrival<D> {
    fn new(decoder: D, most: usize) -> Self {
        let outcome = Outcome { frames: Vec::new(), error: None };
        Self { decoder, pieces: Linked::default(), needed: 0, most, outcome }
    }

    fn run<'a>(mut self, arriving: impl Iterator<Item = &'a [u8]>, caller: Caller) -> Outcome {
        for piece in arriving {
            self.pieces.0.push_back(piece.to_vec());
            if matches!(caller, Caller::Eager) || self.pieces.len_bytes() >= self.needed {
                self.decode();
            }
            if self.outcome.error.is_some() {
                return self.outcome;
            }
        }
        self.decode();
        self.outcome
    }

    fn decode(&mut self) {
        loop {
            let there = self.pieces.len_bytes();
            match self.decoder.decode(&self.pieces) {
                Ok(Decoded::Frame(frame)) => {
                    assert!(!frame.is_empty(), "a frame of nothing comes again and again");
                    assert!(frame.len() <= there, "{frame:?} of {there} bytes");
                    assert!(there >= self.needed, "{frame:?} at {there} bytes, {} needed", self.needed);
                    self.needed = 0;
                    self.pieces.take(frame.header);
                    self.outcome.frames.push(self.pieces.take(frame.payload));
                    self.pieces.take(frame.trailer);
                }
                Ok(Decoded::NeedMore(more)) => {
                    assert!(more > 0, "nothing is needed, and still there is no frame");
                    assert!(there + more <= self.most, "{there} bytes and {more} more: over {}", self.most);
                    self.needed = there + more;
                    return;
                }
                Err(error) => {
                    self.outcome.error = Some(error);
                    return;
                }
            }
        }
    }
}

/// Pieces that are consumed from the front.
#[derive(Default)]
struct Linked(VecDeque<Vec<u8>>);

impl Linked {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let front = self.0.front_mut().expect("a frame has arrived whole");
            let step = front.len().min(count - taken.len());
            taken.extend(front.drain(..step));
            if front.is_empty() {
                self.0.pop_front();
            }
        }
        taken
    }
}

impl View for Linked {
    fn len_bytes(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn piece_at(&self, mut at: usize) -> &[u8] {
        for piece in &self.0 {
            match piece.get(at..) {
                Some(rest) if !rest.is_empty() => return rest,
                _ => at -= piece.len(),
            }
        }
        &[]
    }
}
