//! The body that creates a response. Parsing validates: a [`Create`] in hand proves that every field is known, typed, in
//! range and supported.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limits::IGNORED_NAMES_BYTES;

use super::{
    cache::{CacheBody, CacheOptions},
    contract::rules::{bias, given, metadata_value, not_together},
    error::WireError,
    format::{Format, TextConfig, parse_format},
    input::{InputBody, InputItem, InputMessage, ignored, parse_input, something_said},
    json::whole,
    prompt::{PromptUse, UseBody},
    read::{check_id, missing, read, read_field},
    reasoning::{Effort, Reasoning, Summary},
    response::{ServiceTier, Truncation},
    shorten,
    tools::{FunctionTool, ToolBody, ToolChoice, Tools, parse_tool_choice, sort_tools},
};

/// Bounds on what a request may carry, beside the size of the message itself.
const MAX_STOP: usize = 16;
const MAX_STOP_CHARS: usize = 256;
const MAX_METADATA: usize = 16;
const MAX_BIAS: usize = 300;
/// OpenAI's bound.
const MAX_TOP_LOGPROBS: u8 = 20;

/// A validated `response.create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub model: Option<String>,
    pub input: Vec<InputItem>,
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    /// The conversation that this is a turn of.
    #[serde(default)]
    pub conversation: Option<String>,
    #[serde(default)]
    pub prompt: Option<PromptUse>,
    /// What the stored prompt says before everything else but the instructions.
    #[serde(default)]
    pub preamble: Vec<InputMessage>,
    #[serde(default)]
    pub cache: CacheOptions,
    pub store: bool,
    /// Whether the generation goes on to its end without followers.
    #[serde(default)]
    pub background: bool,
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
    pub tools: Vec<FunctionTool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub text: TextConfig,
    pub reasoning: Reasoning,
    /// Whether the log-probabilities of the text's tokens were asked for.
    pub logprobs: bool,
    /// How many of the likeliest tokens come with each.
    pub top_logprobs: u8,
    /// `false`: the prompt is computed and kept, and nothing is said.
    pub generate: bool,
    /// Calls of functions that the output may have; the model's further calls are left out.
    #[serde(default)]
    pub max_tool_calls: Option<u32>,
    /// What of the request was taken and does nothing, such as `tools[0]: web_search`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub client_request_id: Option<String>,
}

