//! The request. Fields that both APIs have are validated as in `POST /v1/responses`; errors use the field names of this API.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    messages::{Message as MessageBody, parse_messages},
    shape::{self, Names},
};
use crate::wire::{
    contract::rules::{bias, when},
    error::WireError,
    format::GrammarFormat,
    metadata::metadata_value,
    read::{read, unsupported},
    reasoning::Effort,
    request::{Create, StopBody, TierBody, Verbosity},
    sampling::SamplingOptions,
    tools::{AllowedToolsType, Function as FunctionType, Mode, OtherTool},
};

/// Most choices of one request.
const MAX_CHOICES: u32 = 8;

/// A validated chat completion request.
#[derive(Debug)]
pub struct ChatRequest {
    pub create: Create,
    pub stream: bool,
    pub include_usage: bool,
    /// From 1 to 8.
    pub choices: u32,
    names: Names,
}

/// The body of `POST /v1/chat/completions`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionParams", extend("allOf" = [alternatives_with_logprobs()]))]
#[serde(deny_unknown_fields)]
pub struct Body {
    #[schemars(with = "Vec<MessageBody>", length(min = 1))]
    messages: Vec<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[schemars(with = "Option<u32>", range(min = 1))]
    max_tokens: Option<Value>,
    #[schemars(with = "Option<u32>", range(min = 1))]
    max_completion_tokens: Option<Value>,
    /// Number of choices. Each choice is a response of its own.
    #[schemars(range(min = 1, max = 8))]
    n: Option<u32>,
    #[schemars(with = "Option<BTreeMap<String, f32>>", extend("maxProperties" = 300, "propertyNames" = {"pattern": "^[0-9]{1,9}$"}, "additionalProperties" = bias()))]
    logit_bias: Option<Value>,
    logprobs: Option<bool>,
    #[schemars(with = "Option<u8>", range(max = 20))]
    top_logprobs: Option<Value>,
    #[schemars(with = "Option<FormatBody>")]
    response_format: Option<Value>,
    #[schemars(with = "Option<String>")]
    model: Option<Value>,
    // Parsed together with the fields of the response.
    #[serde(skip)]
    #[schemars(!skip, flatten)]
    _sampling: SamplingOptions,
    #[schemars(with = "Option<StopBody>")]
    stop: Option<Value>,
    #[schemars(with = "Option<i128>", extend("type" = ["integer", "null"], "minimum" = i64::MIN, "maximum" = u64::MAX))]
    seed: Option<Value>,
    /// Default `false`.
    store: Option<bool>,
    #[schemars(with = "Option<BTreeMap<String, String>>", extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    metadata: Option<Value>,
    #[schemars(with = "Option<String>", length(min = 1, max = 256))]
    user: Option<Value>,
    #[schemars(with = "Option<String>", length(min = 1, max = 256))]
    safety_identifier: Option<Value>,
    #[schemars(with = "Option<String>", length(min = 1, max = 256))]
    prompt_cache_key: Option<Value>,
    #[schemars(with = "Option<Vec<ToolBody>>")]
    tools: Option<Vec<Value>>,
    #[schemars(with = "Option<ChoiceBody>")]
    tool_choice: Option<Value>,
    #[schemars(with = "Option<bool>")]
    parallel_tool_calls: Option<Value>,
    #[schemars(with = "Option<Effort>")]
    reasoning_effort: Option<Value>,
    #[schemars(with = "Option<TierBody>")]
    service_tier: Option<Value>,
    #[schemars(with = "Option<Verbosity>")]
    verbosity: Option<Value>,
    #[schemars(extend("items" = {"const": "text"}))]
    modalities: Option<Vec<String>>,
    /// Options of a hosted tool. Ignored.
    web_search_options: Option<Value>,
    // Hints, which have no effect.
    #[serde(rename = "prediction")]
    _prediction: Option<Value>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<Value>,
    #[serde(rename = "prompt_cache_options")]
    _prompt_cache_options: Option<Value>,
    // Refused with a message that names the field.
    #[schemars(skip)]
    functions: Option<Value>,
    #[schemars(skip)]
    function_call: Option<Value>,
    #[schemars(skip)]
    audio: Option<Value>,
}

/// Returns the schema rule that `top_logprobs` needs `logprobs`.
fn alternatives_with_logprobs() -> Value {
    let asked = json!({"type": "integer", "not": {"const": 0}});
    when("top_logprobs", &asked, &json!({"required": ["logprobs"], "properties": {"logprobs": {"const": true}}}))
}

