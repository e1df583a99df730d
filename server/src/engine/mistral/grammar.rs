//! The vocabulary that mistral.rs made of a model's tokenizer, for [`Grammars`].

use std::sync::Arc;

use mistralrs_core::llguidance::toktrie::{TokEnv, TokEnvWithTrie, TokTrie};
use tokenizers::Tokenizer;

pub use crate::engine::text::constrained::{Grammars, Held, Pushed};

/// The engine's vocabulary, with the tokens that end the model's reply, and with the characters of every token whose text is
/// shown: the engine takes all that are named `<like this>` for special.
pub fn vocabulary(env: &TokEnv, tokenizer: &Tokenizer, eos: &[u32]) -> TokEnv {
    let trie = env.tok_trie();
    let mut bytes: Vec<Vec<u8>> = (0..trie.vocab_size() as u32).map(|token| trie.token(token).to_vec()).collect();
    for (id, token) in tokenizer.get_added_tokens_decoder().into_iter().filter(|(_, token)| !token.special) {
        if let Some(bytes) = bytes.get_mut(id as usize) {
            *bytes = token.content.into_bytes();
        }
    }
    let trie = TokTrie::from(trie.info(), &bytes).with_eos_tokens(eos);
    Arc::new(TokEnvWithTrie::new(env.clone(), trie))
}
