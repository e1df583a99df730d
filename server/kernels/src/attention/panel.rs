//! Attention of a panel of rows to a range of tokens. A panel has the queries of some positions, for the heads that share a key
//! head.

use std::{cell::Cell, ops::Range};

use super::{
    grouping::{BLOCK, GROUP, GROUP_BLOCKS, PART},
    parts::{Joined, NOTHING, Partial, finish, join, record},
    row::{Row, parts, span},
    tile::{Element, Group, ROWS, Running, Shape, Span, mix, score, soften},
};
use crate::elementwise::lanes::{Kernel, Lanes};

/// Nanoseconds for a query's component and one token: a product for the score, and one for the sum of values.
const PRODUCT: f64 = 0.07;

/// Nanoseconds to read a component of a token's key and value.
const READ: f64 = 0.3;

/// Estimates the nanoseconds for `pairs` pairs of a query and a token that it attends to, and for reading `tokens` tokens.
pub(super) fn cost(size: usize, pairs: usize, tokens: usize) -> f64 {
    size as f64 * (pairs as f64 * PRODUCT + tokens as f64 * READ)
}

/// A source of the groups of 64 tokens of one sequence, for one head.
pub(super) trait Source {
    type Element: Element;

    /// Returns the group that begins with token `first`. The blocks that hold tokens `first + span.from..first + span.to` are
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

/// A panel of rows and the tokens that they attend to.
pub(super) struct Panel<'a, S> {
    pub rows: &'a [Row],
    /// Components of a query, a multiple of 16.
    pub size: usize,
    pub scaling: Scaling,
    pub source: S,
}

/// The part of a panel that is computed.
#[derive(Clone, Copy)]
pub(super) enum Extent {
    /// All parts. The rows' results are written.
    Whole,
    /// One part, by its number (part `i` begins with token `i * PART`), and the address for a record of each row.
    Part(usize, *mut f32),
}

/// Computes a panel, or one part of it.
pub(super) struct Compute<'a, S> {
    pub panel: Panel<'a, S>,
    pub extent: Extent,
}

impl<S: Source> Kernel for Compute<'_, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { mut panel, extent } = self;
        let (rows, size) = (panel.rows, panel.size);
        let mut scratch = Scratch::new(rows.len(), size);
        panel.pack_queries(&mut scratch);
        let chosen = match extent {
            Extent::Whole => parts(rows),
            Extent::Part(part, _) => part..part + 1,
        };
        for part in chosen {
            // SAFETY: the caller's promise.
            unsafe { panel.part::<V>(part, &mut scratch) };
            for (r, row) in rows.iter().enumerate() {
                // SAFETY: the caller's promise: a row's result has room for `size` values, as many as the part's sums, and
                // the records' memory has room for one of each row.
                unsafe {
                    let partial = scratch.partial::<V>(r, size);
                    match extent {
                        Extent::Whole => join::<V>(&mut scratch.joined[r], row.result, &partial, size),
                        Extent::Part(_, to) => partial.write(to.add(r * record(size)), size),
                    }
                }
            }
        }
        if let Extent::Whole = extent {
            for (row, joined) in rows.iter().zip(&scratch.joined) {
                // SAFETY: the caller's promise: a row's result has room for `size` values.
                unsafe { finish::<V>(*joined, row.result, size) };
            }
        }
        scratch.put_back();
    }
}

/// Memory of a panel while it is computed, kept by each thread.
struct Scratch {
    /// Scaled queries: those of a tile's rows side by side.
    queries: Vec<f32>,
    /// Scores of a group, then weights.
    scores: Vec<f32>,
    /// Sums of the part's weighted values.
    sums: Vec<f32>,
    /// For each row, the factor for the sums of earlier groups.
    factors: Vec<f32>,
    running: Vec<Running>,
    joined: Vec<Joined>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::EMPTY) };
}

impl Scratch {
    const EMPTY: Self = Self {
        queries: Vec::new(),
        scores: Vec::new(),
        sums: Vec::new(),
        factors: Vec::new(),
        running: Vec::new(),
        joined: Vec::new(),
    };

    fn new(rows: usize, size: usize) -> Self {
        let mut scratch = SCRATCH.replace(Self::EMPTY);
        scratch.queries.resize(rows * size, 0.0);
        scratch.scores.resize(rows * GROUP, 0.0);
        scratch.sums.resize(rows * size, 0.0);
        scratch.factors.resize(rows, 0.0);
        scratch.running.resize(rows, Running::EMPTY);
        scratch.joined.clear();
        scratch.joined.resize(rows, NOTHING);
        scratch
    }

    fn put_back(self) {
        SCRATCH.set(self);
    }

    /// A row's result of the part that was computed last.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn partial<V: Lanes>(&self, row: usize, size: usize) -> Partial {
        let running = &self.running[row];
        // SAFETY: the caller's promise; there are 16 sums.
        let weight = unsafe { V::load(running.sums.as_ptr()) }.total();
        Partial { top: running.top, weight, sums: self.sums[row * size..][..size].as_ptr() }
    }
}

/// The tiles of a panel of `rows` rows, of equal size as far as possible.
fn tiles(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(ROWS);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}