// Schemas of the fields that are parsed by hand. These types have no values.

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatTool")]
#[serde(untagged)]
enum ToolBody {
    Function { r#type: FunctionType, function: FunctionBody },
    Other(OtherTool),
}

/// The object in the field `function` of a tool.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatFunction", deny_unknown_fields)]
struct FunctionBody {
    #[schemars(pattern(r"^[A-Za-z0-9_-]{1,64}$"))]
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatToolChoice")]
#[serde(untagged)]
enum ChoiceBody {
    Mode(Mode),
    Named { r#type: FunctionType, function: NameBody },
    Allowed { r#type: AllowedToolsType, allowed_tools: AllowedBody },
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatAllowedTools")]
struct AllowedBody {
    #[schemars(with = "String", extend("enum" = ["auto", "required"]))]
    mode: Mode,
    tools: Vec<AllowedBodyTool>,
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatNamedFunction")]
struct AllowedBodyTool {
    r#type: FunctionType,
    function: NameBody,
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatFunctionName", deny_unknown_fields)]
struct NameBody {
    name: String,
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatJsonSchema", deny_unknown_fields)]
struct SchemaBody {
    #[schemars(pattern(r"^[A-Za-z0-9_-]{1,64}$"))]
    name: String,
    description: Option<String>,
    schema: Map<String, Value>,
    strict: Option<bool>,
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "ChatResponseFormat")]
#[serde(tag = "type", rename_all = "snake_case")]
enum FormatBody {
    Text,
    JsonObject,
    JsonSchema { json_schema: SchemaBody },
    Grammar(GrammarFormat),
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatStreamOptions")]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

impl ChatRequest {
    /// Validates the body of `POST /v1/chat/completions`.
    ///
    /// # Errors
    /// `invalid_request`, with the field's name in this API.
    pub fn from_value(mut value: Value) -> Result<Self, WireError> {
        let sampling = SamplingOptions::take(&mut value);
        let mut body: Body = read(value)?;
        body.refuse_unsupported()?;
        let choices = body.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(WireError::invalid("n", format!("'n' must be from 1 to {MAX_CHOICES}.")));
        }
        let (stream, include_usage) = (body.stream, body.stream_options.as_ref().and_then(|o| o.include_usage));
        let messages = parse_messages(std::mem::take(&mut body.messages))?;
        let bound = if body.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        let web_search = body.web_search_options.is_some();
        let (format, place) = body.response_format.take().map(shape::format).transpose()?.unzip();
        let names = Names { bound, format: place.unwrap_or("response_format") };
        let fields = Value::Object(body.fields(format, sampling)?);
        let mut create = Create::with_input(fields, messages).map_err(|error| names.rename(error))?;
        if web_search {
            create.ignored.push("web_search_options".into());
        }
        Ok(Self {
            create,
            stream: stream.unwrap_or(false),
            include_usage: include_usage.unwrap_or(false),
            choices,
            names,
        })
    }

    /// Translates the field names of an error about this request's responses into those of this API.
    pub fn rename(&self, error: WireError) -> WireError {
        self.names.rename(error)
    }
}

impl Body {
    fn refuse_unsupported(&self) -> Result<(), WireError> {
        let audio = self.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text"));
        let refused = [
            ("functions", self.functions.is_some()),
            ("function_call", self.function_call.is_some()),
            ("audio", self.audio.is_some()),
            ("modalities", audio),
        ];
        if let Some((param, _)) = refused.into_iter().find(|(_, is_set)| *is_set) {
            return Err(unsupported(param));
        }
        if self.logprobs != Some(true) && self.top_logprobs.as_ref().is_some_and(|top| *top != 0) {
            return Err(WireError::invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."));
        }
        Ok(())
    }

    /// Returns the fields of the equivalent `response.create`.
    fn fields(self, format: Option<Value>, sampling: Map<String, Value>) -> Result<Map<String, Value>, WireError> {
        let fields = [
            ("model", self.model),
            ("logit_bias", self.logit_bias),
            ("top_logprobs", self.top_logprobs),
            ("include", (self.logprobs == Some(true)).then(|| json!(["message.output_text.logprobs"]))),
            ("stop", self.stop),
            ("seed", self.seed),
            ("metadata", self.metadata),
            ("user", self.user),
            ("safety_identifier", self.safety_identifier),
            ("prompt_cache_key", self.prompt_cache_key),
            ("tools", self.tools.map(shape::tools).transpose()?),
            ("tool_choice", self.tool_choice.map(shape::tool_choice).transpose()?),
            ("parallel_tool_calls", self.parallel_tool_calls),
            ("text", shape::text(format, self.verbosity)),
            ("reasoning", self.reasoning_effort.map(|effort| json!({"effort": effort}))),
            ("service_tier", self.service_tier),
            ("max_output_tokens", self.max_completion_tokens.or(self.max_tokens)),
            ("store", Some(Value::Bool(self.store.unwrap_or(false)))),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(sampling.into_iter().chain(fields).collect())
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
            (json!({"max_completion_tokens": 0, "max_tokens": 5}), "max_completion_tokens"),
            (json!({"max_tokens": "many"}), "max_tokens"),
            (json!({"n": 9}), "n"),
            (json!({"n": 0}), "n"),
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"verbosity": "endless"}), "verbosity"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
            (json!({"tools": [{"type": "teleporter"}]}), "tools[0].type"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"a": 1}}), "response_format.type"),
            (json!({"response_format": {"type": 7}}), "response_format.type"),
            (json!({"response_format": []}), "response_format"),
            (json!({"response_format": {"type": "json_schema", "json_schema": []}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "type": "text"}}}),
                "response_format.json_schema.type",
            ),
            (
                json!({"response_format": {"type": "json_schema", "name": "n", "json_schema": {}}}),
                "response_format.name",
            ),
            (json!({"response_format": {"type": "json_object", "schema": {}}}), "response_format.schema"),
            (json!({"response_format": {"type": "grammar"}}), "response_format.syntax"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "type": "custom"}}]}),
                "tools[0].function.type",
            ),
            (json!({"tools": [{"type": "function", "function": {"name": "f"}, "colour": 1}]}), "tools[0].colour"),
            (json!({"tool_choice": {}}), "tool_choice.type"),
            (json!({"tool_choice": {"type": "function"}}), "tool_choice.function"),
            (json!({"tool_choice": {"type": "function", "function": {}}}), "tool_choice.function.name"),
            (json!({"tool_choice": {"type": "allowed_tools"}}), "tool_choice.allowed_tools"),
            (
                json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}}),
                "tool_choice.allowed_tools.mode",
            ),
            (
                json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [7]}}}),
                "tool_choice.allowed_tools.tools[0]",
            ),
            (
                json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {}}]}}}),
                "tool_choice.allowed_tools.tools[0].function.name",
            ),
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
