//! Attention to dense keys and values.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor};

use super::{
    grouping::{BLOCK, GROUP, GROUP_BLOCKS},
    head_size::fits,
    panel::{Compute, Extent, Panel, Scaling, Source, blocks_of, cost},
    row::Row,
    scores::Scores,
    tensors::Heads,
    tile::{Group, Span},
};
use crate::{
    elementwise::{
        lanes::run_on,
        rows::{Address, INLINE, Locked},
    },
    isa::Isa,
    team,
};

/// Rows of a panel. With more rows, keys are transposed less often.
const PANEL_ROWS: usize = 96;

/// Nanoseconds to transpose a component of a key.
const TRANSPOSE: f64 = 0.5;

/// The tensors of [`super::dense`].
pub(super) struct Inputs<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub mask: Option<&'a Tensor>,
}

pub(super) fn attend(inputs: &Inputs, scores: &Scores, isa: Isa) -> Result<Option<Tensor>> {
    let tensors = [inputs.q, inputs.k, inputs.v].map(Locked::new);
    let [Some(queries), Some(keys), Some(values)] =
        [Heads::new(&tensors[0]), Heads::new(&tensors[1]), Heads::new(&tensors[2])]
    else {
        return Ok(None);
    };
    let ([b, h, n, size], [kb, kv_heads, l, kd]) = (queries.dims, keys.dims);
    if !fits(size) || kd != size || kb != b || values.dims != keys.dims || !h.is_multiple_of(kv_heads) {
        return Ok(None);
    }
    let mask = match inputs.mask {
        None => None,
        Some(mask) => match expanded(mask, [b, h, n, l])? {
            None => return Ok(None),
            Some(mask) => Some(mask),
        },
    };
    let mask = mask.as_ref().map(|mask| mask.storage_and_layout());
    let mask = match &mask {
        None => None,
        Some((storage, layout)) => match &**storage {
            Storage::Cpu(CpuStorage::F32(data)) => Some((data.as_slice(), *layout)),
            _ => return Ok(None),
        },
    };
    let mut out = Vec::with_capacity(b * h * n * size);
    let step = Step { isa, queries, keys, values, mask, scores: *scores, result: Address::new(out.as_mut_ptr()) };
    step.run();
    // SAFETY: the step wrote the result of each row.
    unsafe { out.set_len(b * h * n * size) };
    Ok(Some(Tensor::from_vec(out, (b, h, n, size), &Device::Cpu)?))
}

/// The mask in f32, broadcast to `dims`, with a last stride of 1; `None` if it has another type, shape or device.
fn expanded(mask: &Tensor, dims: [usize; 4]) -> Result<Option<Tensor>> {
    if !matches!(mask.dtype(), DType::F32 | DType::F16 | DType::BF16) || !mask.device().is_cpu() {
        return Ok(None);
    }
    let mask = match *mask.dims() {
        [first, _, _] if first == dims[0] => mask.unsqueeze(1)?,
        _ => mask.clone(),
    };
    let mask = mask.to_dtype(DType::F32)?.contiguous()?;
    let Ok(wide) = mask.broadcast_as(&dims) else { return Ok(None) };
    Ok(Some(if wide.stride().last() == Some(&1) { wide } else { wide.contiguous()? }))
}

/// One call's attention.
struct Step<'a> {
    isa: Isa,
    queries: Heads<'a>,
    keys: Heads<'a>,
    values: Heads<'a>,
    mask: Option<(&'a [f32], &'a Layout)>,
    scores: Scores,
    result: Address<f32>,
}

