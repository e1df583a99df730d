//! The text side of an engine: messages to tokens, tokens to text, and outputs that are held to a grammar. Nothing here
//! computes a model, and nothing here names mistral.rs, so all of it builds and tests without the engine.
//!
//! | folder | owns |
//! |---|---|
//! | `model` | what a model's files say about text: vocabulary, tokenizer, chat template |
//! | `constrained` | outputs held to a grammar: compiling it, masking tokens, completing an output that must end |

pub mod constrained;
pub mod model;