impl<S: Source> Panel<'_, S> {
    /// Scales the queries and lays those of a tile side by side.
    #[inline(always)]
    fn pack_queries(&self, scratch: &mut Scratch) {
        for tile in tiles(self.rows.len()) {
            let packed = &mut scratch.queries[tile.start * self.size..tile.end * self.size];
            let count = tile.len();
            for (r, row) in self.rows[tile].iter().enumerate() {
                for (i, to) in packed[r..].iter_mut().step_by(count).enumerate() {
                    // SAFETY: a row's query has `size` values, as many as each row of the tile gets.
                    *to = unsafe { *row.query.add(i) } * self.scaling.factor;
                }
            }
        }
    }

    /// Computes one part. Leaves its sums and running softmax in the scratch memory.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`, and rows and source are as they say.
    #[inline(always)]
    unsafe fn part<V: Lanes>(&mut self, part: usize, scratch: &mut Scratch) {
        scratch.running.fill(Running::EMPTY);
        scratch.sums.fill(0.0);
        for group in 0..PART / GROUP {
            // SAFETY: the caller's promise.
            unsafe { self.group::<V>(part * PART + group * GROUP, scratch) };
        }
    }

    /// Computes one group.
    ///
    /// # Safety
    /// As [`Panel::part`].
    #[inline(always)]
    unsafe fn group<V: Lanes>(&mut self, first: usize, scratch: &mut Scratch) {
        let Some(whole) = span(self.rows, first) else { return };
        let group = self.source.group(first, whole);
        for tile in tiles(self.rows.len()) {
            if let Some(span) = span(&self.rows[tile.clone()], first) {
                // SAFETY: the caller's promise; the source gave the blocks of the span.
                unsafe { self.weigh_tile::<V>(tile, &group, (first, span), scratch) };
            }
        }
        for tile in tiles(self.rows.len()) {
            if let Some(span) = span(&self.rows[tile.clone()], first) {
                // SAFETY: as above.
                unsafe { self.mix_tile::<V>(tile, &group, span, scratch) };
            }
        }
    }

    /// Computes the weights of a tile's rows for the group that begins with token `first`.
    ///
    /// # Safety
    /// As [`Panel::part`]; the group has the blocks of the span.
    #[inline(always)]
    unsafe fn weigh_tile<V: Lanes>(
        &self,
        tile: Range<usize>,
        group: &Group<S::Element>,
        (first, tile_span): (usize, Span),
        scratch: &mut Scratch,
    ) {
        let size = self.size;
        let scores = scratch.scores[tile.start * GROUP..tile.end * GROUP].as_mut_ptr();
        let queries = scratch.queries[tile.start * size..tile.end * size].as_ptr();
        // SAFETY: the slices have the lengths that `score` demands; the caller promises the rest.
        unsafe {
            match tile.len() {
                1 => score::<V, _, 1>(queries, group, size, tile_span, scores),
                2 => score::<V, _, 2>(queries, group, size, tile_span, scores),
                3 => score::<V, _, 3>(queries, group, size, tile_span, scores),
                4 => score::<V, _, 4>(queries, group, size, tile_span, scores),
                5 => score::<V, _, 5>(queries, group, size, tile_span, scores),
                _ => score::<V, _, ROWS>(queries, group, size, tile_span, scores),
            }
        }
        for (r, index) in tile.enumerate() {
            let row = &self.rows[index];
            let own = span(std::slice::from_ref(row), first).unwrap_or(Span { from: 0, to: 0 });
            let shape = Shape { cap: self.scaling.cap, mask: row.mask.map(|mask| mask.wrapping_add(first)) };
            let (running, factor) = (&mut scratch.running[index], &mut scratch.factors[index]);
            // SAFETY: a row's scores are 64 values; its mask has a value for each token that it attends to.
            *factor = unsafe { soften::<V>(running, scores.add(r * GROUP), tile_span, own, shape) };
        }
    }

    /// Adds a group's weighted values to the sums of a tile's rows.
    ///
    /// # Safety
    /// As [`Panel::part`]; the group has the blocks of the span.
    #[inline(always)]
    unsafe fn mix_tile<V: Lanes>(
        &self,
        tile: Range<usize>,
        group: &Group<S::Element>,
        span: Span,
        scratch: &mut Scratch,
    ) {
        let size = self.size;
        let weights = scratch.scores[tile.start * GROUP..tile.end * GROUP].as_ptr();
        let sums = scratch.sums[tile.start * size..tile.end * size].as_mut_ptr();
        // SAFETY: the slices have the lengths that `mix` demands; the caller promises the rest.
        unsafe {
            match scratch.factors[tile] {
                [a] => mix::<V, _, 1>(weights, &[a], group, span, size, sums),
                [a, b] => mix::<V, _, 2>(weights, &[a, b], group, span, size, sums),
                [a, b, c] => mix::<V, _, 3>(weights, &[a, b, c], group, span, size, sums),
                [a, b, c, d] => mix::<V, _, 4>(weights, &[a, b, c, d], group, span, size, sums),
                [a, b, c, d, e] => mix::<V, _, 5>(weights, &[a, b, c, d, e], group, span, size, sums),
                [a, b, c, d, e, f] => mix::<V, _, ROWS>(weights, &[a, b, c, d, e, f], group, span, size, sums),
                _ => {}
            }
        }
    }
}

/// The blocks of a group that hold tokens of `span`: the index in the group, and the index in the sequence.
pub(super) fn blocks_of(first: usize, span: Span) -> impl Iterator<Item = (usize, usize)> {
    (span.from / BLOCK..span.to.div_ceil(BLOCK).min(GROUP_BLOCKS)).map(move |b| (b, first / BLOCK + b))
}
