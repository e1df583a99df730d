//! The body of a request before validation: every field that a client may send, with its type and its schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::{
    cache::CacheBody,
    contract::rules::{bias, given, not_together},
    error::WireError,
    format::Format,
    input::{InputBody, something_said},
    metadata::metadata_value,
    prompt::UseBody,
    read::read,
    reasoning::{Effort, Reasoning, Summary},
    response::{ServiceTier, Truncation},
    sampling::SamplingOptions,
    tools::{ToolBody, ToolChoice},
};

use super::fields::{INCLUDABLE, MAX_TOP_LOGPROBS, NamedConversation, in_range, out_of_range};

/// The body of `POST /v1/responses`, and of `response.create`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResponseCreateParams", extend("allOf" = rules()))]
pub struct Body {
    /// Text or items, see [`InputBody`]. Parsed before the other fields.
    #[serde(rename = "input")]
    #[schemars(
        with = "Option<InputBody>",
        description = "Required, unless the request has other input: a history, a stored prompt, or instructions with `generate: false`."
    )]
    pub(super) _input: Option<Value>,
    /// An id or alias of `GET /v1/models`. Default: the first model.
    pub(super) model: Option<String>,
    pub(super) instructions: Option<String>,
    /// The id of the response to continue. Not allowed together with `conversation`.
    pub(super) previous_response_id: Option<String>,
    /// The conversation to continue. The server adds the input and the output to it.
    #[schemars(with = "Option<ConversationBody>")]
    pub(super) conversation: Option<Value>,
    /// Whether the server stores the response for `GET /v1/responses/{id}` and `previous_response_id`. Default `true`.
    pub(super) store: Option<bool>,
    // Parsed apart from the other fields, so that an error names the option.
    #[serde(skip)]
    #[schemars(!skip, flatten)]
    pub(super) sampling: SamplingOptions,
    /// Token id → the number added to the logit of that token, from -100 to 100.
    #[schemars(extend("maxProperties" = 300, "propertyNames" = {"pattern": "^[0-9]{1,9}$"}, "additionalProperties" = bias()))]
    pub(super) logit_bias: Option<BTreeMap<String, f32>>,
    /// The output ends before the first occurrence of one of these strings.
    #[schemars(with = "Option<StopBody>")]
    pub(super) stop: Option<Value>,
    #[schemars(range(min = 1))]
    pub(super) max_output_tokens: Option<u32>,
    /// Most function calls in the output.
    #[schemars(range(min = 1))]
    pub(super) max_tool_calls: Option<u32>,
    /// The same seed and request give the same text. A signed or unsigned 64-bit number.
    #[schemars(with = "Option<i128>", extend("type" = ["integer", "null"], "minimum" = i64::MIN, "maximum" = u64::MAX))]
    pub(super) seed: Option<Value>,
    pub(super) truncation: Option<Truncation>,
    pub(super) parallel_tool_calls: Option<bool>,
    /// Up to 16 pairs, keys of 64 characters, values of 512.
    #[schemars(extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    pub(super) metadata: Option<BTreeMap<String, String>>,
    #[schemars(length(min = 1, max = 256))]
    pub(super) user: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    pub(super) safety_identifier: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    pub(super) prompt_cache_key: Option<String>,
    /// Makes the request idempotent: a second request with the same id follows the response of the first, from the first
    /// event.
    #[schemars(length(min = 1, max = 256))]
    pub(super) client_request_id: Option<String>,
    /// Number of alternatives of each token of the text, in `logprobs`.
    #[schemars(range(max = 20))]
    pub(super) top_logprobs: Option<u8>,
    /// `message.output_text.logprobs` adds log-probabilities of the chosen tokens. The other values have no effect.
    #[schemars(extend("items" = {"type": "string", "enum": INCLUDABLE}))]
    pub(super) include: Option<Vec<String>>,
    #[schemars(with = "Option<Vec<ToolBody>>")]
    pub(super) tools: Option<Vec<Value>>,
    #[schemars(with = "Option<ToolChoice>")]
    pub(super) tool_choice: Option<Value>,
    pub(super) text: Option<Text>,
    pub(super) reasoning: Option<ReasoningBody>,
    #[schemars(with = "Option<UseBody>")]
    pub(super) prompt: Option<Value>,
    #[schemars(with = "Option<CacheBody>")]
    pub(super) cache: Option<Value>,
    /// `false`: the server computes and caches the prompt, for later requests with the same beginning, and generates no output.
    pub(super) generate: Option<bool>,
    /// The priority of the request in the queue.
    #[schemars(with = "Option<TierBody>")]
    pub(super) service_tier: Option<ServiceTier>,
    /// Over HTTP, `true`: the server answers at once, and the generation continues without followers.
    pub(super) background: Option<bool>,
    // The route decides whether events are streamed.
    #[serde(rename = "stream")]
    #[schemars(with = "Option<bool>")]
    pub(super) _stream: Option<Value>,
    #[serde(rename = "stream_options")]
    pub(super) _stream_options: Option<Value>,
    // Hints and telemetry, which have no effect.
    #[serde(rename = "client_metadata")]
    pub(super) _client_metadata: Option<Value>,
    #[serde(rename = "prompt_cache_retention")]
    pub(super) _prompt_cache_retention: Option<Value>,
    #[serde(rename = "prompt_cache_options")]
    pub(super) _prompt_cache_options: Option<Value>,
    #[serde(rename = "background_options")]
    pub(super) _background_options: Option<Value>,
    #[serde(rename = "access_programs")]
    pub(super) _access_programs: Option<Value>,
    #[serde(rename = "image")]
    pub(super) _image: Option<Value>,
}

