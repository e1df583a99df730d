//! Copies blocks into and out of the paged cache, between two steps. Each time a bounded number of bytes is copied, so that steps
//! do not wait long; the rest follows after the next step.

use std::{collections::VecDeque, sync::Arc};

use candle_core::{Result, Tensor};
use caudal_kernels::attention::{copy_block, read_block, write_block};

use super::sequence::Sequence;
use crate::engine::{
    kv::{BLOCK, BlockName},
    mistral::{
        kv_exchange::KvExchange,
        model::source::LoadedModel,
        prefix_cache::{BlockId, Blocks, CopiedTokens},
    },
};

/// Bytes that are copied between two steps, which takes about one millisecond.
const TURN_BYTES: usize = 8 << 20;
/// At most `1 / LEAVING_SHARE` of all blocks wait to be stored. They are not evicted meanwhile.
const LEAVING_SHARE: usize = 8;

/// Copies the blocks of one engine.
pub struct Transfers {
    pub pipeline: LoadedModel,
    /// `None` if keys and values are not stored outside this process.
    pub exchange: Option<Arc<KvExchange>>,
    /// Whether blocks can be copied: the model is paged and on a CPU.
    pub is_flat: bool,
    /// Blocks of ended sequences that wait to be copied for the store.
    pub leaving: VecDeque<LeavingBlock>,
}

/// A block that waits to be copied for the store.
pub struct LeavingBlock {
    tenant: Arc<str>,
    id: BlockId,
    /// The block's name in the store.
    name: BlockName,
}

impl Transfers {
    /// Whether blocks wait because the queue to the store is full.
    pub fn waits_for_store(&self) -> bool {
        !self.leaving.is_empty() && self.exchange.as_ref().is_some_and(|exchange| !exchange.has_room())
    }

    /// Copies some blocks. Must be called between steps.
    pub fn run(&mut self, running: &mut [Sequence], blocks: &mut Blocks) {
        let mut bytes = TURN_BYTES;
        for sequence in running {
            while bytes > 0 && !sequence.fetched.is_empty() {
                bytes = bytes.saturating_sub(self.write_fetched(sequence, blocks));
            }
        }
        while bytes > 0
            && let Some(moved) = self.read_leaving(blocks)
        {
            bytes = bytes.saturating_sub(moved);
        }
    }

    /// Writes the next fetched block of a sequence to the cache. Returns the block's size in bytes. If that fails, the rest of
    /// the prompt is computed.
    fn write_fetched(&self, sequence: &mut Sequence, blocks: &mut Blocks) -> usize {
        let Some(block) = sequence.fetched.pop_front() else { return 0 };
        let place = sequence.computed / BLOCK;
        let id = sequence.blocks.as_ref().and_then(|held| held.ids().get(place).copied());
        let written = id.is_some_and(|id| {
            let outcome = write(&self.pipeline.blocking_lock().get_metadata().cache_engine, id, &block);
            outcome.inspect_err(|error| tracing::warn!(%error, "a fetched block cannot be written to the cache; the rest of the prompt is computed")).is_ok()
        });
        if written {
            sequence.computed = (place + 1) * BLOCK;
            if let Some(held) = &mut sequence.blocks {
                blocks.name_full(held, &sequence.tokens[..sequence.computed]);
            }
        } else {
            sequence.fetched.clear();
        }
        if sequence.fetched.is_empty() {
            sequence.processor.reused(sequence.computed);
        }
        block.len()
    }

    /// Copies the next leaving block for the store. Returns the block's size in bytes; `None` if none waits or if the queue to
    /// the store is full.
    fn read_leaving(&mut self, blocks: &mut Blocks) -> Option<usize> {
        let exchange = self.exchange.as_ref().filter(|exchange| exchange.has_room())?;
        let LeavingBlock { tenant, id, name } = self.leaving.pop_front()?;
        let mut block = Vec::new();
        let outcome = read(&self.pipeline.blocking_lock().get_metadata().cache_engine, id, &mut block);
        blocks.give_back(id);
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

    /// Queues the blocks of an ending sequence that are to be stored. Must be called while the sequence holds its blocks.
    pub fn leave(&mut self, sequence: &Sequence, blocks: &mut Blocks) {
        let (Some(exchange), Some(held)) = (self.exchange.as_ref().filter(|_| self.is_flat), &sequence.blocks) else {
            return;
        };
        let computed = sequence.tokens.get(..sequence.computed).unwrap_or_default();
        for (place, name) in exchange.plan(&sequence.tenant, computed, sequence.reuse) {
            match held.ids().get(place).copied() {
                Some(id) if self.leaving.len() < blocks.count() / LEAVING_SHARE => {
                    blocks.take(id);
                    self.leaving.push_back(LeavingBlock { tenant: sequence.tenant.clone(), id, name });
                }
                _ => exchange.drop_planned(&name),
            }
        }
    }

    /// Drops all blocks that wait to be stored, because a sequence needs room. Returns whether there were any.
    pub fn drop_leaving(&mut self, blocks: &mut Blocks) -> bool {
        let dropped = std::mem::take(&mut self.leaving);
        for block in &dropped {
            blocks.give_back(block.id);
            if let Some(exchange) = &self.exchange {
                exchange.drop_planned(&block.name);
            }
        }
        !dropped.is_empty()
    }

    /// Copies the first tokens of a block to another block. Returns `false` if that fails.
    pub fn copy(&self, copied: CopiedTokens) -> bool {
        let pipeline = self.pipeline.blocking_lock();
        let metadata = pipeline.get_metadata();
        let Some(cache) = metadata.cache_engine.as_ref().filter(|_| self.is_flat) else { return false };
        let copy = |(keys, values): &(Tensor, Tensor)| {
            let (from, to) = (copied.from as usize, copied.to as usize);
            copy_block(keys, values, keys.dim(1)?, from, to, copied.tokens)
        };
        let done = cache.get_kv_cache().iter().try_for_each(copy);
        done.inspect_err(|error| tracing::warn!(%error, "a cached block cannot be copied; its tokens are computed"))
            .is_ok()
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