impl Step<'_> {
    fn run(&self) {
        let ([b, h, n, size], [_, kv_heads, l, _]) = (self.queries.dims, self.keys.dims);
        let tokens = (PANEL_ROWS / (h / kv_heads)).max(1);
        let panels = n.div_ceil(tokens);
        let tasks = b * kv_heads * panels;
        let work = |task: usize| {
            // Later rows of a causal mask attend to more tokens, so they are computed first.
            let (panel, head) = (panels - 1 - task / (b * kv_heads), task % (b * kv_heads));
            self.panel(head / kv_heads, head % kv_heads, panel * tokens..((panel + 1) * tokens).min(n));
        };
        if cost(size, b * h * n * l, tasks * l) + TRANSPOSE * ((tasks * l * size) as f64) < INLINE {
            (0..tasks).for_each(work);
        } else {
            team::run(tasks, &work);
        }
    }

    fn panel(&self, b: usize, head: usize, tokens: std::ops::Range<usize>) {
        let ([_, h, n, size], [_, kv_heads, l, _]) = (self.queries.dims, self.keys.dims);
        let group = h / kv_heads;
        let mut rows = Vec::with_capacity(tokens.len() * group);
        for t in tokens {
            for head in head * group..(head + 1) * group {
                let mask = self.mask.map(|(data, layout)| mask_row(data, layout, [b, head, t]));
                let (from, to) = match mask {
                    Some(mask) => visible(&mask[..l]),
                    None => (
                        self.scores
                            .window
                            .map_or(0, |window| (l + t + 1).saturating_sub(window.max(1).saturating_add(n))),
                        l,
                    ),
                };
                rows.push(Row {
                    query: self.queries.row(b, head, t).as_ptr(),
                    result: self.result.at(((b * h + head) * n + t) * size),
                    from,
                    to,
                    mask: mask.map(<[f32]>::as_ptr),
                });
            }
        }
        let source = Strided { step: self, b, head, transposed: vec![0.0; GROUP * size] };
        let scaling = Scaling::new(self.scores.scale, self.scores.softcap);
        let panel = Panel { rows: &rows, size, scaling, source };
        // SAFETY: the CPU has `isa`. The rows' queries have `size` values, as have their results, which no other
        // panel writes; a mask has a value for each of `l` tokens, and no row attends to others.
        unsafe { run_on(self.isa, Compute { panel, extent: Extent::Whole }) }
    }
}

/// The mask of row (`b`, `h`, `n`), and all values after it.
fn mask_row<'a>(data: &'a [f32], layout: &Layout, index: [usize; 3]) -> &'a [f32] {
    let at: usize = index.iter().zip(layout.stride()).map(|(i, stride)| i * stride).sum();
    &data[layout.start_offset() + at..]
}

/// The range from the first token that a mask does not hide to the last.
fn visible(mask: &[f32]) -> (usize, usize) {
    let shown = |value: &f32| *value != f32::NEG_INFINITY;
    let to = mask.iter().rposition(shown).map_or(0, |last| last + 1);
    (mask[..to].iter().position(shown).unwrap_or(to), to)
}

/// Keys and values of one head, by token.
struct Strided<'a> {
    step: &'a Step<'a>,
    b: usize,
    head: usize,
    /// A group's keys, transposed.
    transposed: Vec<f32>,
}

impl Source for Strided<'_> {
    type Element = f32;

    fn group(&mut self, first: usize, span: Span) -> Group<f32> {
        let (keys, values) = (self.step.keys, self.step.values);
        let [_, _, l, size] = keys.dims;
        let mut group = Group {
            keys: [self.transposed.as_ptr(); GROUP_BLOCKS],
            values: [self.transposed.as_ptr(); GROUP_BLOCKS],
            stride: values.stride(),
            next: [self.transposed.as_ptr(); GROUP_BLOCKS],
        };
        for (b, block) in blocks_of(first, span) {
            let target = &mut self.transposed[b * BLOCK * size..][..BLOCK * size];
            for offset in 0..BLOCK.min(l - block * BLOCK) {
                let key = keys.row(self.b, self.head, block * BLOCK + offset);
                for (to, from) in target[offset..].iter_mut().step_by(BLOCK).zip(key) {
                    *to = *from;
                }
            }
            group.values[b] = values.address(self.b, self.head, block * BLOCK);
        }
        for (b, keys) in group.keys.iter_mut().enumerate() {
            *keys = self.transposed.as_ptr().wrapping_add(b * BLOCK * size);
        }
        group
    }
}
