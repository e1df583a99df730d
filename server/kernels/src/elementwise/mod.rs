//! Norms, activations and rotary embeddings.

pub(crate) mod lanes;
pub(crate) mod math;
