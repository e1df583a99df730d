//! Small objects of HTTP answers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    compaction::CompactionItem, error::ErrorBody, input::InputRole, response::Usage, sampling::SamplingOptions,
};

/// A page of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    #[schemars(extend("const" = "list"))]
    pub object: &'static str,
    pub data: Vec<T>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Deleted<'a> {
    pub id: &'a str,
    #[schemars(extend("enum" = ["response", "conversation.deleted", "prompt.deleted"]))]
    pub object: &'static str,
    #[schemars(extend("const" = true))]
    pub deleted: bool,
}

/// The number of tokens of a prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InputTokens {
    #[schemars(extend("const" = "response.input_tokens"))]
    pub object: &'static str,
    pub input_tokens: usize,
}

/// The answer of `POST /v1/responses/compact`: one item that summarises the input.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Compaction")]
pub struct Compacted {
    pub id: String,
    /// `response.compaction`
    #[schemars(extend("const" = "response.compaction"))]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: u64,
    pub output: [CompactionItem; 1],
    pub usage: Option<Usage>,
}

/// One version of a stored prompt. A request names it with `prompt: {id, version, variables}`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StoredPrompt")]
pub struct PromptObject {
    pub id: String,
    #[schemars(extend("const" = "prompt"))]
    pub object: &'static str,
    pub version: String,
    /// Unix seconds.
    pub created_at: u64,
    pub name: Option<String>,
    pub instructions: Option<String>,
    pub messages: Vec<PromptMessage>,
    pub variables: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct PromptMessage {
    pub role: InputRole,
    pub content: String,
}

/// The models that are served, the default first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ModelList")]
pub struct ModelList<'a> {
    #[schemars(extend("const" = "list"))]
    pub object: &'static str,
    pub data: Vec<ModelObject<'a>>,
}

/// A model that is served.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Model")]
pub struct ModelObject<'a> {
    pub id: &'a str,
    #[schemars(extend("const" = "model"))]
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    pub owned_by: &'static str,
    /// Other names of the model.
    pub aliases: &'a [String],
    /// Most tokens of prompt and output together.
    pub context_length: u32,
    pub quantisation: Option<&'a str>,
    /// LoRA adapters that the model includes.
    pub adapters: &'a [String],
    /// The sampling options of a request that sets none.
    pub sampling: SamplingOptions,
    pub capabilities: Capabilities,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ModelCapabilities")]
pub struct Capabilities {
    pub structured_output: bool,
    pub logprobs: bool,
    /// `template`: the model's chat template describes the tools to the model. `prompt`: a prompt of the server does.
    #[schemars(extend("enum" = ["template", "prompt"]))]
    pub tools: &'static str,
    /// `true`: the model reasons before it answers.
    pub reasoning: bool,
}

/// The answer of `GET /readyz`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Readiness<'a> {
    /// `ready`, `loading`, `draining`, or the reason why the store cannot be reached.
    pub status: &'a str,
    pub models: Vec<LoadedModel>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct LoadedModel {
    pub id: String,
    pub loaded: bool,
}

/// Counts of the prompt cache on this replica since its start, and the size of each tenant's cache on all replicas.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PromptCacheReport {
    #[schemars(extend("const" = "prompt_cache"))]
    pub object: &'static str,
    pub hits: u64,
    pub joined: u64,
    pub misses: u64,
    pub in_flight: usize,
    pub tenants: BTreeMap<String, TenantCache>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct TenantCache {
    pub bytes: u64,
    pub evicted: u64,
}

/// A model before and after a reload of its files.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReloadedModel")]
pub struct ReloadReport {
    pub id: String,
    #[schemars(extend("const" = "model.reloaded"))]
    pub object: &'static str,
    pub old: ModelOutline,
    pub new: ModelOutline,
    pub took_ms: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ModelOutline {
    pub created: u64,
    pub quantisation: Option<String>,
    pub context_length: u32,
}

/// The body of an error answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorAnswer<'a> {
    pub error: ErrorBody<'a>,
}
