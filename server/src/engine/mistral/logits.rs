//! What the model said at the first tokens of an output, kept so that a prompt that is asked again need not be computed
//! again: the engine takes no prompt that lies wholly inside one it has, and would read it from its first token. A reply that
//! is sampled anew soon leaves the words of the old one, and from there on the engine finds all that came before.

use std::sync::Arc;

/// Tokens of an output whose logits are kept.
const MAX: usize = 16;

/// The logits of one step, as the model gave them.
pub type Logits = Arc<[f32]>;

/// The logits after a prompt and after each of the first tokens of its output.
#[derive(Clone, Default)]
pub struct FirstLogits {
    /// Tokens of the prompt.
    after: usize,
    steps: Vec<Logits>,
}

impl FirstLogits {
    pub fn of_prompt(tokens: usize) -> Self {
        Self { after: tokens, steps: Vec::new() }
    }

    /// Keeps those that choose the token at `position` of the output, where it is the next of the first.
    pub fn keep(&mut self, position: u64, logits: impl FnOnce() -> Logits) {
        if self.steps.len() < MAX && self.steps.len() as u64 == position {
            self.steps.push(logits());
        }
    }

    /// Those that choose the token after the first `tokens` of the sequence.
    pub fn after(&self, tokens: usize) -> Option<&Logits> {
        self.steps.get(tokens.checked_sub(self.after)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Logits> {
        self.steps.iter()
    }
}
