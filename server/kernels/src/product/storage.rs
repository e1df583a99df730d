//! Packed weights as candle's storage of a `QTensor`.

use std::{
    cell::Cell,
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
};

use candle_core::{
    CpuStorage, Result, bail,
    quantized::{GgmlDType, QTensor, QuantizedType},
};
use half::f16;
use parking_lot::RwLock;

use super::{
    executor::Executor,
    format::Scales,
    multiply::{Job, multiply},
    panels::Panels,
    tables::share,
    tiles::Packed,
};
use crate::team;

thread_local! {
    /// The memory of the last product's quantised input, for the next product.
    static PANELS: Cell<Panels> = Cell::default();
}

/// All packed weights that have a storage, and the number of their storages, by the address of their bytes: `QTensor` hides its
/// storage, but gives that address.
type Registry = HashMap<usize, (Arc<Packed>, usize)>;

fn registry() -> &'static RwLock<Registry> {
    static REGISTRY: OnceLock<RwLock<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Default::default)
}

/// Packs a weight of shape (n, k) for the kernels of this process, on all threads of the team.
///
/// Returns `None` if the type is not one of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K and Q6_K, if the weight is
/// not a matrix, if it is not on the CPU, or if it is packed already, as a weight that is used in two products. The tensor that
/// gets the storage must have the weight's shape. Its `data()` are packed bytes, not those of the ggml type, so it must not be
/// written to a file.
pub fn pack(weight: &Arc<QTensor>) -> Option<Box<dyn QuantizedType>> {
    if packed(weight).is_some() {
        return None;
    }
    let packed = share(Packed::new(weight, team::run)?);
    let key = packed.bytes().as_ptr() as usize;
    let mut registry = registry().write();
    registry.entry(key).or_insert_with(|| (Arc::clone(&packed), 0)).1 += 1;
    drop(registry);
    Some(Box::new(PackedStorage(packed)))
}

/// The packed weight of a tensor, if [`pack`] made its storage.
pub(crate) fn packed(weight: &QTensor) -> Option<Arc<Packed>> {
    if !weight.device().is_cpu() {
        return None;
    }
    let key = weight.data().ok()?.as_ptr() as usize;
    registry().read().get(&key).map(|(packed, _)| Arc::clone(packed))
}

/// Computes the products of rows of `k` values with each weight, all of `k` columns.
pub(crate) fn products(rows: &[f32], weights: &[&Packed], executor: Executor) -> Vec<Vec<f32>> {
    let Some(k) = weights.first().map(|weight| weight.k) else { return Vec::new() };
    let count = rows.len() / k;
    let mut outputs: Vec<Vec<f32>> = weights.iter().map(|weight| Vec::with_capacity(count * weight.n)).collect();
    let starts = outputs.iter_mut().map(Vec::as_mut_ptr);
    let jobs: Vec<_> = weights.iter().zip(starts).map(|(weight, out)| Job { weight, out }).collect();
    // SAFETY: each output has room for `count` times `n` values. Executors call each chunk once, by `team::run` or, in tests, in
    // a loop.
    unsafe { compute(rows, k, &jobs, executor) };
    for (output, weight) in outputs.iter_mut().zip(weights) {
        // SAFETY: the room was reserved above, and `compute` has written all of these values.
        unsafe { output.set_len(count * weight.n) };
    }
    outputs
}

/// # Safety
/// Each job's `out` can be written for as many rows of `n` values as there are rows of `k` values in `rows`. The executor calls
/// each chunk once.
unsafe fn compute(rows: &[f32], k: usize, jobs: &[Job], executor: Executor) {
    if rows.is_empty() {
        return;
    }
    let mut panels = PANELS.take();
    let halves = jobs.iter().any(|job| matches!(job.weight.format.scales, Scales::Half | Scales::HalfMin));
    panels.fill(rows, k, halves, executor);
    // SAFETY: the caller promises the outputs and the executor.
    unsafe { multiply(jobs, &panels, executor) };
    PANELS.set(panels);
}

/// Candle's view of a [`Packed`].
struct PackedStorage(Arc<Packed>);

impl Drop for PackedStorage {
    fn drop(&mut self) {
        let key = self.0.bytes().as_ptr() as usize;
        let mut registry = registry().write();
        if let Entry::Occupied(mut entry) = registry.entry(key) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

impl PackedStorage {
    fn check(&self, (m, k, n): (usize, usize, usize), lhs: usize, dst: usize) -> Result<()> {
        let packed = &*self.0;
        if (n, k) != (packed.n, packed.k) || lhs != m * k || dst != m * n {
            bail!("a product of {m} x {k} with {n} x {k} does not fit a weight of {} x {}", packed.n, packed.k)
        }
        Ok(())
    }
}

impl QuantizedType for PackedStorage {
    fn dtype(&self) -> GgmlDType {
        self.0.format.dtype
    }

    fn matmul_t(&self, mkn: (usize, usize, usize), lhs: &[f32], dst: &mut [f32]) -> Result<()> {
        self.check(mkn, lhs.len(), dst.len())?;
        let job = Job { weight: &self.0, out: dst.as_mut_ptr() };
        // SAFETY: `check` has compared the length of `dst`. `team::run` calls each chunk once.
        unsafe { compute(lhs, self.0.k, &[job], Executor::current()) };
        Ok(())
    }

    fn matmul_t_f16(&self, mkn: (usize, usize, usize), lhs: &[f16], dst: &mut [f16]) -> Result<()> {
        self.check(mkn, lhs.len(), dst.len())?;
        let lhs: Vec<_> = lhs.iter().map(|value| value.to_f32()).collect();
        let output = products(&lhs, &[&self.0], Executor::current());
        dst.iter_mut().zip(output.iter().flatten()).for_each(|(to, value)| *to = f16::from_f32(*value));
        Ok(())
    }

    fn dequantize(&self, elem_count: usize) -> Result<CpuStorage> {
        let packed = &*self.0;
        if elem_count != packed.n * packed.k {
            bail!("{elem_count} values of a weight of {} x {}", packed.n, packed.k)
        }
        let mut values = vec![0f32; elem_count];
        values.chunks_exact_mut(packed.k).enumerate().for_each(|(row, values)| packed.row(row, values));
        Ok(CpuStorage::F32(values))
    }

    fn storage_size_in_bytes(&self) -> usize {
        self.0.bytes().len()
    }

    fn as_ptr(&self) -> *const u8 {
        self.0.bytes().as_ptr()
    }

    fn block_size(&self) -> usize {
        self.0.format.block()
    }

    /// Does nothing: candle quantises into a new storage of its own, never into a packed one.
    fn from_float(&mut self, _: &[f32]) {}

    /// Does nothing, as [`Self::from_float`].
    fn from_float_imatrix(&mut self, _: &[f32], _: &[f32], _: usize) {}

    fn size(&self) -> usize {
        self.storage_size_in_bytes()
    }
}
