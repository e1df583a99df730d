//! The stored part of a request: all fields that are needed after the response was created.
//!
//! The fields and their names belong to the store. They are in every stored header, and a change of the request's type does not
//! change them. Nouns of the Responses API (items, tools, formats) are stored in the form of the wire.
//!
//! A new field MUST have a default, for headers that lack it. A field MUST NOT be removed unless it had a default in the previous
//! version, because replicas of that version read the headers of this one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::{
    format::TextConfig,
    input::{InputItem, InputMessage},
    prompt::PromptUse,
    reasoning::Reasoning,
    request::Create,
    response::{ServiceTier, Truncation},
    sampling::SamplingOptions,
    tools::{FunctionTool, ToolChoice},
};

/// The stored part of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationSpec {
    /// The input items. A waiting turn of a conversation renders its prompt from them when its turn comes.
    pub input: Vec<InputItem>,
    pub instructions: Option<String>,
    /// The response that this one continues.
    pub previous_response_id: Option<String>,
    /// The conversation that this is a turn of.
    #[serde(default)]
    pub conversation: Option<String>,
    /// The stored prompt that was used, with its version.
    #[serde(default)]
    pub prompt: Option<PromptUse>,
    /// The messages of the stored prompt, which stand after the instructions and before all other items.
    #[serde(default)]
    pub preamble: Vec<InputMessage>,
    /// `true`: the response is stored for the tenant's retention; `false`: for the resume window.
    pub store: bool,
    /// `true`: the generation runs to its end even if no client follows it.
    #[serde(default)]
    pub background: bool,
    /// The parameters of sampling; absent fields have taken the model's defaults.
    #[serde(flatten)]
    pub sampling: SamplingOptions,
    /// Token id → the number added to the logit of that token.
    pub logit_bias: BTreeMap<u32, f32>,
    pub stop: Vec<String>,
    /// The bound of the request. [`Header::max_output_tokens`](super::Header::max_output_tokens) is the bound that applies.
    pub max_output_tokens: Option<u32>,
    /// The seed of the request. [`Header::seed`](super::Header::seed) is the seed that is used.
    pub seed: Option<u64>,
    pub truncation: Truncation,
    #[serde(default)]
    pub service_tier: ServiceTier,
    pub tools: Vec<FunctionTool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub text: TextConfig,
    pub reasoning: Reasoning,
    /// `true`: the output includes the log-probabilities of its tokens.
    pub logprobs: bool,
    /// The number of likeliest tokens that come with each token.
    pub top_logprobs: u8,
    /// `false`: the engine computes and caches the prompt, and generates nothing.
    pub generate: bool,
    /// The maximum of function calls in the output. Further calls of the model are left out.
    #[serde(default)]
    pub max_tool_calls: Option<u32>,
    /// Parts of the request that the server accepts and ignores, such as `tools[0]: web_search`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    /// Makes creates idempotent: all creates of a tenant with the same id return one response.
    pub client_request_id: Option<String>,
}

impl GenerationSpec {
    /// Returns the functions that the model may call.
    pub fn callable(&self) -> impl Iterator<Item = &FunctionTool> {
        self.tools.iter().filter(|tool| self.tool_choice.allows(&tool.name))
    }
}

/// Takes all fields except those that only the creation needs. Names every field, so that a new field of the request does not
/// compile until somebody decides whether it is stored.
impl From<Create> for GenerationSpec {
    fn from(create: Create) -> Self {
        let Create {
            // The header has the model's id.
            model: _,
            // Only the creation uses the cache options.
            cache: _,
            input,
            instructions,
            previous_response_id,
            conversation,
            prompt,
            preamble,
            store,
            background,
            sampling,
            logit_bias,
            stop,
            max_output_tokens,
            seed,
            truncation,
            service_tier,
            tools,
            tool_choice,
            parallel_tool_calls,
            text,
            reasoning,
            logprobs,
            top_logprobs,
            generate,
            max_tool_calls,
            ignored,
            metadata,
            user,
            safety_identifier,
            prompt_cache_key,
            client_request_id,
        } = create;
        Self {
            input,
            instructions,
            previous_response_id,
            conversation,
            prompt,
            preamble,
            store,
            background,
            sampling,
            logit_bias,
            stop,
            max_output_tokens,
            seed,
            truncation,
            service_tier,
            tools,
            tool_choice,
            parallel_tool_calls,
            text,
            reasoning,
            logprobs,
            top_logprobs,
            generate,
            max_tool_calls,
            ignored,
            metadata,
            user,
            safety_identifier,
            prompt_cache_key,
            client_request_id,
        }
    }
}
