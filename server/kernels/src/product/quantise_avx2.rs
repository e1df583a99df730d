//! Quantises inputs with AVX2: eight blocks at once, so that each number of a block, such as its scale, is one of eight lanes.

use std::arch::x86_64::*;

use super::{
    activations::{Piece, TINY, place},
    tiles::BLOCK,
};

/// Blocks that are computed at once.
const LANES: usize = 8;

/// See [`super::activations::Quantise`].
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn quantise(piece: &Piece, to: &mut [i32]) {
    let per_block = piece.rows * piece.words;
    if piece.rows == 1 {
        // The lanes are blocks of the row.
        for (values, to) in piece.row(0).chunks(LANES * BLOCK).zip(to.chunks_mut(LANES * per_block)) {
            let last = values.len() / BLOCK - 1;
            let eight = Eight::new(|lane| &values[lane.min(last) * BLOCK..]);
            eight.store_blocks(to, piece.words);
        }
    } else {
        // The lanes are the rows of the panel.
        for block in 0..to.len() / per_block {
            let eight = Eight::new(|lane| &piece.row(lane.min(piece.rows - 1))[block * BLOCK..]);
            eight.store_rows(&mut to[block * per_block..], piece.rows, piece.words);
        }
    }
}

/// Eight quantised blocks.
struct Eight {
    /// The 32 integers of each block.
    blocks: [__m256i; LANES],
    /// The same integers by group of four: a lane is a block.
    groups: [__m256i; 8],
    d: __m256,
    /// Sums of the integers of the first and the second half of each block.
    sums: [__m256i; 2],
}

impl Eight {
    /// Quantises 32 values of each lane.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new<'a>(lane: impl Fn(usize) -> &'a [f32]) -> Self {
        let values: [&[f32; BLOCK]; LANES] =
            std::array::from_fn(|i| lane(i).first_chunk().expect("a lane has the values of a block"));
        let largest = transposed_max(values.map(|values| largest(values)));
        // Computes the same as `quantise_portable::scale`, for eight blocks.
        let finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(f32::INFINITY.to_bits().cast_signed()), largest);
        let largest = _mm256_castsi256_ps(largest);
        let tiny = _mm256_cmp_ps::<_CMP_LT_OQ>(largest, _mm256_set1_ps(TINY));
        let d = _mm256_andnot_ps(tiny, _mm256_div_ps(largest, _mm256_set1_ps(127.0)));
        let d = _mm256_blendv_ps(_mm256_set1_ps(f32::NAN), d, _mm256_castsi256_ps(finite));
        let inverse = _mm256_andnot_ps(tiny, _mm256_div_ps(_mm256_set1_ps(127.0), largest));
        let blocks = std::array::from_fn(|lane| {
            let lanes = _mm256_set1_epi32(lane as i32);
            let integers = integers(values[lane], _mm256_permutevar8x32_ps(inverse, lanes));
            _mm256_and_si256(integers, _mm256_permutevar8x32_epi32(finite, lanes))
        });
        let groups = transpose(blocks);
        let sums = [0, 4].map(|first| {
            let ones = _mm256_set1_epi8(1);
            let pairs = |group: usize| _mm256_maddubs_epi16(ones, groups[first + group]);
            let all = _mm256_add_epi16(_mm256_add_epi16(pairs(0), pairs(1)), _mm256_add_epi16(pairs(2), pairs(3)));
            _mm256_madd_epi16(all, _mm256_set1_epi16(1))
        });
        Self { blocks, groups, d, sums }
    }

    /// The words that follow a block's integers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn tail(&self) -> [__m256i; 7] {
        let minus = |sum| _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(sum));
        let scaled = |sum| _mm256_castps_si256(_mm256_mul_ps(self.d, _mm256_cvtepi32_ps(sum)));
        let [first, second] = self.sums;
        let sum = _mm256_add_epi32(first, second);
        let mut tail = [_mm256_setzero_si256(); 7];
        tail[0] = _mm256_castps_si256(self.d);
        tail[place::D_SUM - place::D] = scaled(sum);
        tail[place::SUM - place::D] = minus(sum);
        tail[place::HALF_SUM - place::D] = minus(first);
        tail[place::HALF_SUM + 1 - place::D] = minus(second);
        tail[place::HALF_D_SUM - place::D] = scaled(first);
        tail[place::HALF_D_SUM + 1 - place::D] = scaled(second);
        tail
    }

    /// Writes a block of a panel whose rows are the first lanes. All lanes are written: those after the rows go to places of
    /// later words, which are written later.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store_rows(&self, to: &mut [i32], rows: usize, words: usize) {
        let tail = self.tail();
        let all = self.groups.into_iter().chain(tail).take(words);
        for (at, word) in (0..).step_by(rows).zip(all) {
            let to = &mut to[at..];
            if let Some(to) = to.first_chunk_mut() {
                store(to, word);
            } else {
                let mut lanes = [0; LANES];
                store(&mut lanes, word);
                to[..rows].copy_from_slice(&lanes[..rows]);
            }
        }
    }

    /// Writes as many blocks of a panel of one row as there is room for.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store_blocks(&self, to: &mut [i32], words: usize) {
        let mut tail = [[0; LANES]; 7];
        tail.iter_mut().zip(self.tail()).for_each(|(to, word)| store(to, word));
        for (lane, to) in to.chunks_exact_mut(words).enumerate() {
            let (integers, rest) = to.split_at_mut(8);
            if let Some(to) = integers.first_chunk_mut() {
                store(to, self.blocks[lane]);
            }
            rest.iter_mut().zip(&tail).for_each(|(to, word)| *to = word[lane]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(to: &mut [i32; LANES], word: __m256i) {
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), word) };
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(values: &[f32; BLOCK], part: usize) -> __m256 {
    let part: &[f32] = &values[part * LANES..][..LANES];
    // SAFETY: the slice has eight values.
    unsafe { _mm256_loadu_ps(part.as_ptr()) }
}

