//! Log-probabilities of tokens, in the shape of both APIs.

use schemars::JsonSchema;
use serde::Serialize;

/// A token of the output and the most likely tokens at its position.
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
