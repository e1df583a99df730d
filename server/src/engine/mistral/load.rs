//! Weights to a running engine, and what all engines of a model share.

use std::sync::Arc;

use mistralrs_core::{MistralRs, MistralRsBuilder, Pipeline, llguidance::toktrie::TokEnv};
use tokenizers::Tokenizer;
use tokio::sync::Mutex;

use super::{
    grammar::{Grammars, vocabulary},
    place::Place,
    tokens::{Tokens, source},
};
use crate::engine::EngineError;

/// The engine grows a sequence's KV cache by this many tokens, and fails where the next step would pass the model's end.
pub const KV_BLOCK: usize = 512;

/// What is the same for all slots of a model.
pub struct Shared {
    pub tokens: Tokens,
    /// What bytes each token is.
    pub vocabulary: TokEnv,
    pub grammars: Arc<Grammars>,
    pub eos: Arc<[u32]>,
    /// The token that ends a sequence in the engine. See [`unused_special_tokens`].
    pub end: u32,
}

impl Shared {
    /// A token that ends nothing and is none of these.
    pub fn spare(&self, not: &[u32]) -> u32 {
        (0..).find(|token| !not.contains(token) && !self.eos.contains(token)).unwrap_or(0)
    }
}

/// A model, shared with the engine that runs it.
pub type Loading = Arc<Mutex<dyn Pipeline + Send + Sync>>;

/// One engine with its own copy of the model.
pub struct Loaded {
    pub engine: Arc<MistralRs>,
    pub pipeline: Loading,
}

impl Loaded {
    /// Starts an engine thread for up to `running` sequences. To be called on a thread outside the runtime: inside one the
    /// builder runs a request of its own, whose KV would stay.
    ///
    /// # Errors
    /// `Load` where so many cannot run where the model is.
    pub fn start(pipeline: Loading, place: &Place, running: usize) -> Result<Self, EngineError> {
        let scheduler = place.scheduler(&*pipeline.blocking_lock(), running)?;
        let builder = MistralRsBuilder::new(pipeline.clone(), scheduler, false, None)
            .with_no_prefix_cache(place.is_batch && !place.batch_keeps_kv);
        Ok(Self { engine: futures::executor::block_on(builder.build()), pipeline })
    }

    /// What all slots share, and the tokens that may serve as [`Shared::end`], the best first.
    ///
    /// # Errors
    /// `Load` where tokenizer, chat template or an end-of-sequence token is missing.
    pub fn shared(&self) -> Result<(Shared, Vec<u32>), EngineError> {
        let pipeline = self.pipeline.blocking_lock();
        let missing = |what: &str| EngineError::Load(format!("the model has no {what}"));
        let tokenizer = pipeline.tokenizer().ok_or_else(|| missing("tokenizer"))?;
        let chat = pipeline.get_chat_template().ok_or_else(|| missing("chat template"))?;
        let metadata = pipeline.get_metadata();
        let eos = metadata.eos_tok.clone();
        let last = *eos.first().ok_or_else(|| missing("end-of-sequence token"))?;
        let template = source(&chat).unwrap_or_default();
        let mut ends = unused_special_tokens(&tokenizer, &eos, &template);
        ends.push(last);
        let factory = metadata.llg_factory.as_ref().ok_or_else(|| missing("tokenizer of bytes"))?;
        let vocabulary = vocabulary(factory.tok_env(), &tokenizer, &eos);
        let grammars = Arc::new(Grammars::new(&vocabulary)?);
        let tokens = Tokens::new(tokenizer, &chat)?;
        Ok((Shared { tokens, vocabulary, grammars, eos: eos.into(), end: ends[0] }, ends))
    }
}

/// Special tokens that a rendered prompt does not contain.
///
/// The engine keys the KV of a finished sequence by all its tokens, the last included, but has no KV for the last: nothing
/// came after it. Ended with the model's own end token, the next turn of the conversation, which has that token there, would
/// attend to a key that was never computed. Ended with a token that no prompt has at that place, it matches up to the token
/// before.
fn unused_special_tokens(tokenizer: &Tokenizer, eos: &[u32], template: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(id, token)| token.special && !eos.contains(id) && !template.contains(&token.content))
        .map(|(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids
}
