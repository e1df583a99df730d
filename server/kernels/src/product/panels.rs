//! Quantises the rows of a product into panels.

use parking_lot::Mutex;

use super::{
    activations::{Piece, WORDS, WORDS_WITH_HALVES},
    dispatch,
    executor::Executor,
    tiles::BLOCK,
};

/// The most blocks of a row that one piece of work quantises.
const PIECE: usize = 128;

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
        self.count = self.rows.div_ceil(dispatch::panel_rows(executor.isa));
        self.words_per_row = if halves { WORDS_WITH_HALVES } else { WORDS };
        let words = self.rows * self.blocks * self.words_per_row;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        let quantise = dispatch::quantiser(executor.isa);
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
        // The pieces lie one after the other in `words`.
        let mut left = &mut self.words[..words];
        let parts = (0..count * pieces).map(|number| {
            let blocks = PIECE.min(blocks - number % pieces * PIECE);
            let (part, rest) = std::mem::take(&mut left).split_at_mut(ranges[number / pieces].1 * blocks * per_block);
            left = rest;
            part
        });
        // Sharing a few blocks among threads takes longer than quantising them.
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

    /// The number of blocks of a row.
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
