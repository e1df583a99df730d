//! Attention of a panel of rows, the queries of some positions and the heads that share a key head, to a range of tokens.

use super::{
    BLOCK, GROUP, GROUP_BLOCKS, PART,
    tile::{Element, Group, ROWS, Running, Shape, Span, mix, score, soften},
};
use crate::elementwise::{
    lanes::{Kernel, Lanes},
    math::power_of_two,
};

/// One query.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// `size` values.
    pub query: *const f32,
    /// Where the `size` results go.
    pub result: *mut f32,
    /// The tokens that it attends to: `from..to`.
    pub from: usize,
    pub to: usize,
    /// Mask values by token, to be added to the scores; each token of `from..to` has one.
    pub mask: Option<*const f32>,
}

/// Gives the groups of 64 tokens of one sequence, for one head.
pub(super) trait Source {
    type Element: Element;

    /// The group that begins with token `first`. The blocks that hold tokens `first + span.from..first + span.to` are
    /// valid until the next call.
    fn group(&mut self, first: usize, span: Span) -> Group<Self::Element>;
}

/// How scores become weights.
#[derive(Clone, Copy)]
pub(super) struct Scaling {
    /// Factor of the queries.
    factor: f32,
    /// Factor of the tangent of a score, with a soft cap.
    cap: Option<f32>,
}

impl Scaling {
    pub(super) fn new(scale: f32, softcap: Option<f32>) -> Self {
        let log2_e = std::f32::consts::LOG2_E;
        match softcap {
            Some(cap) => Self { factor: scale / cap, cap: Some(cap * log2_e) },
            None => Self { factor: scale * log2_e, cap: None },
        }
    }
}

/// What a row has so far: its softmax, and the sum of the values.
///
/// A sequence is computed in parts of [`PART`] tokens that are joined in order of position.
pub(super) struct Joined<'a> {
    pub top: &'a mut f32,
    pub weight: &'a mut f32,
    pub sums: &'a mut [f32],
}

impl Joined<'_> {
    /// Adds a part's result.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`, and `sums` has as many values as the part's, a multiple of 16.
    #[inline(always)]
    pub(super) unsafe fn join<V: Lanes>(&mut self, top: f32, weight: f32, sums: &[f32]) {
        if top == f32::NEG_INFINITY {
            return;
        }
        let high = if top > *self.top { top } else { *self.top };
        // SAFETY: the caller's promise.
        unsafe {
            let (old, new) = (power_of_two(V::splat(*self.top - high)), power_of_two(V::splat(top - high)));
            for at in (0..self.sums.len()).step_by(BLOCK) {
                let to = self.sums.as_mut_ptr().add(at);
                V::load(sums.as_ptr().add(at)).fused(new, V::load(to).times(old)).store(to);
            }
            let mut total = [0.0; BLOCK];
            V::splat(weight).fused(new, V::splat(*self.weight).times(old)).store(total.as_mut_ptr());
            *self.weight = total[0];
        }
        *self.top = high;
    }
}

/// A panel of rows and the tokens that they attend to.
pub(super) struct Panel<'a, S> {
    pub rows: &'a [Row],
    /// Components of a query, a multiple of 16.
    pub size: usize,
    pub scaling: Scaling,
    pub source: S,
}

/// A range of a panel's rows that are computed together, and where their data begins in the scratch memory.
struct Tile {
    first: usize,
    rows: usize,
}

/// Scratch memory of a panel.
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    joined: Vec<f32>,
    factors: Vec<f32>,
    running: Vec<Running>,
    weights: Vec<(f32, f32)>,
}

impl<S: Source> Kernel for Panel<'_, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let count = self.rows.len();
        let (Some(from), Some(to)) =
            (self.rows.iter().map(|row| row.from).min(), self.rows.iter().map(|row| row.to).max())
        else {
            return;
        };
        let tiles = tiles(count);
        let mut scratch = Scratch {
            queries: vec![0.0; count * self.size],
            scores: vec![0.0; count * GROUP],
            sums: vec![0.0; count * self.size],
            joined: vec![0.0; count * self.size],
            factors: vec![1.0; count],
            running: vec![Running::EMPTY; count],
            weights: vec![(f32::NEG_INFINITY, 0.0); count],
        };
        self.pack_queries(&tiles, &mut scratch.queries);
        let mut at = from / GROUP * GROUP;
        while at < to {
            // SAFETY: the caller's promise.
            unsafe { self.group::<V>(at, &tiles, &mut scratch) };
            at += GROUP;
            if at.is_multiple_of(PART) || at >= to {
                // SAFETY: the caller's promise.
                unsafe { self.end_part::<V>(&mut scratch) };
            }
        }
        for (r, row) in self.rows.iter().enumerate() {
            let weight = scratch.weights[r].1;
            let factor = if weight == 0.0 { 0.0 } else { 1.0 / weight };
            for (i, sum) in scratch.joined[r * self.size..][..self.size].iter().enumerate() {
                // SAFETY: the caller promises `size` writable results.
                unsafe { *row.result.add(i) = sum * factor };
            }
        }
    }
}

/// Tiles of equal size, as far as possible.
fn tiles(rows: usize) -> Vec<Tile> {
    let count = rows.div_ceil(ROWS);
    (0..count)
        .map(|tile| {
            let (first, end) = (tile * rows / count, (tile + 1) * rows / count);
            Tile { first, rows: end - first }
        })
        .collect()
}

