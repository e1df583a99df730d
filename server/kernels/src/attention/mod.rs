//! Attention on a CPU: over the paged cache, and over dense keys and values.
//!
//! A row, one query of one head, is computed in the same way in a prompt and alone. Tokens are taken in groups of 64 and parts of
//! 256, counted from the sequence's first. A running softmax goes over the groups of a part, and the parts are joined in order.
//! So a row's bits depend on its own query, keys and values only.
//!
//! | file | holds |
//! |---|---|
//! | `grouping` | the sizes of blocks, groups and parts |
//! | `head_size` | the head sizes that are supported |
//! | `scores`, `cache` | arguments of callers: the computation of scores, and the paged cache |
//! | `tile` | attention of a tile of rows to one group |
//! | `tensors` | access to the memory of candle's tensors |
//! | `row` | one query and the tokens that it attends to |
//! | `parts` | the join of the results of a sequence's parts |
//! | `panel` | attention of a panel of rows to a range of tokens |
//! | `dense` | attention over dense keys and values |
//! | `runs` | the new tokens of a step, and its sizes |
//! | `write` | writing keys and values to the paged cache; copying blocks of it |
//! | `step` | the division of a step into tasks |
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

/// Computes the attention of `q` (b, h, n, d) to all of `k` and `v` (b, key heads, l, d), f32, with any strides whose last is 1.
///
/// `mask` is added to the scores; it is f32, f16 or bf16 and broadcastable to (b, h, n, l), or (b, n, l). Without a mask
/// each row attends to all tokens, except those before its window. With a mask the window is expected to be part of it.
/// A row that attends to no token gives 0.
///
/// Returns (b, h, n, d), or `None` for types, shapes and devices that are not supported.
pub fn dense(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scores: &Scores) -> Result<Option<Tensor>> {
    dense::attend(&dense::Inputs { q, k, v, mask }, scores, isa::current())
}

/// Writes the new tokens' keys and values to the cache, then computes the attention of each to its sequence up to itself.
///
/// A row is one new token; a run is some consecutive new tokens of one sequence. A sequence may have several runs. `q` is
/// (rows, h, 1, d), `k` and `v` are (rows, key heads, 1, d), f32, with any strides whose last is 1.
///
/// Returns contiguous (rows, h, 1, d).
///
/// # Errors
/// Types or shapes are not supported, or slots, blocks or lengths do not fit the pool. The cache is not changed then.
pub fn paged(q: &Tensor, k: &Tensor, v: &Tensor, cache: &Cache, scores: &Scores) -> Result<Tensor> {
    paged::attend(q, Some((k, v)), cache, scores, Machine::current())
}

/// As [`paged`], for a layer that uses the cache of another layer, which holds the new tokens' keys and values already.
pub fn paged_shared(q: &Tensor, cache: &Cache, scores: &Scores) -> Result<Tensor> {
    paged::attend(q, None, cache, scores, Machine::current())
}

/// Asks the operating system to use huge pages for a pool of keys and values. Must be called before the pool is used. The blocks
/// of a sequence are scattered, and with pages of 4 KiB a decode step would wait for an address translation in each block.
///
/// Does nothing if the system does not support the request or refuses it.
pub fn request_huge_pages(keys: &Tensor, values: &Tensor) -> Result<()> {
    write::request_huge_pages(keys, values)
}

/// Copies the first `tokens` tokens of block `from` to block `to`, in a pool of keys and values with `kv_heads` heads.
///
/// # Errors
/// The blocks or tokens do not exist, or the cache is not f32 or f16; nothing is copied.
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

/// Appends the keys and then the values of one block of a layer to `bytes`, in their layout in memory.
///
/// # Errors
/// There is no such block, or the cache is not f32 or f16.
pub fn read_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &mut Vec<u8>) -> Result<()> {
    write::read_block(keys, values, block, bytes)
}

/// Writes the bytes that [`read_block`] appended to one block of a layer.
///
/// # Errors
/// There is no such block, or it has another size; nothing is written.
pub fn write_block(keys: &Tensor, values: &Tensor, block: usize, bytes: &[u8]) -> Result<()> {
    write::write_block(keys, values, block, bytes)
}
