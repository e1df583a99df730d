//! The text side of an engine: messages to tokens, tokens to text, and outputs constrained by a grammar. This module computes no model
//! and does not name mistral.rs, so it builds and tests without the real engine.
//!
//! | folder | owns |
//! |---|---|
//! | `model` | the parts of a model's files about text: vocabulary, tokenizer, chat template |
//! | `constrained` | outputs constrained by a grammar: compiling the grammar, masking tokens, completing an output at its bound |

pub mod constrained;
pub mod model;
