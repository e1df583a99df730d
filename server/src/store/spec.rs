//! What a response was asked to be, as far as anybody needs it after the response was created.
//!
//! The set of fields and their names are the store's: they are in every stored header, and a change of the request's type does
//! not change them. Values that are nouns of the Responses API (items, tools, formats) are stored as they are on the wire.
//!
//! A field that is added MUST have a default for headers that lack it. A field MUST NOT be removed unless it had a default in
//! the version before: replicas of that version read what this one writes.

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationSpec {
    /// What was asked. A turn of a conversation that waits renders its prompt when its turn comes.
    pub input: Vec<InputItem>,
    pub instructions: Option<String>,
    /// The response that this one continues, for responses that continue this one.
    pub previous_response_id: Option<String>,
    /// The conversation that this is a turn of.
    #[serde(default)]
    pub conversation: Option<String>,
    /// The stored prompt that was used, with its version.
    #[serde(default)]
    pub prompt: Option<PromptUse>,
    /// What the stored prompt says before everything else but the instructions.
    #[serde(default)]
    pub preamble: Vec<InputMessage>,
    /// Whether the response is stored for longer than the resume window.
    pub store: bool,
    /// Whether the generation goes on to its end without followers.
    #[serde(default)]
    pub background: bool,
    /// Completed by the defaults of the model.
    #[serde(flatten)]
    pub sampling: SamplingOptions,
    /// Token id → what is added to its logit.
    pub logit_bias: BTreeMap<u32, f32>,
    pub stop: Vec<String>,
    /// The bound of the request. The header has the bound that holds.
    pub max_output_tokens: Option<u32>,
    /// The seed of the request. The header has the seed that was used.
    pub seed: Option<u64>,
    pub truncation: Truncation,
    #[serde(default)]
    pub service_tier: ServiceTier,
    pub tools: Vec<FunctionTool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub text: TextConfig,
    pub reasoning: Reasoning,
    /// Whether the log-probabilities of the text's tokens were asked for.
    pub logprobs: bool,
    /// How many of the likeliest tokens come with each.
    pub top_logprobs: u8,
    /// `false`: the prompt is computed and cached, and nothing is generated.
    pub generate: bool,
    /// Calls of functions that the output may have; the model's further calls are left out.
    #[serde(default)]
    pub max_tool_calls: Option<u32>,
    /// What of the request was taken and does nothing, such as `tools[0]: web_search`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    /// Two creates of a tenant with one id are one response.
    pub client_request_id: Option<String>,
}

impl GenerationSpec {
    /// The functions that may be called.
    pub fn callable(&self) -> impl Iterator<Item = &FunctionTool> {
        self.tools.iter().filter(|tool| self.tool_choice.allows(&tool.name))
    }
}

/// All of a request but what only its creation needs. Names every field, so that one that is new in a request is decided upon.
impl From<Create> for GenerationSpec {
    fn from(create: Create) -> Self {
        let Create {
            // The header has the model's id.
            model: _,
            // Which log answers the request is decided when it is created.
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
