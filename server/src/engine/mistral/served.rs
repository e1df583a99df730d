//! A served model: its description, its tokenizer and grammars, and the batch that runs its sequences. The model can be replaced
//! while the server runs. Generations hold their batch, so a replaced model stays in memory until its last generation has ended.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    batch::Batch,
    kv_exchange::KvSharing,
    model::{loader, origin::ModelOrigin, shared::Shared, source::ModelSource},
};
use crate::engine::{EngineError, ModelInfo, ModelStatus, ReloadError, Reloaded};

/// Which models are loaded so far. Empty until all models are checked.
pub type LoadProgress = watch::Sender<Vec<ModelStatus>>;

pub struct ServedModel {
    pub info: Arc<ModelInfo>,
    pub shared: Arc<Shared>,
    pub batch: Arc<Batch>,
}

impl ServedModel {
    /// Loads the tokenizer and the weights, and starts an engine.
    ///
    /// # Errors
    /// `Load` if the tokenizer, the chat template or the weights cannot be loaded.
    pub async fn load(source: ModelSource, sharing: Option<KvSharing>) -> Result<Self, EngineError> {
        let source = Arc::new(source);
        // The tokenizer comes first: it loads faster than the weights, so its faults show sooner.
        let text = source.clone();
        let shared = tokio::task::spawn_blocking(move || Shared::new(&text))
            .await
            .map_err(|error| EngineError::Load(error.to_string()))??;
        let pipeline = loader::load(source.clone()).await?;
        let info = source.info.clone();
        let batch = Arc::new(Batch::new(source, pipeline, sharing));
        Ok(Self { info, shared: Arc::new(shared), batch })
    }

    /// Whether both models have the same vocabulary. Stored logs and waiting prompts hold tokens of the old model.
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        self.shared.tokens.vocabulary() == other.shared.tokens.vocabulary()
    }
}

/// One entry of `engine.models`, and the model that serves it now.
pub struct Served {
    origin: ModelOrigin,
    /// `None` if keys and values are not stored outside this process.
    sharing: Option<KvSharing>,
    /// Stays the same when the model is reloaded.
    pub id: String,
    current: Mutex<Arc<ServedModel>>,
    /// Held while a model is loaded.
    loading: tokio::sync::Mutex<()>,
}

/// Runs [`ModelSource::open`] on a thread for blocking work.
///
/// # Errors
/// As [`ModelSource::open`].
pub async fn open(origin: ModelOrigin) -> Result<ModelSource, EngineError> {
    tokio::task::spawn_blocking(move || ModelSource::open(origin))
        .await
        .map_err(|error| EngineError::Load(error.to_string()))?
}

/// Waits until the last generation of a replaced model has ended, then returns the memory to the operating system.
async fn release_when_unused(id: String, replaced: Weak<Batch>) {
    const CHECK: Duration = Duration::from_millis(500);
    while replaced.strong_count() > 0 {
        tokio::time::sleep(CHECK).await;
    }
    // The engine's thread ends a moment after its batch.
    tokio::time::sleep(CHECK).await;
    let _ = tokio::task::spawn_blocking(caudal_kernels::memory::give_back).await;
    tracing::info!(model = id, "the replaced model is unloaded");
}

impl Served {
    pub fn new(origin: ModelOrigin, sharing: Option<KvSharing>, model: ServedModel) -> Self {
        let id = model.info.id.clone();
        Self { origin, sharing, id, current: Mutex::new(Arc::new(model)), loading: tokio::sync::Mutex::default() }
    }

    pub fn current(&self) -> Arc<ServedModel> {
        self.current.lock().clone()
    }

    /// Loads the model's files again while the old model serves, then switches to the new one.
    ///
    /// # Errors
    /// `InProgress` during another reload; `Failed` if the model cannot be loaded or has another vocabulary.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Ok(_loading) = self.loading.try_lock() else { return Err(ReloadError::InProgress(self.id.clone())) };
        let begun = Instant::now();
        let failed = |error: EngineError| ReloadError::Failed(error.to_string());
        let mut origin = self.origin.clone();
        origin.settings.id = self.id.clone();
        let source = open(origin).await.map_err(failed)?;
        let new = ServedModel::load(source, self.sharing.clone()).await.map_err(failed)?;
        let old = self.current();
        if !new.has_vocabulary_of(&old) {
            let reason = "its vocabulary is not that of the old model, whose tokens are in stored logs and waiting prompts; serve \
            it under another id, or restart";
            return Err(ReloadError::Failed(reason.into()));
        }
        new.batch.runs().await;
        let new = Arc::new(new);
        *self.current.lock() = new.clone();
        tokio::spawn(release_when_unused(self.id.clone(), Arc::downgrade(&old.batch)));
        let reloaded = Reloaded { old: old.info.clone(), new: new.info.clone(), took: begun.elapsed() };
        tracing::info!(model = self.id, took = ?reloaded.took, "the model was reloaded");
        Ok(reloaded)
    }
}
