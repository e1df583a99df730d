//! The runs of a step, and its sizes.

use candle_core::{Result, bail};

use super::grouping::BLOCK;

/// Consecutive new tokens of one sequence.
pub(super) struct Run {
    /// The row of the first of them.
    pub row: usize,
    /// The number of new tokens.
    pub new: usize,
    /// Tokens of the sequence up to the run's last.
    pub len: usize,
    pub blocks: Vec<usize>,
    /// Places of the new tokens: 16 * block + offset.
    pub slots: Vec<usize>,
}

impl Run {
    /// The run of new tokens with these `slots`, from row `row` on, of a sequence of `len` tokens in the blocks of `table`.
    pub(super) fn new(row: usize, len: usize, slots: &[i64], table: &[u32]) -> Self {
        let blocks = table.iter().take(len.div_ceil(BLOCK)).map(|block| *block as usize).collect();
        // A negative slot becomes a slot beyond any pool, which `check` refuses.
        let slots: Vec<usize> = slots.iter().map(|slot| usize::try_from(*slot).unwrap_or(usize::MAX)).collect();
        Self { row, new: slots.len(), len, blocks, slots }
    }

    /// Fails if the run does not fit its sequence, or if it would read or write a block beyond the pool.
    pub(super) fn check(&self, sizes: Sizes, window: Option<usize>) -> Result<()> {
        let Self { row, new, len, .. } = *self;
        if new > len || self.blocks.len() < len.div_ceil(BLOCK) {
            bail!("attention: row {row} has {new} new of {len} tokens in {} blocks", self.blocks.len());
        }
        let first = window.map_or(0, |window| (len + 1).saturating_sub(window.saturating_add(new)) / BLOCK);
        let read = self.blocks.iter().skip(first).copied();
        if read.chain(self.slots.iter().map(|slot| slot / BLOCK)).any(|block| block >= sizes.blocks) {
            bail!("attention: row {row} names a block beyond the pool's {}", sizes.blocks);
        }
        Ok(())
    }
}

/// Sizes that all parts of a step share.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub rows: usize,
    pub heads: usize,
    pub size: usize,
    pub kv_heads: usize,
    /// Blocks of the pool.
    pub blocks: usize,
}

impl Sizes {
    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Values of a block of one head.
    pub(super) fn block(&self) -> usize {
        BLOCK * self.size
    }

    /// The place where a head's block begins in the pool.
    pub(super) fn at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.block()
    }
}
