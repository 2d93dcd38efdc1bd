//! The buffers against plain models: bytes against `Vec<u8>`, blocks against sets of those that are held.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::IoSlice;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use bytes::{Buf, Bytes};
use kolk_engine::buffer::{Arena, Block, Chunk, FileRange, Lease, LinkedBuffer, OutQueue, Parts, Pool};
use kolk_engine::limits::COPY_SIZE;
use proptest::prelude::*;

/// Bytes that no other call with a nearby `stamp` gives.
fn stamped(stamp: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| (stamp * 31 + place * 7 + (place >> 8)) as u8).collect()
}

/// One of `0..=most`, by any number.
fn portion(any: usize, most: usize) -> usize {
    any % (most + 1)
}

/// A place in a list of `len`, by any number; `None` in an empty one.
fn place(any: usize, len: usize) -> Option<usize> {
    any.checked_rem(len)
}

// ---- Pool and Lease ---------------------------------------------------------------------------------

const BLOCK_SIZE: usize = 96;
const BLOCKS: usize = 70;

#[derive(Clone, Debug)]
enum PoolStep {
    /// Acquires this many blocks and fills them.
    Acquire(usize),
    /// Acquires one to lend it in parts.
    AcquireParts,
    /// The loop gives a block back.
    Release(usize),
    /// A block becomes a lease of so many bytes, or a part of it does.
    Lend(usize, usize, usize),
    Split(usize, usize),
    Truncate(usize, usize),
    Advance(usize, usize),
    Clone(usize),
    MakePrivate(usize),
    /// Into `Bytes` and back.
    Wrap(usize),
    Drop(usize),
    /// Drops so many leases on another thread.
    DropElsewhere(usize),
}

fn pool_step() -> impl Strategy<Value = PoolStep> {
    let any = any::<usize>;
    prop_oneof![
        4 => (1..30usize).prop_map(PoolStep::Acquire),
        4 => Just(PoolStep::AcquireParts),
        2 => any().prop_map(PoolStep::Release),
        12 => (any(), any(), any()).prop_map(|(nth, start, len)| PoolStep::Lend(nth, start, len)),
        4 => (any(), any()).prop_map(|(nth, at)| PoolStep::Split(nth, at)),
        2 => (any(), any()).prop_map(|(nth, len)| PoolStep::Truncate(nth, len)),
        2 => (any(), any()).prop_map(|(nth, count)| PoolStep::Advance(nth, count)),
        3 => any().prop_map(PoolStep::Clone),
        2 => any().prop_map(PoolStep::MakePrivate),
        1 => any().prop_map(PoolStep::Wrap),
        6 => any().prop_map(PoolStep::Drop),
        2 => (1..20usize).prop_map(PoolStep::DropElsewhere),
    ]
}

/// A lease and what it must show.
struct Lent {
    lease: Lease,
    bytes: Vec<u8>,
    /// The block that it holds.
    block: Option<usize>,
}

/// A block that the loop works with.
enum Held {
    Whole(Block),
    Parts(Parts),
}

impl Held {
    fn block(&self) -> Block {
        match self {
            Self::Whole(block) => *block,
            Self::Parts(parts) => parts.block(),
        }
    }

    fn release(self, pool: &mut Pool) {
        match self {
            Self::Whole(block) => pool.release(block),
            Self::Parts(parts) => pool.release_parts(parts),
        }
    }
}

struct PoolModel {
    pool: Pool,
    /// Blocks that the loop holds, with their bytes.
    held: Vec<(Held, Vec<u8>)>,
    lent: Vec<Lent>,
    stamp: usize,
}

impl PoolModel {
    fn new() -> Self {
        Self { pool: Pool::new(BLOCK_SIZE, BLOCKS), held: Vec::new(), lent: Vec::new(), stamp: 0 }
    }

    fn in_use(&self) -> HashSet<usize> {
        let held = self.held.iter().map(|(held, _)| held.block().index());
        held.chain(self.lent.iter().filter_map(|lent| lent.block)).collect()
    }

