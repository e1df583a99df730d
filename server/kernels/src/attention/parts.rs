//! Joins the results of a sequence's parts, in order of position.

use super::{grouping::BLOCK, row::Row};
use crate::elementwise::{
    lanes::{Kernel, Lanes},
    math::power_of_two,
};

/// A row's result of one part.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    /// The greatest score; minus infinity if the row attends to no token of the part.
    pub top: f32,
    /// The sum of the weights, relative to that score.
    pub weight: f32,
    /// The sums of the weighted values.
    pub sums: *const f32,
}

/// The number of values in the record of a [`Partial`]: its sums, its greatest score, its sum of weights.
pub(super) fn record(size: usize) -> usize {
    size + 2
}

impl Partial {
    /// Writes a record.
    ///
    /// # Safety
    /// `to` has room for the record, and `sums` has `size` values.
    pub(super) unsafe fn write(&self, to: *mut f32, size: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(self.sums, to, size);
            to.add(size).write(self.top);
            to.add(size + 1).write(self.weight);
        }
    }

    /// Reads a record.
    ///
    /// # Safety
    /// A record of `size` sums was written there.
    unsafe fn read(from: *const f32, size: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { top: *from.add(size), weight: *from.add(size + 1), sums: from } }
    }
}

/// The greatest score and the sum of weights of the parts so far.
pub(super) type Joined = (f32, f32);

/// The value before the first [`join`].
pub(super) const NOTHING: Joined = (f32::NEG_INFINITY, 0.0);

/// Adds a part's result to those of the parts before it. The sums of the first part are copied, so the memory at `sums` need not
/// be initialised.
///
/// # Safety
/// The CPU has the instruction set of `V`. Both sums have `size` values, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn join<V: Lanes>(joined: &mut Joined, sums: *mut f32, partial: &Partial, size: usize) {
    let (top, weight) = *joined;
    if partial.top == f32::NEG_INFINITY {
        return;
    }
    if top == f32::NEG_INFINITY {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(partial.sums, sums, size) };
        *joined = (partial.top, partial.weight);
        return;
    }
    let high = if partial.top > top { partial.top } else { top };
    // SAFETY: the caller's promise.
    unsafe {
        let (old, new) = (power_of_two(V::splat(top - high)), power_of_two(V::splat(partial.top - high)));
        for at in (0..size).step_by(BLOCK) {
            let before = V::load(sums.add(at)).times(old);
            V::load(partial.sums.add(at)).fused(new, before).store(sums.add(at));
        }
        let weight = V::splat(partial.weight).fused(new, V::splat(weight).times(old));
        *joined = (high, weight.first());
    }
}

/// Divides the sums by the sum of the weights. A row that attends to no token gives 0; its sums need not be initialised.
///
/// # Safety
/// The CPU has the instruction set of `V`, and there is room for `size` sums, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes>((top, weight): Joined, sums: *mut f32, size: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if top == f32::NEG_INFINITY {
            std::ptr::write_bytes(sums, 0, size);
            return;
        }
        let factor = V::splat(1.0 / weight);
        for at in (0..size).step_by(BLOCK) {
            V::load(sums.add(at)).times(factor).store(sums.add(at));
        }
    }
}

/// Joins the parts of a panel's rows and writes their results.
pub(super) struct Join<'a> {
    /// For each part, in order of position, a record of each row.
    pub records: *const f32,
    pub parts: usize,
    pub rows: &'a [Row],
    pub size: usize,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (size, count) = (self.size, self.rows.len());
        for (r, row) in self.rows.iter().enumerate() {
            let mut joined = NOTHING;
            // SAFETY: the caller's promise: the result has room for `size` values, and all records were written.
            unsafe {
                for part in 0..self.parts {
                    let partial = Partial::read(self.records.add((part * count + r) * record(size)), size);
                    join::<V>(&mut joined, row.result, &partial, size);
                }
                finish::<V>(joined, row.result, size);
            }
        }
    }
}
