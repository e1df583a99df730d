//! Completions of outputs are in `engine::text::constrained::completion`.
