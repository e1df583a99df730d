//! Weights to a pipeline, and what all sequences of a model share.

use std::sync::Arc;

use mistralrs_core::{Pipeline, llguidance::toktrie::TokEnv};
use tokio::sync::{Mutex, oneshot};

use super::{
    grammar::{Grammars, vocabulary},
    source::Source,
    tokens::{Tokens, source},
};
use crate::engine::EngineError;

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
    /// Blocks while the grammars' vocabulary is made.
    ///
    /// # Errors
    /// `Load` if the tokenizer, the chat template or an end-of-sequence token is missing.
    pub fn new(pipeline: &Loading) -> Result<Self, EngineError> {
        let pipeline = pipeline.blocking_lock();
        let missing = |what: &str| EngineError::Load(format!("the model has no {what}"));
        let tokenizer = pipeline.tokenizer().ok_or_else(|| missing("tokenizer"))?;
        let chat = pipeline.get_chat_template().ok_or_else(|| missing("chat template"))?;
        let metadata = pipeline.get_metadata();
        let eos = metadata.eos_tok.clone();
        if eos.is_empty() {
            return Err(missing("end-of-sequence token"));
        }
        if source(&chat).is_none() {
            return Err(missing("chat template"));
        }
        let factory = metadata.llg_factory.as_ref().ok_or_else(|| missing("tokenizer of bytes"))?;
        let vocabulary = vocabulary(factory.tok_env(), &tokenizer, &eos);
        let grammars = Arc::new(Grammars::new(&vocabulary)?);
        Ok(Self { tokens: Tokens::new(tokenizer, &chat)?, vocabulary, grammars, eos: eos.into() })
    }
}

/// [`Source::load`] on a thread of its own: it blocks, and mistral.rs keeps what it loads in variables of the thread.
pub async fn load(source: Arc<Source>) -> Result<Loading, EngineError> {
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
