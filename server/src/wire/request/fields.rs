//! Checks of single fields of a request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    limits::IGNORED_NAMES_BYTES,
    wire::{
        error::WireError,
        json::whole,
        read::{check_id, read_field},
        shorten,
    },
};

const MAX_STOP: usize = 16;
const MAX_STOP_CHARS: usize = 256;
const MAX_BIAS: usize = 300;
/// OpenAI's limit.
pub(super) const MAX_TOP_LOGPROBS: u8 = 20;

/// Cuts the names to those that fit into a header, followed by the number of the others.
pub(super) fn first_names(mut names: Vec<String>) -> Vec<String> {
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

pub(super) fn in_range<T: Copy>(
    param: &str,
    value: Option<T>,
    range: &str,
    holds: impl Fn(T) -> bool,
) -> Result<(), WireError> {
    match value {
        Some(value) if !holds(value) => Err(out_of_range(param, range)),
        _ => Ok(()),
    }
}

pub(super) fn out_of_range(param: &str, range: &str) -> WireError {
    WireError::invalid(param, format!("'{param}' must be {range}."))
}

pub(super) fn short(param: &str, value: Option<String>) -> Result<Option<String>, WireError> {
    value.map(|value| check_id(param, &value).map(|()| value)).transpose()
}

/// Returns whether the request asks for log-probabilities. A request for encrypted reasoning is accepted without effect: this
/// server sends reasoning in clear text and leaves it out of later prompts.
pub(super) fn parse_include(include: Vec<String>) -> Result<bool, WireError> {
    let mut logprobs = false;
    for (at, what) in include.into_iter().enumerate() {
        check_includable(&format!("include[{at}]"), &what)?;
        logprobs |= what == LOGPROBS;
    }
    Ok(logprobs)
}

const LOGPROBS: &str = "message.output_text.logprobs";

/// The values of `include` in OpenAI's API. Only log-probabilities have an effect in this server.
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
    Err(WireError::invalid(param, format!("'{}' is not a value of 'include'.", shorten(what))))
}

/// Parses `seed`. OpenAI's is a signed 64-bit number, this server's an unsigned one; both are accepted.
pub(super) fn parse_seed(seed: Value) -> Result<u64, WireError> {
    let seed = whole(seed);
    seed.as_u64()
        .or_else(|| seed.as_i64().map(i64::cast_unsigned))
        .ok_or_else(|| WireError::invalid("seed", "'seed' must be a whole number from -2^63 to 2^64 - 1."))
}

pub(super) fn parse_bias(bias: BTreeMap<String, f32>) -> Result<BTreeMap<u32, f32>, WireError> {
    let not_an_id =
        |_| WireError::invalid("logit_bias", "The keys of 'logit_bias' must be token ids, such as \"15043\".");
    let bias = bias.into_iter().map(|(id, bias)| Ok((id.parse().map_err(not_an_id)?, bias)));
    let bias: BTreeMap<u32, f32> = bias.collect::<Result<_, _>>()?;
    if bias.len() > MAX_BIAS || bias.values().any(|b| !(-100.0..=100.0).contains(b)) {
        let message = format!("'logit_bias' may have at most {MAX_BIAS} token ids, with values from -100 to 100.");
        return Err(WireError::invalid("logit_bias", message));
    }
    Ok(bias)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConversationReference")]
pub(super) struct NamedConversation {
    #[schemars(length(min = 1, max = 256))]
    id: String,
}

/// Parses the id of a conversation, or an object with the id.
pub fn parse_conversation(conversation: Value) -> Result<String, WireError> {
    let id = match conversation {
        Value::String(id) => id,
        Value::Object(_) => read_field::<NamedConversation>("conversation", conversation)?.id,
        _ => return Err(WireError::invalid("conversation", "'conversation' must be an id, or an object with one.")),
    };
    check_id("conversation", &id)?;
    Ok(id)
}

pub(super) fn parse_stop(stop: Option<Value>) -> Result<Vec<String>, WireError> {
    let stop = match stop {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one],
        Some(many) => read_field("stop", many)?,
    };
    if stop.len() > MAX_STOP || stop.iter().any(|s| s.is_empty() || s.chars().count() > MAX_STOP_CHARS) {
        let message = format!("'stop' may have at most {MAX_STOP} strings of 1 to {MAX_STOP_CHARS} characters.");
        return Err(WireError::invalid("stop", message));
    }
    Ok(stop)
}
