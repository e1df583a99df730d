//! Products of weights that are not quantised, f32 or f16.
//!
//! Each output is one sum: lane `i` adds every 16th product from `i` on, and the lanes are added in a fixed tree. So its bits
//! depend on its row and its weight alone. In general matrix multiplication they depend on the number of rows, too.

use std::ops::Range;

use candle_core::{CpuStorage, Layout};
use half::f16;

use crate::{
    elementwise::{
        lanes::{Kernel, Lanes, WIDTH, load_part, run_on},
        rows::Address,
    },
    isa::{self, Isa},
    team,
};

/// Bytes of the weights of a chunk, so that they stay in a thread's cache for all rows.
const CHUNK: usize = 128 << 10;
/// The fewest multiplications of a chunk.
const WORTH: usize = 32 << 10;
/// The rows and columns of a tile, whose sums fit the registers.
const ROWS: usize = 4;
const COLUMNS: usize = 4;
/// The columns of a tile of one row.
const COLUMNS_OF_ONE: usize = 8;

/// Multiplies rows with weights as `rows.matmul(&weights.t()?)` does: `shape` is (batch, m, n, k), `rows` holds batch × m rows of
/// k values, and `weights` n rows of k values, the same for the whole batch. Returns batch × m rows of n values, of the type of
/// both factors. `None` if the factors have another layout or type: then candle multiplies them.
pub fn product(
    rows: (&CpuStorage, &Layout),
    weights: (&CpuStorage, &Layout),
    shape: (usize, usize, usize, usize),
) -> Option<CpuStorage> {
    compute(rows, weights, shape, isa::current())
}

fn compute(
    (rows, rows_layout): (&CpuStorage, &Layout),
    (weights, weights_layout): (&CpuStorage, &Layout),
    (batch, m, n, k): (usize, usize, usize, usize),
    isa: Isa,
) -> Option<CpuStorage> {
    let count = batch * m;
    if count * n * k == 0 || !is_transposed(weights_layout, k) {
        return None;
    }
    let (from, to) = rows_layout.contiguous_offsets()?;
    let begin = weights_layout.start_offset();
    match (rows, weights) {
        (CpuStorage::F32(rows), CpuStorage::F32(weights)) => {
            let (rows, weights) = (rows.get(from..to)?, weights.get(begin..begin + n * k)?);
            Some(CpuStorage::F32(multiply(rows, weights, k, isa)))
        }
        (CpuStorage::F16(rows), CpuStorage::F16(weights)) => {
            let rows: Vec<f32> = rows.get(from..to)?.iter().map(|x| x.to_f32()).collect();
            let sums = multiply(&rows, weights.get(begin..begin + n * k)?, k, isa);
            Some(CpuStorage::F16(sums.into_iter().map(f16::from_f32).collect()))
        }
        _ => None,
    }
}

/// Returns whether a factor of shape (.., k, n) is the transposition of a contiguous (n, k) that the whole batch shares.
fn is_transposed(layout: &Layout, k: usize) -> bool {
    let (dims, strides) = (layout.dims(), layout.stride());
    let Some(outer) = dims.len().checked_sub(2) else { return false };
    let is_shared = dims.iter().zip(strides).take(outer).all(|(dim, stride)| *dim == 1 || *stride == 0);
    is_shared && (strides[outer] == 1 || k == 1) && (strides[outer + 1] == k || dims[outer + 1] == 1)
}

/// Multiplies rows of `k` values with weights of `k` values. Returns for each row one value for each weight.
fn multiply<W: Weight>(rows: &[f32], weights: &[W], k: usize, isa: Isa) -> Vec<f32> {
    let (count, n) = (rows.len() / k, weights.len() / k);
    let mut out: Vec<f32> = Vec::with_capacity(count * n);
    let fits = CHUNK / (k * size_of::<W>());
    let columns = fits.max(WORTH.div_ceil(count * k)).next_multiple_of(COLUMNS_OF_ONE);
    let to = Address::new(out.as_mut_ptr());
    team::run(n.div_ceil(columns), &|chunk| {
        let range = chunk * columns..n.min((chunk + 1) * columns);
        // SAFETY: the chunks write to different columns of rows of `n` values, `out` has room for all rows, and the CPU has
        // `isa`.
        unsafe { run_on(isa, Tile { rows, weights, k, n, range, to: to.at(0) }) };
    });
    // SAFETY: each column of each row belongs to a chunk, which has written it.
    unsafe { out.set_len(count * n) };
    out
}

/// A value of a weight.
trait Weight: Copy + Default + Sync {
    /// # Safety
    /// The CPU has the instruction set of `V`, and 16 values at `from` are readable.
    unsafe fn load<V: Lanes>(from: *const Self) -> V;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_half(from) }
    }
}

/// The columns `range` of the product of all rows.
struct Tile<'a, W> {
    rows: &'a [f32],
    weights: &'a [W],
    k: usize,
    n: usize,
    range: Range<usize>,
    /// The first row of `n` values.
    to: *mut f32,
}

impl<W: Weight> Kernel for Tile<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let count = self.rows.len() / self.k;
        let whole = count - count % ROWS;
        // SAFETY: the caller's promise; rows and columns are those of the factors.
        unsafe {
            for row in (0..whole).step_by(ROWS) {
                self.columns::<V, ROWS, COLUMNS>(row);
            }
            match count - whole {
                1 => self.columns::<V, 1, COLUMNS_OF_ONE>(whole),
                2 => self.columns::<V, 2, COLUMNS>(whole),
                3 => self.columns::<V, 3, COLUMNS>(whole),
                _ => {}
            }
        }
    }
}

