//! Chat completions, which today's chat UIs still speak: the request, read as a [`Create`], and the answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    error::WireError,
    read::read,
    request::Create,
    response::{ServiceTier, Usage},
};

/// A validated chat completion request.
#[derive(Debug)]
pub struct ChatRequest {
    pub create: Create,
    pub stream: bool,
    pub include_usage: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    messages: Vec<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    n: Option<u32>,
    presence_penalty: Option<Value>,
    frequency_penalty: Option<Value>,
    repetition_penalty: Option<Value>,
    logit_bias: Option<Value>,
    logprobs: Option<bool>,
    response_format: Option<ResponseFormat>,
    model: Option<Value>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    top_k: Option<Value>,
    min_p: Option<Value>,
    top_logprobs: Option<Value>,
    stop: Option<Value>,
    seed: Option<Value>,
    store: Option<bool>,
    metadata: Option<Value>,
    user: Option<Value>,
    safety_identifier: Option<Value>,
    prompt_cache_key: Option<Value>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<Value>,
    service_tier: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

impl ChatRequest {
    /// Validates a body. What both APIs have is validated as in `POST /v1/responses`, under the name it has here.
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        let body: Body = read(value)?;
        let refused = [
            ("n", body.n.is_some_and(|n| n != 1)),
            ("logprobs", body.logprobs == Some(true)),
            ("response_format", body.response_format.is_some_and(|f| f.kind != "text")),
        ];
        if let Some((param, _)) = refused.into_iter().find(|(_, is_set)| *is_set) {
            let message = format!("'{param}' is not supported by this server with the value given.");
            return Err(WireError::invalid(param, message));
        }
        let fields = [
            ("model", body.model),
            ("temperature", body.temperature),
            ("top_p", body.top_p),
            ("top_k", body.top_k),
            ("min_p", body.min_p),
            ("presence_penalty", body.presence_penalty),
            ("frequency_penalty", body.frequency_penalty),
            ("repetition_penalty", body.repetition_penalty),
            ("logit_bias", body.logit_bias),
            ("top_logprobs", body.top_logprobs),
            ("stop", body.stop),
            ("seed", body.seed),
            ("metadata", body.metadata),
            ("user", body.user),
            ("safety_identifier", body.safety_identifier),
            ("prompt_cache_key", body.prompt_cache_key),
            ("tools", body.tools),
            ("tool_choice", body.tool_choice),
            ("parallel_tool_calls", body.parallel_tool_calls),
            ("service_tier", body.service_tier),
            ("input", Some(Value::Array(body.messages))),
            ("max_output_tokens", body.max_completion_tokens.or(body.max_tokens).map(Value::from)),
            ("store", Some(Value::Bool(body.store.unwrap_or(false)))),
        ];
        let fields: Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        Ok(Self {
            create: Create::from_value(Value::Object(fields)).map_err(renamed)?,
            stream: body.stream.unwrap_or(false),
            include_usage: body.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        })
    }
}

/// Gives an error of the responses API the names of this one.
fn renamed(error: WireError) -> WireError {
    let name = |text: &str| text.replacen("input", "messages", 1).replacen("max_output_tokens", "max_tokens", 1);
    match error {
        WireError::InvalidRequest { param: Some(param), message } => {
            WireError::InvalidRequest { message: message.replace(&param, &name(&param)), param: Some(name(&param)) }
        }
        other => other,
    }
}

/// A chunk of a streamed completion.
#[derive(Debug, Serialize)]
pub struct Chunk {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChunkChoice>,
    pub service_tier: ServiceTier,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ChatUsage>,
}

#[derive(Debug, Serialize)]
pub struct ChunkChoice {
    pub index: u32,
    pub delta: Delta,
    pub finish_reason: Option<&'static str>,
    pub logprobs: Option<()>,
}

#[derive(Debug, Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A whole completion.
#[derive(Debug, Serialize)]
pub struct Completion {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: [Choice; 1],
    pub usage: Option<ChatUsage>,
    pub service_tier: ServiceTier,
}

#[derive(Debug, Serialize)]
pub struct Choice {
    pub index: u32,
    pub message: Message,
    pub finish_reason: &'static str,
    pub logprobs: Option<()>,
}

#[derive(Debug, Serialize)]
pub struct Message {
    pub role: &'static str,
    pub content: String,
    pub refusal: Option<()>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct ChatUsage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
    pub prompt_tokens_details: super::response::InputTokensDetails,
    pub completion_tokens_details: super::response::OutputTokensDetails,
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
