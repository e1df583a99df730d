//! The body that creates a response. Parsing validates: every field of a [`Create`] is known, typed, in range and
//! supported.

mod body;
mod fields;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    cache::CacheOptions,
    error::WireError,
    format::{TextConfig, parse_format},
    input::{InputItem, InputMessage, ignored, parse_input},
    metadata::check_metadata,
    prompt::PromptUse,
    read::missing,
    reasoning::Reasoning,
    response::{ServiceTier, Truncation},
    sampling::SamplingOptions,
    tools::{FunctionTool, ToolChoice, Tools, parse_tool_choice, sort_tools},
};

use body::ReasoningBody;
pub use body::{Body, ConversationBody, StopBody, TierBody, Verbosity};
pub use fields::{INCLUDABLE, check_includable, parse_conversation};
use fields::{first_names, parse_bias, parse_include, parse_seed, parse_stop, short};

/// A validated `response.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub model: Option<String>,
    pub input: Vec<InputItem>,
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    /// The conversation of which the response is a turn.
    #[serde(default)]
    pub conversation: Option<String>,
    #[serde(default)]
    pub prompt: Option<PromptUse>,
    /// The messages of the stored prompt. They come after the instructions and before everything else.
    #[serde(default)]
    pub preamble: Vec<InputMessage>,
    #[serde(default)]
    pub cache: CacheOptions,
    pub store: bool,
    /// `true`: the generation runs to its end even if no client follows it.
    #[serde(default)]
    pub background: bool,
    /// An absent option takes the model's default.
    #[serde(flatten)]
    pub sampling: SamplingOptions,
    /// Token id → the number added to the logit of that token.
    pub logit_bias: BTreeMap<u32, f32>,
    pub stop: Vec<String>,
    pub max_output_tokens: Option<u32>,
    pub seed: Option<u64>,
    pub truncation: Truncation,
    #[serde(default)]
    pub service_tier: ServiceTier,
    pub tools: Vec<FunctionTool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub text: TextConfig,
    pub reasoning: Reasoning,
    /// Whether the output has the log-probabilities of the text's tokens.
    pub logprobs: bool,
    /// Number of most likely alternatives with each token.
    pub top_logprobs: u8,
    /// `false`: the server computes and caches the prompt, and generates no output.
    pub generate: bool,
    /// Most function calls in the output; later calls of the model are left out.
    #[serde(default)]
    pub max_tool_calls: Option<u32>,
    /// Parts of the request that the server accepts and ignores, such as `tools[0]: web_search`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub client_request_id: Option<String>,
}

impl Create {
    /// Validates the body of `POST /v1/responses`, or a `response.create` without its `type`.
    pub fn from_value(mut value: Value) -> Result<Self, WireError> {
        let input = value.as_object_mut().and_then(|body| body.remove("input")).filter(|input| !input.is_null());
        let body = Body::from_fields(value)?;
        let input = input.map(parse_input).transpose()?.unwrap_or_default();
        if input.iter().all(|item| matches!(item, InputItem::Ignored(_))) && !body.has_other_input() {
            return Err(missing("input"));
        }
        Self::new(body, input)
    }

    /// Validates all fields except `input`, which the caller has parsed.
    pub fn with_input(fields: Value, input: Vec<InputItem>) -> Result<Self, WireError> {
        Self::new(Body::from_fields(fields)?, input)
    }

    /// Validates the body of `POST /v1/responses/compact`. It has the fields of a response; only those that determine the prompt
    /// have an effect.
    ///
    /// # Errors
    /// `invalid_request`, as for a response.
    pub fn to_compact(value: Value) -> Result<Self, WireError> {
        let create = Self::from_value(value)?;
        if create.conversation.is_some() {
            let message = "A conversation cannot be compacted; send its items as 'input'.";
            return Err(WireError::invalid("conversation", message));
        }
        Ok(create)
    }

    fn new(body: Body, input: Vec<InputItem>) -> Result<Self, WireError> {
        body.check_ranges()?;
        let Tools { functions: tools, ignored: mut all_ignored } = sort_tools(body.tools.unwrap_or_default())?;
        all_ignored.extend(ignored(&input));
        let top_logprobs = body.top_logprobs.unwrap_or(0);
        let conversation = body.conversation.map(parse_conversation).transpose()?;
        if conversation.is_some() && body.previous_response_id.is_some() {
            let message = "Send either 'conversation' or 'previous_response_id', not both.";
            return Err(WireError::invalid("conversation", message));
        }
        if body.background == Some(true) && body.store == Some(false) {
            return Err(WireError::invalid("background", "'background' needs 'store' to be true."));
        }
        let seed = body.seed.map(parse_seed).transpose()?;
        let deterministic = seed.is_some() || body.sampling.temperature == Some(0.0);
        let cache = match body.cache {
            Some(_) if conversation.is_some() => {
                return Err(WireError::invalid("cache", "'cache' cannot be used together with 'conversation'."));
            }
            Some(cache) => CacheOptions::from_value(cache, deterministic)?,
            None if conversation.is_some() => CacheOptions::default(),
            None => CacheOptions::by_default(deterministic),
        };
        Ok(Self {
            model: body.model,
            input,
            instructions: body.instructions,
            previous_response_id: body.previous_response_id,
            conversation,
            prompt: body.prompt.map(PromptUse::from_value).transpose()?,
            preamble: vec![],
            cache,
            store: body.store.unwrap_or(true),
            background: body.background.unwrap_or(false),
            sampling: body.sampling,
            logit_bias: parse_bias(body.logit_bias.unwrap_or_default())?,
            stop: parse_stop(body.stop)?,
            max_output_tokens: body.max_output_tokens,
            seed,
            truncation: body.truncation.unwrap_or_default(),
            tool_choice: parse_tool_choice(body.tool_choice, &tools)?,
            tools,
            service_tier: body.service_tier.unwrap_or_default(),
            parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
            text: match body.text.and_then(|text| text.format) {
                Some(format) => TextConfig { format: parse_format(format)? },
                None => TextConfig::default(),
            },
            reasoning: body.reasoning.map(ReasoningBody::used).unwrap_or_default(),
            logprobs: parse_include(body.include.unwrap_or_default())? || top_logprobs > 0,
            top_logprobs,
            generate: body.generate.unwrap_or(true),
            max_tool_calls: body.max_tool_calls,
            ignored: first_names(all_ignored),
            metadata: check_metadata(body.metadata.unwrap_or_default())?,
            user: short("user", body.user)?,
            safety_identifier: short("safety_identifier", body.safety_identifier)?,
            prompt_cache_key: short("prompt_cache_key", body.prompt_cache_key)?,
            client_request_id: short("client_request_id", body.client_request_id)?,
        })
    }
}
