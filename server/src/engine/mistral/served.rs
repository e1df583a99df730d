//! A place in the list of models, and the model that serves in it: its description, what its sequences share, and the batch that
//! runs them. The model can be replaced. Generations hold its batch, so a replaced one lives until the last of them has ended.

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

/// How far the models are loaded, for whoever asks meanwhile. Empty until they are checked.
pub type LoadProgress = watch::Sender<Vec<ModelStatus>>;

pub struct ServedModel {
    pub info: Arc<ModelInfo>,
    pub shared: Arc<Shared>,
    pub batch: Arc<Batch>,
}

impl ServedModel {
    /// Loads the weights and begins an engine.
    ///
    /// # Errors
    /// `Load` if mistral.rs refuses the model.
    pub async fn load(source: ModelSource, sharing: Option<KvSharing>) -> Result<Self, EngineError> {
        let source = Arc::new(source);
        // First, since what is wrong with it is found sooner.
        let text = source.clone();
        let shared = tokio::task::spawn_blocking(move || Shared::new(&text))
            .await
            .map_err(|error| EngineError::Load(error.to_string()))??;
        let pipeline = loader::load(source.clone()).await?;
        let info = source.info.clone();
        let batch = Arc::new(Batch::new(source, pipeline, sharing));
        Ok(Self { info, shared: Arc::new(shared), batch })
    }

    /// Whether tokens mean the same in both. Logs, and prompts that wait, hold tokens.
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        self.shared.tokens.vocabulary() == other.shared.tokens.vocabulary()
    }
}

pub struct Served {
    origin: ModelOrigin,
    /// Absent where keys and values are not stored beyond this process.
    sharing: Option<KvSharing>,
    /// Fixed when the process starts.
    pub id: String,
    current: Mutex<Arc<ServedModel>>,
    /// Held while a model is loaded.
    loading: tokio::sync::Mutex<()>,
}

/// Runs [`ModelSource::open`] off the threads that serve.
///
/// # Errors
/// As [`ModelSource::open`].
pub async fn open(origin: ModelOrigin) -> Result<ModelSource, EngineError> {
    tokio::task::spawn_blocking(move || ModelSource::open(origin))
        .await
        .map_err(|error| EngineError::Load(error.to_string()))?
}

/// Waits until nothing of a replaced model runs, and gives its memory back to the system.
async fn see_out(id: String, replaced: Weak<Batch>) {
    const CHECK: Duration = Duration::from_millis(500);
    while replaced.strong_count() > 0 {
        tokio::time::sleep(CHECK).await;
    }
    // The engine's thread ends a moment after its batch.
    tokio::time::sleep(CHECK).await;
    let _ = tokio::task::spawn_blocking(caudal_kernels::memory::give_back).await;
    tracing::info!(model = id, "the replaced model is gone");
}

impl Served {
    pub fn new(origin: ModelOrigin, sharing: Option<KvSharing>, model: ServedModel) -> Self {
        let id = model.info.id.clone();
        Self { origin, sharing, id, current: Mutex::new(Arc::new(model)), loading: tokio::sync::Mutex::default() }
    }

    pub fn current(&self) -> Arc<ServedModel> {
        self.current.lock().clone()
    }

    /// Loads the model's files again beside the model that serves, then switches.
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
            let reason = "it has another vocabulary, and what waits and what is stored are tokens of the old one; serve it \
                          under another id, or restart";
            return Err(ReloadError::Failed(reason.into()));
        }
        new.batch.runs().await;
        let new = Arc::new(new);
        *self.current.lock() = new.clone();
        tokio::spawn(see_out(self.id.clone(), Arc::downgrade(&old.batch)));
        let reloaded = Reloaded { old: old.info.clone(), new: new.info.clone(), took: begun.elapsed() };
        tracing::info!(model = self.id, took = ?reloaded.took, "the model was reloaded");
        Ok(reloaded)
    }
}