impl<S: Source> Panel<'_, S> {
    /// Scales the queries and lays those of a tile side by side.
    fn pack_queries(&self, tiles: &[Tile], queries: &mut [f32]) {
        for tile in tiles {
            let packed = &mut queries[tile.first * self.size..][..tile.rows * self.size];
            for (r, row) in self.rows[tile.first..][..tile.rows].iter().enumerate() {
                for i in 0..self.size {
                    // SAFETY: a row's query has `size` values.
                    packed[i * tile.rows + r] = unsafe { *row.query.add(i) } * self.scaling.factor;
                }
            }
        }
    }

    /// The tokens of a row, or of some, in the group that begins with token `first`.
    fn span(rows: &[Row], first: usize) -> Option<Span> {
        let mut span: Option<Span> = None;
        for row in rows {
            let (from, to) = (row.from.max(first) - first, row.to.min(first + GROUP).saturating_sub(first));
            if from < to {
                let so_far = span.unwrap_or(Span { from, to });
                span = Some(Span { from: so_far.from.min(from), to: so_far.to.max(to) });
            }
        }
        span
    }

    #[inline(always)]
    unsafe fn group<V: Lanes>(&mut self, first: usize, tiles: &[Tile], scratch: &mut Scratch) {
        let Some(whole) = Self::span(self.rows, first) else { return };
        let group = self.source.group(first, whole);
        for tile in tiles {
            let rows = &self.rows[tile.first..][..tile.rows];
            let Some(span) = Self::span(rows, first) else { continue };
            let scores = scratch.scores[tile.first * GROUP..][..tile.rows * GROUP].as_mut_ptr();
            let queries = scratch.queries[tile.first * self.size..][..tile.rows * self.size].as_ptr();
            // SAFETY: the slices have the lengths that `score` demands; the source gave the blocks of the span.
            unsafe {
                match tile.rows {
                    1 => score::<V, _, 1>(queries, &group, self.size, span, scores),
                    2 => score::<V, _, 2>(queries, &group, self.size, span, scores),
                    3 => score::<V, _, 3>(queries, &group, self.size, span, scores),
                    4 => score::<V, _, 4>(queries, &group, self.size, span, scores),
                    5 => score::<V, _, 5>(queries, &group, self.size, span, scores),
                    _ => score::<V, _, 6>(queries, &group, self.size, span, scores),
                }
            }
            for (r, row) in rows.iter().enumerate() {
                let own = Self::span(std::slice::from_ref(row), first).unwrap_or(Span { from: 0, to: 0 });
                let shape = Shape { cap: self.scaling.cap, mask: row.mask.map(|mask| mask.wrapping_add(first)) };
                // SAFETY: a row's scores are 64 values; its mask has a value for each token that it attends to.
                scratch.factors[tile.first + r] = unsafe {
                    soften::<V>(&mut scratch.running[tile.first + r], scores.add(r * GROUP), span, own, shape)
                };
            }
        }
        for tile in tiles {
            let Some(span) = Self::span(&self.rows[tile.first..][..tile.rows], first) else { continue };
            // SAFETY: as in `mix_tile`.
            unsafe { self.mix_tile::<V>(tile, &group, span, scratch) };
        }
    }

    #[inline(always)]
    unsafe fn mix_tile<V: Lanes>(&self, tile: &Tile, group: &Group<S::Element>, span: Span, scratch: &mut Scratch) {
        let weights = scratch.scores[tile.first * GROUP..][..tile.rows * GROUP].as_ptr();
        let sums = scratch.sums[tile.first * self.size..][..tile.rows * self.size].as_mut_ptr();
        let all = &scratch.factors[tile.first..][..tile.rows];
        let size = self.size;
        // SAFETY: the slices have the lengths that `mix` demands; the source gave the blocks of the span.
        unsafe {
            match *all {
                [a] => mix::<V, _, 1>(weights, &[a], group, span, size, sums),
                [a, b] => mix::<V, _, 2>(weights, &[a, b], group, span, size, sums),
                [a, b, c] => mix::<V, _, 3>(weights, &[a, b, c], group, span, size, sums),
                [a, b, c, d] => mix::<V, _, 4>(weights, &[a, b, c, d], group, span, size, sums),
                [a, b, c, d, e] => mix::<V, _, 5>(weights, &[a, b, c, d, e], group, span, size, sums),
                [a, b, c, d, e, f] => mix::<V, _, 6>(weights, &[a, b, c, d, e, f], group, span, size, sums),
                _ => {}
            }
        }
    }

    /// Joins the part's result to each row's, and begins a new part.
    #[inline(always)]
    unsafe fn end_part<V: Lanes>(&mut self, scratch: &mut Scratch) {
        for r in 0..self.rows.len() {
            let range = r * self.size..(r + 1) * self.size;
            let (top, weight) = &mut scratch.weights[r];
            let mut joined = Joined { top, weight, sums: &mut scratch.joined[range.clone()] };
            let running = &mut scratch.running[r];
            // SAFETY: the caller's promise; both have `size` values.
            unsafe {
                let sum = V::load(running.sums.as_ptr()).total();
                joined.join::<V>(running.top, sum, &scratch.sums[range.clone()]);
            }
            *running = Running::EMPTY;
            scratch.sums[range].fill(0.0);
        }
    }
}

/// Blocks of a group, as offsets in the sequence's blocks.
pub(super) fn blocks_of(first: usize, span: Span) -> impl Iterator<Item = (usize, usize)> {
    (span.from / BLOCK..span.to.div_ceil(BLOCK).min(GROUP_BLOCKS)).map(move |b| (b, first / BLOCK + b))
}
