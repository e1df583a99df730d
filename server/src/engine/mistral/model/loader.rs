//! Weights to a pipeline, and what all sequences of a model share.

use std::sync::Arc;

use mistralrs_core::{Pipeline, llguidance::toktrie::TokEnv};
use tokio::sync::{Mutex, oneshot};

use super::source::ModelSource;
use crate::engine::{
    EngineError,
    text::{constrained::Grammars, model::Tokens},
};

/// What is the same for all sequences of a model.
pub struct Shared {
    pub tokens: Tokens,
    /// The bytes of each token.
    pub vocabulary: TokEnv,
    pub grammars: Arc<Grammars>,
    pub eos: Arc<[u32]>,
}

/// A loaded model.
pub type Loading = Arc<Mutex<dyn Pipeline + Send + Sync>>;

impl Shared {
    /// Reads the tokenizer and the chat template from the model's files; mistral.rs's own reading of them is not used. Blocks
    /// while the grammars' vocabulary is made.
    ///
    /// # Errors
    /// `Load`, naming the file, if the tokenizer, the chat template or an end-of-sequence token is missing or not known.
    pub fn new(source: &ModelSource) -> Result<Self, EngineError> {
        let text = source.text()?;
        let grammars = Arc::new(Grammars::new(&text.vocabulary)?);
        Ok(Self { tokens: text.tokens, vocabulary: text.vocabulary, grammars, eos: text.eos.into() })
    }
}

/// [`Source::load`] on a thread of its own: it blocks, and mistral.rs keeps what it loads in variables of the thread.
pub async fn load(source: Arc<ModelSource>) -> Result<Loading, EngineError> {
    let (sender, loaded) = oneshot::channel();
    let path = source.shown().to_owned();
    std::thread::Builder::new()
        .name("model-load".into())
        .spawn(move || drop(sender.send(source.load())))
        .map_err(|error| EngineError::Load(format!("cannot start a thread to load the model: {error}")))?;
    loaded
        .await
        .map_err(|_| EngineError::Load(format!("the engine cannot read {}; its panic is in the log", path.display())))?
}
