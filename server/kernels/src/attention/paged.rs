//! Attention over the paged cache.

use candle_core::{DType, Result, Tensor, bail};
use half::f16;

use super::{
    BLOCK, Cache, Scores, fits,
    panel::{Panel, Row, Scaling, Source, blocks_of},
    tensors::{Heads, Stored, is_stored, same_storage, with_pools},
    tile::{Group, Span},
};
use crate::{
    elementwise::{
        lanes::run_on,
        rows::{Address, Locked},
    },
    isa::Isa,
    team,
};

/// Most rows of a panel: with their sums and weights and a group's keys they fit the innermost caches.
const PANEL_ROWS: usize = 48;

/// Consecutive tokens of one sequence: a run.
struct Sequence {
    /// The row of its first new token.
    row: usize,
    /// New tokens.
    new: usize,
    /// All tokens, the new ones included.
    len: usize,
    blocks: Vec<usize>,
    /// Places of the new tokens: 16 * block + offset.
    slots: Vec<usize>,
}

/// Sizes that all parts of a step share.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows of the step.
    batch: usize,
    heads: usize,
    size: usize,
    kv_heads: usize,
    blocks: usize,
}

impl Sizes {
    /// Values of a block, of one head.
    fn block(&self) -> usize {
        BLOCK * self.size
    }

    /// Where a head's block begins in the pool.
    fn at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.block()
    }
}

pub(super) fn attend(
    q: &Tensor,
    new: Option<(&Tensor, &Tensor)>,
    cache: &Cache,
    scores: &Scores,
    isa: Isa,
) -> Result<Tensor> {
    let sizes = sizes(q, new, cache)?;
    let sequences = sequences(cache, sizes)?;
    for tensor in [Some(q), new.map(|(k, _)| k), new.map(|(_, v)| v)].into_iter().flatten() {
        if same_storage(tensor, cache.keys) || same_storage(tensor, cache.values) {
            bail!("attention: queries, keys or values are views of the cache");
        }
    }
    match cache.keys.dtype() {
        DType::F16 => attend_to::<f16>(q, new, cache, (scores, isa), (sizes, &sequences)),
        _ => attend_to::<f32>(q, new, cache, (scores, isa), (sizes, &sequences)),
    }
}

