//! One generation on the real engine.
//!
//! | file | owns |
//! |---|---|
//! | `generation` | a generation from its request to its last delta, through as many engines as it needs |
//! | `token_processor` | from the logits of a step to a delta: sampler, decoder, stop strings, grammar |

pub mod generation;
pub mod token_processor;
