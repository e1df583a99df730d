//! What clients send: client events, and the body that creates a response. Parsing validates: a [`Create`] in hand proves
//! that every field is known, typed, in range and supported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    error::WireError,
    input::{InputMessage, parse_input},
    read::{missing, read, read_field},
    response::{ServiceTier, Truncation},
    shorten,
};

/// Bounds on what a request may carry, beside the size of the message itself.
const MAX_STOP: usize = 16;
const MAX_STOP_BYTES: usize = 256;
const MAX_METADATA: usize = 16;
const MAX_BIAS: usize = 300;
const MAX_ID_BYTES: usize = 256;

/// An event of a WebSocket client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    Create {
        create: Box<Create>,
        stream_id: Option<String>,
    },
    Resume {
        response_id: String,
        starting_after: Option<u64>,
        stream_id: Option<String>,
    },
    Cancel {
        response_id: String,
    },
    Ping,
    /// The answer to our ping; it proves that the client lives, as any message does.
    Pong,
}

/// A validated `response.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub model: Option<String>,
    pub input: Vec<InputMessage>,
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    pub store: bool,
    /// What is absent here, the model's settings decide.
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub repetition_penalty: Option<f32>,
    /// Token id → what is added to its logit.
    pub logit_bias: BTreeMap<u32, f32>,
    pub stop: Vec<String>,
    pub max_output_tokens: Option<u32>,
    pub seed: Option<u64>,
    pub truncation: Truncation,
    #[serde(default)]
    pub service_tier: ServiceTier,
    pub parallel_tool_calls: bool,
    pub metadata: BTreeMap<String, String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub client_request_id: Option<String>,
}

/// Reads one WebSocket message. The error comes with the `stream_id` that it should echo.
pub fn parse_client_event(text: &str) -> Result<ClientEvent, (WireError, Option<String>)> {
    let value: Value = serde_json::from_str(text).map_err(|e| (WireError::InvalidJson(e.to_string()), None))?;
    let Value::Object(mut object) = value else {
        return Err((
            WireError::InvalidRequest { param: None, message: "A message must be a JSON object.".into() },
            None,
        ));
    };
    let stream_id = match object.remove("stream_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if is_stream_id(&id) => Some(id),
        Some(_) => return Err((WireError::InvalidStreamId, None)),
    };
    parse_event_body(object, stream_id.clone()).map_err(|error| (error, stream_id))
}

fn parse_event_body(mut object: Map<String, Value>, stream_id: Option<String>) -> Result<ClientEvent, WireError> {
    let kind = match object.remove("type") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(WireError::invalid("type", "'type' must be a string.")),
        None => return Err(WireError::invalid("type", "'type' is missing, such as \"response.create\".")),
    };
    match kind.as_str() {
        "response.create" => {
            Ok(ClientEvent::Create { create: Box::new(Create::from_value(Value::Object(object))?), stream_id })
        }
        "caudal:response.resume" => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Resume {
                response_id: Option<String>,
                conversation: Option<Value>,
                starting_after: Option<u64>,
            }
            let resume: Resume = read(Value::Object(object))?;
            if resume.conversation.is_some() {
                return Err(unsupported("conversation"));
            }
            let response_id = resume.response_id.ok_or_else(|| missing("response_id"))?;
            Ok(ClientEvent::Resume { response_id, starting_after: resume.starting_after, stream_id })
        }
        "caudal:response.cancel" | "response.cancel" => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Cancel {
                response_id: String,
            }
            let cancel: Cancel = read(Value::Object(object))?;
            Ok(ClientEvent::Cancel { response_id: cancel.response_id })
        }
        "caudal:ping" => Ok(ClientEvent::Ping),
        "caudal:pong" => Ok(ClientEvent::Pong),
        other => Err(WireError::invalid("type", format!("Unknown type '{}'.", shorten(other)))),
    }
}

/// The body as it may arrive. Fields that are known and not supported are here so that they are refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    model: Option<String>,
    input: Option<Value>,
    instructions: Option<String>,
    previous_response_id: Option<String>,
    conversation: Option<Value>,
    store: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<u32, f32>>,
    stop: Option<Value>,
    max_output_tokens: Option<u32>,
    max_tool_calls: Option<u32>,
    seed: Option<u64>,
    truncation: Option<Truncation>,
    parallel_tool_calls: Option<bool>,
    metadata: Option<BTreeMap<String, String>>,
    user: Option<String>,
    safety_identifier: Option<String>,
    prompt_cache_key: Option<String>,
    prompt_cache_retention: Option<Value>,
    client_request_id: Option<String>,
    top_logprobs: Option<u32>,
    include: Option<Vec<Value>>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    text: Option<Text>,
    reasoning: Option<Value>,
    prompt: Option<Value>,
    cache: Option<Cache>,
    generate: Option<bool>,
    service_tier: Option<ServiceTier>,
    // Ignored: a WebSocket always streams, and no generation needs a connection to live.
    #[serde(rename = "stream")]
    _stream: Option<Value>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<Value>,
    #[serde(rename = "background")]
    _background: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: Option<Format>,
    verbosity: Option<String>,
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    mode: String,
}

