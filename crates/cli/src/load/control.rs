//! How the phases of a load reach its threads, and their progress the terminal.
//!
//! Plain relaxed atomics, one block a thread: nothing is handed over through them, and a number that is
//! one turn old is good enough.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

/// What all threads are to do. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Open connections, each with one message to and fro.
    Connect,
    /// Send, but count nothing yet: caches, windows and rings fill.
    Warm,
    /// Send and count.
    Measure,
    /// Send nothing more, wait for what is under way.
    Drain,
}

const PHASES: [Phase; 4] = [Phase::Connect, Phase::Warm, Phase::Measure, Phase::Drain];

/// What the threads of a load share.
#[derive(Debug)]
pub(crate) struct Control {
    phase: AtomicU8,
    abandoned: AtomicBool,
    threads: Vec<Progress>,
}

/// One thread's numbers, written by it alone. Alone on its cache lines, so that readers do not slow it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    /// Connections that had their first answer or were lost before.
    pub(crate) settled: Counter,
    /// Connections that have been lost.
    pub(crate) lost: Counter,
    /// Messages that came back.
    pub(crate) messages: Counter,
}

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Control {
    /// For so many threads.
    pub(crate) fn new(threads: u32) -> Self {
        let threads = (0..threads).map(|_| Progress::default()).collect();
        Self { phase: AtomicU8::new(Phase::Connect as u8), abandoned: AtomicBool::new(false), threads }
    }

    /// The phase to be in.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        PHASES[self.phase.load(Relaxed) as usize]
    }

    /// Moves all threads on.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Tells all threads to stop at once: one of them failed.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Relaxed);
    }

    /// Whether to stop at once.
    #[inline]
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

    /// The numbers of one thread.
    pub(crate) fn progress(&self, thread: u32) -> &Progress {
        &self.threads[thread as usize]
    }

    /// Connections that had their first answer or were lost before.
    pub(crate) fn settled(&self) -> u64 {
        self.threads.iter().map(|thread| thread.settled.get()).sum()
    }

    /// Connections that have been lost.
    pub(crate) fn lost(&self) -> u64 {
        self.threads.iter().map(|thread| thread.lost.get()).sum()
    }

    /// Messages that came back.
    pub(crate) fn messages(&self) -> u64 {
        self.threads.iter().map(|thread| thread.messages.get()).sum()
    }
}
