//! One forward pass: makes the pipeline's inputs for a step.
//!
//! On a CPU a step is a flat list of rows: one token each, of a prompt or an output, with its position and the blocks of its
//! sequence. So prompts and outputs share a pass, and the place of a token in the list does not change its bits. On a GPU the
//! kernels of mistral.rs have two kinds of passes: the next token of many sequences, and the tokens of one prompt.

use std::collections::HashMap;

use candle_core::{D, DType, Device, DeviceLocation, Result, Tensor, bail};
use mistralrs_core::{
    Pipeline,
    pipeline::{
        ForwardInputsResult,
        text_models_inputs_processor::{FlashParams, ModelInputs, PagedAttentionInputMetadata},
    },
};

use crate::engine::{kv::BLOCK, mistral::prefix_cache::SequenceBlocks};

/// Tokens of one sequence that a step computes.
#[derive(Clone, Copy)]
pub struct StepRun<'a> {
    /// All tokens of the sequence.
    pub tokens: &'a [u32],
    /// Tokens from here to before `until` are computed. The keys and values of earlier tokens are in the cache.
    pub from: usize,
    pub until: usize,
    /// Whether the logits after the last token are wanted.
    pub wanted: bool,
    pub blocks: &'a SequenceBlocks,
}

/// Computes the runs. Returns the logits after each run that wants them: f32 of shape (vocabulary).
///
/// # Errors
/// The pass failed. The contents of the runs' blocks are unknown then.
pub fn forward(pipeline: &mut dyn Pipeline, runs: &[StepRun]) -> Result<Vec<Option<Tensor>>> {
    let device = pipeline.device();
    let is_paged = pipeline.get_metadata().cache_engine.is_some();
    if is_paged && device.is_cpu() {
        return flat(pipeline, runs);
    }
    let mut logits = vec![None; runs.len()];
    let is_single = |run: &StepRun| is_paged && run.until - run.from == 1;
    let (single, others): (Vec<usize>, Vec<usize>) = (0..runs.len()).partition(|at| is_single(&runs[*at]));
    if !single.is_empty() {
        let together: Vec<StepRun> = single.iter().map(|at| runs[*at]).collect();
        let all = compute(pipeline, next_tokens(&together, &device)?)?;
        for (row, at) in single.into_iter().enumerate() {
            logits[at] = Some(all.get(row)?);
        }
    }
    for at in others {
        let inputs = if is_paged { prompt(&runs[at], &device)? } else { unpaged(pipeline, &runs[at], &device)? };
        logits[at] = Some(compute(pipeline, inputs)?.get(0)?);
    }
    Ok(logits.into_iter().zip(runs).map(|(logits, run)| logits.filter(|_| run.wanted)).collect())
}

/// Runs a pass and returns its logits: f32, (rows, vocabulary).
fn compute(pipeline: &mut dyn Pipeline, inputs: ModelInputs) -> Result<Tensor> {
    let ForwardInputsResult::CausalGeneration { logits } = pipeline.forward_inputs(Box::new(inputs), false)? else {
        bail!("the pipeline returns no logits");
    };
    let vocabulary = logits.dim(D::Minus1)?;
    logits.reshape(((), vocabulary))?.to_dtype(DType::F32)
}

/// Computes all runs in one pass, one token a row. Rows whose logits are wanted come first, so that the pipeline can compute
/// the logits of those only.
fn flat(pipeline: &mut dyn Pipeline, runs: &[StepRun]) -> Result<Vec<Option<Tensor>>> {
    let last = runs.iter().filter(|run| run.wanted).map(|run| StepRun { from: run.until - 1, ..*run });
    let before = runs.iter().map(|run| StepRun { until: run.until - usize::from(run.wanted), ..*run });
    let wanted = last.clone().count();
    let context = pipeline.get_metadata().max_seq_len.max(1);
    let parts: Vec<StepRun> = last.chain(before.filter(|run| run.from < run.until)).collect();
    let all = compute(pipeline, flat_inputs(&parts, wanted, context)?)?;
    let mut rows = 0..wanted;
    let mut next = |run: &StepRun| if run.wanted { rows.next().map(|row| all.get(row)).transpose() } else { Ok(None) };
    runs.iter().map(&mut next).collect()
}

