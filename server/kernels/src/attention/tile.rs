//! Attention of a tile of rows to one group of 64 tokens: scores, softmax, sums of values.
//!
//! Each function works lane by lane with one fixed order of operations for a row, independent of the other rows of the tile.
//!
//! The loops over lanes use indices instead of iterators and closures, which would be compiled without the kernel's instruction
//! set.
#![allow(clippy::needless_range_loop)]

use half::f16;

use super::grouping::{BLOCK, GROUP, GROUP_BLOCKS};
use crate::elementwise::{
    lanes::{Lanes, prefetch},
    math::{power_of_two, tanh},
};

/// The most rows of a tile: their scores of a group, or their sums of 64 values, fit 24 registers.
pub(super) const ROWS: usize = 6;

/// The type of cached keys and values.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// Sixteen values, widened to f32.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`, and 16 values at `from` are readable.
    unsafe fn lanes<V: Lanes>(from: *const Self) -> V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn lanes<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn lanes<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_half(from) }
    }
}

/// The addresses of the keys and values of a group of 64 tokens, for one head.
#[derive(Clone, Copy)]
pub(super) struct Group<T> {
    /// For each block of 16 tokens, `size` x 16 values: the first component of the 16 keys, then the second, and so on.
    pub keys: [*const T; GROUP_BLOCKS],
    /// For each block, 16 rows of `size` values.
    pub values: [*const T; GROUP_BLOCKS],
    /// Values from a token's row to the next.
    pub stride: usize,
    /// The keys to prefetch: those of the next group, or any addresses.
    pub next: [*const T; GROUP_BLOCKS],
}

/// The tokens of a group that some row of a tile attends to, as offsets in the group; not empty.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub from: usize,
    pub to: usize,
}

impl Span {
    fn blocks(self) -> std::ops::Range<usize> {
        self.from / BLOCK..self.to.div_ceil(BLOCK)
    }
}

/// Computes the products of `R` queries and the keys of the blocks in `span`.
///
/// `queries` holds `size` x `R` values. Row `r`'s products go to `scores[r * GROUP..][..GROUP]`.
///
/// # Safety
/// The CPU has the instruction set of `V`. The memory described is readable, and writable at `scores`.
#[inline(always)]
pub(super) unsafe fn score<V: Lanes, T: Element, const R: usize>(
    queries: *const f32,
    group: &Group<T>,
    size: usize,
    span: Span,
    scores: *mut f32,
) {
    let blocks = span.blocks();
    if V::BLOCKS == GROUP_BLOCKS && blocks.len() > 2 {
        // A block outside the span may be unreadable, so a neighbour is read in its place. These scores are not used.
        let keys = std::array::from_fn(|b| group.keys[b.clamp(blocks.start, blocks.end - 1)]);
        // SAFETY: the caller's promise.
        unsafe { score_blocks::<V, T, R, GROUP_BLOCKS>(queries, (keys, group.values), size, scores) };
        return;
    }
    for b in blocks {
        // SAFETY: the caller's promise; block `b` of a row's scores lies `b * BLOCK` behind its first.
        unsafe {
            score_blocks::<V, T, R, 1>(queries, ([group.keys[b]], [group.values[b]]), size, scores.add(b * BLOCK))
        };
    }
}

/// Computes the products of `R` queries and the keys of `C` blocks. Prefetches the blocks' values.
///
/// # Safety
/// As [`score`].
#[inline(always)]
unsafe fn score_blocks<V: Lanes, T: Element, const R: usize, const C: usize>(
    queries: *const f32,
    (keys, values): ([*const T; C], [*const T; C]),
    size: usize,
    scores: *mut f32,
) {
    // SAFETY: `i` is below `size`, so all reads lie within the `size` x R queries and `size` x 16 keys of a block; a row's
    // scores have room for `C` blocks from `scores` on.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for i in 0..size {
            let mut key = [V::splat(0.0); C];
            for c in 0..C {
                key[c] = T::lanes::<V>(keys[c].add(i * BLOCK));
                prefetch(values[c].wrapping_add(i * BLOCK));
            }
            for r in 0..R {
                let query = V::splat(*queries.add(i * R + r));
                for c in 0..C {
                    sums[r][c] = query.fused(key[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                sums[r][c].store(scores.add(r * GROUP + c * BLOCK));
            }
        }
    }
}

/// The changes to a row's scores before the softmax. Scores are in units of `ln 2`, because the softmax takes powers of 2.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// The soft cap times `log2 e`; the scores were divided by the cap.
    pub cap: Option<f32>,
    /// A mask to add: 64 values. Only values of visible tokens are read.
    pub mask: Option<*const f32>,
}

/// The running softmax of a row.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// The greatest score.
    pub top: f32,
    /// The sum of the powers, by lane.
    pub sums: [f32; BLOCK],
}

impl Running {
    pub(super) const EMPTY: Self = Self { top: f32::NEG_INFINITY, sums: [0.0; BLOCK] };
}

