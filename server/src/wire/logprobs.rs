//! Log-probabilities of tokens, in the shape that both APIs have.

use schemars::JsonSchema;
use serde::Serialize;

/// A token of the output and the likeliest at its place.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Logprob {
    #[serde(flatten)]
    pub token: TokenLogprob,
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}