/// `context`: the most tokens that the model can take. Models with two sets of rotary factors, for short and long sequences,
/// choose by the largest position of a pass. Every pass gets the same one, so that the choice does not depend on the rows.
fn flat_inputs(runs: &[StepRun], wanted: usize, context: usize) -> Result<ModelInputs> {
    let device = Device::Cpu;
    let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        ids.extend_from_slice(tokens(run)?);
        for position in run.from..run.until {
            positions.push(position);
            slots.push(slot(run, position)?);
        }
    }
    let rows = ids.len();
    let (tables, lens) = tables(runs)?;
    let here = |tensor: Tensor| HashMap::from([(DeviceLocation::Cpu, tensor)]);
    let metadata = PagedAttentionInputMetadata {
        block_tables: Some(here(tables)),
        context_lens: Some(here(lens)),
        query_lens: Some(runs.iter().map(|run| run.until - run.from).collect()),
        is_first_prompt_chunk: false,
        slot_mappings: here(Tensor::from_vec(slots, (rows, 1), &device)?),
        ..PagedAttentionInputMetadata::dummy(&device)?
    };
    Ok(ModelInputs {
        input_ids: Tensor::from_vec(ids, (rows, 1), &device)?,
        position_ids: vec![context - 1; rows],
        seqlen_offsets: positions,
        context_lens: vec![(0, 1); wanted.max(1)],
        paged_attn_meta: Some(metadata),
        ..empty(&device)?
    })
}

fn tokens<'a>(run: &StepRun<'a>) -> Result<&'a [u32]> {
    let tokens = run.tokens.get(run.from..run.until);
    tokens.ok_or_else(|| candle_core::Error::Msg(format!("a run of {} tokens ends at {}", run.tokens.len(), run.until)))
}

/// The block tables of the runs, of shape (runs, most blocks), and the tokens of each sequence up to the end of its run.
fn tables(runs: &[StepRun]) -> Result<(Tensor, Tensor)> {
    let most = runs.iter().map(|run| run.until.div_ceil(BLOCK)).max().unwrap_or(1);
    let mut tables = Vec::with_capacity(runs.len() * most);
    for (at, run) in runs.iter().enumerate() {
        tables.extend(run.blocks.ids().iter().take(most));
        tables.resize((at + 1) * most, 0);
    }
    let lens: Vec<u32> = runs.iter().map(|run| run.until as u32).collect();
    Ok((Tensor::from_vec(tables, (runs.len(), most), &Device::Cpu)?, Tensor::from_vec(lens, runs.len(), &Device::Cpu)?))
}

fn slot(run: &StepRun, position: usize) -> Result<i64> {
    run.blocks.slot(position).ok_or_else(|| candle_core::Error::Msg(format!("no block for position {position}")))
}

fn empty(device: &Device) -> Result<ModelInputs> {
    Ok(ModelInputs {
        input_ids: Tensor::zeros((1, 1), candle_core::DType::U32, device)?,
        input_ids_full: None,
        seqlen_offsets: Vec::new(),
        seqlen_offsets_full: None,
        context_lens: Vec::new(),
        position_ids: Vec::new(),
        paged_attn_meta: None,
        flash_meta: FlashParams::empty(true),
        flash_meta_full: None,
    })
}

/// Inputs for the one sequence of a model that is not paged. Its keys and values are in the pipeline's own cache.
fn unpaged(pipeline: &dyn Pipeline, run: &StepRun, device: &Device) -> Result<ModelInputs> {
    if run.from == 0 {
        pipeline.set_none_cache(&mut [], true, true, false);
    }
    let ids = tokens(run)?.to_vec();
    let rows = ids.len();
    Ok(ModelInputs {
        input_ids: Tensor::from_vec(ids, (1, rows), device)?,
        seqlen_offsets: vec![run.from],
        position_ids: vec![run.until],
        context_lens: vec![(rows.saturating_sub(1), 1)],
        flash_meta: flash(run, device)?,
        ..empty(device)?
    })
}

