//! Vectors of 256 bits: two make a tile.

use std::arch::x86_64::*;

use super::{
    format::Kind,
    kernel::{Vectors, kernels},
};

/// The operations that AVX2 and AVX-VNNI share.
macro_rules! shared_operations {
    () => {
        const LANES: usize = 8;
        type Float = __m256;
        type Int = __m256i;
        type Bytes = __m256i;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            // SAFETY: the machine has the instruction, as for all functions of this implementation.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn splat_int(value: i32) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_set1_epi32(value) }
        }

        #[inline(always)]
        unsafe fn from_half(at: *const u8) -> __m256 {
            // SAFETY: as above; 16 bytes can be read.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
        }

        #[inline(always)]
        unsafe fn from_unsigned(at: *const u8) -> __m256 {
            // SAFETY: as above; 8 bytes can be read.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()))) }
        }

        #[inline(always)]
        unsafe fn from_signed(at: *const u8) -> __m256 {
            // SAFETY: as above; 8 bytes can be read.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
        }

        #[inline(always)]
        unsafe fn from_nibbles(at: *const u8) -> [__m256; 2] {
            // SAFETY: as above; 8 bytes can be read.
            unsafe {
                let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()));
                let low = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
                [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes))]
            }
        }

        #[inline(always)]
        unsafe fn from_int(ints: __m256i) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(ints) }
        }

        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn mul_sub(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fnmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn store(floats: __m256, to: *mut f32, count: usize) {
            if count == 8 {
                // SAFETY: as above; 8 floats can be written.
                unsafe { _mm256_storeu_ps(to, floats) };
            } else {
                let mut all = [0f32; 8];
                // SAFETY: as above; the array has 8 floats, and the first `count` can be written to `to`.
                unsafe {
                    _mm256_storeu_ps(all.as_mut_ptr(), floats);
                    to.copy_from_nonoverlapping(all.as_ptr(), count);
                }
            }
        }

        #[inline(always)]
        unsafe fn load(at: *const u8) -> __m256i {
            // SAFETY: as above; 32 bytes can be read.
            unsafe { _mm256_loadu_si256(at.cast()) }
        }

        #[inline(always)]
        unsafe fn shift(bytes: __m256i, right: i32, mask: u8) -> __m256i {
            // SAFETY: as above.
            unsafe {
                let moved = match right {
                    0 => bytes,
                    1.. => _mm256_srlv_epi32(bytes, _mm256_set1_epi32(right)),
                    _ => _mm256_sllv_epi32(bytes, _mm256_set1_epi32(-right)),
                };
                _mm256_and_si256(moved, _mm256_set1_epi8(mask.cast_signed()))
            }
        }

        #[inline(always)]
        unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_or_si256(a, b) }
        }

        #[inline(always)]
        unsafe fn prefetch(at: *const u8) {
            // SAFETY: as above; a prefetch reads nothing that the program can see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
}

/// AVX2, FMA and F16C.
struct Avx2;

kernels!(Avx2, ["avx2,fma,f16c"], 1: 2, 2: 2, 3: 1, 4: 1);

impl Vectors for Avx2 {
    const SUBTRACTS: bool = true;

    shared_operations!();

    /// Multiplies pairs of bytes to sums of 16 bits, which cannot overflow: the activations' integers are within -127..=127, and
    /// integers of 8 bits are made signed and multiplied as magnitudes, so a pair of products is at most 2 * 128 * 127.
    #[inline(always)]
    unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [__m256i; M], weights: [__m256i; 4], panel: *const i32) {
        // SAFETY: as above; the panel has these words.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let activations = |group: usize, row: usize| _mm256_set1_epi32(panel.add(group * M + row).read());
            if K::BITS == 8 {
                for (group, weights) in weights.into_iter().enumerate() {
                    let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN));
                    let magnitudes = _mm256_abs_epi8(signed);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(activations(group, row), signed));
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                    }
                }
                return;
            }
            for (row, dot) in dots.iter_mut().enumerate() {
                let pairs = |group: usize| _mm256_maddubs_epi16(weights[group], activations(group, row));
                let two = [_mm256_add_epi16(pairs(0), pairs(1)), _mm256_add_epi16(pairs(2), pairs(3))];
                // Four pairs of products of 6 bits can exceed 16 bits, those of 5 bits cannot: 4 * 2 * 31 * 127 < 2^15.
                if K::BITS == 6 {
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(two[0], ones));
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(two[1], ones));
                } else {
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(_mm256_add_epi16(two[0], two[1]), ones));
                }
            }
        }
    }
}

/// AVX2, FMA, F16C and the dot products of AVX-VNNI.
pub(crate) mod vnni {
    use super::*;

    /// [`super::Avx2`] with AVX-VNNI.
    struct AvxVnni;

    kernels!(AvxVnni, ["avx2,fma,f16c,avxvnni"], 1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1);

    impl Vectors for AvxVnni {
        const SUBTRACTS: bool = false;

        shared_operations!();

        #[inline(always)]
        unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [__m256i; M], weights: [__m256i; 4], panel: *const i32) {
            for (group, weights) in weights.into_iter().enumerate() {
                for (row, dot) in dots.iter_mut().enumerate() {
                    // SAFETY: as above; the panel has these words.
                    unsafe {
                        let activations = _mm256_set1_epi32(panel.add(group * M + row).read());
                        *dot = _mm256_dpbusd_avx_epi32(*dot, weights, activations);
                    }
                }
            }
        }
    }
}