/// Returns the schema rules between fields: the request has input, and at most one field names a history.
fn rules() -> serde_json::Value {
    let warm_up = json!({"allOf": [given("instructions"), {"required": ["generate"], "properties": {"generate": {"const": false}}}]});
    json!([
        {"anyOf": [something_said(), given("previous_response_id"), given("conversation"), given("prompt"), warm_up]},
        not_together("conversation", "previous_response_id"),
        not_together("conversation", "cache"),
    ])
}

// Schemas of the fields that are parsed by hand. These types have no values.

/// An id, or an object with the id.
#[allow(dead_code, private_interfaces)]
#[derive(JsonSchema)]
#[schemars(rename = "ConversationParam")]
#[serde(untagged)]
pub enum ConversationBody {
    Id(#[schemars(length(min = 1, max = 256))] String),
    Named(NamedConversation),
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "Stop")]
#[serde(untagged)]
pub enum StopBody {
    One(#[schemars(length(min = 1, max = 256))] String),
    #[schemars(extend("maxItems" = 16, "items" = {"type": "string", "minLength": 1, "maxLength": 256}))]
    Many(Vec<String>),
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ServiceTierParam")]
#[serde(rename_all = "lowercase")]
pub enum TierBody {
    Auto,
    Default,
    Priority,
    Flex,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TextOptions")]
pub(super) struct Text {
    /// The format of the text. The server enforces it token by token.
    #[schemars(with = "Option<Format>")]
    pub(super) format: Option<Value>,
    /// A hint, which has no effect.
    #[serde(rename = "verbosity")]
    pub(super) _verbosity: Option<Verbosity>,
}

/// The desired length of the answer.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    Low,
    Medium,
    High,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReasoningOptions")]
pub(super) struct ReasoningBody {
    pub(super) effort: Option<Effort>,
    pub(super) summary: Option<Summary>,
    /// The older name of `summary`.
    pub(super) generate_summary: Option<Summary>,
    // Hints, which have no effect.
    #[serde(rename = "context")]
    pub(super) _context: Option<Value>,
    #[serde(rename = "mode")]
    pub(super) _mode: Option<Value>,
}

impl ReasoningBody {
    pub(super) fn used(self) -> Reasoning {
        Reasoning { effort: self.effort, summary: self.summary.or(self.generate_summary) }
    }
}

impl Body {
    /// Parses the fields of a request.
    pub(super) fn from_fields(mut fields: Value) -> Result<Self, WireError> {
        let sampling = SamplingOptions::take(&mut fields);
        let body: Self = read(fields)?;
        Ok(Self { sampling: read(sampling.into())?, ..body })
    }

    /// Returns whether a request without `input` has other input: a history, a stored prompt, or instructions that are only
    /// computed and cached.
    pub(super) fn has_other_input(&self) -> bool {
        self.previous_response_id.is_some()
            || self.conversation.is_some()
            || self.prompt.is_some()
            || self.generate == Some(false) && self.instructions.is_some()
    }

    pub(super) fn check_ranges(&self) -> Result<(), WireError> {
        if let Some((name, range)) = self.sampling.out_of_range() {
            return Err(out_of_range(name, range));
        }
        in_range("top_logprobs", self.top_logprobs, "from 0 to 20", |n| n <= MAX_TOP_LOGPROBS)?;
        in_range("max_tool_calls", self.max_tool_calls, "at least 1", |n| n >= 1)?;
        in_range("max_output_tokens", self.max_output_tokens, "at least 1", |n| n >= 1)
    }
}
