//! Sixteen lanes in two registers of AVX2.

use std::arch::x86_64::*;

use half::f16;

use super::vector::{Kernel, Lanes, WIDTH};

/// Sixteen lanes of AVX2 with FMA and F16C: lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// Runs a kernel that is compiled for AVX2, FMA and F16C.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C, and the conditions of the kernel itself hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

/// Applies an operation of two registers to the low and the high lanes.
macro_rules! both {
    ($operation:ident, $a:expr, $b:expr) => {
        // SAFETY: a value exists, so the CPU has AVX2.
        unsafe { Avx2($operation($a.0, $b.0), $operation($a.1, $b.1)) }
    };
}

/// Whole numbers from 0 to 15.
const INDEX: [i32; WIDTH] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Lanes for Avx2 {
    const BLOCKS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller promises AVX2.
        let x = unsafe { _mm256_set1_ps(x) };
        Self(x, x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX2 and 16 readable values.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: the caller promises F16C and 16 readable values, 16 bytes for 8.
        unsafe {
            Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values; `self` exists, so the CPU has AVX2.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        both!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    fn fused(self, factor: Self, term: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has FMA.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, term.0), _mm256_fmadd_ps(self.1, factor.1, term.1)) }
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { Self(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }

    #[inline(always)]
    fn scaled(self, exponent: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(exponent.0), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(exponent.1), bias);
            let power = Self(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            );
            self.times(power)
        }
    }

    #[inline(always)]
    fn pick_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, bound.1);
            Self(_mm256_blendv_ps(otherwise.0, then.0, low), _mm256_blendv_ps(otherwise.1, then.1, high))
        }
    }

    #[inline(always)]
    fn any_above(self, other: Self) -> bool {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, other.1);
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        }
    }

    #[inline(always)]
    fn keep(self, from: usize, to: usize) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX2; the index has 16 values.
        unsafe {
            let index = INDEX.as_ptr().cast::<__m256i>();
            let (low, high) = (_mm256_loadu_si256(index), _mm256_loadu_si256(index.add(1)));
            let (first, end) = (_mm256_set1_epi32(from as i32), _mm256_set1_epi32(to as i32));
            let never = _mm256_set1_ps(f32::NEG_INFINITY);
            let low = _mm256_andnot_si256(_mm256_cmpgt_epi32(first, low), _mm256_cmpgt_epi32(end, low));
            let high = _mm256_andnot_si256(_mm256_cmpgt_epi32(first, high), _mm256_cmpgt_epi32(end, high));
            Self(
                _mm256_blendv_ps(never, self.0, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(never, self.1, _mm256_castsi256_ps(high)),
            )
        }
    }

    #[inline(always)]
    fn first(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_cvtss_f32(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