/// The body of `POST /v1/responses`, and of `response.create`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResponseCreateParams", extend("allOf" = rules()))]
pub struct Body {
    /// Text, or items: see [`InputBody`]. Read before the rest.
    #[serde(rename = "input")]
    #[schemars(
        with = "Option<InputBody>",
        description = "Required, except where there is other input: a history, a stored prompt, instructions to compute ahead."
    )]
    _input: Option<Value>,
    /// An id or alias of `GET /v1/models`; the first without it.
    model: Option<String>,
    instructions: Option<String>,
    /// Continue from this response. Not together with `conversation`.
    previous_response_id: Option<String>,
    /// Continue this conversation; both sides of the turn are added to it.
    #[schemars(with = "Option<ConversationBody>")]
    conversation: Option<Value>,
    /// Whether the server keeps the response for `GET /v1/responses/{id}` and `previous_response_id`. Default true.
    store: Option<bool>,
    #[schemars(range(min = 0, max = 2))]
    temperature: Option<f32>,
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    top_p: Option<f32>,
    #[schemars(range(min = 1))]
    top_k: Option<u32>,
    #[schemars(range(min = 0, max = 1))]
    min_p: Option<f32>,
    #[schemars(range(min = -2, max = 2))]
    frequency_penalty: Option<f32>,
    #[schemars(range(min = -2, max = 2))]
    presence_penalty: Option<f32>,
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 2))]
    repetition_penalty: Option<f32>,
    /// From token ids to what is added to their logits, -100 to 100.
    #[schemars(extend("maxProperties" = 300, "propertyNames" = {"pattern": "^[0-9]{1,9}$"}, "additionalProperties" = bias()))]
    logit_bias: Option<BTreeMap<String, f32>>,
    /// The output ends before the first of these.
    #[schemars(with = "Option<StopBody>")]
    stop: Option<Value>,
    #[schemars(range(min = 1))]
    max_output_tokens: Option<u32>,
    /// Calls that an output may have.
    #[schemars(range(min = 1))]
    max_tool_calls: Option<u32>,
    /// The same seed and request give the same text. A signed or unsigned number of 64 bits.
    #[schemars(with = "Option<i128>", extend("type" = ["integer", "null"], "minimum" = i64::MIN, "maximum" = u64::MAX))]
    seed: Option<Value>,
    truncation: Option<Truncation>,
    parallel_tool_calls: Option<bool>,
    /// Up to 16 pairs, keys of 64 characters, values of 512.
    #[schemars(extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    metadata: Option<BTreeMap<String, String>>,
    #[schemars(length(min = 1, max = 256))]
    user: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    safety_identifier: Option<String>,
    #[schemars(length(min = 1, max = 256))]
    prompt_cache_key: Option<String>,
    /// Makes the request idempotent: a second create that has the same id follows the first one's response, from its
    /// start.
    #[schemars(length(min = 1, max = 256))]
    client_request_id: Option<String>,
    /// How many alternatives each token of the text comes with, in `logprobs`.
    #[schemars(range(max = 20))]
    top_logprobs: Option<u8>,
    /// `message.output_text.logprobs` asks for log-probabilities of the chosen tokens; the others change nothing.
    #[schemars(extend("items" = {"type": "string", "enum": INCLUDABLE}))]
    include: Option<Vec<String>>,
    #[schemars(with = "Option<Vec<ToolBody>>")]
    tools: Option<Vec<Value>>,
    #[schemars(with = "Option<ToolChoice>")]
    tool_choice: Option<Value>,
    text: Option<Text>,
    reasoning: Option<ReasoningBody>,
    #[schemars(with = "Option<UseBody>")]
    prompt: Option<Value>,
    #[schemars(with = "Option<CacheBody>")]
    cache: Option<Value>,
    /// `false`: only computes the prompt, for requests that begin like it.
    generate: Option<bool>,
    /// Which goes first if requests wait.
    #[schemars(with = "Option<TierBody>")]
    service_tier: Option<ServiceTier>,
    /// Over HTTP: answers at once, and the generation goes on without followers.
    background: Option<bool>,
    // Who answers decides whether events are streamed.
    #[serde(rename = "stream")]
    #[schemars(with = "Option<bool>")]
    _stream: Option<Value>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<Value>,
    // Hints and telemetry: they do nothing here.
    #[serde(rename = "client_metadata")]
    _client_metadata: Option<Value>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<Value>,
    #[serde(rename = "prompt_cache_options")]
    _prompt_cache_options: Option<Value>,
    #[serde(rename = "background_options")]
    _background_options: Option<Value>,
    #[serde(rename = "access_programs")]
    _access_programs: Option<Value>,
    #[serde(rename = "image")]
    _image: Option<Value>,
}

/// What the fields say together: there is something to answer, and no two of them say what came before.
fn rules() -> serde_json::Value {
    let warm_up = json!({"allOf": [given("instructions"), {"required": ["generate"], "properties": {"generate": {"const": false}}}]});
    json!([
        {"anyOf": [something_said(), given("previous_response_id"), given("conversation"), given("prompt"), warm_up]},
        not_together("conversation", "previous_response_id"),
        not_together("conversation", "cache"),
    ])
}

// What is read by hand, as schemas. No value of these types is made.

/// An id, or an object that has it.
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
struct Text {
    /// What the text has to be. The model is held to it, token by token.
    #[schemars(with = "Option<Format>")]
    format: Option<Value>,
    /// A hint.
    #[serde(rename = "verbosity")]
    _verbosity: Option<Verbosity>,
}

/// How long an answer is wished for.
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
struct ReasoningBody {
    effort: Option<Effort>,
    summary: Option<Summary>,
    /// The older name of `summary`.
    generate_summary: Option<Summary>,
    // Hints.
    #[serde(rename = "context")]
    _context: Option<Value>,
    #[serde(rename = "mode")]
    _mode: Option<Value>,
}

impl Create {
    /// Validates the body of `POST /v1/responses`, which is also `response.create` without its `type`.
    pub fn from_value(mut value: Value) -> Result<Self, WireError> {
        let input = value.as_object_mut().and_then(|body| body.remove("input")).filter(|input| !input.is_null());
        let body: Body = read(value)?;
        let input = input.map(parse_input).transpose()?.unwrap_or_default();
        if input.iter().all(|item| matches!(item, InputItem::Ignored(_))) && !body.has_other_input() {
            return Err(missing("input"));
        }
        Self::new(body, input)
    }

