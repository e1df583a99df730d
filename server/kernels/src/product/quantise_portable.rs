//! Quantises inputs on any machine.

use super::{
    activations::{Piece, TINY, WORDS_WITH_HALVES, place},
    tiles::BLOCK,
};

/// The scale of a block and its inverse, from the bits of the largest magnitude. If that is not finite, the scale is NaN and the
/// inverse makes all integers 0.
fn scale(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    match largest {
        _ if !largest.is_finite() => (f32::NAN, 0.0),
        _ if largest < TINY => (0.0, 0.0),
        _ => (largest / 127.0, 127.0 / largest),
    }
}

/// See [`super::activations::Quantise`].
pub(crate) fn quantise(piece: &Piece, to: &mut [i32]) {
    for row in 0..piece.rows {
        let blocks = to.chunks_exact_mut(piece.rows * piece.words);
        for (values, to) in piece.row(row).chunks_exact(BLOCK).zip(blocks) {
            // The bits compare as magnitudes do, and NaN is larger than all numbers.
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
