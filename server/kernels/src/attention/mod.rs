//! Attention on a CPU: over the paged cache, and over dense keys and values.
//!
//! A row, one query of one head, is computed alike in a prompt and alone: tokens in groups of 64 and parts of 256, counted
//! from the sequence's first, with a running softmax over the groups of a part; the parts are joined in order. So its bits
//! depend on its own query, keys and values only.
//!
//! | file | holds |
//! |---|---|
//! | `grouping` | the sizes of blocks, groups and parts |
//! | `head_size` | the head sizes that are supported |
//! | `scores`, `cache` | what callers pass: the computation of scores, and the paged cache |
//! | `tile` | attention of a tile of rows to one group |
//! | `tensors` | access to the memory of candle's tensors |
//! | `row` | one query and the tokens that it attends to |
//! | `parts` | the join of the results of a sequence's parts |
//! | `panel` | attention of a panel of rows to a range of tokens |
//! | `dense` | attention over dense keys and values |
//! | `runs` | the new tokens of a step, and its sizes |
//! | `write` | new keys and values in the paged cache, and whole blocks of it |
//! | `step` | the cut of a step into tasks |
//! | `paged` | attention over the paged cache |
//!
//! Of these files, each imports only files above it.

mod cache;
mod dense;
mod grouping;
mod head_size;
mod paged;
mod panel;
mod parts;
mod row;
mod runs;
mod scores;
mod step;
mod tensors;
mod tile;
mod write;

#[cfg(test)]
mod tests;

pub use cache::Cache;
use candle_core::{Result, Tensor};
pub use grouping::BLOCK;
pub use head_size::{MAX_HEAD_SIZE, fits};
pub use scores::Scores;
use step::Machine;

use crate::isa;

/// Attention of `q` (b, h, n, d) to all of `k` and `v` (b, key heads, l, d), f32, with any strides whose last is 1.
///
/// `mask` is added to the scores; it is f32, f16 or bf16 and broadcastable to (b, h, n, l), or (b, n, l). Without a mask
/// each row attends to all tokens, except those before its window. With a mask the window is expected to be part of it.
/// A row that may attend to nothing gives 0.
///
/// Returns (b, h, n, d), or `None` for types, shapes and devices that are not supported.
pub fn dense(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scores: &Scores) -> Result<Option<Tensor>> {
    dense::attend(&dense::Inputs { q, k, v, mask }, scores, isa::current())
}

/// Writes the new tokens' keys and values into the cache, then lets each attend to its sequence up to itself.
///
/// A row is one new token; a run is some consecutive new tokens of one sequence, of which there may be several runs. `q` is
/// (rows, h, 1, d), `k` and `v` are (rows, key heads, 1, d), f32, with any strides whose last is 1.
///
/// Returns contiguous (rows, h, 1, d). Fails, without a change of the cache, for types and
/// shapes that are not supported, and for slots, blocks and lengths that do not fit the pool.
pub fn paged(q: &Tensor, k: &Tensor, v: &Tensor, cache: &Cache, scores: &Scores) -> Result<Tensor> {
    paged::attend(q, Some((k, v)), cache, scores, Machine::current())
}

/// [`paged`] for a layer that shares another layer's cache: the new tokens' keys and values are there already.
pub fn paged_shared(q: &Tensor, cache: &Cache, scores: &Scores) -> Result<Tensor> {
    paged::attend(q, None, cache, scores, Machine::current())
}

/// Asks the system to back a pool of keys and values with huge pages, before it is used: the blocks of a sequence are
/// scattered, and with pages of 4 KiB a decode step would wait for an address translation in each block.
///
/// Does nothing where the system has no such request, or refuses it.
pub fn request_huge_pages(keys: &Tensor, values: &Tensor) -> Result<()> {
    write::request_huge_pages(keys, values)
}

/// Copies the first `tokens` tokens of block `from` to block `to`, in a pool of keys and values with `kv_heads` heads.
pub fn copy_block(
    keys: &Tensor,
    values: &Tensor,
    kv_heads: usize,
    from: usize,
    to: usize,
    tokens: usize,
) -> Result<()> {
    write::copy_block(keys, values, kv_heads, (from, to), tokens)
}

/// Appends the keys and then the values of one block of a layer to `bytes`, as they lie in memory.
///
/// # Errors
/// There is no such block, or the cache is not f32 or f16.
pub fn read_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &mut Vec<u8>) -> Result<()> {
    write::read_block(keys, values, block, bytes)
}

/// Writes what [`read_block`] gave to one block of a layer.
///
/// # Errors
/// There is no such block, or it has another size; nothing is written.
pub fn write_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &[u8]) -> Result<()> {
    write::write_block(keys, values, block, bytes)
}
