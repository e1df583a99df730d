//! One generation on the real engine.

pub mod generation;
pub mod token_processor;
