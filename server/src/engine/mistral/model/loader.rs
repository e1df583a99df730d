//! Loads the weights of a model on a thread of its own.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::source::{LoadedModel, ModelSource};
use crate::engine::EngineError;

/// Runs [`ModelSource::load`] on a thread of its own, because it blocks and because mistral.rs passes settings of a load in
/// variables of the thread.
///
/// # Errors
/// `Load` if mistral.rs refuses the model or panics.
pub async fn load(source: Arc<ModelSource>) -> Result<LoadedModel, EngineError> {
    let (sender, loaded) = oneshot::channel();
    let path = source.shown().to_owned();
    std::thread::Builder::new()
        .name("model-load".into())
        .spawn(move || drop(sender.send(source.load())))
        .map_err(|error| EngineError::Load(format!("cannot start a thread to load the model: {error}")))?;
    loaded.await.map_err(|_| {
        EngineError::Load(format!("the engine panicked while it loaded {}; see the log for the panic", path.display()))
    })?
}
