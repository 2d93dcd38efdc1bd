//! What receives go into, and who waits for it.

use std::collections::VecDeque;

use super::SimConfig;
use crate::buffer::{Block, Pool};
use crate::driver::DriverConfig;

/// The driver's receive pool, and the queue of those that found it empty.
#[derive(Debug)]
pub(super) struct ReceiveMemory {
    pub(super) pool: Pool,
    /// Slots whose receive found no free block, in that order.
    starved: VecDeque<u32>,
    /// Longest datagram that is received whole.
    pub(super) datagram_size: usize,
    /// Times a receive found no free block.
    pub(super) exhausted: u64,
}

impl ReceiveMemory {
    pub(super) fn new(sim: &SimConfig, config: &DriverConfig) -> Self {
        let blocks = usize::from(config.ring_buffers) + usize::from(config.ring_spare_buffers);
        let block_size = config.ring_buffer_size.min(sim.receive_block_size);
        Self {
            pool: Pool::new(block_size, blocks.min(sim.receive_blocks)),
            starved: VecDeque::new(),
            datagram_size: config.arena_block_size,
            exhausted: 0,
        }
    }

    /// A free block, or `None` and a note that there was none.
    pub(super) fn acquire(&mut self) -> Option<Block> {
        let block = self.pool.acquire();
        self.exhausted += u64::from(block.is_none());
        block
    }

    /// The slot's receive waits for its turn.
    pub(super) fn wait_in_line(&mut self, slot: u32) {
        self.starved.push_back(slot);
    }

    pub(super) fn next_in_line(&mut self) -> Option<u32> {
        self.starved.pop_front()
    }

    pub(super) fn waiting(&self) -> usize {
        self.starved.len()
    }
}
