//! The real engine: mistral.rs on CPU, as a pool of slots.
//!
//! On CPU mistral.rs batches only sequences of equal length, so every slot is an engine of its own, with its own copy of the
//! model, its own thread and one sequence at a time. What a slot does is in `step`: the engine computes logits, everything
//! else is ours. Only this module names mistral.rs.
//!
//! | file | owns |
//! |---|---|
//! | `load` | what a model file must have; weights to an engine |
//! | `tokens` | chat template and tokenizer |
//! | `pool` | which slot runs a prompt, with how many threads, and how much KV it keeps |
//! | `generate` | one generation, from waiting for a slot to giving it back |
//! | `slot` | one engine: run a sequence, empty its cache, load it again |
//! | `step` | one generation on the engine's thread: sampling, stop strings, deltas, cancel |
//! | `threads` | the rayon pool of an engine thread and the gate before its helpers |

mod generate;
mod load;
mod pool;
mod slot;
mod step;
#[cfg(test)]
mod tests;
mod threads;
mod tokens;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use self::{
    load::{ModelFile, Shared},
    pool::{Limits, Pool},
    slot::Slot,
};
use crate::{
    dialect::Dialect,
    engine::{Delta, Engine, EngineError, GenerateRequest, Grammar, ModelInfo, Prompt},
};

/// How to load and run a model.
#[derive(Debug, Clone)]
pub struct MistralConfig {
    /// A GGUF file with a chat template.
    pub model_path: PathBuf,
    /// The name that requests select it by.
    pub model_id: String,
    /// Generations at once, each with its own copy of the model: see [`default_slots`].
    pub slots: usize,
    /// Threads that a slot may use while the others leave cores free: see [`default_threads`].
    pub threads_per_slot: usize,
    /// KV that one slot may keep for later turns, in bytes. An entry of the default model takes 23.6 MB per 512 tokens begun.
    pub prefix_cache_bytes: u64,
    /// Bounds prompt and output together, in tokens, below what the model allows. Rounded down to a multiple of 512.
    pub context_length: Option<u32>,
}

/// Slots for a machine, where nothing is configured: four a core, so that a burst is served at once, as long as the copies
/// of the model take no more than half the memory. One slot of the default model takes about 0.3 GB, and as much for KV.
pub fn default_slots(cores: usize, memory_bytes: u64) -> usize {
    const SLOT: u64 = 600 << 20;
    let fits = usize::try_from(memory_bytes / 2 / SLOT).unwrap_or(usize::MAX);
    (cores * 4).min(fits).clamp(1, 32)
}

/// Threads a slot may use while the others are idle: all cores, up to where more do not help a small model. While several
/// slots run, each gets its share of the cores.
pub fn default_threads(_slots: usize, cores: usize) -> usize {
    cores.clamp(1, 8)
}

/// A pool of slots with one model. Cheap to share.
pub struct MistralEngine {
    model: Arc<ModelInfo>,
    slots: usize,
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    runtime: Handle,
    loaded: CancellationToken,
}

