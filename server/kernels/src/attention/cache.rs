//! The paged cache as the argument of a step: its pools, and the blocks of each sequence.

use candle_core::Tensor;

/// The paged cache of one layer, and the places in it of one step's keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    /// Pool of blocks x key heads x 16 x head size keys, f32, contiguous, of any shape whose first dimension is the blocks.
    /// Within a block of a head: the first component of the 16 keys, then the second, and so on.
    pub keys: &'a Tensor,
    /// Pool of as many values. Within a block of a head: the first token's value, then the second's.
    pub values: &'a Tensor,
    /// The blocks of each run's sequence, u32 (runs, most blocks). Entries after a sequence's last block are not read.
    pub tables: &'a Tensor,
    /// Tokens of each run's sequence up to the run's last row, u32 (runs).
    pub lens: &'a Tensor,
    /// Rows of each run, in order.
    pub counts: &'a [usize],
    /// The place of each row's key and value, i64 (rows): `16 * block + offset`.
    pub slots: &'a Tensor,
}
