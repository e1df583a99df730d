//! The text side of a model that mistral.rs has loaded.

use std::sync::Arc;

use mistralrs_core::ChatTemplate;
use tokenizers::Tokenizer;

pub use crate::engine::text::model::{Detokenizer, Tokens};
use crate::engine::{
    EngineError,
    text::model::{TemplateSource, TextModel},
};

impl Tokens {
    /// By the tokenizer and the template that the engine made of the model's files.
    ///
    /// # Errors
    /// `Load` where the model has no chat template, or one that does not compile.
    pub fn new(tokenizer: Arc<Tokenizer>, chat: &ChatTemplate) -> Result<Self, EngineError> {
        let template = source(chat).ok_or_else(|| {
            EngineError::Load(
                "the model has no chat template, so messages cannot be rendered for it: use an instruction-tuned model"
                    .into(),
            )
        })?;
        let failed = |error: &dyn std::fmt::Display| EngineError::Load(format!("the model's tokenizer: {error}"));
        let content = tokenizer.to_string(false).map_err(|error| failed(&error))?;
        let content = serde_json::from_str(&content).map_err(|error| failed(&error))?;
        let source = TemplateSource { template, bos: chat.bos_tok(), eos: chat.eos_tok(), unk: chat.unk_tok() };
        TextModel::of_json(content, source, vec![]).map(|model| model.tokens).map_err(EngineError::Load)
    }
}

/// The template's text; of several by name, the one without tools.
pub(super) fn source(chat: &ChatTemplate) -> Option<String> {
    match chat.chat_template.as_ref()?.0.as_ref() {
        either::Either::Left(one) => Some(one.clone()),
        either::Either::Right(named) => named.iter().find_map(|entry| match entry.get("name") {
            Some(name) if name == "default" => entry.get("template").cloned(),
            Some(_) => None,
            None => entry.get("default").cloned(),
        }),
    }
}