impl<W: Weight> Tile<'_, W> {
    /// Computes all columns of the range for R rows, C columns at once.
    ///
    /// # Safety
    /// The CPU has the instruction set of `V`, there are R rows from `row` on, and the outputs can be written.
    #[inline(always)]
    unsafe fn columns<V: Lanes, const R: usize, const C: usize>(&self, row: usize) {
        let whole = self.range.start + self.range.len() / C * C;
        // SAFETY: the caller's promise; the columns lie within the range.
        unsafe {
            for column in (self.range.start..whole).step_by(C) {
                self.sums::<V, R, C>(row, column);
            }
            for column in whole..self.range.end {
                self.sums::<V, R, 1>(row, column);
            }
        }
    }

    /// Computes the sums of R rows and C weights.
    ///
    /// # Safety
    /// As [`Self::columns`]; there are C columns from `column` on.
    #[inline(always)]
    unsafe fn sums<V: Lanes, const R: usize, const C: usize>(&self, row: usize, column: usize) {
        let k = self.k;
        // SAFETY: the caller's promise: R rows of the input and C of the weights, of k values each, are read, and R times C
        // outputs written. The last values of a row, fewer than 16, are read through arrays of 16 values.
        unsafe {
            let (rows, weights) = (self.rows.as_ptr().add(row * k), self.weights.as_ptr().add(column * k));
            let mut sums = [[V::splat(0.0); C]; R];
            let whole = k - k % WIDTH;
            for at in (0..whole).step_by(WIDTH) {
                let weights: [V; C] = std::array::from_fn(|c| W::load(weights.add(c * k + at)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::load(rows.add(r * k + at));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = x.fused(weight, *sum);
                    }
                }
            }
            if whole < k {
                let weights: [V; C] = std::array::from_fn(|c| {
                    let mut rest = [W::default(); WIDTH];
                    std::ptr::copy_nonoverlapping(weights.add(c * k + whole), rest.as_mut_ptr(), k - whole);
                    W::load(rest.as_ptr())
                });
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = load_part::<V>(rows.add(r * k + whole), k - whole);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = x.fused(weight, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    *self.to.add((row + r) * self.n + column + c) = sum.total();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Storage, Tensor};
    use proptest::prelude::*;

    use super::*;

    fn tensor(seed: u64, dims: &[usize], dtype: DType) -> Tensor {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = std::iter::repeat_with(next).take(dims.iter().product()).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn on(isa: Isa, rows: &Tensor, weights: &Tensor) -> Option<Vec<f32>> {
        let dims = rows.dims();
        let k = dims[dims.len() - 1];
        let m = dims[dims.len() - 2];
        let batch = dims[..dims.len() - 2].iter().product();
        let n = weights.dims()[weights.rank() - 1];
        let ((rows, rows_layout), (weights, weights_layout)) =
            (rows.storage_and_layout(), weights.storage_and_layout());
        let (Storage::Cpu(rows), Storage::Cpu(weights)) = (&*rows, &*weights) else { return None };
        match compute((rows, rows_layout), (weights, weights_layout), (batch, m, n, k), isa)? {
            CpuStorage::F32(out) => Some(out),
            CpuStorage::F16(out) => Some(out.into_iter().map(f16::to_f32).collect()),
            _ => None,
        }
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn sums_are_those_of_f64_and_alike_in_a_crowd_and_on_all_instruction_sets(
            (count, n, k, is_half) in (1usize..20, 1usize..70, 1usize..200, any::<bool>())
        ) {
            let dtype = if is_half { DType::F16 } else { DType::F32 };
            let (rows, weights) = (tensor(count as u64, &[count, k], dtype), tensor(n as u64, &[n, k], dtype));
            let transposed = weights.t().unwrap();
            let (x, w) = (values(&rows), values(&weights));
            let all: Vec<_> =
                Isa::available().into_iter().map(|isa| on(isa, &rows, &transposed).expect("it fits")).collect();
            for found in &all {
                prop_assert!(found.iter().map(|x| x.to_bits()).eq(all[0].iter().map(|x| x.to_bits())));
            }
            for (at, found) in all[0].iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let expected: f64 = (0..k).map(|i| x[row * k + i] * w[column * k + i]).sum();
                let tolerance = if is_half { 2e-3 } else { 1e-5 } * (1.0 + expected.abs() + k as f64 / 50.0);
                prop_assert!((f64::from(*found) - expected).abs() < tolerance, "{found} is not {expected}");
            }
            for row in 0..count {
                let alone = on(isa::current(), &rows.narrow(0, row, 1).unwrap().contiguous().unwrap(), &transposed);
                prop_assert_eq!(&alone.expect("it fits")[..], &all[0][row * n..][..n]);
            }
        }
    }

    #[test]
    fn weights_of_a_batch_are_shared_or_left_to_candle() {
        let rows = tensor(1, &[5, 1, 64], DType::F32);
        let weights = tensor(2, &[24, 64], DType::F32);
        let shared = weights.broadcast_left(5).unwrap().t().unwrap();
        let flat = on(isa::current(), &rows.reshape((5, 64)).unwrap(), &weights.t().unwrap());
        assert!(flat.is_some());
        assert_eq!(on(isa::current(), &rows, &shared), flat);
        assert_eq!(on(isa::current(), &rows.reshape((5, 64)).unwrap(), &tensor(3, &[64, 24], DType::F32)), None);
        let others = tensor(4, &[5, 24, 64], DType::F32);
        assert_eq!(on(isa::current(), &rows, &others.t().unwrap()), None);
        let transposed = tensor(5, &[64, 5], DType::F32).t().unwrap();
        assert_eq!(on(isa::current(), &transposed, &weights.t().unwrap()), None);
    }
}
