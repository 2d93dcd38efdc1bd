//! What is queued leaves whole, and in order.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kolk_engine::buffer::{Chunk, FileRange, Lease, OutQueue, Pool};
use kolk_engine::limits::COPY_SIZE;
use proptest::prelude::*;

use crate::{portion, stamped};

const FILE_LEN: usize = 2000;

/// A file with known bytes, made once.
fn file() -> &'static (Arc<File>, Vec<u8>) {
    static FILE: OnceLock<(Arc<File>, Vec<u8>)> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buffer_model");
        let bytes = stamped(77, FILE_LEN);
        fs::write(&path, &bytes).expect("the target directory is writable");
        (Arc::new(File::open(&path).expect("just written")), bytes)
    })
}

static STATIC: [u8; 1024] = [b's'; 1024];

#[derive(Clone, Debug)]
enum OutStep {
    Copy(usize),
    Shared(usize),
    Static(usize),
    Lease(usize),
    File(usize, usize),
}

/// Lengths around the limit of what is copied, and empty ones.
fn chunk_len() -> impl Strategy<Value = usize> {
    prop_oneof![0..20usize, COPY_SIZE - 2..COPY_SIZE + 3, 0..1000usize]
}

fn out_step() -> impl Strategy<Value = OutStep> {
    prop_oneof![
        chunk_len().prop_map(OutStep::Copy),
        chunk_len().prop_map(OutStep::Shared),
        chunk_len().prop_map(OutStep::Static),
        chunk_len().prop_map(OutStep::Lease),
        (0..FILE_LEN, chunk_len())
            .prop_map(|(offset, len)| OutStep::File(offset, len.min(FILE_LEN - offset))),
    ]
}

struct OutModel {
    pool: Pool,
    queue: OutQueue,
    model: Vec<u8>,
    stamp: usize,
}

impl OutModel {
    fn new() -> Self {
        Self { pool: Pool::new(1024, 16), queue: OutQueue::default(), model: Vec::new(), stamp: 0 }
    }

    fn filled(steps: &[OutStep]) -> Self {
        let mut model = Self::new();
        model.fill(steps);
        model
    }

    fn fill(&mut self, steps: &[OutStep]) {
        for step in steps {
            self.push(step);
            self.check_len();
        }
    }

    fn push(&mut self, step: &OutStep) {
        self.stamp += 1;
        let bytes = match *step {
            OutStep::Copy(len) | OutStep::Shared(len) | OutStep::Lease(len) => stamped(self.stamp, len),
            OutStep::Static(len) => STATIC[..len].to_vec(),
            OutStep::File(offset, len) => file().1[offset..offset + len].to_vec(),
        };
        self.model.extend_from_slice(&bytes);
        match *step {
            OutStep::Copy(_) => self.queue.push_copy(&bytes),
            OutStep::Shared(_) => self.queue.push(Chunk::from(bytes)),
            OutStep::Static(len) => self.queue.push(Chunk::from(&STATIC[..len])),
            OutStep::Lease(_) => {
                let lease = self.lease(&bytes);
                self.queue.push(lease.into());
            }
            OutStep::File(offset, len) => {
                let range = FileRange { file: Arc::clone(&file().0), offset: offset as u64, len: len as u64 };
                self.queue.push(range.into());
            }
        }
    }

    fn lease(&mut self, bytes: &[u8]) -> Lease {
        let Some(block) = self.pool.acquire() else { return Bytes::copy_from_slice(bytes).into() };
        self.pool.block_mut(block)[..bytes.len()].copy_from_slice(bytes);
        self.pool.lend(block, bytes.len())
    }

    #[track_caller]
    fn check_len(&self) {
        assert_eq!(self.queue.len(), self.model.len() as u64);
        assert_eq!(self.queue.is_empty(), self.model.is_empty());
    }

    /// Checks everything the queue shows of what is next, through so many slices.
    #[track_caller]
    fn check(&self, slices: usize) {
        self.check_len();
        let Self { queue, model, .. } = self;
        let mut room = vec![IoSlice::new(&[]); slices];
        let filled = queue.io_slices(&mut room);
        let shown: Vec<u8> = room[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(model.starts_with(&shown), "the slices show other bytes");
        assert!(room[..filled].iter().all(|slice| !slice.is_empty()), "an empty slice");
        if let Some(single) = queue.single_slice() {
            assert_eq!(single, model, "a single slice shows everything");
        } else {
            assert!(filled != 1 || slices == 1 || shown.len() < model.len());
        }
        match queue.front_file() {
            Some(FileRange { file, offset, len }) => {
                assert_eq!(filled, 0, "a file range ends the slices");
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, offset).expect("the range lies inside the file");
                assert!(model.starts_with(&bytes));
                assert!(!bytes.is_empty());
            }
            None => assert_eq!(filled == 0, model.is_empty() || slices == 0),
        }
    }