/// Inputs for the next token of each sequence, on a GPU.
fn next_tokens(runs: &[StepRun], device: &Device) -> Result<ModelInputs> {
    let rows = runs.len();
    let ids: Vec<u32> = runs.iter().filter_map(|run| run.tokens.get(run.from).copied()).collect();
    let slots: Vec<i64> = runs.iter().map(|run| slot(run, run.from)).collect::<Result<_>>()?;
    let (tables, lens) = tables(runs)?;
    let longest = runs.iter().map(|run| run.until).max().unwrap_or(0);
    let here =
        |tensor: Tensor| Ok::<_, candle_core::Error>(HashMap::from([(device.location(), tensor.to_device(device)?)]));
    let metadata = PagedAttentionInputMetadata {
        block_tables: Some(here(tables.clone())?),
        context_lens: Some(here(lens.clone())?),
        max_context_len: Some(longest),
        full_block_tables: Some(here(tables)?),
        full_context_lens: Some(here(lens)?),
        full_max_context_len: Some(longest),
        slot_mappings: here(Tensor::from_vec(slots, (rows, 1), &Device::Cpu)?)?,
        is_first_prompt_chunk: false,
        ..PagedAttentionInputMetadata::dummy(device)?
    };
    Ok(ModelInputs {
        input_ids: Tensor::from_vec(ids, (rows, 1), device)?,
        seqlen_offsets: runs.iter().map(|run| run.from).collect(),
        position_ids: runs.iter().map(|run| run.until).collect(),
        context_lens: vec![(0, 1); rows],
        paged_attn_meta: Some(metadata),
        ..empty(device)?
    })
}

/// Inputs for tokens of one prompt, on a GPU.
fn prompt(run: &StepRun, device: &Device) -> Result<ModelInputs> {
    let ids = tokens(run)?.to_vec();
    let rows = ids.len();
    let slots: Vec<i64> = (run.from..run.until).map(|position| slot(run, position)).collect::<Result<_>>()?;
    let (tables, lens) = tables(std::slice::from_ref(run))?;
    let here =
        |tensor: Tensor| Ok::<_, candle_core::Error>(HashMap::from([(device.location(), tensor.to_device(device)?)]));
    let sums = |last: usize| here(Tensor::new(&[0u32, last as u32], &Device::Cpu)?);
    let continued = run.from > 0;
    let metadata = PagedAttentionInputMetadata {
        block_tables: Some(here(tables)?),
        context_lens: Some(here(lens)?),
        max_context_len: Some(run.until),
        slot_mappings: here(Tensor::from_vec(slots, (1, rows), &Device::Cpu)?)?,
        is_first_prompt_chunk: true,
        num_cached_tokens: continued.then(|| vec![run.from]),
        query_lens: continued.then(|| vec![rows]),
        cu_seqlens_q: if continued { Some(sums(rows)?) } else { None },
        cu_seqlens_kv: if continued { Some(sums(run.until)?) } else { None },
        ..PagedAttentionInputMetadata::dummy(device)?
    };
    Ok(ModelInputs {
        input_ids: Tensor::from_vec(ids, (1, rows), device)?,
        seqlen_offsets: vec![run.from],
        position_ids: vec![run.until],
        context_lens: vec![(rows.saturating_sub(1), 1)],
        paged_attn_meta: Some(metadata),
        flash_meta: flash(run, device)?,
        ..empty(device)?
    })
}

/// The parameters of flash attention for a pass over tokens of one sequence.
fn flash(run: &StepRun, device: &Device) -> Result<FlashParams> {
    if !mistralrs_core::using_flash_attn() {
        return Ok(FlashParams::empty(true));
    }
    let rows = (run.until - run.from) as u32;
    let sums = |last: u32| {
        Ok::<_, candle_core::Error>(HashMap::from([(device.location(), Tensor::new(&[0u32, last], device)?)]))
    };
    let mut params = FlashParams::empty(true);
    (params.max_q, params.cumulative_seqlens_q) = (rows, sums(rows)?);
    (params.logical_k.max, params.logical_k.cumulative_seqlens) = (run.until as u32, sums(run.until as u32)?);
    Ok(params)
}
