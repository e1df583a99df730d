//! Packed weights: the layout that all instruction sets read.
//!
//! A tile is 16 rows of a weight; a unit is 64 or 256 columns of a tile. A unit begins with its scales, each as one value for
//! each of the 16 rows. Its integers follow, in blocks of 32 columns. A block is cut into 8 groups of 4 columns. The 4 integers
//! of a row are neighbours and the 16 rows follow each other, so a group is a vector of 64 bytes: 16 lanes of four integers, as
//! the dot product instructions need them.
//!
//! Integers of less than 8 bits are split into planes of 4, 2 and 1 bits. A byte of a plane holds the bits of 2, 4 or 8
//! consecutive groups, the first group's lowest.
//!
//! | scales | head of a unit |
//! |---|---|
//! | `Plain` | for 2 blocks: 16 `d` |
//! | `PlainMin` | for 2 blocks: 16 `d`, 16 `m` |
//! | `SuperMin` | 16 `d`, 16 `dmin`, for 8 blocks: 16 codes, 16 codes of minima |
//! | `Half` | 16 `d`, 32 bytes unused, for 8 blocks: 16 codes of the first half, 16 of the second |
//! | `HalfMin` | 16 `d`, 16 `dmin`, for 8 blocks: 16 codes of the first half, 16 of the second |

use candle_core::quantized::QTensor;

use super::{
    buffer::Buffer,
    format::{Block, Format, Scales},
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a vector: a group of 4 columns of the 16 rows.
const VECTOR: usize = 64;

impl Scales {
    /// Blocks of a unit.
    pub(crate) const fn blocks(self) -> usize {
        match self {
            Self::Plain | Self::PlainMin => 2,
            Self::SuperMin | Self::Half | Self::HalfMin => 8,
        }
    }

    /// Bytes before a unit's integers.
    pub(crate) const fn head(self) -> usize {
        match self {
            Self::Plain => 2 * 32,
            Self::PlainMin => 2 * 64,
            Self::SuperMin | Self::Half | Self::HalfMin => 64 + 8 * 32,
        }
    }
}

/// Bytes of a unit.
pub(crate) const fn unit_bytes(scales: Scales, bits: usize) -> usize {
    scales.head() + scales.blocks() * bits * VECTOR
}

/// The planes of integers of `bits` bits: the width of each plane, and the lowest bit in it.
const fn planes(bits: usize) -> &'static [(usize, usize)] {
    match bits {
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        5 => &[(4, 0), (1, 4)],
        6 => &[(4, 0), (2, 4)],
        _ => &[(8, 0)],
    }
}

/// A weight of `n` rows and `k` columns, packed.
pub(crate) struct Packed {
    pub format: Format,
    pub n: usize,
    pub k: usize,
    buffer: Buffer,
}

impl Packed {
    /// Packs a tensor. Returns `None` if its type, shape or device is not supported.
    pub(crate) fn new(weight: &QTensor, run: impl Fn(usize, &(dyn Fn(usize) + Sync))) -> Option<Self> {
        let format = Format::of(weight.dtype())?;
        let (n, k) = weight.shape().dims2().ok()?;
        if n == 0 || k == 0 || !k.is_multiple_of(format.block()) || !weight.device().is_cpu() {
            return None;
        }
        let data = weight.data().ok()?;
        Self::of(format, (n, k), &data, run)
    }

    /// Packs the blocks of a ggml tensor, row by row. Returns `None` if their number does not fit the shape.
    pub(crate) fn of(
        format: Format,
        (n, k): (usize, usize),
        data: &[u8],
        run: impl Fn(usize, &(dyn Fn(usize) + Sync)),
    ) -> Option<Self> {
        let row_bytes = k / format.block() * format.block_bytes();
        let tile_bytes = tile_bytes(format, k);
        if data.len() != n * row_bytes {
            return None;
        }
        let buffer = Buffer::filled(n.div_ceil(ROWS), tile_bytes, run, |tile, bytes| {
            let rows = data[tile * ROWS * row_bytes..].chunks_exact(row_bytes).take(ROWS);
            rows.enumerate().for_each(|(row, data)| write_row(format, row, data, bytes));
        });
        Some(Self { format, n, k, buffer })
    }

    pub(crate) fn tiles(&self) -> usize {
        self.n.div_ceil(ROWS)
    }

