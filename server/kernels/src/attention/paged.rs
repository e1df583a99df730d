//! Attention over the paged cache: reads and checks the arguments of a step, and runs it.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;

use super::{
    cache::Cache,
    grouping::BLOCK,
    head_size::fits,
    runs::{Run, Sizes},
    scores::Scores,
    step::{Machine, Step},
    tensors::{Heads, Stored, is_stored, same_storage, with_pools},
    write::write_tokens,
};
use crate::elementwise::rows::{Address, Locked};

/// The new tokens' keys and values.
type New<'a> = Option<(&'a Tensor, &'a Tensor)>;

pub(super) fn attend(q: &Tensor, new: New, cache: &Cache, scores: &Scores, machine: Machine) -> Result<Tensor> {
    let sizes = sizes(q, new, cache)?;
    let runs = runs(cache, sizes, scores.window)?;
    for tensor in [Some(q), new.map(|(k, _)| k), new.map(|(_, v)| v)].into_iter().flatten() {
        if same_storage(tensor, cache.keys) || same_storage(tensor, cache.values) {
            bail!("attention: queries, keys or values are views of the cache");
        }
    }
    match cache.keys.dtype() {
        DType::F16 => attend_to::<f16>(q, new, cache, (scores, machine), (sizes, &runs)),
        _ => attend_to::<f32>(q, new, cache, (scores, machine), (sizes, &runs)),
    }
}

/// Checks the shapes and types.
fn sizes(q: &Tensor, new: New, cache: &Cache) -> Result<Sizes> {
    let (rows, heads, one, size) = q.dims4()?;
    let dims = cache.keys.dims();
    let (Some(&blocks), Some(&second)) = (dims.first(), dims.get(1)) else {
        bail!("attention: the keys' shape begins with blocks and heads, not {dims:?}")
    };
    let kv_heads = match new {
        Some((k, v)) => {
            let (key_rows, kv_heads, key_one, width) = k.dims4()?;
            if (key_rows, key_one, width) != (rows, one, size) || v.dims() != k.dims() {
                bail!("attention: queries {:?}, keys {:?} and values {:?} differ", q.dims(), k.dims(), v.dims());
            }
            kv_heads
        }
        None => second,
    };
    if !fits(size) || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || rows == 0 || heads == 0 || one != 1 {
        bail!("attention: queries {:?} with {kv_heads} key heads are not supported", q.dims());
    }
    let count = blocks * kv_heads * BLOCK * size;
    if cache.keys.elem_count() != count || cache.values.elem_count() != count {
        let (keys, values) = (cache.keys.dims(), cache.values.dims());
        bail!("attention: keys {keys:?} and values {values:?} are not {blocks} x {kv_heads} x {BLOCK} x {size}");
    }
    let kind = cache.keys.dtype();
    if !is_stored(kind) || cache.values.dtype() != kind {
        bail!("attention: a cache of {kind:?} and {:?} is not supported", cache.values.dtype());
    }
    Ok(Sizes { rows, heads, size, kv_heads, blocks })
}

/// Reads and checks the step's runs.
fn runs(cache: &Cache, sizes: Sizes, window: Option<usize>) -> Result<Vec<Run>> {
    let tables = cache.tables.to_vec2::<u32>()?;
    let lens = cache.lens.to_vec1::<u32>()?;
    let slots = cache.slots.flatten_all()?.to_vec1::<i64>()?;
    let count = cache.counts.len();
    let rows = cache.counts.iter().fold(0, |rows: usize, count| rows.saturating_add(*count));
    if tables.len() != count || lens.len() != count || slots.len() != sizes.rows || rows != sizes.rows {
        let (tables, lens, slots) = (cache.tables.dims(), cache.lens.dims(), cache.slots.dims());
        bail!(
            "attention: tables {tables:?}, lengths {lens:?}, slots {slots:?} and {rows} rows do not fit {}",
            sizes.rows
        );
    }
    let mut row = 0;
    let mut runs = Vec::with_capacity(count);
    for ((table, len), new) in tables.iter().zip(lens).zip(cache.counts) {
        let slots = slots.get(row..row + new).unwrap_or_default();
        let run = Run::new(row, len as usize, slots, table);
        run.check(sizes, window)?;
        runs.push(run);
        row += new;
    }
    Ok(runs)
}

fn attend_to<T: Stored>(
    q: &Tensor,
    new: New,
    cache: &Cache,
    (scores, machine): (&Scores, Machine),
    (sizes, runs): (Sizes, &[Run]),
) -> Result<Tensor> {
    let count = sizes.rows * sizes.heads * sizes.size;
    let mut out: Vec<f32> = Vec::with_capacity(count);
    let result = Address::new(out.as_mut_ptr());
    let unsupported = || candle_core::Error::Msg("attention: queries, keys and values must be f32 on the CPU".into());
    let q = Locked::new(q);
    let queries = Heads::new(&q).ok_or_else(unsupported)?;
    let new = new.map(|(k, v)| (Locked::new(k), Locked::new(v)));
    let new = match &new {
        Some((k, v)) => Some((Heads::new(k).ok_or_else(unsupported)?, Heads::new(v).ok_or_else(unsupported)?)),
        None => None,
    };
    with_pools::<T>(cache.keys, cache.values, |keys, values| {
        if let Some(new) = new {
            write_tokens(runs, sizes, new, (&mut *keys, &mut *values));
        }
        Step { machine, sizes, scores: *scores, queries, keys, values, result }.run(runs);
        Ok(())
    })?;
    // SAFETY: the step wrote the result of each head of each row: the runs' counts add up to the rows.
    unsafe { out.set_len(count) };
    Tensor::from_vec(out, (sizes.rows, sizes.heads, 1, sizes.size), &Device::Cpu)
}
