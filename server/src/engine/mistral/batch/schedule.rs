//! Which sequences the next step computes, and how many tokens of each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    sequence::Sequence,
    throughput::{StepSize, Throughput},
};
use crate::engine::kv::BLOCK;

/// The time that a step may take while a sequence decodes.
const STEP: Duration = Duration::from_millis(50);
/// The time that a step may take while all sequences compute prompts. Cancels are noticed between steps.
const LONG_STEP: Duration = Duration::from_millis(400);
/// The most tokens of prompts in a step. Larger steps are not faster.
const MOST_TOKENS: usize = 512;

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPart {
    /// The sequence's index in the list of running sequences.
    pub at: usize,
    /// Tokens to compute.
    pub tokens: usize,
}

/// Plans steps. Tenants take turns with their prompts.
#[derive(Default)]
pub struct Schedule {
    /// The tenant whose prompt was first in the last step.
    last: Option<Arc<str>>,
}

impl Schedule {
    /// Plans the next step: every sequence that decodes, and pieces of prompts. `flat`: one pass can compute tokens of several
    /// prompts. A suspect sequence gets a step of its own.
    pub fn next(&mut self, sequences: &[Sequence], throughput: &Throughput, flat: bool) -> Vec<StepPart> {
        if let Some(suspect) = sequences.iter().position(|sequence| sequence.is_suspect && sequence.is_ready()) {
            let tokens = sequences[suspect].pending().min(MOST_TOKENS);
            return vec![StepPart { at: suspect, tokens }];
        }
        let ready = || sequences.iter().enumerate().filter(|(_, sequence)| sequence.is_ready());
        let mut parts: Vec<StepPart> =
            ready().filter(|(_, sequence)| sequence.is_decoding()).map(|(at, _)| StepPart { at, tokens: 1 }).collect();
        let limit = if parts.is_empty() { LONG_STEP } else { STEP };
        let left = throughput.tokens_within(limit, parts.len()).clamp(BLOCK, MOST_TOKENS);
        let prompts: Vec<(usize, &Sequence)> = ready().filter(|(_, sequence)| !sequence.is_decoding()).collect();
        parts.extend(self.pieces(prompts, left, flat));
        parts
    }

    /// Shares the tokens that are `left` in the step among prompts: tenant by tenant, the oldest prompt of each tenant first.
    fn pieces(&mut self, prompts: Vec<(usize, &Sequence)>, mut left: usize, flat: bool) -> Vec<StepPart> {
        let mut tenants: BTreeMap<&Arc<str>, Vec<(usize, &Sequence)>> = BTreeMap::new();
        for (at, sequence) in prompts {
            tenants.entry(&sequence.tenant).or_default().push((at, sequence));
        }
        for prompts in tenants.values_mut() {
            prompts.sort_by_key(|(_, sequence)| sequence.arrived);
        }
        // Begins with the tenant after the last one, in the order of their names.
        let (after, before): (Vec<_>, Vec<_>) =
            tenants.into_iter().partition(|(tenant, _)| self.last.as_ref().is_none_or(|last| *tenant > last));
        let mut parts = Vec::new();
        for (tenant, prompts) in after.into_iter().chain(before) {
            for (at, sequence) in prompts {
                let tokens = piece(sequence.pending(), left);
                if tokens == 0 || (!flat && !parts.is_empty()) {
                    return parts;
                }
                if parts.is_empty() {
                    self.last = Some(tenant.clone());
                }
                parts.push(StepPart { at, tokens });
                left -= tokens.min(left);
            }
        }
        parts
    }
}

/// The number of the `pending` tokens that a step computes: none if less than a block is `left`, all if they exceed it by at most a
/// quarter, else whole blocks.
fn piece(pending: usize, left: usize) -> usize {
    if pending <= left + left / 4 && left >= BLOCK {
        pending
    } else if left < BLOCK {
        0
    } else {
        left / BLOCK * BLOCK
    }
}

/// Counts the tokens that a step computes.
pub fn size(parts: &[StepPart]) -> StepSize {
    let decoding = parts.iter().filter(|part| part.tokens == 1).count();
    StepSize { decoding, prompt_tokens: parts.iter().map(|part| part.tokens).sum::<usize>() - decoding }
}