impl Create {
    /// Validates the body of `POST /v1/responses`, which is also `response.create` without its `type`.
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        let body: Body = read(value)?;
        body.refuse_unsupported()?;
        body.check_ranges()?;
        let metadata = check_metadata(body.metadata.unwrap_or_default())?;
        Ok(Self {
            model: body.model,
            input: parse_input(body.input.ok_or_else(|| missing("input"))?)?,
            instructions: body.instructions,
            previous_response_id: body.previous_response_id,
            store: body.store.unwrap_or(true),
            temperature: body.temperature,
            top_p: body.top_p,
            top_k: body.top_k,
            min_p: body.min_p,
            frequency_penalty: body.frequency_penalty.unwrap_or(0.0),
            presence_penalty: body.presence_penalty.unwrap_or(0.0),
            repetition_penalty: body.repetition_penalty,
            logit_bias: check_bias(body.logit_bias.unwrap_or_default())?,
            stop: parse_stop(body.stop)?,
            max_output_tokens: body.max_output_tokens,
            seed: body.seed,
            truncation: body.truncation.unwrap_or_default(),
            service_tier: body.service_tier.unwrap_or_default(),
            parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
            metadata,
            user: short("user", body.user)?,
            safety_identifier: short("safety_identifier", body.safety_identifier)?,
            prompt_cache_key: short("prompt_cache_key", body.prompt_cache_key)?,
            client_request_id: short("client_request_id", body.client_request_id)?,
        })
    }
}

impl Body {
    fn refuse_unsupported(&self) -> Result<(), WireError> {
        let text = self.text.as_ref();
        let refused = [
            ("conversation", self.conversation.is_some()),
            ("prompt", self.prompt.is_some()),
            ("cache", self.cache.as_ref().is_some_and(|c| c.mode != "off")),
            ("generate", self.generate == Some(false)),
            ("tools", self.tools.as_ref().is_some_and(|t| !t.is_empty())),
            ("tool_choice", self.tool_choice.as_ref().is_some_and(|c| c != "auto" && c != "none")),
            ("max_tool_calls", self.max_tool_calls.is_some()),
            ("top_logprobs", self.top_logprobs.unwrap_or(0) > 0),
            ("include", self.include.as_ref().is_some_and(|i| !i.is_empty())),
            ("text.format", text.and_then(|t| t.format.as_ref()).is_some_and(|f| f.kind != "text")),
            ("text.verbosity", text.and_then(|t| t.verbosity.as_ref()).is_some_and(|v| v != "medium")),
            ("reasoning", self.reasoning.as_ref().is_some_and(|r| !is_empty_object(r))),
            ("prompt_cache_retention", self.prompt_cache_retention.is_some()),
        ];
        match refused.into_iter().find(|(_, is_set)| *is_set) {
            Some((param, _)) => Err(unsupported(param)),
            None => Ok(()),
        }
    }

