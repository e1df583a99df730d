//! `response.steer`: input into a running response of a connection, and the answers of the server.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    error::WireError,
    input::{InputBody, InputItem, InputRole, parse_input},
};

/// A validated `response.steer`.
#[derive(Debug, Clone, PartialEq)]
pub struct Steer {
    pub previous_response_id: String,
    /// Messages of the user; at least one.
    pub items: Vec<InputItem>,
    /// The input as the client sent it. `response.steer.failed` returns it.
    pub input: Value,
}

/// Adds input to a running response that this connection created.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "SteerParams")]
pub struct SteerBody {
    previous_response_id: String,
    /// Text, or messages of the role `user`.
    input: InputBody,
}

/// A `response.steer` that is not valid.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedSteer {
    pub previous_response_id: String,
    pub input: Value,
    pub message: String,
}

/// Why an input is not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SteerErrorCode {
    ResponseNotFound,
    InvalidInput,
    SteeringNotSupported,
    TooManyPendingSteers,
    ResponseAlreadyCompleted,
    ResponseNotActive,
    SuccessorCreationFailed,
}

/// The answers to `response.steer`, numbered by the connection's own counter.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum SteerEvent<'a> {
    /// The input is valid and queued.
    #[serde(rename = "response.steer.accepted")]
    Accepted { steer: Submission<'a> },
    /// The input stays queued until the client sends the outputs of the required calls.
    #[serde(rename = "response.steer.pending")]
    Pending {
        steer: Submission<'a>,
        #[schemars(extend("const" = WAITING))]
        reason: &'static str,
        required_input: &'a [RequiredInput],
    },
    /// The input was not committed. The event returns it.
    #[serde(rename = "response.steer.failed")]
    Failed { steer: Returned<'a>, error: SteerError },
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SteerSubmission")]
pub struct Submission<'a> {
    pub id: &'a str,
    pub previous_response_id: &'a str,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReturnedSteer")]
pub struct Returned<'a> {
    /// Absent if the input was refused before it was queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    pub previous_response_id: &'a str,
    pub input: &'a Value,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct SteerError {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "invalid_request_error"))]
    kind: &'static str,
    code: SteerErrorCode,
    message: String,
}

/// A call whose output the server waits for: `{type: "function_call_output", call_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RequiredInput {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "function_call_output"))]
    kind: &'static str,
    pub call_id: String,
}

/// The `reason` of `response.steer.pending`.
pub const WAITING: &str = "waiting_for_required_input";

impl SteerError {
    pub fn new(code: SteerErrorCode, message: impl Into<String>) -> Self {
        Self { kind: "invalid_request_error", code, message: message.into() }
    }
}

impl RequiredInput {
    pub fn new(call_id: String) -> Self {
        Self { kind: "function_call_output", call_id }
    }
}

/// Parses the fields of `response.steer` except its type.
pub fn parse_steer(mut fields: serde_json::Map<String, Value>) -> Result<Steer, RefusedSteer> {
    let input = fields.remove("input").unwrap_or_default();
    let id = fields.remove("previous_response_id").unwrap_or_default();
    let previous_response_id = id.as_str().unwrap_or_default().to_owned();
    let refused = |message: String| RefusedSteer {
        previous_response_id: previous_response_id.clone(),
        input: input.clone(),
        message,
    };
    if previous_response_id.is_empty() {
        return Err(refused("'previous_response_id' must be the id of a response.".into()));
    }
    if let Some((field, _)) = fields.iter().find(|(_, value)| !value.is_null()) {
        return Err(refused(format!("Unknown field '{}'.", super::shorten(field))));
    }
    let items = parse_input(input.clone()).and_then(only_users).map_err(|error| refused(error.to_string()))?;
    Ok(Steer { previous_response_id, items, input })
}

fn only_users(items: Vec<InputItem>) -> Result<Vec<InputItem>, WireError> {
    let is_user = |item: &InputItem| matches!(item, InputItem::Message(message) if message.role == InputRole::User);
    if items.is_empty() || !items.iter().all(is_user) {
        return Err(WireError::invalid("input", "'input' must be text, or messages of the user."));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(fields: Value) -> Result<Steer, RefusedSteer> {
        parse_steer(fields.as_object().expect("an object").clone())
    }

    #[test]
    fn only_what_a_user_says_steers() {
        for input in [json!("stop"), json!([{"role": "user", "content": "stop"}])] {
            let steer = parse(json!({"previous_response_id": "resp_1", "input": input})).unwrap();
            assert_eq!((steer.items, steer.input), (vec![InputItem::message(InputRole::User, "stop")], input));
        }
        for fields in [
            json!({"previous_response_id": "resp_1"}),
            json!({"previous_response_id": "resp_1", "input": []}),
            json!({"previous_response_id": "resp_1", "input": [{"role": "system", "content": "x"}]}),
            json!({"previous_response_id": "resp_1", "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
            json!({"previous_response_id": "resp_1", "input": "x", "temperature": 1}),
            json!({"input": "x"}),
        ] {
            let refused = parse(fields.clone()).unwrap_err();
            assert_eq!(json!(fields.get("input")), refused.input, "the input comes back");
        }
    }
}