    /// Validates the fields beside `input`, which was read from elsewhere.
    pub fn with_input(fields: Value, input: Vec<InputItem>) -> Result<Self, WireError> {
        Self::new(read(fields)?, input)
    }

    fn new(body: Body, input: Vec<InputItem>) -> Result<Self, WireError> {
        body.check_ranges()?;
        let Tools { functions: tools, ignored: mut all_ignored } = sort_tools(body.tools.unwrap_or_default())?;
        all_ignored.extend(ignored(&input));
        let top_logprobs = body.top_logprobs.unwrap_or(0);
        let conversation = body.conversation.map(parse_conversation).transpose()?;
        if conversation.is_some() && body.previous_response_id.is_some() {
            let message = "'conversation' and 'previous_response_id' do not go together: both say what came before.";
            return Err(WireError::invalid("conversation", message));
        }
        if body.background == Some(true) && body.store == Some(false) {
            return Err(WireError::invalid("background", "'background' needs 'store' to be true."));
        }
        let seed = body.seed.map(parse_seed).transpose()?;
        let deterministic = seed.is_some() || body.temperature == Some(0.0);
        let cache = match body.cache {
            Some(_) if conversation.is_some() => {
                return Err(WireError::invalid("cache", "'cache' does not go together with 'conversation'."));
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
            temperature: body.temperature,
            top_p: body.top_p,
            top_k: body.top_k,
            min_p: body.min_p,
            frequency_penalty: body.frequency_penalty.unwrap_or(0.0),
            presence_penalty: body.presence_penalty.unwrap_or(0.0),
            repetition_penalty: body.repetition_penalty,
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

    /// The functions that may be called.
    pub fn callable(&self) -> impl Iterator<Item = &FunctionTool> {
        self.tools.iter().filter(|tool| self.tool_choice.allows(&tool.name))
    }
}

impl ReasoningBody {
    fn used(self) -> Reasoning {
        Reasoning { effort: self.effort, summary: self.summary.or(self.generate_summary) }
    }
}

impl Body {
    /// Whether a request without input says something all the same: by what came before, by a stored prompt, or by
    /// the instructions that are to be computed ahead.
    fn has_other_input(&self) -> bool {
        self.previous_response_id.is_some()
            || self.conversation.is_some()
            || self.prompt.is_some()
            || self.generate == Some(false) && self.instructions.is_some()
    }

    fn check_ranges(&self) -> Result<(), WireError> {
        in_range("temperature", self.temperature, "from 0 to 2", |t| (0.0..=2.0).contains(&t))?;
        in_range("top_p", self.top_p, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?;
        in_range("min_p", self.min_p, "from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
        in_range("frequency_penalty", self.frequency_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        in_range("presence_penalty", self.presence_penalty, "from -2 to 2", |p| (-2.0..=2.0).contains(&p))?;
        in_range("repetition_penalty", self.repetition_penalty, "above 0 and at most 2", |p| p > 0.0 && p <= 2.0)?;
        in_range("top_k", self.top_k, "at least 1", |k| k >= 1)?;
        in_range("top_logprobs", self.top_logprobs, "from 0 to 20", |n| n <= MAX_TOP_LOGPROBS)?;
        in_range("max_tool_calls", self.max_tool_calls, "at least 1", |n| n >= 1)?;
        in_range("max_output_tokens", self.max_output_tokens, "at least 1", |n| n >= 1)
    }
}

/// The first of the names, as many as fit into a header, and how many more there are.
fn first_names(mut names: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    let fits = |name: &&String| {
        bytes += name.len();
        bytes <= IGNORED_NAMES_BYTES
    };
    let fitting = names.iter().take_while(fits).count();
    let more = names.len() - fitting;
    if more > 0 {
        names.truncate(fitting);
        names.push(format!("{more} more"));
    }
    names
}

fn in_range<T: Copy>(param: &str, value: Option<T>, range: &str, holds: impl Fn(T) -> bool) -> Result<(), WireError> {
    match value {
        Some(value) if !holds(value) => Err(WireError::invalid(param, format!("'{param}' must be {range}."))),
        _ => Ok(()),
    }
}

fn short(param: &str, value: Option<String>) -> Result<Option<String>, WireError> {
    value.map(|value| check_id(param, &value).map(|()| value)).transpose()
}

/// Whether log-probabilities are to be included. Encrypted thoughts are asked for by clients that send whole
/// conversations; ours are in the clear, and never shown to the model again.
fn parse_include(include: Vec<String>) -> Result<bool, WireError> {
    let mut logprobs = false;
    for (at, what) in include.into_iter().enumerate() {
        check_includable(&format!("include[{at}]"), &what)?;
        logprobs |= what == LOGPROBS;
    }
    Ok(logprobs)
}

const LOGPROBS: &str = "message.output_text.logprobs";

/// What OpenAI's API can include. Except for log-probabilities nothing of it occurs here.
pub const INCLUDABLE: [&str; 8] = [
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// Checks a value of `include`, in a body or a query.
pub fn check_includable(param: &str, what: &str) -> Result<(), WireError> {
    if INCLUDABLE.contains(&what) {
        return Ok(());
    }
    Err(WireError::invalid(param, format!("'{}' is nothing that can be included.", shorten(what))))
}

/// Reads `seed`: OpenAI's is a signed number of 64 bits, ours an unsigned one; both are taken.
fn parse_seed(seed: Value) -> Result<u64, WireError> {
    let seed = whole(seed);
    seed.as_u64()
        .or_else(|| seed.as_i64().map(i64::cast_unsigned))
        .ok_or_else(|| WireError::invalid("seed", "'seed' must be a whole number from -2^63 to 2^64 - 1."))
}

fn parse_bias(bias: BTreeMap<String, f32>) -> Result<BTreeMap<u32, f32>, WireError> {
    let not_an_id =
        |_| WireError::invalid("logit_bias", "The keys of 'logit_bias' must be token ids, such as \"15043\".");
    let bias = bias.into_iter().map(|(id, bias)| Ok((id.parse().map_err(not_an_id)?, bias)));
    let bias: BTreeMap<u32, f32> = bias.collect::<Result<_, _>>()?;
    if bias.len() > MAX_BIAS || bias.values().any(|b| !(-100.0..=100.0).contains(b)) {
        let message = format!("'logit_bias' may have {MAX_BIAS} token ids, with values from -100 to 100.");
        return Err(WireError::invalid("logit_bias", message));
    }
    Ok(bias)
}

pub fn check_metadata(metadata: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, WireError> {
    let too_long = |(key, value): (&String, &String)| key.chars().count() > 64 || value.chars().count() > 512;
    if metadata.len() > MAX_METADATA || metadata.iter().any(too_long) {
        let message =
            format!("'metadata' may have {MAX_METADATA} pairs, keys of 64 characters and values of 512 characters.");
        return Err(WireError::invalid("metadata", message));
    }
    Ok(metadata)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationReference")]
struct NamedConversation {
    #[schemars(length(min = 1, max = 256))]
    id: String,
}

/// Reads a conversation's id, or an object that has it.
pub fn parse_conversation(conversation: Value) -> Result<String, WireError> {
    let id = match conversation {
        Value::String(id) => id,
        Value::Object(_) => read_field::<NamedConversation>("conversation", conversation)?.id,
        _ => return Err(WireError::invalid("conversation", "'conversation' must be an id, or an object with one.")),
    };
    check_id("conversation", &id)?;
    Ok(id)
}

fn parse_stop(stop: Option<Value>) -> Result<Vec<String>, WireError> {
    let stop = match stop {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one],
        Some(many) => read_field("stop", many)?,
    };
    if stop.len() > MAX_STOP || stop.iter().any(|s| s.is_empty() || s.chars().count() > MAX_STOP_CHARS) {
        let message = format!("'stop' may have {MAX_STOP} strings of 1 to {MAX_STOP_CHARS} characters.");
        return Err(WireError::invalid("stop", message));
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::input::InputRole;

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
            (json!({"input": "x", "seed": 0.5}), "seed"),
            (json!({"input": "x", "metadata": {"a": 1}}), "metadata.a"),
            (json!({"input": "x", "nonsense": 1}), "nonsense"),
            (json!({"input": "x", "stop": [1]}), "stop[0]"),
            (json!({"input": "x", "text": {"format": {"type": "json_schema"}}}), "text.format.name"),
            (json!({"input": "x", "reasoning": {"effort": "enormous"}}), "reasoning.effort"),
            (json!({"input": "x", "include": ["nonsense"]}), "include[0]"),
            (json!({"input": "x", "top_logprobs": 21}), "top_logprobs"),
            (json!({"input": "x", "text": {"colour": 1}}), "text.colour"),
            (json!({"input": "x", "tools": [{}]}), "tools[0].type"),
            (json!({"input": "x", "service_tier": "scale"}), "service_tier"),
            (json!({"input": "x", "conversation": 7}), "conversation"),
            (json!({"input": "x", "conversation": {"name": "c"}}), "conversation.name"),
            (json!({"input": "x", "conversation": "c", "previous_response_id": "r"}), "conversation"),
            (json!({"input": "x", "conversation": "c", "cache": {"mode": "read"}}), "cache"),
            (json!({"input": "x", "cache": {"mode": "write"}}), "cache.mode"),
            (json!({"input": "x", "cache": {"ttl_s": 0}}), "cache.ttl_s"),
            (json!({"input": "x", "prompt": "p"}), "prompt"),
            (json!({"input": 5}), "input"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (json!({"input": [{"role": "cook", "content": "x"}]}), "input[0].role"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type"),
            (json!({"input": [{"type": "item_reference"}]}), "input[0].id"),
            (json!({"input": []}), "input"),
            (json!({"input": [["user", "hi"]]}), "input[0]"),
            (json!({"input": "x", "text": [null, null]}), "text"),
            (json!({"input": "x", "max_tool_calls": 0}), "max_tool_calls"),
            (json!({"input": "x", "background": true, "store": false}), "background"),
            (json!({"input": [{"type": "function_call_output"}]}), "input[0].call_id"),
            (json!({"input": [{"type": "function_call_output", "call_id": "c"}]}), "input[0].output"),
            (
                json!({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": ""}]}),
                "input[0].call_id",
            ),
            (json!({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}), "input[0].arguments"),
            (json!({"input": [{"type": "reasoning", "summary": 7}]}), "input[0].summary"),
        ] {
            assert_eq!(param_of(body.clone()), param, "{body}");
        }
    }

    #[test]
    fn openai_fields_that_change_nothing_are_accepted() {
        let body = json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            "stream": true, "background": false, "client_metadata": {"a": 1}, "prompt_cache_retention": "24h", "tools": [], "tool_choice": "auto", "include": ["file_search_call.results"],
            "reasoning": {"effort": null, "context": "auto"}, "text": {"format": {"type": "text"}, "verbosity": "low"}, "service_tier": "auto", "generate": true, "cache": {"mode": "off"}});
        assert_eq!(Create::from_value(body).unwrap().input, [InputItem::message(InputRole::User, "ab")]);
    }

    #[test]
    fn items_of_an_earlier_output_are_accepted_back() {
        let input = json!([
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": null},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "b"}]},
        ]);
        let create = Create::from_value(json!({"input": input, "include": ["reasoning.encrypted_content"]})).unwrap();
        assert_eq!(create.input.len(), 4);
        assert!(!create.logprobs);
    }

    #[test]
    fn items_of_other_tools_are_understood_or_ignored() {
        let input = json!([
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
            {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "f", "input": "ls -l"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "b"}]},
            {"type": "mcp_call", "id": "mcp_1", "name": "f", "server_label": "s", "arguments": "{}"},
            {"role": "user", "content": "x"},
        ]);
        let create = Create::from_value(json!({"input": input, "tools": [{"type": "web_search"}]})).unwrap();
        let call = crate::wire::input::InputCall {
            call_id: "c".into(),
            name: "f".into(),
            arguments: "{\"input\":\"ls -l\"}".into(),
        };
        assert_eq!(create.input[1], InputItem::FunctionCall(call));
        assert!(matches!(&create.input[2], InputItem::FunctionCallOutput(output) if output.output == "b"));
        assert_eq!(create.ignored, ["tools[0]: web_search", "input[0]: web_search_call", "input[3]: mcp_call"]);
        let stored = serde_json::to_value(&create).unwrap();
        assert_eq!(serde_json::from_value::<Create>(stored).unwrap(), create, "as stores read it");
        assert_eq!(param_of(json!({"input": [{"type": "web_search_call"}]})), "input");
        assert_eq!(param_of(json!({"input": [{"type": "telepathy_call"}]})), "input[0].type");
        assert_eq!(
            param_of(json!({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]})),
            "input[0].input"
        );
    }
}