    fn check_ranges(&self) -> Result<(), WireError> {
        in_range("temperature", self.temperature, "from 0 to 2", |t| (0.0..=2.0).contains(&t))?;
        in_range("top_p", self.top_p, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?;
        in_range("min_p", self.min_p, "from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
        in_range("frequency_penalty", self.frequency_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        in_range("presence_penalty", self.presence_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        in_range("repetition_penalty", self.repetition_penalty, "above 0 and at most 2", |p| p > 0.0 && p <= 2.0)?;
        in_range("top_k", self.top_k, "at least 1", |k| k >= 1)?;
        in_range("max_output_tokens", self.max_output_tokens, "at least 1", |n| n >= 1)
    }
}

fn in_range<T: Copy>(param: &str, value: Option<T>, range: &str, holds: impl Fn(T) -> bool) -> Result<(), WireError> {
    match value {
        Some(value) if !holds(value) => Err(WireError::invalid(param, format!("'{param}' must be {range}."))),
        _ => Ok(()),
    }
}

fn short(param: &str, value: Option<String>) -> Result<Option<String>, WireError> {
    match &value {
        Some(v) if v.is_empty() || v.len() > MAX_ID_BYTES => {
            Err(WireError::invalid(param, format!("'{param}' must have 1 to {MAX_ID_BYTES} bytes.")))
        }
        _ => Ok(value),
    }
}

fn check_bias(bias: BTreeMap<u32, f32>) -> Result<BTreeMap<u32, f32>, WireError> {
    if bias.len() > MAX_BIAS || bias.values().any(|b| !(-100.0..=100.0).contains(b)) {
        let message = format!("'logit_bias' may have {MAX_BIAS} token ids, with values from -100 to 100.");
        return Err(WireError::invalid("logit_bias", message));
    }
    Ok(bias)
}

fn check_metadata(metadata: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, WireError> {
    if metadata.len() > MAX_METADATA || metadata.iter().any(|(k, v)| k.len() > 64 || v.len() > 512) {
        let message = format!("'metadata' may have {MAX_METADATA} pairs, keys of 64 bytes and values of 512 bytes.");
        return Err(WireError::invalid("metadata", message));
    }
    Ok(metadata)
}

fn parse_stop(stop: Option<Value>) -> Result<Vec<String>, WireError> {
    let stop = match stop {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one],
        Some(many) => read_field("stop", many)?,
    };
    if stop.len() > MAX_STOP || stop.iter().any(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
        let message = format!("'stop' may have {MAX_STOP} strings of 1 to {MAX_STOP_BYTES} bytes.");
        return Err(WireError::invalid("stop", message));
    }
    Ok(stop)
}

/// `[A-Za-z0-9_.-]{1,256}`.
fn is_stream_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_empty_object(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|o| o.values().all(Value::is_null))
}

fn unsupported(param: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' is not supported by this server with the value given."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn param_of(body: Value) -> String {
        match Create::from_value(body) {
            Err(WireError::InvalidRequest { param: Some(param), .. }) => param,
            other => panic!("expected an invalid_request with a param, got {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": "x", "temperature": "hot"}), "temperature"),
            (json!({"input": "x", "temperature": 2.5}), "temperature"),
            (json!({"input": "x", "top_p": 0}), "top_p"),
            (json!({"input": "x", "frequency_penalty": 3}), "frequency_penalty"),
            (json!({"input": "x", "repetition_penalty": 0}), "repetition_penalty"),
            (json!({"input": "x", "logit_bias": {"7": 101}}), "logit_bias"),
            (json!({"input": "x", "logit_bias": {"cat": 1}}), "logit_bias"),
            (json!({"input": "x", "seed": -1}), "seed"),
            (json!({"input": "x", "metadata": {"a": 1}}), "metadata.a"),
            (json!({"input": "x", "nonsense": 1}), "nonsense"),
            (json!({"input": "x", "stop": [1]}), "stop[0]"),
            (json!({"input": "x", "text": {"format": {"type": "json_schema"}}}), "text.format"),
            (json!({"input": "x", "text": {"format": {}}}), "text.format.type"),
            (json!({"input": "x", "text": {"colour": 1}}), "text.colour"),
            (json!({"input": "x", "tools": [{}]}), "tools"),
            (json!({"input": "x", "conversation": "c"}), "conversation"),
            (json!({"input": "x", "service_tier": "scale"}), "service_tier"),
            (json!({"input": 5}), "input"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (json!({"input": [{"role": "cook", "content": "x"}]}), "input[0].role"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type"),
            (json!({"input": [{"type": "function_call_output"}]}), "input[0].type"),
        ] {
            assert_eq!(param_of(body.clone()), param, "{body}");
        }
    }

    #[test]
    fn openai_fields_that_change_nothing_are_accepted() {
        let body = json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            "stream": true, "background": false, "tools": [], "tool_choice": "auto", "include": [], "reasoning": {"effort": null},
            "text": {"format": {"type": "text"}}, "service_tier": "auto", "generate": true, "cache": {"mode": "off"}});
        assert_eq!(Create::from_value(body).unwrap().input[0].text, "ab");
    }

    #[test]
    fn stream_ids_are_checked_and_echoed_in_errors() {
        assert_eq!(
            parse_client_event(r#"{"type":"response.create","stream_id":"a b"}"#).unwrap_err().0,
            WireError::InvalidStreamId
        );
        let (_, stream_id) = parse_client_event(r#"{"type":"nope","stream_id":"a"}"#).unwrap_err();
        assert_eq!(stream_id.as_deref(), Some("a"));
    }
}