/// Turns a row's scores of a group into weights relative to its greatest score so far.
///
/// `row`: the tokens that the row attends to, within `span`. Returns the factor for the row's sums of earlier groups.
///
/// # Safety
/// The CPU has the instruction set of `V`; `scores` has 64 values, and so has the mask, as far as `row` reaches.
#[inline(always)]
pub(super) unsafe fn soften<V: Lanes>(
    running: &mut Running,
    scores: *mut f32,
    span: Span,
    row: Span,
    shape: Shape,
) -> f32 {
    // SAFETY: the caller's promise; blocks end at 64.
    unsafe {
        let never = V::splat(f32::NEG_INFINITY);
        let mut x = [never; GROUP_BLOCKS];
        for b in span.blocks() {
            let (from, to) = (row.from.saturating_sub(b * BLOCK), row.to.saturating_sub(b * BLOCK).min(BLOCK));
            if from >= to {
                continue;
            }
            let mut score = V::load(scores.add(b * BLOCK));
            if let Some(cap) = shape.cap {
                score = tanh(score).times(V::splat(cap));
            }
            if let Some(mask) = shape.mask {
                score = masked::<V>(score, mask.add(b * BLOCK), from, to);
            }
            x[b] = if to - from < BLOCK { score.keep(from, to) } else { score };
        }
        let before = running.top;
        let high = x[0].larger(x[1]).larger(x[2].larger(x[3]));
        if high.any_above(V::splat(before)) {
            running.top = high.greatest();
        }
        if running.top == f32::NEG_INFINITY {
            for b in span.blocks() {
                V::splat(0.0).store(scores.add(b * BLOCK));
            }
            return 1.0;
        }
        let top = V::splat(running.top);
        let mut weights = [V::splat(0.0); GROUP_BLOCKS];
        for b in 0..GROUP_BLOCKS {
            weights[b] = power_of_two(x[b].minus(top));
        }
        for b in span.blocks() {
            weights[b].store(scores.add(b * BLOCK));
        }
        let factor = if running.top == before { 1.0 } else { power_of_two(V::splat(before - running.top)).first() };
        let sums = V::load(running.sums.as_ptr());
        let added = weights[0].plus(weights[1]).plus(weights[2].plus(weights[3]));
        sums.fused(V::splat(factor), added).store(running.sums.as_mut_ptr());
        factor
    }
}

/// Adds a mask to the scores of a block. Reads the mask's values `from..to` only.
///
/// # Safety
/// The CPU has the instruction set of `V`, and those values are readable.
#[inline(always)]
unsafe fn masked<V: Lanes>(score: V, mask: *const f32, from: usize, to: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let added = if to - from == BLOCK {
            V::load(mask)
        } else {
            let mut part = [0.0; BLOCK];
            for (lane, value) in part.iter_mut().enumerate().take(to).skip(from) {
                *value = *mask.add(lane);
            }
            V::load(part.as_ptr())
        };
        added.fused(V::splat(std::f32::consts::LOG2_E), score)
    }
}

/// Multiplies the sums of `R` rows by their factors and adds the weighted values of the tokens in `span`. Prefetches the
/// keys of the group that follows.
///
/// `weights[r * GROUP..]` are row `r`'s weights, `sums[r * size..]` its `size` sums.
///
/// # Safety
/// The CPU has the instruction set of `V`. The memory described is readable, and writable at `sums`.
#[inline(always)]
pub(super) unsafe fn mix<V: Lanes, T: Element, const R: usize>(
    weights: *const f32,
    factors: &[f32; R],
    group: &Group<T>,
    span: Span,
    size: usize,
    sums: *mut f32,
) {
    let mut column = 0;
    // SAFETY: the columns lie below `size`, a multiple of 16; see the caller's promise.
    unsafe {
        while size - column >= 4 * BLOCK {
            mix_columns::<V, T, R, 4>(weights, factors, group, span, (size, column), sums);
            column += 4 * BLOCK;
        }
        while column < size {
            mix_columns::<V, T, R, 1>(weights, factors, group, span, (size, column), sums);
            column += BLOCK;
        }
    }
}

/// [`mix`] for `C` times 16 columns from `column` on.
///
/// # Safety
/// As [`mix`]; the columns lie below `size`.
#[inline(always)]
unsafe fn mix_columns<V: Lanes, T: Element, const R: usize, const C: usize>(
    weights: *const f32,
    factors: &[f32; R],
    group: &Group<T>,
    span: Span,
    (size, column): (usize, usize),
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let sums = sums.add(column);
        let mut total = [[V::splat(0.0); C]; R];
        for r in 0..R {
            for c in 0..C {
                total[r][c] = V::load(sums.add(r * size + c * BLOCK)).times(V::splat(factors[r]));
            }
        }
        for b in span.blocks() {
            let (first, last) = (span.from.max(b * BLOCK), span.to.min((b + 1) * BLOCK));
            let mut values = group.values[b].add((first - b * BLOCK) * group.stride + column);
            let mut next = group.next[b].wrapping_add((first - b * BLOCK) * size + column);
            for t in first..last {
                let mut value = [V::splat(0.0); C];
                for c in 0..C {
                    value[c] = T::lanes::<V>(values.add(c * BLOCK));
                    prefetch(next.wrapping_add(c * BLOCK));
                }
                for r in 0..R {
                    let weight = V::splat(*weights.add(r * GROUP + t));
                    for c in 0..C {
                        total[r][c] = weight.fused(value[c], total[r][c]);
                    }
                }
                values = values.wrapping_add(group.stride);
                next = next.wrapping_add(size);
            }
        }
        for r in 0..R {
            for c in 0..C {
                total[r][c].store(sums.add(r * size + c * BLOCK));
            }
        }
    }
}