/// The bits of the largest magnitudes among every eighth value.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(values: &[f32; BLOCK]) -> __m256i {
    let bits = |part| _mm256_and_si256(_mm256_castps_si256(load(values, part)), _mm256_set1_epi32(i32::MAX));
    _mm256_max_epu32(_mm256_max_epu32(bits(0), bits(1)), _mm256_max_epu32(bits(2), bits(3)))
}

/// The 32 values times a factor, rounded to the nearest, ties to even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn integers(values: &[f32; BLOCK], factor: __m256) -> __m256i {
    let part = |part| _mm256_cvtps_epi32(_mm256_mul_ps(load(values, part), factor));
    let (low, high) = (_mm256_packs_epi32(part(0), part(1)), _mm256_packs_epi32(part(2), part(3)));
    // Packing works on each half of a vector, so the groups must be reordered.
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The largest lane of each vector: lane i is that of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transposed_max(vectors: [__m256i; 8]) -> __m256i {
    let two = |a, b| _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let four = |a, b| _mm256_max_epu32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let [a, b, c, d, e, f, g, h] = vectors;
    let (low, high) = (four(two(a, b), two(c, d)), four(two(e, f), two(g, h)));
    _mm256_max_epu32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// Lane j of vector i becomes lane i of vector j.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(vectors: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |i: usize| {
        let (a, b) = (vectors[i], vectors[i + 1]);
        [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
    };
    let quad = |[a, b]: [__m256i; 2], [c, d]: [__m256i; 2]| {
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (low, high) = (quad(pair(0), pair(2)), quad(pair(4), pair(6)));
    std::array::from_fn(|i| {
        let (low, high) = (low[i % 4], high[i % 4]);
        if i < 4 { _mm256_permute2x128_si256::<0x20>(low, high) } else { _mm256_permute2x128_si256::<0x31>(low, high) }
    })
}
