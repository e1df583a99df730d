//! Turns messages into tokens, and tokens into bytes.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use llguidance::toktrie::TokEnv;
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer;

use super::{
    chat_template::{ChatTemplate, Protected, TemplateSource, unique},
    contents::MARK,
    vocabulary::Vocabulary,
};
use crate::engine::{EngineError, Prompt, decoder::TokenBytes};

/// A text with more bytes than this for each token of its bound is counted piece by piece before it is tokenised as a whole.
const BYTES_A_TOKEN: usize = 8;
/// Bytes of such a piece.
const PIECE: usize = 16 << 10;

/// The tokenizer, chat template and vocabulary of one model.
pub struct TextModel {
    pub tokens: Tokens,
    /// For grammars, and for the bytes of single tokens.
    pub vocabulary: TokEnv,
    /// The tokens that end an output, the model's own first.
    pub eos: Vec<u32>,
}

/// The parts of a [`TextModel`].
pub struct Parts {
    /// In the form of a `tokenizer.json`.
    pub tokenizer: Json,
    pub vocabulary: Vocabulary,
    pub source: TemplateSource,
    /// Tokens at the beginning of every prompt, added if the template does not write them; `None`: those that the tokenizer adds.
    pub prefix: Option<Vec<u32>>,
    pub eos: Vec<u32>,
}

/// The tokenizer and the chat template of one model.
pub struct Tokens {
    tokenizer: Tokenizer,
    vocabulary: Arc<Vocabulary>,
    template: ChatTemplate,
    prefix: Vec<u32>,
}

impl TextModel {
    /// # Errors
    /// `Load` if the tokenizer, the template or an end-of-sequence token is missing or malformed.
    pub fn new(parts: Parts) -> Result<Self, EngineError> {
        let Parts { tokenizer, vocabulary, source, prefix, eos } = parts;
        let environment = vocabulary.environment(&eos).map_err(EngineError::Load)?;
        let tokens = Tokens::build(tokenizer, vocabulary, source, prefix)?;
        Ok(Self { tokens, vocabulary: environment, eos })
    }
}

impl Tokens {
    fn build(
        mut content: Json,
        vocabulary: Vocabulary,
        source: TemplateSource,
        prefix: Option<Vec<u32>>,
    ) -> Result<Self, EngineError> {
        let failed = |error: &dyn std::fmt::Display| EngineError::Load(format!("the model's tokenizer: {error}"));
        let added = content.get_mut("added_tokens").and_then(Json::as_array_mut);
        let mut protected = Protected::default();
        for token in added.into_iter().flatten() {
            // Added tokens are matched before the text is normalised, so that marks still break them.
            token["normalized"] = Json::Bool(false);
            let text = token["content"].as_str().unwrap_or_default().to_owned();
            let is_special = token["special"] == Json::Bool(true);
            if is_special { protected.control.push(text) } else { protected.shown.push(text) }
        }
        protected.control = unique(protected.control.iter().map(String::as_str));
        let drop_marks = json!({"type": "Replace", "pattern": {"String": MARK.to_string()}, "content": ""});
        let given = content.get("normalizer").cloned().filter(|normalizer| !normalizer.is_null());
        let normalizers: Vec<Json> = std::iter::once(drop_marks).chain(given).collect();
        content["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
        let bytes = serde_json::to_vec(&content).map_err(|error| failed(&error))?;
        drop(content);
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| failed(&error))?;
        let prefix = match prefix {
            Some(prefix) => prefix,
            None => added_by(&tokenizer).map_err(|error| failed(&error))?,
        };
        let template = ChatTemplate::new(source, &protected)?;
        Ok(Self { tokenizer, vocabulary: Arc::new(vocabulary), template, prefix })
    }

    /// Renders the prompt up to the start of the output, and tokenises it. Clients' text never becomes a control token.
    ///
    /// # Errors
    /// `Template` if the template refuses the messages. `TooLong` if a long prompt has more tokens than its bound; then not all of it
    /// is tokenised.
    pub fn render(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        let text = self.template.render(prompt)?;
        if let Some(most) = prompt.most {
            self.check_length(&text, most)?;
        }
        let mut tokens = self.encode(&text)?;
        if !tokens.starts_with(&self.prefix) {
            tokens.splice(0..0, self.prefix.iter().copied());
        }
        Ok(tokens)
    }

    /// Counts the tokens of a text that is long for its bound, piece by piece, and fails as soon as there are too many.
    fn check_length(&self, text: &str, most: usize) -> Result<(), EngineError> {
        if text.len() / BYTES_A_TOKEN <= most {
            return Ok(());
        }
        let (mut rest, mut count, mut pieces) = (text, 0, 0);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            count += self.encode(piece)?.len();
            pieces += 1;
            rest = after;
            // Each cut may add a few tokens.
            if count > most + 4 * pieces {
                return Err(EngineError::TooLong { tokens: count });
            }
        }
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| EngineError::Template(format!("it cannot be tokenised: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Name → id of each token.
    pub fn vocabulary(&self) -> HashMap<String, u32> {
        self.tokenizer.get_vocab(true)
    }

    /// Ids and names of the control tokens.
    pub fn controls(&self) -> impl Iterator<Item = (u32, &str)> {
        self.vocabulary.controls()
    }

    /// The conversations that the chat template accepts.
    pub fn rules(&self) -> super::messages::MessageRules {
        self.template.rules()
    }

    /// Makes the detokenizer of one generation.
    pub fn bytes(&self) -> Detokenizer {
        Detokenizer(self.vocabulary.clone())
    }

    #[cfg(test)]
    pub fn save(&self, path: &std::path::Path) {
        self.tokenizer.save(path, false).expect("the tokenizer is written");
    }

    #[cfg(test)]
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.encode(text).unwrap_or_default()
    }
}

/// Finds the tokens that a tokenizer puts before every text.
fn added_by(tokenizer: &Tokenizer) -> tokenizers::Result<Vec<u32>> {
    let (with, without) = (tokenizer.encode("a", true)?, tokenizer.encode("a", false)?);
    let (with, without) = (with.get_ids(), without.get_ids());
    let at = with.windows(without.len().max(1)).position(|window| window == without);
    Ok(with[..at.unwrap_or(0)].to_vec())
}

/// Maps a model's tokens to bytes; control tokens have none.
pub struct Detokenizer(Arc<Vocabulary>);

impl TokenBytes for Detokenizer {
    fn bytes(&self, token: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.bytes(token))
    }

    fn pads_first(&self) -> bool {
        self.0.pads_first()
    }
}

#[cfg(test)]
mod tests;
