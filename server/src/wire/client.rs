//! The events that WebSocket clients send, one event a message.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    error::WireError,
    lane::{self, is_stream_id},
    read::{missing, read},
    request::{ConversationBody, Create, parse_conversation},
    shorten,
    steer::{RefusedSteer, Steer, parse_steer},
};

/// A parsed event of a WebSocket client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    Create {
        create: Box<Create>,
        stream_id: Option<String>,
    },
    Resume {
        target: Target,
        starting_after: Option<u64>,
        stream_id: Option<String>,
    },
    Cancel {
        response_id: String,
        stream_id: Option<String>,
    },
    /// Input into a running response of this connection. An invalid one is answered by `response.steer.failed`, not by `error`.
    Steer(Result<Steer, RefusedSteer>),
    Ping,
    /// The answer to the server's ping. Like any message, it shows that the client is alive.
    Pong,
}

/// Resumes a response, or the current response of a conversation. Exactly one of `response_id` and `conversation` is given.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    response_id: Option<String>,
    #[schemars(with = "Option<ConversationBody>")]
    conversation: Option<Value>,
    /// The `sequence_number` of the last event that the client received. Default: the stream starts at the first event.
    starting_after: Option<u64>,
}

/// Cancels a response. Any connection of the tenant may send this event.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    response_id: String,
}

/// The response to resume.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Response(String),
    /// The running response of this conversation, or else the one that ended last.
    Conversation(String),
}

/// Parses one WebSocket message, whose values were [counted](super::values::count_values). An error comes with the `stream_id`
/// that the `error` event echoes.
pub fn parse_client_event(text: &str) -> Result<ClientEvent, (WireError, Option<String>)> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| (WireError::InvalidJson(error.to_string()), lane::find(text).map(str::to_owned)))?;
    let Value::Object(mut object) = value else {
        return Err((
            WireError::InvalidRequest { param: None, message: "A message must be a JSON object.".into() },
            None,
        ));
    };
    let stream_id = match object.remove("stream_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if is_stream_id(&id) => Some(id),
        // The error echoes the invalid id, so that the waiting client can match it.
        Some(Value::String(id)) => return Err((WireError::InvalidStreamId, Some(shorten(&id)))),
        Some(_) => return Err((WireError::InvalidStreamId, None)),
    };
    parse_event_body(object, stream_id.clone()).map_err(|error| (error, stream_id))
}

fn parse_event_body(mut object: Map<String, Value>, stream_id: Option<String>) -> Result<ClientEvent, WireError> {
    let kind = match object.remove("type") {
        Some(Value::String(kind)) => kind,
        Some(other) if !other.is_null() => return Err(WireError::invalid("type", "'type' must be a string.")),
        _ => return Err(WireError::invalid("type", "'type' is missing. Send one, such as \"response.create\".")),
    };
    match kind.as_str() {
        "response.create" => {
            // A socket follows the response that it creates, so `background` has no effect.
            object.remove("background");
            Ok(ClientEvent::Create { create: Box::new(Create::from_value(Value::Object(object))?), stream_id })
        }
        "caudal:response.resume" => {
            let resume: Resume = read(Value::Object(object))?;
            let target = match (resume.response_id, resume.conversation) {
                (Some(_), Some(_)) => {
                    let message = "Send either 'response_id' or 'conversation', not both.";
                    return Err(WireError::invalid("conversation", message));
                }
                (Some(id), None) => Target::Response(id),
                (None, Some(conversation)) => Target::Conversation(parse_conversation(conversation)?),
                (None, None) => return Err(missing("response_id")),
            };
            Ok(ClientEvent::Resume { target, starting_after: resume.starting_after, stream_id })
        }
        "caudal:response.cancel" | "response.cancel" => {
            let cancel: Cancel = read(Value::Object(object))?;
            Ok(ClientEvent::Cancel { response_id: cancel.response_id, stream_id })
        }
        "response.steer" => Ok(ClientEvent::Steer(parse_steer(object))),
        "caudal:ping" => Ok(ClientEvent::Ping),
        "caudal:pong" => Ok(ClientEvent::Pong),
        other => Err(WireError::invalid("type", format!("Unknown type '{}'.", shorten(other)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
