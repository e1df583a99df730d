//! Root mean square norms.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{
    lanes::{Kernel, Lanes, WIDTH, load_part, run_on, store_part},
    rows::{Locked, Output, Rows},
};
use crate::isa::Isa;

/// Nanoseconds to compute a value.
const COST: f64 = 0.12;

/// Sums of squares that are computed side by side, so that an addition need not wait for the addition before it.
const SUMS: usize = 4;

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, isa: Isa) -> Result<Option<Tensor>> {
    let (x_lock, weight_lock) = (Locked::new(x), Locked::new(weight));
    let (Some(x_rows), Some(weight)) = (x_lock.rows(), weight_lock.contiguous()) else { return Ok(None) };
    if weight.len() != x_rows.width {
        return Ok(None);
    }
    let mut output = Output::new(x_rows.count, x_rows.width);
    // SAFETY: the kernel writes all values of the rows in its range. The CPU has `isa`.
    unsafe { output.fill(COST, |range, to| run_on(isa, Norm { range, x: x_rows, weight, eps, to })) };
    output.tensor(x.dims()).map(Some)
}

/// Normalises the rows `range` of `x` and writes them from `to` on.
struct Norm<'a> {
    range: Range<usize>,
    x: Rows<'a>,
    weight: &'a [f32],
    eps: f32,
    to: *mut f32,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let width = self.x.width;
        for (i, index) in self.range.enumerate() {
            let row = self.x.row(index);
            // SAFETY: the caller's promise; `row` and the weight have `width` values, `to` has room for the range's rows.
            unsafe {
                let mean = squares::<V>(row) / width as f32;
                let factor = V::splat(1.0 / (mean + self.eps).sqrt());
                let (from, weight, to) = (row.as_ptr(), self.weight.as_ptr(), self.to.add(i * width));
                let whole = width - width % WIDTH;
                for at in (0..whole).step_by(WIDTH) {
                    V::load(from.add(at)).times(factor).times(V::load(weight.add(at))).store(to.add(at));
                }
                let rest = width - whole;
                let normed = load_part::<V>(from.add(whole), rest).times(factor);
                store_part(normed.times(load_part::<V>(weight.add(whole), rest)), to.add(whole), rest);
            }
        }
    }
}

/// The sum of the squares, in an order that depends on the number of values only.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn squares<V: Lanes>(values: &[f32]) -> f32 {
    // SAFETY: the caller's promise; all reads lie within `values`.
    unsafe {
        let mut sums = [V::splat(0.0); SUMS];
        let mut groups = values.chunks_exact(SUMS * WIDTH);
        for group in &mut groups {
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = V::load(group.as_ptr().add(i * WIDTH));
                *sum = x.fused(x, *sum);
            }
        }
        for (vector, sum) in groups.remainder().chunks(WIDTH).zip(&mut sums) {
            let x = load_part::<V>(vector.as_ptr(), vector.len());
            *sum = x.fused(x, *sum);
        }
        sums[0].plus(sums[1]).plus(sums[2].plus(sums[3])).total()
    }
}