    fn apply(&mut self, step: PoolStep) {
        match step {
            PoolStep::Acquire(count) => (0..count).for_each(|_| self.acquire()),
            PoolStep::AcquireParts => self.acquire_parts(),
            PoolStep::Release(nth) => {
                if let Some(nth) = place(nth, self.held.len()) {
                    self.held.swap_remove(nth).0.release(&mut self.pool);
                }
            }
            PoolStep::Lend(nth, start, len) => self.lend(nth, start, len),
            PoolStep::DropElsewhere(count) => self.drop_elsewhere(count),
            PoolStep::Split(nth, _)
            | PoolStep::Truncate(nth, _)
            | PoolStep::Advance(nth, _)
            | PoolStep::Clone(nth)
            | PoolStep::MakePrivate(nth)
            | PoolStep::Wrap(nth)
            | PoolStep::Drop(nth) => {
                if let Some(nth) = place(nth, self.lent.len()) {
                    self.change_lease(nth, step);
                }
            }
        }
    }

    fn acquire(&mut self) {
        let in_use = self.in_use();
        let Some(block) = self.pool.acquire() else {
            return assert_eq!(in_use.len(), BLOCKS, "refused although a block is free");
        };
        assert!(!in_use.contains(&block.index()), "{block:?} was given out while in use");
        self.stamp += 1;
        let bytes = stamped(self.stamp, BLOCK_SIZE);
        self.pool.block_mut(block).copy_from_slice(&bytes);
        self.held.push((Held::Whole(block), bytes));
    }

    fn acquire_parts(&mut self) {
        let in_use = self.in_use();
        let Some(mut parts) = self.pool.acquire_parts() else {
            return assert_eq!(in_use.len(), BLOCKS, "refused although a block is free");
        };
        let block = parts.block();
        assert!(!in_use.contains(&block.index()), "{block:?} was given out while in use");
        // Whoever used the block before has left its bytes there.
        let bytes = parts.lend(0, BLOCK_SIZE).to_vec();
        self.held.push((Held::Parts(parts), bytes));
    }

    fn lend(&mut self, nth: usize, start: usize, len: usize) {
        let Some(nth) = place(nth, self.held.len()) else { return };
        if let (Held::Parts(parts), bytes) = &mut self.held[nth] {
            let start = portion(start, BLOCK_SIZE);
            let len = portion(len, BLOCK_SIZE - start);
            let lease = parts.lend(start, len);
            let (bytes, block) = (bytes[start..start + len].to_vec(), Some(parts.block().index()));
            return self.lent.push(Lent { lease, bytes, block });
        }
        let (held, mut bytes) = self.held.swap_remove(nth);
        let block = held.block();
        bytes.truncate(portion(len, BLOCK_SIZE));
        let lease = self.pool.lend(block, bytes.len());
        self.lent.push(Lent { lease, bytes, block: Some(block.index()) });
    }

    fn change_lease(&mut self, nth: usize, step: PoolStep) {
        let Lent { lease, bytes, block } = &mut self.lent[nth];
        match step {
            PoolStep::Split(_, at) => {
                let at = portion(at, bytes.len());
                let front = lease.split_to(at);
                let rest = bytes.split_off(at);
                let front_bytes = mem::replace(bytes, rest);
                // Who takes everything takes the hold as well.
                let front_block = if bytes.is_empty() { block.take() } else { *block };
                self.lent.push(Lent { lease: front, bytes: front_bytes, block: front_block });
            }
            PoolStep::Truncate(_, len) => {
                // Half of them beyond what 32 bits can say, which has no effect.
                let len = if len % 2 == 0 { len & !0xFFFF_FFFF } else { portion(len, bytes.len()) };
                lease.truncate(len);
                bytes.truncate(len);
            }
            PoolStep::Advance(_, count) => {
                let count = portion(count, bytes.len());
                lease.advance(count);
                bytes.drain(..count);
            }
            PoolStep::Clone(_) => {
                let copy = Lent { lease: lease.clone(), bytes: bytes.clone(), block: *block };
                self.lent.push(copy);
            }
            PoolStep::MakePrivate(_) => {
                // A lease wrapped into `Bytes` no longer knows where its bytes lie.
                if lease.is_pooled() {
                    *block = None;
                }
                lease.make_private();
                assert!(!lease.is_pooled());
            }
            PoolStep::Wrap(_) => {
                *lease = Lease::from(Bytes::from(mem::take(lease)));
                // No bytes need no memory.
                if lease.is_empty() {
                    *block = None;
                }
            }
            PoolStep::Drop(_) => drop(self.lent.swap_remove(nth)),
            other => unreachable!("{other:?} changes no lease"),
        }
    }