    pub(crate) fn tile_bytes(&self) -> usize {
        tile_bytes(self.format, self.k)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Writes the `k` values of a row to `values`, as candle computes them.
    ///
    /// # Panics
    /// If `row` is not below `n`.
    pub(crate) fn row(&self, row: usize, values: &mut [f32]) {
        assert!(row < self.n, "row {row} of {}", self.n);
        let (format, tile) = (self.format, row / ROWS);
        let tile = &self.bytes()[tile * self.tile_bytes()..][..self.tile_bytes()];
        let mut block = Block::default();
        for (number, values) in values.chunks_exact_mut(format.block()).enumerate() {
            read_block(format, row % ROWS, number, tile, &mut block);
            format.values(&block, values);
        }
    }
}

fn tile_bytes(format: Format, k: usize) -> usize {
    (k / BLOCK).div_ceil(format.scales.blocks()) * unit_bytes(format.scales, format.bits)
}

/// Packs one row of a tile, given as ggml blocks.
fn write_row(format: Format, row: usize, data: &[u8], tile: &mut [u8]) {
    let mut block = Block::default();
    let (blocks, bytes) = (format.scales.blocks(), unit_bytes(format.scales, format.bits));
    let per = format.block() / BLOCK;
    for (number, data) in data.chunks_exact(format.block_bytes()).enumerate() {
        format.read(data, &mut block);
        let unit = &mut tile[number * per / blocks * bytes..][..bytes];
        let (head, integers) = unit.split_at_mut(format.scales.head());
        let slot = number * per % blocks;
        head_fields(format.scales, slot, row, &mut block, |field, at| {
            head[at..at + field.len()].copy_from_slice(field);
        });
        for (q, integers) in
            block.q.chunks_exact(BLOCK).zip(integers.chunks_exact_mut(format.bits * VECTOR).skip(slot)).take(per)
        {
            write_integers(format.bits, row, q, integers);
        }
    }
}

/// Reads the ggml block `number` of a row.
fn read_block(format: Format, row: usize, number: usize, tile: &[u8], block: &mut Block) {
    let (blocks, bytes) = (format.scales.blocks(), unit_bytes(format.scales, format.bits));
    let per = format.block() / BLOCK;
    let unit = &tile[number * per / blocks * bytes..][..bytes];
    let (head, integers) = unit.split_at(format.scales.head());
    let slot = number * per % blocks;
    head_fields(format.scales, slot, row, block, |field, at| {
        field.copy_from_slice(&head[at..at + field.len()]);
    });
    for (q, integers) in
        block.q.chunks_exact_mut(BLOCK).zip(integers.chunks_exact(format.bits * VECTOR).skip(slot)).take(per)
    {
        read_integers(format.bits, row, q, integers);
    }
}

/// Calls `each` with the bytes of each field of a block's scales and the field's place in the head.
fn head_fields(scales: Scales, slot: usize, row: usize, block: &mut Block, mut each: impl FnMut(&mut [u8], usize)) {
    let half = |value: &mut u16, at: usize, each: &mut dyn FnMut(&mut [u8], usize)| {
        let mut bytes = value.to_le_bytes();
        each(&mut bytes, at + 2 * row);
        *value = u16::from_le_bytes(bytes);
    };
    match scales {
        Scales::Plain => half(&mut block.d, slot * 32, &mut each),
        Scales::PlainMin => {
            half(&mut block.d, slot * 64, &mut each);
            half(&mut block.m, slot * 64 + 32, &mut each);
        }
        Scales::SuperMin => {
            half(&mut block.d, 0, &mut each);
            half(&mut block.m, 32, &mut each);
            for (i, (code, min)) in block.codes.iter_mut().zip(&mut block.mins).enumerate() {
                each(std::slice::from_mut(code), 64 + i * 32 + row);
                each(std::slice::from_mut(min), 64 + i * 32 + 16 + row);
            }
        }
        Scales::Half | Scales::HalfMin => {
            half(&mut block.d, 0, &mut each);
            if scales == Scales::HalfMin {
                half(&mut block.m, 32, &mut each);
            }
            for (i, code) in block.codes.iter_mut().enumerate() {
                each(std::slice::from_mut(code), 64 + i * 16 + row);
            }
        }
    }
}

/// A mask of the low `width` bits of each byte of a word.
fn mask(width: usize) -> u32 {
    u32::from(u8::MAX >> (8 - width)) * 0x0101_0101
}

/// Writes 32 integers of a row into the planes of a block.
fn write_integers(bits: usize, row: usize, q: &[u8], planes_of_block: &mut [u8]) {
    let mut words = [0u32; 8];
    for (word, q) in words.iter_mut().zip(q.chunks_exact(4)) {
        *word = u32::from_le_bytes([q[0], q[1], q[2], q[3]]);
    }
    let mut vectors = planes_of_block.chunks_exact_mut(VECTOR);
    for (width, lowest) in planes(bits) {
        for groups in words.chunks_exact(8 / width) {
            let parts = groups.iter().enumerate();
            let packed = parts.fold(0, |packed, (i, word)| packed | ((word >> lowest) & mask(*width)) << (i * width));
            if let Some(vector) = vectors.next() {
                vector[row * 4..][..4].copy_from_slice(&packed.to_le_bytes());
            }
        }
    }
}

/// The inverse of [`write_integers`].
fn read_integers(bits: usize, row: usize, q: &mut [u8], planes_of_block: &[u8]) {
    let mut words = [0u32; 8];
    let mut vectors = planes_of_block.chunks_exact(VECTOR);
    for (width, lowest) in planes(bits) {
        for groups in words.chunks_exact_mut(8 / width) {
            let Some(bytes) = vectors.next().map(|vector| &vector[row * 4..][..4]) else { return };
            let packed = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            for (i, word) in groups.iter_mut().enumerate() {
                *word |= ((packed >> (i * width)) & mask(*width)) << lowest;
            }
        }
    }
    q.chunks_exact_mut(4).zip(words).for_each(|(q, word)| q.copy_from_slice(&word.to_le_bytes()));
}