/// Checks the shapes and types.
fn sizes(q: &Tensor, new: Option<(&Tensor, &Tensor)>, cache: &Cache) -> Result<Sizes> {
    let (batch, heads, tokens, size) = q.dims4()?;
    let dims = cache.keys.dims();
    let (Some(&blocks), Some(&second)) = (dims.first(), dims.get(1)) else {
        bail!("attention: the keys' shape begins with blocks and heads, not {dims:?}")
    };
    let kv_heads = match new {
        Some((k, v)) => {
            let (rows, kv_heads, columns, width) = k.dims4()?;
            if (rows, columns, width) != (batch, tokens, size) || v.dims() != k.dims() {
                bail!("attention: queries {:?}, keys {:?} and values {:?} differ", q.dims(), k.dims(), v.dims());
            }
            kv_heads
        }
        None => second,
    };
    if !fits(size) || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || batch == 0 || heads == 0 || tokens != 1 {
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
    Ok(Sizes { batch, heads, size, kv_heads, blocks })
}

/// Reads and checks what the step's sequences are.
fn sequences(cache: &Cache, sizes: Sizes) -> Result<Vec<Sequence>> {
    let tables = cache.tables.to_vec2::<u32>()?;
    let lens = cache.lens.to_vec1::<u32>()?;
    let slots = cache.slots.flatten_all()?.to_vec1::<i64>()?;
    let runs = cache.counts.len();
    let rows: usize = cache.counts.iter().sum();
    if tables.len() != runs || lens.len() != runs || slots.len() != sizes.batch || rows != sizes.batch {
        let (tables, lens, slots) = (cache.tables.dims(), cache.lens.dims(), cache.slots.dims());
        bail!(
            "attention: tables {tables:?}, lengths {lens:?}, slots {slots:?} and {rows} rows do not fit {}",
            sizes.batch
        );
    }
    let mut row = 0;
    let mut sequences = Vec::with_capacity(runs);
    for ((table, len), count) in tables.iter().zip(lens).zip(cache.counts) {
        sequences.push(sequence(row, table, len as usize, slots.get(row..row + count).unwrap_or_default(), sizes)?);
        row += count;
    }
    Ok(sequences)
}

fn sequence(row: usize, table: &[u32], len: usize, slots: &[i64], sizes: Sizes) -> Result<Sequence> {
    let new = slots.len();
    let slots: Vec<usize> = slots.iter().map_while(|slot| usize::try_from(*slot).ok()).collect();
    let blocks: Vec<usize> = table.iter().take(len.div_ceil(BLOCK)).map(|block| *block as usize).collect();
    if new > len || slots.len() < new || blocks.len() < len.div_ceil(BLOCK) {
        bail!("attention: row {row} has {new} new of {len} tokens in {} blocks", blocks.len());
    }
    let outside = |block: &usize| *block >= sizes.blocks;
    if blocks.iter().any(outside) || slots.iter().any(|slot| outside(&(slot / BLOCK))) {
        bail!("attention: row {row} names a block beyond the pool's {}", sizes.blocks);
    }
    Ok(Sequence { row, new, len, blocks, slots })
}

fn attend_to<T: Stored>(
    q: &Tensor,
    new: Option<(&Tensor, &Tensor)>,
    cache: &Cache,
    (scores, isa): (&Scores, Isa),
    (sizes, sequences): (Sizes, &[Sequence]),
) -> Result<Tensor> {
    let mut out = vec![0.0; sizes.batch * sizes.heads * sizes.size];
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
        if let Some((k, v)) = new {
            write_tokens(sequences, sizes, (k, v), (&mut *keys, &mut *values));
        }
        let step = Step { isa, sizes, scores: *scores, queries, keys, values, result };
        step.run(sequences);
        Ok(())
    })?;
    Tensor::from_vec(out, (sizes.batch, sizes.heads, 1, sizes.size), &candle_core::Device::Cpu)
}

/// Writes the new tokens' keys and values into the pool.
fn write_tokens<T: Stored>(
    sequences: &[Sequence],
    sizes: Sizes,
    (k, v): (Heads, Heads),
    (keys, values): (&mut [T], &mut [T]),
) {
    for sequence in sequences {
        for head in 0..sizes.kv_heads {
            for (t, slot) in sequence.slots.iter().enumerate() {
                let (at, offset) = (sizes.at(slot / BLOCK, head), slot % BLOCK);
                let key = k.row(sequence.row + t, head, 0);
                for (to, from) in keys[at..at + sizes.block()][offset..].iter_mut().step_by(BLOCK).zip(key) {
                    *to = T::narrowed(*from);
                }
                let value = v.row(sequence.row + t, head, 0);
                for (to, from) in values[at + offset * sizes.size..][..sizes.size].iter_mut().zip(value) {
                    *to = T::narrowed(*from);
                }
            }
        }
    }
}

/// The attention of one step.
struct Step<'a, T> {
    isa: Isa,
    sizes: Sizes,
    scores: Scores,
    queries: Heads<'a>,
    keys: &'a [T],
    values: &'a [T],
    result: Address<f32>,
}

/// Some new tokens of one sequence, for the heads that share a key head.
struct Task<'a> {
    sequence: &'a Sequence,
    head: usize,
    from: usize,
    to: usize,
}

