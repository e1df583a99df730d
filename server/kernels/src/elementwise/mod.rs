//! Norms, activations and rotary embeddings.
