//! The tokens of a model.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// Begins the name of a control token in a trie: no UTF-8 text has this byte.
const NAME: u8 = 0xff;

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A token that stands for these bytes, which may be a part of a character.
    Text(Box<[u8]>),
    /// A token that is never shown, with its name.
    Control(Box<str>),
}

/// All tokens of a model, by their ids.
#[derive(Debug, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<Token>,
    /// The first token of a text begins with a space that is not part of the text.
    pads_first: bool,
}

impl Vocabulary {
    pub fn new(tokens: Vec<Token>, pads_first: bool) -> Self {
        Self { tokens, pads_first }
    }

    /// The bytes that a token stands for; empty for control tokens and unknown ids.
    pub fn bytes(&self, token: u32) -> &[u8] {
        match self.tokens.get(token as usize) {
            Some(Token::Text(bytes)) => bytes,
            Some(Token::Control(_)) | None => &[],
        }
    }

    pub fn pads_first(&self) -> bool {
        self.pads_first
    }

    /// Ids and names of the control tokens.
    pub fn controls(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(&self.tokens).filter_map(|(id, token)| match token {
            Token::Control(name) => Some((id, &**name)),
            Token::Text(_) => None,
        })
    }

    /// The id of the control token of that name.
    pub fn control(&self, name: &str) -> Option<u32> {
        self.controls().find(|(_, other)| *other == name).map(|(id, _)| id)
    }

    /// Makes the vocabulary for grammars. `eos`: the tokens that end an output, the main one first.
    ///
    /// # Errors
    /// `eos` is empty.
    pub fn environment(&self, eos: &[u32]) -> Result<TokEnv, String> {
        let last = eos.first().ok_or("the model has no end-of-sequence token")?;
        let named = |token: &Token| match token {
            Token::Text(bytes) => bytes.to_vec(),
            Token::Control(name) => [&[NAME], name.as_bytes()].concat(),
        };
        let bytes: Vec<Vec<u8>> = self.tokens.iter().map(named).collect();
        let trie = TokTrie::from(&TokRxInfo::new(bytes.len() as u32, *last), &bytes);
        Ok(Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(eos))))
    }
}
