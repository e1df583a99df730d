//! Exponentials and what is built on them, lane by lane, the same on every instruction set.

use super::lanes::Lanes;

/// `(2^r - 1) / r` for `r` from -0.5 to 0.5; as part of `2^r` its relative error is at most 9.2e-8.
const POWER: [f32; 5] = [0.001_326_472_8, 0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147];

/// The least exponent of a power that is not taken for 0.
const LEAST: f32 = -125.0;

/// `2^x`, for `x` of at most 126 and minus infinity. What lies below `2^-125` gives 0.
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
    let [first, others @ ..] = POWER;
    // SAFETY: the caller's promise.
    let mut sum = unsafe { V::splat(first) };
    for coefficient in others {
        // SAFETY: the caller's promise.
        sum = sum.fused(r, unsafe { V::splat(coefficient) });
    }
    sum.times(r)
}

/// The hyperbolic tangent.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Lanes>(x: V) -> V {
    // SAFETY: the caller's promise.
    let [zero, one, two, negative_one, factor, most] =
        unsafe { [0.0, 1.0, 2.0, -1.0, 2.0 * std::f32::consts::LOG2_E, -30.0].map(|x| V::splat(x)) };
    // With z = e^(-2|x|) - 1: tanh(|x|) = -z / (z + 2).
    let size = x.larger(zero.minus(x));
    let exponent = size.times(zero.minus(factor)).larger(most);
    let whole = exponent.rounded();
    // SAFETY: the caller's promise.
    let rest = unsafe { power_less_one(exponent.minus(whole)) };
    let power = one.scaled(whole);
    let less_one = rest.fused(power, power.minus(one));
    let tanh = less_one.over(less_one.plus(two));
    x.pick_below(zero, tanh, tanh.times(negative_one))
}
