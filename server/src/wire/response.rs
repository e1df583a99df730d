//! The response object.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    format::TextConfig,
    output::OutputItem,
    prompt::PromptUse,
    reasoning::Reasoning,
    tools::{FunctionTool, ToolChoice},
};

/// The state of a response.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "ResponseStatus")]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    /// A background response that was cancelled. Any other cancelled response is `incomplete`.
    Cancelled,
    Failed,
}

/// The response object. A field without a value is null, not absent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ResponseObject")]
pub struct Response {
    pub id: String,
    #[schemars(extend("const" = "response"))]
    pub object: &'static str,
    pub created_at: u64,
    pub completed_at: Option<u64>,
    pub status: Status,
    pub incomplete_details: Option<IncompleteDetails>,
    pub model: String,
    pub previous_response_id: Option<String>,
    pub conversation: Option<ConversationId>,
    pub prompt: Option<PromptUse>,
    pub instructions: Option<String>,
    pub output: Vec<OutputItem>,
    pub error: Option<ResponseError>,
    pub tools: Vec<FunctionTool>,
    pub tool_choice: ToolChoice,
    pub truncation: Truncation,
    /// An extension. Present only if turns were left out of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_details: Option<TruncationDetails>,
    pub parallel_tool_calls: bool,
    pub text: TextConfig,
    pub top_p: f32,
    pub temperature: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub top_logprobs: u8,
    pub reasoning: Reasoning,
    pub usage: Option<Usage>,
    pub max_output_tokens: Option<u32>,
    pub max_tool_calls: Option<u32>,
    pub store: bool,
    pub background: bool,
    pub service_tier: ServiceTier,
    pub metadata: BTreeMap<String, String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    Auto,
    #[default]
    Disabled,
}

/// The priority of a request, highest first. `auto` is read as `default`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    Priority,
    #[default]
    #[serde(alias = "auto")]
    Default,
    Flex,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ConversationReference")]
pub struct ConversationId {
    pub id: String,
}

/// What `truncation: auto` left out of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TruncationDetails {
    /// Number of whole turns that were left out, from the oldest on.
    pub dropped_turns: u32,
}

/// Why a response is incomplete: `max_output_tokens`, `cancelled` or `steered`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct IncompleteDetails {
    #[schemars(extend("enum" = ["max_output_tokens", "cancelled", "steered"]))]
    pub reason: &'static str,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ResponseError {
    pub code: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub input_tokens: u32,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u32,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputTokensDetails {
    pub cached_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputTokensDetails {
    pub reasoning_tokens: u32,
}
