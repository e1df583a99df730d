//! A place in the list of models. What serves in it can be replaced.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    batch::Batch, capacity::CapacityShare, device::ComputeDevice, kv_exchange::KvSharing, model::ServedModel,
    source::ModelSource,
};
use crate::engine::{EngineError, ModelStatus, ReloadError, Reloaded, model::ModelSettings};

/// How far the models are loaded, for whoever asks meanwhile. Empty until they are checked.
pub type LoadProgress = watch::Sender<Vec<ModelStatus>>;

/// What the model of one place is opened from, again and again.
#[derive(Clone)]
pub struct ModelOrigin {
    pub index: usize,
    pub settings: ModelSettings,
    /// In tokens; 0: the model's own.
    pub context_length: u32,
    pub device: ComputeDevice,
    pub capacity: CapacityShare,
    /// Absent where keys and values are not stored beyond this process.
    pub sharing: Option<KvSharing>,
}

pub struct Served {
    origin: ModelOrigin,
    /// Fixed when the process starts.
    pub id: String,
    current: Mutex<Arc<ServedModel>>,
    /// Held while a model is loaded.
    loading: tokio::sync::Mutex<()>,
}

impl ModelOrigin {
    /// [`Source::open`], off the threads that serve.
    pub async fn open(&self) -> Result<ModelSource, EngineError> {
        let origin = self.clone();
        tokio::task::spawn_blocking(move || ModelSource::open(origin))
            .await
            .map_err(|error| EngineError::Load(error.to_string()))?
    }
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
    pub fn new(origin: ModelOrigin, model: ServedModel) -> Self {
        let id = model.info.id.clone();
        Self { origin, id, current: Mutex::new(Arc::new(model)), loading: tokio::sync::Mutex::default() }
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
        let sharing = origin.sharing.clone();
        let new = ServedModel::load(origin.open().await.map_err(failed)?, sharing).await.map_err(failed)?;
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
