//! Vectors of 512 bits with VNNI: a vector is a whole tile.

use std::arch::x86_64::*;

use super::{
    format::Kind,
    kernel::{Vectors, kernels},
};

/// AVX-512 F, BW, DQ, VL and VNNI.
struct Avx512;

kernels!(Avx512, ["avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"], 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1);

impl Vectors for Avx512 {
    const LANES: usize = 16;
    const SUBTRACTS: bool = false;
    type Float = __m512;
    type Int = __m512i;
    type Bytes = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: the machine has the instruction, as for all functions of this implementation.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn from_half(at: *const u8) -> __m512 {
        // SAFETY: as above; 32 bytes can be read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn from_unsigned(at: *const u8) -> __m512 {
        // SAFETY: as above; 16 bytes can be read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn from_signed(at: *const u8) -> __m512 {
        // SAFETY: as above; 16 bytes can be read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn from_nibbles(at: *const u8) -> [__m512; 2] {
        // SAFETY: as above; 16 bytes can be read.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
            let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn from_int(ints: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, to: *mut f32, count: usize) {
        // SAFETY: as above; the first `count` floats can be written.
        unsafe { _mm512_mask_storeu_ps(to, u16::MAX >> (16 - count), floats) };
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: as above; 64 bytes can be read.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn shift(bytes: __m512i, right: i32, mask: u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let moved = match right {
                0 => bytes,
                1.. => _mm512_srlv_epi32(bytes, _mm512_set1_epi32(right)),
                _ => _mm512_sllv_epi32(bytes, _mm512_set1_epi32(-right)),
            };
            _mm512_and_si512(moved, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn dot4<K: Kind, const M: usize>(dots: &mut [__m512i; M], weights: [__m512i; 4], panel: *const i32) {
        for (group, weights) in weights.into_iter().enumerate() {
            for (row, dot) in dots.iter_mut().enumerate() {
                // SAFETY: as above; the panel has these words.
                *dot =
                    unsafe { _mm512_dpbusd_epi32(*dot, weights, _mm512_set1_epi32(panel.add(group * M + row).read())) };
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: as above; a prefetch reads nothing that the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
}
