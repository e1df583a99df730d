//! Inputs of a product in 8 bits.
//!
//! Each 32 values of a row share a scale `d`, their largest magnitude divided by 127; an integer is a value divided by `d`,
//! rounded to the nearest, ties to even. Rows are packed into panels, so that a kernel reads consecutive words for all rows of a
//! panel. For each block of 32 columns, with R rows in the panel, a panel holds words of 32 bits:
//!
//! | words | for each row |
//! |---|---|
//! | 8 R | four integers; the 8 groups of a block follow each other, the rows within a group |
//! | R | `d`, f32 |
//! | R | `d` times the sum of the integers, f32 |
//! | R | -128 times the sum of the integers |
//! | 2 R | the same for each half of the block, if a weight has scales for 16 values |
//! | 2 R | `d` times the sum of the integers of each half, f32, if a weight has scales for 16 values |
//!
//! A block with a value that is not finite gets NaN as `d`, so all outputs of its row are NaN.

use super::tiles::BLOCK;

/// Words of a block and row, without the words for halves.
pub(crate) const WORDS: usize = 11;
/// Words of a block and row, with the words for halves.
pub(crate) const WORDS_WITH_HALVES: usize = 15;

/// Offsets of the words of a block, to be multiplied by the number of rows.
pub(crate) mod place {
    pub(crate) const D: usize = 8;
    pub(crate) const D_SUM: usize = 9;
    pub(crate) const SUM: usize = 10;
    pub(crate) const HALF_SUM: usize = 11;
    pub(crate) const HALF_D_SUM: usize = 13;
}

/// A smaller largest magnitude counts as zero, because 127 divided by it might not be finite.
pub(crate) const TINY: f32 = 1e-30;

/// Some blocks of the rows of a panel.
pub(crate) struct Piece<'a> {
    /// The values, from the first row's first block on.
    pub values: &'a [f32],
    /// The distance between two rows, in values.
    pub stride: usize,
    /// Rows of the panel.
    pub rows: usize,
    /// Blocks of a row.
    pub blocks: usize,
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