impl MistralEngine {
    /// Loads the model into the first slot, and goes on with the others while that one serves already: generations that
    /// find no slot yet wait for one. To be called on the runtime that generations shall run on.
    ///
    /// # Errors
    /// `Load`: the file is missing, not a GGUF, of an unknown architecture, without a chat template, or the engine refuses it.
    pub async fn load(config: MistralConfig) -> Result<Self, EngineError> {
        let begun = Instant::now();
        let file = Arc::new(ModelFile::open(&config.model_path, config.context_length)?);
        let slots = config.slots.max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = Arc::new(Pool::new(Limits {
            cores,
            threads_per_slot: config.threads_per_slot,
            prefix_cache_bytes: config.prefix_cache_bytes,
            kv_bytes_per_token: file.kv_bytes_per_token,
        }));

        let first = slot::load(file.clone()).await?;
        let (first, shared, ends) = tokio::task::spawn_blocking(move || {
            let (shared, ends) = first.shared()?;
            Ok::<_, EngineError>((first, shared, ends))
        })
        .await
        .map_err(|error| EngineError::Load(error.to_string()))??;
        let first = Slot::new(file.clone(), first.engine, config.threads_per_slot);
        let shared = Arc::new(Shared { end: usable_end(&first, &shared, ends).await?, ..shared });
        pool.add(Arc::new(first));

        let loaded = CancellationToken::new();
        let (rest, all) = ((file.clone(), shared.clone(), pool.clone()), loaded.clone());
        tokio::spawn(async move {
            let (file, shared, pool) = rest;
            for _ in 1..slots {
                match more(file.clone(), &shared, config.threads_per_slot).await {
                    Ok(slot) => pool.add(Arc::new(slot)),
                    Err(error) => tracing::error!(%error, "a slot cannot be loaded; there is one less"),
                }
            }
            tracing::info!(slots, took = ?begun.elapsed(), "all slots loaded");
            all.cancel();
        });

        let created = std::fs::metadata(&config.model_path).and_then(|meta| meta.modified()).ok();
        let created = created.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_secs());
        tracing::info!(
            model = config.model_id,
            slots,
            context_length = file.context_length,
            quantisation = file.quantisation,
            took = ?begun.elapsed(),
            "the first slot is loaded"
        );
        let model = ModelInfo {
            id: config.model_id,
            aliases: vec![],
            context_length: file.context_length,
            created,
            quantisation: Some(file.quantisation.clone()),
            dialect: Dialect::default(),
        };
        Ok(Self { model: Arc::new(model), slots, shared, pool, runtime: Handle::current(), loaded })
    }

    /// Returns when no slot is still being loaded.
    pub async fn loaded(&self) {
        self.loaded.cancelled().await;
    }

    fn model(&self, model: &str) -> Result<&ModelInfo, EngineError> {
        (self.model.id == model).then_some(&*self.model).ok_or_else(|| EngineError::UnknownModel(model.into()))
    }
}

impl Engine for MistralEngine {
    fn models(&self) -> Vec<Arc<ModelInfo>> {
        vec![self.model.clone()]
    }

    fn tokenize(&self, model: &str, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        self.model(model)?;
        self.shared.tokens.render(prompt)
    }

    fn check(&self, model: &str, _: &Grammar, _: u32) -> Result<(), EngineError> {
        self.model(model)?;
        Err(EngineError::Grammar("This engine holds no output to a grammar.".into()))
    }

    fn slots(&self, _: &str) -> usize {
        self.slots
    }

    fn generate(&self, model: &str, request: GenerateRequest) -> Result<mpsc::Receiver<Delta>, EngineError> {
        let context = u64::from(self.model(model)?.context_length);
        let room = context.saturating_sub(request.prompt.len() as u64);
        let max = u64::from(request.max_output_tokens).min(room);
        // A delta a token, one for the end, and one to spare: the engine never waits for the reader.
        let capacity = max.saturating_sub(request.output.len() as u64) + 2;
        let (sender, receiver) = mpsc::channel(usize::try_from(capacity).unwrap_or(usize::MAX >> 4));
        self.runtime.spawn(generate::generate(self.pool.clone(), self.shared.clone(), request, max, sender));
        Ok(receiver)
    }
}

async fn more(file: Arc<ModelFile>, shared: &Shared, threads: usize) -> Result<Slot, EngineError> {
    let slot = Slot::new(file.clone(), slot::load(file).await?.engine, threads);
    slot.warm_up(shared, shared.end).await.map_err(|broken| EngineError::Load(format!("{broken:?}")))?;
    Ok(slot)
}

/// The first of the tokens with which the engine agrees to end a sequence.
async fn usable_end(slot: &Slot, shared: &Shared, ends: Vec<u32>) -> Result<u32, EngineError> {
    let mut reason = String::new();
    for end in ends {
        match slot.warm_up(shared, end).await {
            Ok(()) => return Ok(end),
            Err(broken) => reason = format!("{broken:?}"),
        }
    }
    Err(EngineError::Load(format!("the engine does not run the model: {reason}")))
}
