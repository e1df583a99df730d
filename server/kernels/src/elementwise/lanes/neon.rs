//! Sixteen lanes in four registers of NEON.

use std::arch::aarch64::*;

use half::f16;

use super::vector::{Kernel, Lanes, WIDTH};

/// Sixteen lanes of NEON, four in each register.
#[derive(Clone, Copy)]
pub(crate) struct Neon([float32x4_t; 4]);

/// Runs a kernel that is compiled for NEON.
///
/// # Safety
/// The CPU has NEON, and the conditions of the kernel itself hold.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Neon>() }
}

/// Four registers, each computed by an expression of its index.
macro_rules! registers {
    (|$i:ident| $register:expr) => {{
        // SAFETY: the caller promises NEON, or a value exists, so the CPU has it; memory is accessed as the caller promises.
        unsafe {
            Neon([
                { let $i = 0; $register },
                { let $i = 1; $register },
                { let $i = 2; $register },
                { let $i = 3; $register },
            ])
        }
    }};
}

/// Whole numbers from 0 to 15.
const INDEX: [u32; WIDTH] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Lanes for Neon {
    const BLOCKS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller promises NEON.
        Self([unsafe { vdupq_n_f32(x) }; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        registers!(|i| vld1q_f32(from.add(4 * i)))
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: the caller promises 16 readable values.
        let halves = unsafe { from.cast::<[f16; WIDTH]>().read_unaligned() };
        let wide = halves.map(f16::to_f32);
        // SAFETY: the caller promises NEON; the array has 16 values.
        unsafe { Self::load(wide.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, x) in self.0.into_iter().enumerate() {
            // SAFETY: the caller promises 16 writable values; `self` exists, so the CPU has NEON.
            unsafe { vst1q_f32(to.add(4 * i), x) };
        }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        registers!(|i| vaddq_f32(self.0[i], other.0[i]))
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        registers!(|i| vsubq_f32(self.0[i], other.0[i]))
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        registers!(|i| vmulq_f32(self.0[i], other.0[i]))
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        registers!(|i| vdivq_f32(self.0[i], other.0[i]))
    }

    #[inline(always)]
    fn fused(self, factor: Self, term: Self) -> Self {
        registers!(|i| vfmaq_f32(term.0[i], self.0[i], factor.0[i]))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        registers!(|i| vbslq_f32(vcgtq_f32(self.0[i], other.0[i]), self.0[i], other.0[i]))
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        registers!(|i| vrndnq_f32(self.0[i]))
    }

    #[inline(always)]
    fn scaled(self, exponent: Self) -> Self {
        registers!(|i| {
            let biased = vaddq_s32(vcvtq_s32_f32(exponent.0[i]), vdupq_n_s32(127));
            vmulq_f32(self.0[i], vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        })
    }

    #[inline(always)]
    fn pick_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        registers!(|i| vbslq_f32(vcltq_f32(self.0[i], bound.0[i]), then.0[i], otherwise.0[i]))
    }

    #[inline(always)]
    fn any_above(self, other: Self) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        // SAFETY: `self` exists, so the CPU has NEON.
        unsafe {
            let low = vorrq_u32(vcgtq_f32(a, e), vcgtq_f32(b, f));
            let high = vorrq_u32(vcgtq_f32(c, g), vcgtq_f32(d, h));
            vmaxvq_u32(vorrq_u32(low, high)) != 0
        }
    }

    #[inline(always)]
    fn keep(self, from: usize, to: usize) -> Self {
        registers!(|i| {
            let lanes = vld1q_u32(INDEX.as_ptr().add(4 * i));
            let inside =
                vandq_u32(vcgeq_u32(lanes, vdupq_n_u32(from as u32)), vcltq_u32(lanes, vdupq_n_u32(to as u32)));
            vbslq_f32(inside, self.0[i], vdupq_n_f32(f32::NEG_INFINITY))
        })
    }

    #[inline(always)]
    fn first(self) -> f32 {
        // SAFETY: `self` exists, so the CPU has NEON.
        unsafe { vgetq_lane_f32::<0>(self.0[0]) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: `self` exists, so the CPU has NEON.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d))) }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: `self` exists, so the CPU has NEON.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}
