//! Sixteen lanes in plain Rust.

use half::f16;

use super::vector::{Lanes, WIDTH};

/// Sixteen lanes on any CPU.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; WIDTH]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Lanes for Portable {
    const BLOCKS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 16 readable values; an array of f32 has the alignment of f32.
        Self(unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: the caller promises 16 readable values.
        let halves = unsafe { from.cast::<[f16; WIDTH]>().read_unaligned() };
        Self(halves.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn fused(self, factor: Self, term: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane].mul_add(factor.0[lane], term.0[lane])))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn scaled(self, exponent: Self) -> Self {
        self.zip(exponent, |a, n| a * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn pick_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|lane| if self.0[lane] < bound.0[lane] { then.0[lane] } else { otherwise.0[lane] }))
    }

    #[inline(always)]
    fn any_above(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| *a > b)
    }

    #[inline(always)]
    fn keep(self, from: usize, to: usize) -> Self {
        Self(std::array::from_fn(|lane| if (from..to).contains(&lane) { self.0[lane] } else { f32::NEG_INFINITY }))
    }

    #[inline(always)]
    fn first(self) -> f32 {
        self.0[0]
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |top, &x| if x > top { x } else { top })
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let mut sums = self.0;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
        }
        sums[0]
    }
}
