//! Blocks on their way into and out of the paged cache, between two steps. A step waits for a bounded number of bytes; what is
//! left moves before the next one.

use std::{collections::VecDeque, sync::Arc};

use candle_core::{Result, Tensor};
use caudal_kernels::attention::{read_block, write_block};

use super::{engine::EngineLoop, sequence::Sequence};
use crate::engine::{
    kv::{BLOCK, BlockName},
    mistral::prefix_cache::BlockId,
};

/// Bytes that move between two steps: one millisecond of copying.
const TURN_BYTES: usize = 8 << 20;
/// The share of all blocks that may wait to be stored. They are not evicted meanwhile.
const LEAVING_SHARE: usize = 8;

/// Blocks of sequences that have ended, until they are copied for the store.
#[derive(Default)]
pub struct Leaving(VecDeque<LeavingBlock>);

struct LeavingBlock {
    tenant: Arc<str>,
    id: BlockId,
    /// The name by which the store knows it.
    name: BlockName,
}

impl Leaving {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl EngineLoop {
    /// Moves some blocks. To be called between steps.
    pub(super) fn transfer(&mut self) {
        let mut bytes = TURN_BYTES;
        for at in 0..self.running.len() {
            while bytes > 0 && !self.running[at].fetched.is_empty() {
                bytes = bytes.saturating_sub(self.write_fetched(at));
            }
        }
        while bytes > 0
            && let Some(moved) = self.read_leaving()
        {
            bytes = bytes.saturating_sub(moved);
        }
    }

    /// Writes the next fetched block of a sequence into its place, and returns how many bytes that are. If it cannot be
    /// written, the rest of the prompt is computed.
    fn write_fetched(&mut self, at: usize) -> usize {
        let sequence = &mut self.running[at];
        let Some(block) = sequence.fetched.pop_front() else { return 0 };
        let place = sequence.computed / BLOCK;
        let id = sequence.blocks.as_ref().and_then(|held| held.ids().get(place).copied());
        let written = id.is_some_and(|id| {
            let outcome = write(&self.pipeline.blocking_lock().get_metadata().cache_engine, id, &block);
            outcome.inspect_err(|error| tracing::warn!(%error, "a fetched block cannot be used")).is_ok()
        });
        if written {
            sequence.computed = (place + 1) * BLOCK;
            if let Some(held) = &mut sequence.blocks {
                self.blocks.name_full(held, &sequence.tokens[..sequence.computed]);
            }
        } else {
            sequence.fetched.clear();
        }
        if sequence.fetched.is_empty() {
            sequence.processor.reused(sequence.computed);
        }
        block.len()
    }

    /// Copies the next leaving block for the store, and returns how many bytes that are; `None` if there is none, or if the
    /// store takes no more at present.
    fn read_leaving(&mut self) -> Option<usize> {
        let exchange = self.exchange.clone().filter(|exchange| exchange.has_room())?;
        let LeavingBlock { tenant, id, name } = self.leaving.0.pop_front()?;
        let mut block = Vec::new();
        let outcome = read(&self.pipeline.blocking_lock().get_metadata().cache_engine, id, &mut block);
        self.blocks.give_back(id);
        let moved = block.len();
        match outcome {
            Ok(()) => exchange.store(&tenant, name, block),
            Err(error) => {
                tracing::warn!(%error, "a block cannot be stored");
                exchange.drop_planned(&name);
            }
        }
        Some(moved)
    }

    /// Notes the blocks of a sequence that ends which are to be stored. To be called while the sequence still holds them.
    pub(super) fn leave(&mut self, sequence: &Sequence) {
        let (Some(exchange), Some(held)) = (self.exchange.clone().filter(|_| self.is_flat), &sequence.blocks) else {
            return;
        };
        let computed = sequence.tokens.get(..sequence.computed).unwrap_or_default();
        for (place, name) in exchange.plan(&sequence.tenant, computed, sequence.reuse) {
            match held.ids().get(place).copied() {
                Some(id) if self.leaving.0.len() < self.blocks.count() / LEAVING_SHARE => {
                    self.blocks.take(id);
                    self.leaving.0.push_back(LeavingBlock { tenant: sequence.tenant.clone(), id, name });
                }
                _ => exchange.drop_planned(&name),
            }
        }
    }

    /// Gives up blocks that wait to be stored, since a sequence needs room. Whether there were any.
    pub(super) fn drop_leaving(&mut self) -> bool {
        let dropped = std::mem::take(&mut self.leaving.0);
        for block in &dropped {
            self.blocks.give_back(block.id);
            if let Some(exchange) = &self.exchange {
                exchange.drop_planned(&block.name);
            }
        }
        !dropped.is_empty()
    }
}

type CacheAccess = Option<mistralrs_core::paged_attention::CacheEngine>;

fn read(cache: &CacheAccess, id: BlockId, block: &mut Vec<u8>) -> Result<()> {
    layers(cache, |(keys, values)| read_block(keys, values, id as usize, block))
}

fn write(cache: &CacheAccess, id: BlockId, mut block: &[u8]) -> Result<()> {
    layers(cache, |(keys, values)| {
        let blocks = keys.dims().first().copied().unwrap_or(1).max(1);
        let size = (keys.elem_count() + values.elem_count()) / blocks * keys.dtype().size_in_bytes();
        let Some((layer, rest)) = block.split_at_checked(size) else {
            candle_core::bail!("a fetched block is too short");
        };
        block = rest;
        write_block(keys, values, id as usize, layer)
    })
}

fn layers(cache: &CacheAccess, work: impl FnMut(&(Tensor, Tensor)) -> Result<()>) -> Result<()> {
    match cache {
        Some(cache) => cache.get_kv_cache().iter().try_for_each(work),
        None => candle_core::bail!("the model is not paged"),
    }
}
