//! Kernels for AVX-512 with VNNI: a vector is a group of 4 columns of a tile's 16 rows.

use std::arch::x86_64::*;

use super::{
    activations::{Place, Quantised, place, scale, store},
    format::{Kind, Scales},
    multiply::{Call, Kernel},
    tiles::{BLOCK, ROWS, unit_bytes},
};

/// The kernel for panels of `rows` rows.
pub(crate) fn kernel<K: Kind>(rows: usize) -> Kernel {
    match rows {
        1 => tiles::<K, 1>,
        2 => tiles::<K, 2>,
        3 => tiles::<K, 3>,
        4 => tiles::<K, 4>,
        5 => tiles::<K, 5>,
        6 => tiles::<K, 6>,
        7 => tiles::<K, 7>,
        8 => tiles::<K, 8>,
        _ => unreachable!("panels of this instruction set have at most 8 rows"),
    }
}

/// See [`Kernel`].
///
/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tiles<K: Kind, const M: usize>(call: &Call) {
    let bytes = const { unit_bytes(K::SCALES, K::BITS) };
    let per_unit = K::SCALES.blocks();
    for tile in 0..call.tiles {
        let mut sums = [_mm512_setzero_ps(); M];
        // SAFETY: the caller vouches for the lengths of the weights and the panel, and for the outputs.
        unsafe {
            let mut unit = call.weights.add(tile * call.tile_bytes);
            let mut panel = call.panel;
            let mut left = call.blocks;
            while left >= per_unit {
                for slot in 0..per_unit {
                    block::<K, M>(unit, slot, panel.add(slot * call.words), &mut sums);
                }
                unit = unit.add(bytes);
                panel = panel.add(per_unit * call.words);
                left -= per_unit;
            }
            for slot in 0..left {
                block::<K, M>(unit, slot, panel.add(slot * call.words), &mut sums);
            }
            let columns = (call.columns - tile * ROWS).min(ROWS);
            let mask = u16::MAX >> (ROWS - columns);
            for (row, sum) in sums.into_iter().enumerate() {
                _mm512_mask_storeu_ps(call.out.add(row * call.stride + tile * ROWS), mask, sum);
            }
        }
    }
}

/// Adds one block of 32 columns to the sums of M rows.
///
/// # Safety
/// `unit` is a unit of the kernel's [`Kind`] with a block `slot`, `panel` a block of a panel of M rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block<K: Kind, const M: usize>(unit: *const u8, slot: usize, panel: *const i32, sums: &mut [__m512; M]) {
    // SAFETY: all places are inside the unit's head and the block of the panel.
    unsafe {
        let integers = unit.add(K::SCALES.head() + slot * K::BITS * 64);
        let codes = unit.add(64 + slot * 32);
        let float = |word: usize, row: usize| _mm512_set1_ps(panel.add(word * M + row).cast::<f32>().read());
        match K::SCALES {
            Scales::Plain => {
                let dots = dot::<K, M, 8>(integers, 0, panel, place::SUM);
                let d = half(unit.add(slot * 32));
                for row in 0..M {
                    let scale = _mm512_mul_ps(d, float(place::D, row));
                    sums[row] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[row]), sums[row]);
                }
            }
            Scales::PlainMin => {
                let dots = dot::<K, M, 8>(integers, 0, panel, place::SUM);
                let (d, m) = (half(unit.add(slot * 64)), half(unit.add(slot * 64 + 32)));
                for row in 0..M {
                    let scale = _mm512_mul_ps(d, float(place::D, row));
                    sums[row] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[row]), sums[row]);
                    sums[row] = _mm512_fmadd_ps(m, float(place::D_SUM, row), sums[row]);
                }
            }
            Scales::SuperMin => {
                let dots = dot::<K, M, 8>(integers, 0, panel, place::SUM);
                let d = _mm512_mul_ps(half(unit), unsigned(load16(codes)));
                let m = _mm512_mul_ps(half(unit.add(32)), unsigned(load16(codes.add(16))));
                for row in 0..M {
                    let scale = _mm512_mul_ps(d, float(place::D, row));
                    sums[row] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[row]), sums[row]);
                    sums[row] = _mm512_fnmadd_ps(m, float(place::D_SUM, row), sums[row]);
                }
            }
            Scales::Half => {
                let all = half(unit);
                let d = [0, 16]
                    .map(|at| _mm512_mul_ps(all, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(codes.add(at))))));
                halves::<K, M>(integers, panel, d, sums);
            }
            Scales::HalfMin => {
                let (all, minima) = (half(unit), half(unit.add(32)));
                let both = [load16(codes), load16(codes.add(16))];
                let low = _mm_set1_epi8(15);
                let d = both.map(|both| _mm512_mul_ps(all, unsigned(_mm_and_si128(both, low))));
                halves::<K, M>(integers, panel, d, sums);
                for (half, both) in both.into_iter().enumerate() {
                    let codes = _mm_and_si128(_mm_srli_epi16::<4>(both), low);
                    let m = _mm512_mul_ps(minima, unsigned(codes));
                    for row in 0..M {
                        sums[row] = _mm512_fnmadd_ps(m, float(place::HALF_D_SUM + half, row), sums[row]);
                    }
                }
            }
        }
    }
}

