//! Inputs of a product in 8 bits.
//!
//! Each 32 values of a row share a scale `d`, their largest magnitude divided by 127; an integer is a value divided by `d`,
//! rounded to the nearest, ties to even. Rows are packed into panels, so that a kernel reads what it needs of all rows of a
//! panel one after the other. For each block of 32 columns, with R rows in the panel, a panel holds words of 32 bits:
//!
//! | words | for each row |
//! |---|---|
//! | 8 R | four integers; the 8 groups of a block follow each other, the rows within a group |
//! | R | `d`, f32 |
//! | R | `d` times the sum of the integers, f32 |
//! | R | -128 times the sum of the integers |
//! | 2 R | the latter for each half of the block, if a weight has scales for 16 values |
//! | 2 R | `d` times the sum for each half, likewise |
//!
//! A block with a value that is not finite gets a `d` that is not a number, and so do all outputs of its row.

use parking_lot::Mutex;

use super::{Executor, multiply, tiles::BLOCK};
use crate::isa::Isa;

/// Words of a block and row without those for halves.
const WORDS: usize = 11;
/// Words of a block and row with those for halves.
const WORDS_WITH_HALVES: usize = 15;
/// Blocks that are quantised as one piece of work.
const PIECE: usize = 128;

/// Places of the words of a block, to be multiplied by the number of rows.
pub(crate) mod place {
    pub(crate) const D: usize = 8;
    pub(crate) const D_SUM: usize = 9;
    pub(crate) const SUM: usize = 10;
    pub(crate) const HALF_SUM: usize = 11;
    pub(crate) const HALF_D_SUM: usize = 13;
}

/// A largest magnitude below this counts as zero: 127 divided by it would not be finite.
pub(crate) const TINY: f32 = 1e-30;

/// Some blocks of the rows of a panel.
pub(crate) struct Piece<'a> {
    /// The values, from the first row's first block on.
    values: &'a [f32],
    /// Values between two rows.
    stride: usize,
    /// Rows of the panel.
    pub rows: usize,
    /// Blocks of a row.
    blocks: usize,
    /// Words of a block and row.
    pub words: usize,
}

impl<'a> Piece<'a> {
    /// The values of a row's blocks.
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.blocks * BLOCK]
    }
}

/// Quantises a piece and writes all its words, block after block.
pub(crate) type Quantise = unsafe fn(&Piece, &mut [i32]);

/// Quantised rows.
#[derive(Default)]
pub(crate) struct Panels {
    words: Vec<i32>,
    rows: usize,
    blocks: usize,
    /// Number of panels. Their sizes differ by at most one row.
    count: usize,
    words_per_row: usize,
}

/// One panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub words: &'a [i32],
    /// The panel's first row.
    pub first: usize,
    pub rows: usize,
}

impl Panels {
    /// Quantises rows of `k` values, a multiple of 32.
    pub(crate) fn fill(&mut self, rows: &[f32], k: usize, halves: bool, executor: Executor) {
        self.rows = rows.len() / k;
        self.blocks = k / BLOCK;
        self.count = self.rows.div_ceil(multiply::panel_rows(executor.isa));
        self.words_per_row = if halves { WORDS_WITH_HALVES } else { WORDS };
        let words = self.rows * self.blocks * self.words_per_row;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        let quantise = quantiser(executor.isa);
        let pieces = self.blocks.div_ceil(PIECE);
        let (count, blocks, per_block) = (self.count, self.blocks, self.words_per_row);
        let ranges: Vec<_> = (0..count).map(|panel| self.range(panel)).collect();
        let quantise_piece = |number: usize, to: &mut [i32]| {
            let ((first, count), piece) = (ranges[number / pieces], number % pieces * PIECE);
            let values = &rows[first * k + piece * BLOCK..];
            let blocks = PIECE.min(blocks - piece);
            let piece = Piece { values, stride: k, rows: count, blocks, words: per_block };
            // SAFETY: `quantiser` returns a function for instructions of the executor, which the machine has.
            unsafe { quantise(&piece, to) };
        };
        // The pieces lie one after the other.
        let mut left = &mut self.words[..words];
        let parts = (0..count * pieces).map(|number| {
            let blocks = PIECE.min(blocks - number % pieces * PIECE);
            let (part, rest) = std::mem::take(&mut left).split_at_mut(ranges[number / pieces].1 * blocks * per_block);
            left = rest;
            part
        });
        // A fork costs more than a few blocks.
        if self.rows * blocks <= PIECE {
            parts.enumerate().for_each(|(number, to)| quantise_piece(number, to));
        } else {
            let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
            (executor.run)(parts.len(), &|number| {
                if let Some(to) = parts[number].lock().take() {
                    quantise_piece(number, to);
                }
            });
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The number of panels.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the largest panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.range(0).1 * self.blocks * self.words_per_row * size_of::<i32>()
    }

    /// The first row and the number of rows of a panel.
    fn range(&self, panel: usize) -> (usize, usize) {
        let (least, more) = (self.rows / self.count, self.rows % self.count);
        (panel * least + panel.min(more), least + usize::from(panel < more))
    }

    pub(crate) fn panel(&self, panel: usize) -> Panel<'_> {
        let (first, rows) = self.range(panel);
        let per_row = self.blocks * self.words_per_row;
        Panel { words: &self.words[first * per_row..][..rows * per_row], first, rows }
    }
}

fn quantiser(isa: Isa) -> Quantise {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 => super::quantise_avx2::quantise,
        _ => quantise,
    }
}

/// The scale of a block and its inverse, from the bits of the largest magnitude. If that is not finite the scale is not a
/// number, and the integers are to be 0.
fn scale(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    match largest {
        _ if !largest.is_finite() => (f32::NAN, 0.0),
        _ if largest < TINY => (0.0, 0.0),
        _ => (largest / 127.0, 127.0 / largest),
    }
}

/// See [`Quantise`]; for any machine.
fn quantise(piece: &Piece, to: &mut [i32]) {
    for row in 0..piece.rows {
        let blocks = to.chunks_exact_mut(piece.rows * piece.words);
        for (values, to) in piece.row(row).chunks_exact(BLOCK).zip(blocks) {
            // Bits compare as magnitudes do, and what is not a number is larger than all.
            let largest = values.iter().fold(0, |largest, value| u32::max(largest, value.to_bits() & !(1 << 31)));
            let (d, inverse) = scale(largest);
            let mut integers = [0i8; BLOCK];
            if !d.is_nan() {
                integers.iter_mut().zip(values).for_each(|(to, value)| *to = (value * inverse).round_ties_even() as i8);
            }
            let mut set = |word: usize, value: i32| to[word * piece.rows + row] = value;
            for (group, bytes) in integers.chunks_exact(4).enumerate() {
                set(group, i32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[i].cast_unsigned())));
            }
            let sum = |integers: &[i8]| integers.iter().map(|integer| i32::from(*integer)).sum::<i32>();
            let scaled = |sum: i32| (d * sum as f32).to_bits().cast_signed();
            let halves = [sum(&integers[..16]), sum(&integers[16..])];
            set(place::D, d.to_bits().cast_signed());
            set(place::D_SUM, scaled(halves[0] + halves[1]));
            set(place::SUM, -128 * (halves[0] + halves[1]));
            if piece.words == WORDS_WITH_HALVES {
                for (half, sum) in halves.into_iter().enumerate() {
                    set(place::HALF_SUM + half, -128 * sum);
                    set(place::HALF_D_SUM + half, scaled(sum));
                }
            }
        }
    }
}