    fn drop_elsewhere(&mut self, count: usize) {
        let kept = self.lent.len().saturating_sub(count);
        let dropped: Vec<Lease> = self.lent.drain(kept..).map(|lent| lent.lease).collect();
        thread::spawn(move || drop(dropped)).join().expect("dropping a lease does not panic");
    }

    fn check(&mut self) {
        for Lent { lease, bytes, block } in &self.lent {
            assert_eq!(**lease, bytes[..], "a live lease changed");
            assert_eq!((lease.len(), lease.remaining()), (bytes.len(), bytes.len()));
            assert!(block.is_some() || !lease.is_pooled());
        }
        let free = BLOCKS - self.in_use().len();
        assert!(self.pool.has_free(free) && !self.pool.has_free(free + 1));
        assert_eq!(self.pool.free_blocks(), free);
        for (held, _) in &self.held {
            let shared = self.lent.iter().any(|lent| lent.block == Some(held.block().index()));
            match held {
                Held::Whole(block) => assert!(self.pool.is_unshared(*block) && !shared),
                Held::Parts(parts) => assert_eq!(parts.is_whole(), !shared),
            }
        }
    }
}

// ---- Arena ------------------------------------------------------------------------------------------

const ARENA_BLOCK: usize = 256;

#[derive(Clone, Debug)]
enum ArenaStep {
    /// Wants room for the first number of bytes, receives some of them by the second.
    Receive(usize, usize),
    BeginTurn,
    Drop(usize),
    DropAll,
}

fn arena_step() -> impl Strategy<Value = ArenaStep> {
    prop_oneof![
        8 => (1..2 * ARENA_BLOCK, any::<usize>()).prop_map(|(min, len)| ArenaStep::Receive(min, len)),
        3 => Just(ArenaStep::BeginTurn),
        4 => any::<usize>().prop_map(ArenaStep::Drop),
        1 => Just(ArenaStep::DropAll),
    ]
}

struct ArenaModel {
    arena: Arena,
    blocks: usize,
    /// Address of the first block.
    base: usize,
    /// Number of the block that receives go to.
    current: usize,
    filled: usize,
    lent: Vec<(Lease, Vec<u8>)>,
    stamp: usize,
}

impl ArenaModel {
    fn new(blocks: usize) -> Self {
        let mut arena = Arena::new(ARENA_BLOCK, blocks);
        let base = arena.offer(0).expect("an empty block has room").as_ptr().addr();
        Self { arena, blocks, base, current: 0, filled: 0, lent: Vec::new(), stamp: 0 }
    }

    fn block_at(&self, address: usize) -> usize {
        (address - self.base) / ARENA_BLOCK
    }

    fn pinned(&self) -> HashSet<usize> {
        let pooled = self.lent.iter().filter(|(lease, _)| lease.is_pooled());
        pooled.map(|(lease, _)| self.block_at(lease.as_ptr().addr())).collect()
    }

    fn free(&self) -> usize {
        let mut in_use = self.pinned();
        in_use.insert(self.current);
        self.blocks - in_use.len()
    }

    fn apply(&mut self, step: ArenaStep) {
        match step {
            ArenaStep::Receive(min, len) => {
                // Whoever finds no room may try again in the next turn, and finds some if any is free.
                if !self.receive(min, len) {
                    let room_is_due = self.free() > 0 || !self.pinned().contains(&self.current);
                    self.begin_turn();
                    assert_eq!(self.receive(min, len), room_is_due, "room after a new turn");
                }
            }
            ArenaStep::BeginTurn => self.begin_turn(),
            ArenaStep::Drop(nth) => {
                if let Some(nth) = place(nth, self.lent.len()) {
                    self.lent.swap_remove(nth);
                }
            }
            ArenaStep::DropAll => self.lent.clear(),
        }
    }

