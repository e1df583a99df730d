//! The properties of a model that its files give, whether GGUF or safetensors.

use crate::wire::sampling::SamplingOptions;

pub struct Facts {
    /// The most tokens that prompt and output may take together.
    pub context_length: u32,
    /// Numbers in the key of a head.
    pub head_size: usize,
    /// Numbers in the keys and values of a token.
    pub kv_elements_per_token: u64,
    /// The type of most of the weights, such as `Q8_0`.
    pub quantisation: String,
    /// The chat template.
    pub template: String,
    /// The options that the model's authors recommend.
    pub sampling: SamplingOptions,
    /// The LoRA adapters that are merged in, as `engine.models` names them.
    pub adapters: Vec<String>,
}
