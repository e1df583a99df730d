//! Sixteen lanes in one register of AVX-512.

use std::arch::x86_64::*;

use half::f16;

use super::vector::{Kernel, Lanes};

/// Sixteen lanes of AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// Runs a kernel that is compiled for AVX-512F.
///
/// # Safety
/// The CPU has AVX-512F, and the conditions of the kernel itself hold.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512>() }
}

impl Lanes for Avx512 {
    const BLOCKS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller promises AVX-512F.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX-512F and 16 readable values.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: the caller promises AVX-512F and 16 readable values, 32 bytes.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values; `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn fused(self, factor: Self, term: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn scaled(self, exponent: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_scalef_ps(self.0, exponent.0) })
    }

    #[inline(always)]
    fn pick_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0), otherwise.0, then.0) })
    }

    #[inline(always)]
    fn any_above(self, other: Self) -> bool {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) != 0 }
    }

    #[inline(always)]
    fn keep(self, from: usize, to: usize) -> Self {
        let lanes = (((1u32 << to) - 1) & !((1u32 << from) - 1)) as u16;
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Self(unsafe { _mm512_mask_blend_ps(lanes, _mm512_set1_ps(f32::NEG_INFINITY), self.0) })
    }

    #[inline(always)]
    fn first(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_cvtss_f32(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe {
            let eight = _mm512_add_ps(self.0, _mm512_shuffle_f32x4::<0b01_00_11_10>(self.0, self.0));
            let four = _mm512_add_ps(eight, _mm512_shuffle_f32x4::<0b10_11_00_01>(eight, eight));
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
            _mm512_cvtss_f32(_mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two)))
        }
    }
}
