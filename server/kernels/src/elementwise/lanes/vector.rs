//! A vector of sixteen lanes, and a kernel over it, whatever the instruction set.

use half::f16;

/// Lanes of a vector; also the tokens of a block of keys.
pub(crate) const WIDTH: usize = 16;

/// Sixteen f32 lanes.
///
/// A value exists only if the CPU has the instruction set: the functions that make a value from something else are unsafe,
/// and the others take a value.
pub(crate) trait Lanes: Copy {
    /// The number of blocks of keys that can be scored at once: their scores for a full tile of rows fit the registers.
    const BLOCKS: usize;

    /// All lanes set to `x`.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn splat(x: f32) -> Self;

    /// Sixteen values from memory.
    ///
    /// # Safety
    /// The CPU has the instruction set, and 16 values at `from` are readable.
    unsafe fn load(from: *const f32) -> Self;

    /// Sixteen half-precision values from memory, widened.
    ///
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load_half(from: *const f16) -> Self;

    /// Writes the lanes to memory.
    ///
    /// # Safety
    /// 16 values at `to` are writable.
    unsafe fn store(self, to: *mut f32);

    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn over(self, other: Self) -> Self;

    /// `self * factor + term`, rounded once.
    fn fused(self, factor: Self, term: Self) -> Self;

    /// The greater of each two lanes; that of `other` if they are equal or one is NaN.
    fn larger(self, other: Self) -> Self;

    /// The nearest whole numbers, ties to even.
    fn rounded(self) -> Self;

    /// `self * 2^exponent`. The exponents are whole numbers from -125 to 127, the magnitudes of `self` below 2, and the
    /// products normal.
    fn scaled(self, exponent: Self) -> Self;

    /// The lanes of `then` for which `self < bound`, and the other lanes of `otherwise`.
    fn pick_below(self, bound: Self, then: Self, otherwise: Self) -> Self;

    /// Whether any lane is greater than its counterpart.
    fn any_above(self, other: Self) -> bool;

    /// Sets all lanes except `from..to` to minus infinity.
    fn keep(self, from: usize, to: usize) -> Self;

    /// Lane 0.
    fn first(self) -> f32;

    /// The greatest lane.
    fn greatest(self) -> f32;

    /// The sum of all lanes: lane `i` and lane `i + 8` first, then 4, 2 and 1 apart.
    fn total(self) -> f32;
}

/// A computation that is compiled for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Runs the kernel. Implementations are `#[inline(always)]`, so that they are compiled for the instruction set.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`, and the conditions of the kernel itself hold.
    unsafe fn run<V: Lanes>(self) -> Self::Output;
}

/// The first `count` values from memory, at most 16; 0 in the other lanes.
///
/// # Safety
/// The CPU has the instruction set of `V`, and `count` values at `from` are readable.
#[inline(always)]
pub(crate) unsafe fn load_part<V: Lanes>(from: *const f32, count: usize) -> V {
    if count >= WIDTH {
        // SAFETY: the caller's promise.
        return unsafe { V::load(from) };
    }
    let mut part = [0.0; WIDTH];
    // SAFETY: the caller's promise; the array has 16 values.
    unsafe {
        std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), count);
        V::load(part.as_ptr())
    }
}

/// Writes the first `count` lanes, at most 16, to memory.
///
/// # Safety
/// `count` values at `to` are writable.
#[inline(always)]
pub(crate) unsafe fn store_part<V: Lanes>(lanes: V, to: *mut f32, count: usize) {
    if count >= WIDTH {
        // SAFETY: the caller's promise.
        return unsafe { lanes.store(to) };
    }
    let mut part = [0.0; WIDTH];
    // SAFETY: the caller's promise; the array has 16 values.
    unsafe {
        lanes.store(part.as_mut_ptr());
        std::ptr::copy_nonoverlapping(part.as_ptr(), to, count);
    }
}