impl<T: Stored> Step<'_, T> {
    fn run(&self, sequences: &[Sequence]) {
        let group = self.sizes.heads / self.sizes.kv_heads;
        let tokens = (PANEL_ROWS / group).max(1);
        let mut tasks = Vec::new();
        for sequence in sequences {
            for from in (0..sequence.new).step_by(tokens).rev() {
                for head in 0..self.sizes.kv_heads {
                    tasks.push(Task { sequence, head, from, to: (from + tokens).min(sequence.new) });
                }
            }
        }
        team::run(tasks.len(), &|task| self.task(&tasks[task]));
    }

    fn task(&self, task: &Task) {
        let Task { sequence, head, from, to } = *task;
        let Sizes { heads, size, kv_heads, .. } = self.sizes;
        let group = heads / kv_heads;
        let mut rows = Vec::with_capacity((to - from) * group);
        for t in from..to {
            let end = sequence.len - sequence.new + t + 1;
            let begin = self.scores.window.map_or(0, |window| end.saturating_sub(window.max(1)));
            for h in head * group..(head + 1) * group {
                let row = sequence.row + t;
                rows.push(Row {
                    query: self.queries.row(row, h, 0).as_ptr(),
                    result: self.result.at((row * heads + h) * size),
                    from: begin,
                    to: end,
                    mask: None,
                });
            }
        }
        let source = Blocks { step: self, sequence, head };
        let scaling = Scaling::new(self.scores.scale, self.scores.softcap);
        let panel = Panel { rows: &rows, size, scaling, source };
        // SAFETY: the CPU has what `isa` found. The rows' queries have `size` values, as have their results, which no other
        // task writes. The sequence's blocks lie within the pool, and they hold all tokens that the rows attend to.
        unsafe { run_on(self.isa, panel) }
    }
}

/// The cached blocks of one sequence, for one head.
struct Blocks<'a, T> {
    step: &'a Step<'a, T>,
    sequence: &'a Sequence,
    head: usize,
}

impl<T: Stored> Source for Blocks<'_, T> {
    type Element = T;

    fn group(&mut self, first: usize, span: Span) -> Group<T> {
        let (keys, values) = (self.step.keys, self.step.values);
        let mut group = Group { keys: [keys.as_ptr(); 4], values: [values.as_ptr(); 4], stride: self.step.sizes.size };
        for (b, block) in blocks_of(first, span) {
            let at = self.step.sizes.at(self.sequence.blocks[block], self.head);
            let end = at + self.step.sizes.block();
            group.keys[b] = keys[at..end].as_ptr();
            group.values[b] = values[at..end].as_ptr();
        }
        group
    }
}

pub(super) fn copy_block(
    keys: &Tensor,
    values: &Tensor,
    kv_heads: usize,
    (from, to): (usize, usize),
    tokens: usize,
) -> Result<()> {
    match keys.dtype() {
        DType::F32 => copy::<f32>(keys, values, kv_heads, (from, to), tokens),
        DType::F16 => copy::<f16>(keys, values, kv_heads, (from, to), tokens),
        other => bail!("attention: a cache of {other:?} is not supported"),
    }
}

fn copy<T: Stored>(
    keys: &Tensor,
    values: &Tensor,
    kv_heads: usize,
    (from, to): (usize, usize),
    tokens: usize,
) -> Result<()> {
    let blocks = keys.dims().first().copied().unwrap_or(0);
    let per_head = blocks * kv_heads * BLOCK;
    let count = keys.elem_count();
    if per_head == 0 || !count.is_multiple_of(per_head) || values.elem_count() != count {
        bail!("attention: keys {:?} and values {:?} do not have {kv_heads} heads", keys.dims(), values.dims());
    }
    if from >= blocks || to >= blocks || tokens > BLOCK {
        bail!("attention: {tokens} tokens of block {from} to {to} of {blocks}");
    }
    let size = count / per_head;
    with_pools::<T>(keys, values, |keys, values| {
        for head in 0..kv_heads {
            let [source, target] = [from, to].map(|block| (block * kv_heads + head) * BLOCK * size);
            for i in 0..size {
                let at = source + i * BLOCK;
                keys.copy_within(at..at + tokens, target + i * BLOCK);
            }
            values.copy_within(source..source + tokens * size, target);
        }
        Ok(())
    })
}
