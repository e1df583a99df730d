//! One served model: its checked files, and the slots that run it. Generations hold its pool, so that one that was replaced
//! lives until the last of them has ended, and its memory no longer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    load::Shared,
    plan::Plan,
    pool::{Limits, Pool},
    slot::{self, Slot},
    source::Source,
};
use crate::engine::{EngineError, ModelInfo};

pub struct Model {
    pub info: Arc<ModelInfo>,
    pub shared: Arc<Shared>,
    pub pool: Arc<Pool>,
    source: Arc<Source>,
    plan: Plan,
}

impl Model {
    /// Loads the first slot; in a batch it is all there is.
    ///
    /// # Errors
    /// `Load`, where the engine refuses the model or does not run it.
    pub async fn load(source: Source, plan: Plan) -> Result<Self, EngineError> {
        let source = Arc::new(source);
        let is_batch = source.is_batch();
        let limits = Limits {
            prefix_cache_bytes: plan.prefix_cache_bytes,
            kv_bytes_per_token: source.kv_bytes_per_token,
            is_batch,
        };
        let pool = Arc::new(Pool::new(limits, plan.cores.clone()));
        let running = if is_batch { plan.slots } else { 1 };
        let first = slot::load(source.clone(), running).await?;
        let (first, shared, ends) = tokio::task::spawn_blocking(move || {
            let (shared, ends) = first.shared()?;
            Ok::<_, EngineError>((first, shared, ends))
        })
        .await
        .map_err(|error| EngineError::Load(error.to_string()))??;
        let first = Arc::new(Slot::new(source.clone(), first, running, plan.threads));
        let shared = Arc::new(Shared { end: usable_end(&first, &shared, ends).await?, ..shared });
        for _ in 0..running {
            pool.add(first.clone());
        }
        Ok(Self { info: source.info.clone(), shared, pool, source, plan })
    }

    /// Loads the next slot.
    ///
    /// # Errors
    /// `Load`, as [`Self::load`].
    pub async fn grow(&self) -> Result<(), EngineError> {
        let loaded = slot::load(self.source.clone(), 1).await?;
        let slot = Slot::new(self.source.clone(), loaded, 1, self.plan.threads);
        slot.warm_up(&self.shared, self.shared.end).await.map_err(|broken| EngineError::Load(broken.to_string()))?;
        self.pool.add(Arc::new(slot));
        Ok(())
    }

    /// Slots that [`Self::grow`] has still to load.
    pub fn missing(&self) -> usize {
        self.plan.slots.saturating_sub(self.pool.len())
    }

    pub fn slots_loaded(&self) -> usize {
        self.pool.len()
    }

    /// Whether tokens mean the same in both. Logs, and prompts that wait, hold tokens.
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        self.shared.tokens.vocabulary() == other.shared.tokens.vocabulary()
    }
}

/// Waits until nothing of a replaced model runs any more, and sees to it that its memory goes back to the system.
///
/// The allocator keeps what was freed for a second, and gives it back when pages are freed after that. A busy server does so
/// all the time; an idle one would keep the memory of a model that is gone.
pub async fn see_off(id: String, replaced: Weak<Pool>) {
    const KEPT_FREE: Duration = Duration::from_millis(1100);
    const PAGE: usize = 8 << 20;
    while replaced.strong_count() > 0 {
        tokio::time::sleep(KEPT_FREE).await;
    }
    tracing::info!(model = id, "what was replaced is gone");
    // Twice: engines end a moment after their pool.
    for _ in 0..2 {
        tokio::time::sleep(KEPT_FREE).await;
        // Each gives back a part.
        for _ in 0..8 {
            drop(std::hint::black_box(vec![1u8; PAGE]));
        }
    }
}

/// The first of the tokens with which the engine agrees to end a sequence.
async fn usable_end(slot: &Slot, shared: &Shared, ends: Vec<u32>) -> Result<u32, EngineError> {
    let mut reason = String::new();
    for end in ends {
        match slot.warm_up(shared, end).await {
            Ok(()) => return Ok(end),
            Err(broken) => reason = broken.to_string(),
        }
    }
    Err(EngineError::Load(format!("the engine does not run the model: {reason}")))
}
