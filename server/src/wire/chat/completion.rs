//! The answers: a completion, or its chunks.

use schemars::JsonSchema;
use serde::Serialize;

use crate::wire::{
    logprobs::Logprob,
    response::{InputTokensDetails, OutputTokensDetails, ServiceTier, Usage},
};

/// A chunk of a streamed completion.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChunk")]
pub struct Chunk {
    pub id: String,
    #[schemars(extend("const" = "chat.completion.chunk"))]
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChunkChoice>,
    pub service_tier: ServiceTier,
    /// Absent unless the request asks for usage; then null in all chunks except the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ChatUsage>")]
    pub usage: Option<Option<ChatUsage>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChunkChoice")]
pub struct ChunkChoice {
    pub index: u32,
    pub delta: Delta,
    #[schemars(extend("enum" = ["stop", "length", "tool_calls", null]))]
    pub finish_reason: Option<&'static str>,
    pub logprobs: Option<ChoiceLogprobs>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatDelta")]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The reasoning of the model, in the field that clients of reasoning models read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// A part of a call. The first part of a call has `id`, `type` and the name; the later parts have a piece of the arguments.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatToolCallDelta")]
pub struct ToolCallDelta {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["function"]))]
    pub kind: Option<&'static str>,
    pub function: FunctionDelta,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatFunctionDelta")]
pub struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

/// A whole completion.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletion")]
pub struct Completion {
    pub id: String,
    #[schemars(extend("const" = "chat.completion"))]
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Option<ChatUsage>,
    pub service_tier: ServiceTier,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatChoice")]
pub struct Choice {
    pub index: u32,
    pub message: Message,
    #[schemars(extend("enum" = ["stop", "length", "tool_calls"]))]
    pub finish_reason: &'static str,
    pub logprobs: Option<ChoiceLogprobs>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatMessage")]
pub struct Message {
    #[schemars(extend("const" = "assistant"))]
    pub role: &'static str,
    /// Null if the message has calls and no text.
    pub content: Option<String>,
    pub refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatToolCall")]
pub struct ToolCall {
    pub id: String,
    #[serde(rename = "type")]
    #[schemars(extend("const" = "function"))]
    pub kind: &'static str,
    pub function: FunctionCall,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatFunctionCall")]
pub struct FunctionCall {
    pub name: String,
    pub arguments: String,
}

/// `{content: […], refusal: null}`
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChatLogprobs")]
pub struct ChoiceLogprobs {
    content: Vec<Logprob>,
    refusal: Option<()>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct ChatUsage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
    pub prompt_tokens_details: InputTokensDetails,
    pub completion_tokens_details: OutputTokensDetails,
}

impl ChoiceLogprobs {
    /// Returns `None` if there are no log-probabilities.
    pub fn of(content: Vec<Logprob>) -> Option<Self> {
        (!content.is_empty()).then_some(Self { content, refusal: None })
    }
}

impl ToolCall {
    pub fn new(id: String, name: String, arguments: String) -> Self {
        Self { id, kind: "function", function: FunctionCall { name, arguments } }
    }
}

impl ChatUsage {
    /// Adds the usage of another choice of the same prompt. The prompt counts once.
    pub fn together(mut self, other: Self) -> Self {
        self.completion_tokens += other.completion_tokens;
        self.completion_tokens_details.reasoning_tokens += other.completion_tokens_details.reasoning_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        self
    }
}

impl From<Usage> for ChatUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens,
            prompt_tokens_details: usage.input_tokens_details,
            completion_tokens_details: usage.output_tokens_details,
        }
    }
}
