//! Exponentials and functions built on them, lane by lane, with the same bits on every instruction set.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::lanes::Lanes;

/// `(2^r - 1) / r` for `r` from -0.5 to 0.5; as part of `2^r` its relative error is at most 9.2e-8.
/// The last coefficient lies a little below `ln 2`.
const POWER: [f32; 5] = [0.001_326_472_8, 0.009_671_513, 0.055_507_336, 0.240_222_42, f32::from_bits(0x3f317215)];

/// The least exponent whose power is not rounded to 0.
const LEAST: f32 = -125.0;

/// `2^x`, for `x` of at most 126, minus infinity included. Returns 0 for `x` below -125.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn power_of_two<V: Lanes>(x: V) -> V {
    // SAFETY: the caller's promise.
    let (one, least, zero) = unsafe { (V::splat(1.0), V::splat(LEAST), V::splat(0.0)) };
    let whole = x.rounded();
    let rest = x.minus(whole);
    // SAFETY: the caller's promise.
    let power = unsafe { power_less_one(rest) }.plus(one);
    x.pick_below(least, zero, power.scaled(whole))
}

/// `2^r - 1` for `r` from -0.5 to 0.5.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn power_less_one<V: Lanes>(r: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { polynomial(&POWER, r) }.times(r)
}

/// A polynomial's value at `x`. The first coefficient is that of the highest power.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn polynomial<V: Lanes, const N: usize>(coefficients: &[f32; N], x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = sum.fused(x, V::splat(*coefficient));
        }
        sum
    }
}

/// The hyperbolic tangent.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Lanes>(x: V) -> V {
    // With z = e^(-2|x|) - 1: tanh(|x|) = -z / (z + 2).
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, one, two) = (V::splat(0.0), V::splat(1.0), V::splat(2.0));
        let size = x.larger(zero.minus(x));
        let exponent = size.times(V::splat(-2.0 * LOG2_E)).larger(V::splat(-30.0));
        let whole = exponent.rounded();
        let rest = power_less_one(exponent.minus(whole));
        let power = one.scaled(whole);
        let less_one = rest.fused(power, power.minus(one));
        let tanh = less_one.over(less_one.plus(two));
        x.pick_below(zero, tanh, zero.minus(tanh))
    }
}

/// The greatest argument of [`power_of_two`].
const MOST: f32 = 126.0;

/// `x / (1 + 2^-scaled)`.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn gated_by_power<V: Lanes>(x: V, scaled: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let exponent = V::splat(0.0).minus(scaled.larger(V::splat(-MOST)));
        x.over(power_of_two(exponent).plus(V::splat(1.0)))
    }
}

/// `x / (1 + e^-x)`.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { gated_by_power(x, x.times(V::splat(LOG2_E))) }
}

/// `x * (1 + tanh(u)) / 2` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`, which is `x / (1 + e^(-2 u))`.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<V: Lanes>(x: V) -> V {
    const LINEAR: f32 = 2.0 * LOG2_E * 0.797_884_6;
    // SAFETY: the caller's promise.
    unsafe {
        let polynomial = x.times(x).fused(V::splat(0.044_715 * LINEAR), V::splat(LINEAR));
        gated_by_power(x, x.times(polynomial))
    }
}

/// `P(t)` in `erfc(z) = e^(-z^2) * t * P(t)` with `t = 1 / (1 + 0.4 z)`, for `z` of at least 0; relative error 5.8e-8.
const TAIL: [f32; 9] = [
    0.040_267_46,
    -0.135_470_93,
    0.073_841_83,
    0.099_729_896,
    0.071_508_124,
    0.196_963_09,
    0.200_958_56,
    0.226_575_72,
    0.225_626_3,
];

/// `x * (1 + erf(x / sqrt 2)) / 2`.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn gelu<V: Lanes>(x: V) -> V {
    // With z = |x| / sqrt 2 the result is x * erfc(z) / 2 for negative x, and x minus that for other x.
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let z = x.larger(zero.minus(x)).times(V::splat(FRAC_1_SQRT_2));
        let t = one.over(z.fused(V::splat(0.4), one));
        let tail = polynomial(&TAIL, t);
        let power = power_of_two(z.times(z).times(V::splat(-LOG2_E)));
        let half = x.times(V::splat(0.5)).times(tail.times(t)).times(power);
        x.pick_below(zero, half, x.minus(half))
    }
}
