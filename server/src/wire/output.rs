//! The items of an output: messages, function calls, reasoning.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::logprobs::Logprob;

/// An output item.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    Message(OutputMessage),
    FunctionCall(FunctionCall),
    Reasoning(Thought),
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct OutputMessage {
    pub id: String,
    pub status: ItemStatus,
    /// `assistant`
    #[schemars(extend("const" = "assistant"))]
    pub role: &'static str,
    pub content: Vec<OutputText>,
    /// Key-value pairs that the client set, if the client sent this message.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FunctionCall {
    pub id: String,
    pub status: ItemStatus,
    pub call_id: String,
    pub name: String,
    /// JSON, as the model wrote it; complete if the item's status is `completed`.
    pub arguments: String,
    /// The namespace tool that declared the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The reasoning of the model, verbatim.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ReasoningItem")]
pub struct Thought {
    pub id: String,
    pub status: ItemStatus,
    pub summary: Vec<SummaryText>,
}

#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// An `output_text` part.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "OutputTextPart")]
pub struct OutputText {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "output_text"))]
    kind: &'static str,
    pub text: String,
    #[schemars(with = "Vec<Value>")]
    annotations: [Value; 0],
    pub logprobs: Vec<Logprob>,
}

/// A `summary_text` part.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "SummaryTextPart")]
pub struct SummaryText {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "summary_text"))]
    kind: &'static str,
    pub text: String,
}

impl OutputText {
    pub fn new(text: String, logprobs: Vec<Logprob>) -> Self {
        Self { kind: "output_text", text, annotations: [], logprobs }
    }
}

impl SummaryText {
    pub fn new(text: String) -> Self {
        Self { kind: "summary_text", text }
    }
}