    #[track_caller]
    fn advance(&mut self, count: usize) {
        self.queue.advance(count as u64);
        self.model.drain(..count);
    }

    /// Everything is sent: nothing is held any more.
    #[track_caller]
    fn check_drained(&mut self) {
        self.check(3);
        assert!(self.queue.is_empty());
        assert_eq!(self.pool.free_blocks(), 16, "a block is still held");
    }
}

#[test]
fn an_out_queue_sends_the_same_at_every_split_point() {
    const LONG: usize = COPY_SIZE + 1;
    let lists = [
        vec![OutStep::Copy(3), OutStep::Shared(LONG), OutStep::File(5, 4), OutStep::Copy(2)],
        vec![OutStep::File(0, 3), OutStep::File(1990, 10), OutStep::Lease(LONG), OutStep::Static(LONG)],
        vec![OutStep::Lease(2), OutStep::Copy(1), OutStep::Static(7)],
    ];
    for steps in lists {
        let all = OutModel::filled(&steps).model.len();
        for first in 0..=all {
            // All second points for the first bytes, one of each place in a chunk for the others.
            for second in (first..=all).step_by(if first < 20 { 1 } else { 97 }) {
                let mut out = OutModel::filled(&steps);
                out.advance(first);
                out.check(4);
                out.advance(second - first);
                out.check(1);
                out.advance(all - second);
                out.check_drained();
            }
        }
        let mut byte_by_byte = OutModel::filled(&steps);
        for _ in 0..all {
            byte_by_byte.advance(1);
            byte_by_byte.check(2);
        }
        byte_by_byte.check_drained();
    }
}

#[test]
fn what_is_sent_is_let_go_at_once() {
    let mut out = OutModel::filled(&[OutStep::Lease(600), OutStep::Lease(700), OutStep::Copy(1)]);
    let mut free = vec![out.pool.free_blocks()];
    for count in [599, 1, 699, 1] {
        out.advance(count);
        free.push(out.pool.free_blocks());
    }
    assert_eq!(free, [14, 14, 15, 15, 16]);
}

#[test]
fn a_queue_that_is_one_lease_hands_it_back_when_all_is_sent() {
    let mut out = OutModel::filled(&[OutStep::Lease(600)]);
    let lease = out.queue.finish().expect("it was all of the queue");
    assert_eq!((*lease).to_vec(), out.model);
    assert_eq!((out.queue.len(), out.queue.sent(), out.pool.free_blocks()), (0, 600, 15));
    out.pool.give_back(lease);
    assert_eq!(out.pool.free_blocks(), 16);
    // What of it had left before does not matter.
    let mut out = OutModel::filled(&[OutStep::Lease(600)]);
    out.queue.advance(599);
    out.pool.give_back(out.queue.finish().expect("it was all that was left"));
    assert_eq!((out.queue.sent(), out.pool.free_blocks()), (600, 16));
    for steps in [vec![OutStep::Lease(600), OutStep::Lease(700)], vec![OutStep::Copy(1), OutStep::Lease(600)]]
    {
        let mut out = OutModel::filled(&steps);
        let len = out.queue.len();
        drop(out.queue.finish());
        assert_eq!((out.queue.len(), out.queue.sent(), out.pool.free_blocks()), (0, len, 16));
    }
}

#[test]
#[should_panic(expected = "bytes sent of")]
fn sending_more_than_there_is_panics() {
    OutModel::filled(&[OutStep::Copy(3)]).advance(4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_out_queue_is_one_stream(
        fillings in prop::collection::vec(prop::collection::vec(out_step(), 0..25), 1..4),
        cuts in prop::collection::vec((any::<usize>(), 0..6usize, 0..20u8), 1..40),
    ) {
        let mut out = OutModel::new();
        let mut cuts = cuts.iter().cycle();
        for steps in fillings {
            out.fill(&steps);
            while !out.model.is_empty() {
                let &(any, slices, whim) = cuts.next().expect("a cycle does not end");
                out.check(slices);
                match whim {
                    0 => {
                        out.queue.clear();
                        out.model.clear();
                    }
                    1 => {
                        if let Some(lease) = out.queue.finish() {
                            // It was all that was left, but for a lead before it; it may have been partly sent.
                            assert!(lease.ends_with(&out.model) || out.model.ends_with(&lease));
                            out.pool.give_back(lease);
                        }
                        out.model.clear();
                    }
                    2..4 => {
                        out.queue.make_private();
                        prop_assert_eq!(out.pool.free_blocks(), 16);
                        out.check(slices);
                        out.advance(1);
                    }
                    // Small steps and large ones.
                    4..12 => out.advance(1 + portion(any, out.model.len().min(600) - 1)),
                    _ => out.advance(1 + portion(any, out.model.len() - 1)),
                }
            }
            out.check_drained();
        }
    }
}
