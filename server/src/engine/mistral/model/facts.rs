//! What a model's files say about it, of whatever kind they are.

use crate::wire::sampling::SamplingOptions;

pub struct Facts {
    /// Tokens that prompt and output may take together.
    pub context_length: u32,
    /// Numbers in the key of a head.
    pub head_size: usize,
    /// Numbers in the keys and values of a token.
    pub kv_elements_per_token: u64,
    /// The type most of the weights have, such as `Q8_0`.
    pub quantisation: String,
    /// The chat template.
    pub template: String,
    /// What the model's authors recommend.
    pub sampling: SamplingOptions,
    pub adapters: Vec<String>,
}
