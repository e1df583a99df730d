//! One served model: its checked files, what its sequences share, and the batch that runs them. Generations hold the batch, so
//! a model that was replaced lives until the last of them has ended.

use std::sync::Arc;

use super::{
    batch::Batch,
    kv_exchange::KvSharing,
    load::{self, Shared},
    source::ModelSource,
};
use crate::engine::{EngineError, ModelInfo};

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
        let pipeline = load::load(source.clone()).await?;
        let info = source.info.clone();
        let batch = Arc::new(Batch::new(source, pipeline, sharing));
        Ok(Self { info, shared: Arc::new(shared), batch })
    }

    /// Whether tokens mean the same in both. Logs, and prompts that wait, hold tokens.
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        self.shared.tokens.vocabulary() == other.shared.tokens.vocabulary()
    }
}