    fn receive(&mut self, min: usize, len: usize) -> bool {
        if !self.pinned().contains(&self.current) {
            self.filled = 0;
        }
        let room = ARENA_BLOCK - self.filled;
        let Some(offered) = self.arena.offer(min) else {
            assert!(room < min.min(ARENA_BLOCK), "refused {min} bytes with {room} left");
            return false;
        };
        assert_eq!(offered.len(), room);
        self.stamp += 1;
        // A kernel may have touched all of it, whatever it reports.
        offered.fill(0xEE);
        let bytes = stamped(self.stamp, 1 + portion(len, room.max(1) - 1));
        offered[..bytes.len()].copy_from_slice(&bytes);
        let free = self.free();
        let lease = self.arena.lend(bytes.len());
        assert_eq!(lease.is_pooled(), free > 0, "private when no other block is free");
        if lease.is_pooled() {
            assert_eq!(self.block_at(lease.as_ptr().addr()), self.current);
            self.filled += bytes.len();
        }
        self.lent.push((lease, bytes));
        true
    }

    fn begin_turn(&mut self) {
        let (free, pinned) = (self.free(), self.pinned());
        self.arena.begin_turn();
        // A full block's rest lies at its end, which is the start of the next: ask only for real room.
        if let Some(room) = self.arena.offer(1) {
            let (address, len) = (room.as_ptr().addr(), room.len());
            self.current = self.block_at(address);
            self.filled = ARENA_BLOCK - len;
        }
        if !pinned.contains(&self.current) {
            assert_eq!(self.filled, 0, "nobody pins the block");
        }
        assert!(
            free == 0 || ARENA_BLOCK - self.filled >= ARENA_BLOCK / 2,
            "a turn begins with {} bytes filled, although {free} blocks are free",
            self.filled
        );
    }

    fn check(&mut self) {
        for (lease, bytes) in &self.lent {
            assert_eq!(**lease, bytes[..], "a live lease was overwritten");
        }
    }
}

// ---- LinkedBuffer -----------------------------------------------------------------------------------

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

// ---- OutQueue ---------------------------------------------------------------------------------------

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
#[should_panic(expected = "bytes sent of")]
fn sending_more_than_there_is_panics() {
    OutModel::filled(&[OutStep::Copy(3)]).advance(4);
}

// ---- random scripts ---------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_block_is_free_only_when_nobody_holds_it(steps in prop::collection::vec(pool_step(), 1..120)) {
        let mut model = PoolModel::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.lent.clear();
        model.held.drain(..).for_each(|(held, _)| held.release(&mut model.pool));
        model.check();
        prop_assert_eq!(model.pool.free_blocks(), BLOCKS);
    }

    #[test]
    fn leases_outlive_their_pool(steps in prop::collection::vec(pool_step(), 1..60)) {
        let mut model = PoolModel::new();
        steps.into_iter().for_each(|step| model.apply(step));
        let PoolModel { pool, lent, .. } = model;
        drop(pool);
        for Lent { lease, bytes, .. } in lent {
            prop_assert_eq!(&*lease, bytes);
        }
    }

    #[test]
    fn an_arena_overwrites_no_lease_and_finds_room(
        blocks in 1..5usize,
        steps in prop::collection::vec(arena_step(), 1..200),
    ) {
        let mut model = ArenaModel::new(blocks);
        for step in steps {
            model.apply(step);
            model.check();
        }
    }

    #[test]
    fn a_linked_buffer_is_one_stream(steps in prop::collection::vec(linked_step(), 1..100)) {
        let mut model = LinkedModel::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.drain();
    }

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
                    1..4 => {
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

// ---- threads ----------------------------------------------------------------------------------------

#[test]
fn blocks_come_back_from_many_threads_and_no_live_lease_changes() {
    const ROUNDS: usize = 20_000;
    let mut pool = Pool::new(BLOCK_SIZE, BLOCKS);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = mpsc::sync_channel::<(Lease, usize)>(16);
                scope.spawn(move || {
                    for (lease, stamp) in receiver {
                        assert_eq!(*lease, *stamped(stamp, BLOCK_SIZE), "a live lease changed");
                    }
                });
                sender
            })
            .collect();
        for stamp in 0..ROUNDS {
            let Some(block) = pool.acquire() else {
                thread::yield_now();
                continue;
            };
            pool.block_mut(block).copy_from_slice(&stamped(stamp, BLOCK_SIZE));
            let lease = pool.lend(block, BLOCK_SIZE);
            for reader in &readers[..1 + stamp % 3] {
                reader.send((lease.clone(), stamp)).expect("the reader lives");
            }
        }
    });
    assert_eq!(pool.free_blocks(), BLOCKS);
}