/// Adds the products of a block whose two halves have scales `d` of their own.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn halves<K: Kind, const M: usize>(
    integers: *const u8,
    panel: *const i32,
    d: [__m512; 2],
    sums: &mut [__m512; M],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let first = dot::<K, M, 4>(integers, 0, panel, place::HALF_SUM);
        let mut scaled = [_mm512_setzero_ps(); M];
        for row in 0..M {
            scaled[row] = _mm512_mul_ps(_mm512_cvtepi32_ps(first[row]), d[0]);
        }
        let second = dot::<K, M, 4>(integers, 4, panel, place::HALF_SUM + 1);
        for row in 0..M {
            let scaled = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[row]), d[1], scaled[row]);
            let factor = _mm512_set1_ps(panel.add(place::D * M + row).cast::<f32>().read());
            sums[row] = _mm512_fmadd_ps(scaled, factor, sums[row]);
        }
    }
}

/// Products of GROUPS groups, from `first` on, with M rows, corrected by the panel's sums at `sum`.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn dot<K: Kind, const M: usize, const GROUPS: usize>(
    integers: *const u8,
    first: usize,
    panel: *const i32,
    sum: usize,
) -> [__m512i; M] {
    let mut dots = [_mm512_setzero_si512(); M];
    // SAFETY: as the caller vouches.
    unsafe {
        if K::OFFSET > 0 {
            let shift = _mm512_set1_epi32(7 - K::OFFSET.trailing_zeros().cast_signed());
            for (row, dot) in dots.iter_mut().enumerate() {
                *dot = _mm512_srav_epi32(_mm512_set1_epi32(panel.add(sum * M + row).read()), shift);
            }
        }
        for group in first..first + GROUPS {
            let weights = group_of::<K>(integers, group);
            for (row, dot) in dots.iter_mut().enumerate() {
                let activations = _mm512_set1_epi32(panel.add(group * M + row).read());
                *dot = _mm512_dpbusd_epi32(*dot, weights, activations);
            }
        }
    }
    dots
}

/// The integers of one group, joined from their planes.
///
/// # Safety
/// `integers` are a block's planes, `group` is below 8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn group_of<K: Kind>(integers: *const u8, group: usize) -> __m512i {
    // SAFETY: a block has as many vectors as an integer has bits, and each plane of WIDTH bits has WIDTH of them.
    unsafe {
        match K::BITS {
            2 => bits::<2, 0>(integers, group),
            3 => _mm512_or_si512(bits::<2, 0>(integers, group), bits::<1, 2>(integers.add(128), group)),
            4 => bits::<4, 0>(integers, group),
            5 => _mm512_or_si512(bits::<4, 0>(integers, group), bits::<1, 4>(integers.add(256), group)),
            6 => _mm512_or_si512(bits::<4, 0>(integers, group), bits::<2, 4>(integers.add(256), group)),
            _ => _mm512_loadu_si512(integers.add(group * 64).cast()),
        }
    }
}

/// The bits of one group in a plane of WIDTH bits, moved to bit TO of each byte.
///
/// # Safety
/// `plane` has WIDTH vectors, `group` is below 8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn bits<const WIDTH: usize, const TO: usize>(plane: *const u8, group: usize) -> __m512i {
    let (vector, from) = (group * WIDTH / 8, group * WIDTH % 8);
    // SAFETY: the vector is inside the plane.
    let packed = unsafe { _mm512_loadu_si512(plane.add(vector * 64).cast()) };
    let mask = _mm512_set1_epi8((((1u32 << WIDTH) - 1) << TO) as i8);
    let moved = if from >= TO {
        _mm512_srlv_epi32(packed, _mm512_set1_epi32((from - TO) as i32))
    } else {
        _mm512_sllv_epi32(packed, _mm512_set1_epi32((TO - from) as i32))
    };
    _mm512_and_si512(moved, mask)
}

/// # Safety
/// 16 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn load16(at: *const u8) -> __m128i {
    // SAFETY: as the caller vouches.
    unsafe { _mm_loadu_si128(at.cast()) }
}

/// Converts 16 unsigned bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unsigned(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
}

/// Loads and converts 16 numbers of 16 bits.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn half(at: *const u8) -> __m512 {
    // SAFETY: as the caller vouches.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// See [`super::activations::Quantise`].
///
/// # Safety
/// The machine has these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) unsafe fn quantise(values: &[f32], to: &mut [i32], place: Place) {
    let per_block = place.rows * place.words;
    for (values, to) in values.chunks_exact(BLOCK).zip(to.chunks_exact_mut(per_block)) {
        // SAFETY: a block has 32 values.
        let (first, second) = unsafe { (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16))) };
        let magnitude = _mm512_set1_epi32(i32::MAX);
        let bits = |x| _mm512_and_si512(_mm512_castps_si512(x), magnitude);
        let (d, inverse) = scale(_mm512_reduce_max_epu32(_mm512_max_epu32(bits(first), bits(second))));
        let integers = |x| _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
        let zero = _mm512_setzero_si512();
        let (first, second) = if d.is_nan() { (zero, zero) } else { (integers(first), integers(second)) };
        let sums = [_mm512_reduce_add_epi32(first), _mm512_reduce_add_epi32(second)];
        let mut block = Quantised { integers: [0; 8], d, sums };
        let bytes = _mm256_set_m128i(_mm512_cvtsepi32_epi8(second), _mm512_cvtsepi32_epi8(first));
        // SAFETY: the array has 32 bytes.
        unsafe { _mm256_storeu_si256(block.integers.as_mut_ptr().cast(), bytes) };
        store(&block, to, place);
    }
}
