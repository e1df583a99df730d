//! The request. What both APIs have is validated as in `POST /v1/responses`; errors have the names of this API.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::messages::parse_messages;
use crate::wire::{
    error::WireError,
    read::{missing, read, unsupported},
    request::Create,
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
    top_logprobs: Option<Value>,
    response_format: Option<Value>,
    model: Option<Value>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    top_k: Option<Value>,
    min_p: Option<Value>,
    stop: Option<Value>,
    seed: Option<Value>,
    store: Option<bool>,
    metadata: Option<Value>,
    user: Option<Value>,
    safety_identifier: Option<Value>,
    prompt_cache_key: Option<Value>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<Value>,
    reasoning_effort: Option<Value>,
    service_tier: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

impl ChatRequest {
    pub fn from_value(value: Value) -> Result<Self, WireError> {
        let body: Body = read(value)?;
        if body.n.is_some_and(|n| n != 1) {
            return Err(unsupported("n"));
        }
        let logprobs = body.logprobs == Some(true);
        if !logprobs && body.top_logprobs.as_ref().is_some_and(|top| *top != 0) {
            return Err(WireError::invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."));
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
            ("include", logprobs.then(|| json!(["message.output_text.logprobs"]))),
            ("stop", body.stop),
            ("seed", body.seed),
            ("metadata", body.metadata),
            ("user", body.user),
            ("safety_identifier", body.safety_identifier),
            ("prompt_cache_key", body.prompt_cache_key),
            ("tools", body.tools.map(tools).transpose()?),
            ("tool_choice", body.tool_choice.map(tool_choice)),
            ("parallel_tool_calls", body.parallel_tool_calls),
            ("text", body.response_format.map(format).transpose()?),
            ("reasoning", body.reasoning_effort.map(|effort| json!({"effort": effort}))),
            ("service_tier", body.service_tier),
            ("max_output_tokens", body.max_completion_tokens.or(body.max_tokens).map(Value::from)),
            ("store", Some(Value::Bool(body.store.unwrap_or(false)))),
        ];
        let fields: Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let messages = parse_messages(body.messages)?;
        Ok(Self {
            create: Create::with_input(Value::Object(fields), messages).map_err(renamed)?,
            stream: body.stream.unwrap_or(false),
            include_usage: body.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        })
    }
}

/// `{type, function: {…}}` → `{type, …}`
fn flat(mut outer: Value) -> Value {
    if let Some(members) = outer.as_object_mut()
        && let Some(Value::Object(function)) = members.remove("function")
    {
        members.extend(function);
    }
    outer
}

fn tools(tools: Vec<Value>) -> Result<Value, WireError> {
    if let Some(at) = tools.iter().position(|tool| tool["type"] == "function" && !tool["function"].is_object()) {
        return Err(missing(&format!("tools[{at}].function")));
    }
    Ok(tools.into_iter().map(flat).collect())
}

fn tool_choice(choice: Value) -> Value {
    match choice {
        Value::Object(mut members) if members.contains_key("allowed_tools") => {
            if let Some(Value::Object(mut allowed)) = members.remove("allowed_tools") {
                if let Some(Value::Array(tools)) = allowed.remove("tools") {
                    allowed.insert("tools".into(), tools.into_iter().map(flat).collect());
                }
                members.extend(allowed);
            }
            Value::Object(members)
        }
        other => flat(other),
    }
}

/// `{type, json_schema: {…}}` → `{format: {type, …}}`
fn format(mut format: Value) -> Result<Value, WireError> {
    if let Some(members) = format.as_object_mut().filter(|members| members["type"] == "json_schema") {
        match members.remove("json_schema") {
            Some(Value::Object(schema)) => members.extend(schema),
            _ => return Err(missing("response_format.json_schema")),
        }
    }
    Ok(json!({"format": format}))
}

/// Gives an error of the responses API the names of this one.
pub fn renamed(error: WireError) -> WireError {
    match error {
        WireError::InvalidRequest { param: Some(param), message } => {
            let name = name(&param);
            WireError::InvalidRequest { message: message.replace(&param, &name), param: Some(name) }
        }
        other => other,
    }
}

fn name(param: &str) -> String {
    match param {
        "max_output_tokens" => return "max_tokens".into(),
        "reasoning.effort" => return "reasoning_effort".into(),
        "text.format.type" => return "response_format.type".into(),
        _ => {}
    }
    if let Some(field) = param.strip_prefix("text.format") {
        return format!("response_format{}", field.replacen('.', ".json_schema.", 1));
    }
    match param.strip_prefix("tools[").and_then(|rest| rest.split_once("].")) {
        Some((at, field)) if field != "type" => format!("tools[{at}].function.{field}"),
        _ => param.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mut fields: Value) -> Result<Create, WireError> {
        fields["messages"] = json!([{"role": "user", "content": "x"}]);
        ChatRequest::from_value(fields).map(|chat| chat.create)
    }

    #[test]
    fn fields_of_this_api_mean_the_same_as_the_others() {
        let schema = json!({"name": "n", "schema": {"type": "object"}, "strict": true});
        let chat = of(json!({
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": schema},
            "logprobs": true, "top_logprobs": 2, "reasoning_effort": "low", "max_tokens": 5,
        }));
        let responses = Create::from_value(json!({
            "input": "x", "store": false, "max_output_tokens": 5,
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}},
            "include": ["message.output_text.logprobs"], "top_logprobs": 2, "reasoning": {"effort": "low"},
        }));
        assert_eq!(chat.unwrap(), responses.unwrap());
        let allowed = json!({"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]});
        let chat = of(json!({
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed},
        }));
        assert!(chat.unwrap().tool_choice.allows("f"));
    }

    #[test]
    fn errors_have_the_names_of_this_api() {
        for (fields, param) in [
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"n": 2}), "n"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
            (json!({"tools": [{"type": "custom", "custom": {}}]}), "tools[0].type"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": 5}), "response_format"),
            (json!({"reasoning_effort": "enormous"}), "reasoning_effort"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        ] {
            match of(fields.clone()) {
                Err(WireError::InvalidRequest { param: Some(found), message }) => {
                    assert_eq!(found, param, "{fields}");
                    assert!(!message.contains("text.format"), "{message}");
                }
                other => panic!("{fields}: {other:?}"),
            }
        }
    }
}
