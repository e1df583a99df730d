//! The kernel for any machine, and the order of operations that all kernels follow.

use super::{
    activations::place,
    format::{Kind, Scales},
    multiply::Call,
    tiles::{ROWS, unit_bytes},
};
use half::f16;

/// Integers of a block of a tile, as [group][row][column].
type Integers = [[[u8; 4]; ROWS]; 8];

/// See [`super::multiply::Kernel`]; for any number of rows.
///
/// # Safety
/// As [`super::multiply::Kernel`].
pub(crate) unsafe fn tiles<K: Kind>(call: &Call) {
    // SAFETY: the caller vouches for both lengths.
    let (weights, panel) = unsafe {
        (
            std::slice::from_raw_parts(call.weights, call.tiles * call.tile_bytes),
            std::slice::from_raw_parts(call.panel, call.blocks * call.words),
        )
    };
    for (number, tile) in weights.chunks_exact(call.tile_bytes).enumerate() {
        let columns = (call.columns - number * ROWS).min(ROWS);
        for row in 0..call.rows {
            let sums = dot::<K>(tile, panel, call, row);
            for (column, sum) in sums.into_iter().enumerate().take(columns) {
                // SAFETY: the row and the column exist, by the caller's promise.
                unsafe { call.out.add(row * call.stride + number * ROWS + column).write(sum) };
            }
        }
    }
}

/// The products of a tile's 16 rows with one row of the panel.
fn dot<K: Kind>(tile: &[u8], panel: &[i32], call: &Call, row: usize) -> [f32; ROWS] {
    let mut sums = [0f32; ROWS];
    let units = tile.chunks_exact(unit_bytes(K::SCALES, K::BITS));
    let rows = call.rows;
    for (unit, blocks) in units.zip(panel.chunks(K::SCALES.blocks() * call.words)) {
        let (head, integers) = unit.split_at(K::SCALES.head());
        let half = |at: usize| move |r: usize| f16::from_le_bytes([head[at + 2 * r], head[at + 2 * r + 1]]).to_f32();
        for (slot, (words, integers)) in
            blocks.chunks_exact(call.words).zip(integers.chunks_exact(K::BITS * 64)).enumerate()
        {
            let word = |place: usize| words[place * rows + row];
            let float = |place: usize| f32::from_bits(word(place).cast_unsigned());
            let weights = unpack::<K>(integers);
            let code = |r: usize| head[64 + slot * 32 + r];
            let d = float(place::D);
            let whole = |r| (products(&weights, r, 0..8, word) + offset::<K>(word(place::SUM))) as f32;
            let halves = |r| {
                [0, 1].map(|h| {
                    (products(&weights, r, 4 * h..4 * h + 4, word) + offset::<K>(word(place::HALF_SUM + h))) as f32
                })
            };
            for (r, sum) in sums.iter_mut().enumerate() {
                match K::SCALES {
                    Scales::Plain => *sum = (half(slot * 32)(r) * d).mul_add(whole(r), *sum),
                    Scales::PlainMin => {
                        *sum = (half(slot * 64)(r) * d).mul_add(whole(r), *sum);
                        *sum = half(slot * 64 + 32)(r).mul_add(float(place::D_SUM), *sum);
                    }
                    Scales::SuperMin => {
                        let (scale, min) = (half(0)(r) * f32::from(code(r)), half(32)(r) * f32::from(code(r + 16)));
                        *sum = (scale * d).mul_add(whole(r), *sum);
                        *sum = (-min).mul_add(float(place::D_SUM), *sum);
                    }
                    Scales::Half => {
                        let [first, second] = halves(r);
                        let scale = |h: usize| half(0)(r) * f32::from(code(r + 16 * h) as i8);
                        *sum = second.mul_add(scale(1), first * scale(0)).mul_add(d, *sum);
                    }
                    Scales::HalfMin => {
                        let [first, second] = halves(r);
                        let scale = |h: usize| half(0)(r) * f32::from(code(r + 16 * h) & 15);
                        let min = |h: usize| half(32)(r) * f32::from(code(r + 16 * h) >> 4);
                        *sum = second.mul_add(scale(1), first * scale(0)).mul_add(d, *sum);
                        *sum = (-min(0)).mul_add(float(place::HALF_D_SUM), *sum);
                        *sum = (-min(1)).mul_add(float(place::HALF_D_SUM + 1), *sum);
                    }
                }
            }
        }
    }
    sums
}

/// The correction for what is subtracted from the weights' integers, from -128 times the sum of the activations.
fn offset<K: Kind>(sum: i32) -> i32 {
    if K::OFFSET == 0 { 0 } else { sum >> (7 - K::OFFSET.trailing_zeros()) }
}

/// Products of some groups of one row of a tile with the activations.
fn products(weights: &Integers, row: usize, groups: std::ops::Range<usize>, word: impl Fn(usize) -> i32) -> i32 {
    let mut sum = 0;
    for group in groups {
        let activations = word(group).to_le_bytes();
        let weights = weights[group][row];
        for (weight, activation) in weights.into_iter().zip(activations) {
            sum += i32::from(weight) * i32::from(activation.cast_signed());
        }
    }
    sum
}

/// Joins the planes of a block.
fn unpack<K: Kind>(planes: &[u8]) -> Integers {
    let mut integers = [[[0; 4]; ROWS]; 8];
    let (first, second) = match K::BITS {
        8 => (8, 0),
        6 => (4, 2),
        5 => (4, 1),
        3 => (2, 1),
        bits => (bits, 0),
    };
    let bits = |width: usize, plane: usize, group: usize, lane: usize| {
        let (vector, shift) = (group * width / 8, group * width % 8);
        (planes[(plane + vector) * 64 + lane] >> shift) & (u8::MAX >> (8 - width))
    };
    for (group, rows) in integers.iter_mut().enumerate() {
        for (lane, integer) in rows.as_flattened_mut().iter_mut().enumerate() {
            *integer = bits(first, 0, group, lane);
            if second > 0 {
                *integer |= bits(second, first, group, lane) << first;
            }
        }
    }
    integers
}
