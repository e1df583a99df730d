//! The tokenizer and the grammars, which all sequences of a model share.

use std::sync::Arc;

use mistralrs_core::llguidance::toktrie::TokEnv;

use super::source::ModelSource;
use crate::engine::{
    EngineError,
    text::{constrained::Grammars, model::Tokens},
};

pub struct Shared {
    pub tokens: Tokens,
    /// The bytes of each token.
    pub vocabulary: TokEnv,
    pub grammars: Arc<Grammars>,
    /// The tokens that end an output.
    pub eos: Arc<[u32]>,
}

impl Shared {
    /// Reads the tokenizer and the chat template from the model's files; those that mistral.rs reads are not used. Blocks while
    /// the grammars' vocabulary is built.
    ///
    /// # Errors
    /// `Load`, naming the file, if the tokenizer, the chat template or an end-of-sequence token is missing or unknown.
    pub fn new(source: &ModelSource) -> Result<Self, EngineError> {
        let text = source.text()?;
        let grammars = Arc::new(Grammars::new(&text.vocabulary)?);
        Ok(Self { tokens: text.tokens, vocabulary: text.vocabulary, grammars, eos: text.eos.into() })
    }
}
