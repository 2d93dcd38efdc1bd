//! Pieces that read as one stream.

use bytes::Bytes;
use kolk_engine::buffer::{Lease, LinkedBuffer, Pool};
use proptest::prelude::*;

use crate::{BLOCK_SIZE, BLOCKS, portion, stamped};

/// What a piece is made of.
#[derive(Clone, Copy, Debug)]
enum Material {
    /// The loop's memory, while any is free.
    Pooled,
    Private,
    /// Private, and somebody else holds it too.
    Shared,
}

fn material() -> impl Strategy<Value = Material> {
    prop_oneof![3 => Just(Material::Pooled), 1 => Just(Material::Private), 1 => Just(Material::Shared)]
}

/// A pool for pieces, and the private pieces that others hold as well.
struct Source {
    pool: Pool,
    shared: Vec<Bytes>,
}

impl Source {
    fn new() -> Self {
        Self { pool: Pool::new(BLOCK_SIZE, BLOCKS), shared: Vec::new() }
    }

    fn piece(&mut self, material: Material, bytes: &[u8]) -> Lease {
        let block = matches!(material, Material::Pooled).then(|| self.pool.acquire()).flatten();
        if let Some(block) = block {
            self.pool.block_mut(block)[..bytes.len()].copy_from_slice(bytes);
            return self.pool.lend(block, bytes.len());
        }
        let bytes = Bytes::copy_from_slice(bytes);
        if matches!(material, Material::Shared) {
            self.shared.push(bytes.clone());
        }
        bytes.into()
    }

    #[track_caller]
    fn assert_all_free(&mut self) {
        assert_eq!(self.pool.free_blocks(), BLOCKS, "a block is still held");
    }
}

#[derive(Clone, Debug)]
enum LinkedStep {
    Push(Material, usize),
    PieceAt(usize),
    Contiguous(usize),
    AllContiguous,
    Consume(usize),
    TakeFront,
    TakeExact(usize),
    MakePrivate,
}

fn linked_step() -> impl Strategy<Value = LinkedStep> {
    prop_oneof![
        8 => (material(), 0..=BLOCK_SIZE).prop_map(|(material, len)| LinkedStep::Push(material, len)),
        2 => (0..300usize).prop_map(LinkedStep::PieceAt),
        2 => (0..300usize).prop_map(LinkedStep::Contiguous),
        1 => Just(LinkedStep::AllContiguous),
        3 => any::<usize>().prop_map(LinkedStep::Consume),
        2 => Just(LinkedStep::TakeFront),
        3 => (0..300usize).prop_map(LinkedStep::TakeExact),
        2 => Just(LinkedStep::MakePrivate),
    ]
}

struct LinkedModel {
    source: Source,
    buffer: LinkedBuffer,
    model: Vec<u8>,
    stamp: usize,
}

impl LinkedModel {
    fn new() -> Self {
        Self { source: Source::new(), buffer: LinkedBuffer::default(), model: Vec::new(), stamp: 0 }
    }

    fn push(&mut self, material: Material, bytes: &[u8]) {
        self.buffer.push(self.source.piece(material, bytes));
        self.model.extend_from_slice(bytes);
    }

    #[track_caller]
    fn apply(&mut self, step: LinkedStep) {
        let Self { buffer, model, .. } = self;
        match step {
            LinkedStep::Push(material, len) => {
                self.stamp += 1;
                self.push(material, &stamped(self.stamp, len));
            }
            LinkedStep::PieceAt(at) => {
                let rest = model.get(at..).unwrap_or_default();
                assert!(rest.starts_with(buffer.piece_at(at)));
                assert_eq!(buffer.piece_at(at).is_empty(), rest.is_empty());
            }
            LinkedStep::Contiguous(count) => assert_eq!(buffer.contiguous(count), model.get(..count)),
            LinkedStep::AllContiguous => {
                assert_eq!(buffer.all_contiguous(), model);
                assert_eq!(buffer.front(), model);
            }
            LinkedStep::Consume(count) => {
                let count = portion(count, model.len());
                buffer.consume(count);
                model.drain(..count);
            }
            LinkedStep::TakeFront => match buffer.take_front() {
                Some(front) => {
                    assert!(!front.is_empty());
                    assert_eq!(*front, *model.drain(..front.len()).collect::<Vec<_>>());
                }
                None => assert!(model.is_empty()),
            },
            LinkedStep::TakeExact(count) => match buffer.take_exact(count) {
                Some(taken) => assert_eq!(*taken, *model.drain(..count).collect::<Vec<_>>()),
                None => assert!(count > model.len()),
            },
            LinkedStep::MakePrivate => {
                buffer.make_private();
                assert_eq!(buffer.front(), model, "one private piece");
                self.source.assert_all_free();
            }
        }
    }

    #[track_caller]
    fn check(&mut self) {
        let Self { source, buffer, model, .. } = self;
        assert_eq!((buffer.len(), buffer.is_empty()), (model.len(), model.is_empty()));
        assert!(model.starts_with(buffer.front()));
        assert_eq!(buffer.front().is_empty(), model.is_empty());
        if model.is_empty() {
            source.assert_all_free();
        }
    }

    /// Takes everything out, piece by piece.
    #[track_caller]
    fn drain(&mut self) {
        while !self.model.is_empty() {
            self.apply(LinkedStep::TakeFront);
        }
        self.check();
    }
}

#[test]
fn a_linked_buffer_reads_the_same_at_every_split_point() {
    const MESSAGE: &[u8] = b"abcdefg";
    let materials = [Material::Pooled, Material::Private, Material::Shared];
    let cuts =
        || (0..=MESSAGE.len()).flat_map(|first| (first..=MESSAGE.len()).map(move |second| (first, second)));
    for (first, second) in cuts() {
        for kinds in 0..27 {
            let pieces = [&MESSAGE[..first], &MESSAGE[first..second], &MESSAGE[second..]];
            let kinds = [kinds % 3, kinds / 3 % 3, kinds / 9];
            for (left, right) in cuts() {
                let mut linked = LinkedModel::new();
                for (piece, kind) in pieces.iter().zip(kinds) {
                    linked.push(materials[kind], piece);
                }
                linked.apply(LinkedStep::Consume(left));
                linked.check();
                linked.apply(LinkedStep::PieceAt(right - left));
                linked.apply(LinkedStep::Contiguous(right - left));
                linked.apply(LinkedStep::TakeExact(right - left));
                linked.check();
                linked.drain();
            }
        }
    }
}

#[test]
fn joining_leaves_what_is_not_asked_for_where_it_lies() {
    let mut linked = LinkedModel::new();
    linked.push(Material::Private, b"abc");
    linked.push(Material::Pooled, b"defgh");
    let place = linked.buffer.piece_at(3).as_ptr();
    linked.apply(LinkedStep::TakeExact(5));
    assert_eq!(linked.buffer.front(), b"fgh");
    assert_eq!(linked.buffer.front().as_ptr(), place.wrapping_add(2));
    linked.drain();
}

#[test]
#[should_panic(expected = "cannot consume")]
fn consuming_more_than_there_is_panics() {
    let mut linked = LinkedModel::new();
    linked.push(Material::Private, b"abc");
    linked.buffer.consume(4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_linked_buffer_is_one_stream(steps in prop::collection::vec(linked_step(), 1..100)) {
        let mut model = LinkedModel::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.drain();
    }
}
