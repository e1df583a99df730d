//! The `input` of a request: a string, or messages of text.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::WireError,
    read::{missing, read_field},
    shorten,
};

/// A message of the input, its text parts joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputMessage {
    pub role: InputRole,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputRole {
    User,
    Assistant,
    System,
    Developer,
}

/// Reads `input`; errors name the item and the part.
pub fn parse_input(input: Value) -> Result<Vec<InputMessage>, WireError> {
    let messages = match input {
        Value::String(text) => vec![InputMessage { role: InputRole::User, text }],
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(at, item)| parse_item(at, item)).collect::<Result<_, _>>()?
        }
        _ => return Err(WireError::invalid("input", "'input' must be a string or an array of items.")),
    };
    if messages.is_empty() {
        return Err(WireError::invalid("input", "'input' has no items."));
    }
    Ok(messages)
}

fn parse_item(at: usize, item: Value) -> Result<InputMessage, WireError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[serde(rename = "type")]
        kind: Option<String>,
        role: Option<InputRole>,
        content: Option<Value>,
        // What clients send back from an earlier output.
        #[serde(rename = "id")]
        _id: Option<String>,
        #[serde(rename = "status")]
        _status: Option<String>,
        #[serde(rename = "phase")]
        _phase: Option<Value>,
    }
    let path = format!("input[{at}]");
    if let Some(kind) = item.get("type").and_then(Value::as_str).filter(|kind| *kind != "message") {
        return Err(WireError::invalid(
            format!("{path}.type"),
            format!("Items of type '{}' are not supported.", shorten(kind)),
        ));
    }
    let item: Item = read_field(&path, item)?;
    debug_assert!(item.kind.is_none_or(|kind| kind == "message"));
    let role = item.role.ok_or_else(|| missing(&format!("{path}.role")))?;
    let path = format!("{path}.content");
    let text = match item.content.ok_or_else(|| missing(&path))? {
        Value::String(text) => text,
        Value::Array(parts) => parts
            .into_iter()
            .enumerate()
            .map(|(at, part)| parse_part(&format!("{path}[{at}]"), &part))
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
        _ => return Err(WireError::invalid(&path, format!("'{path}' must be a string or an array of parts."))),
    };
    Ok(InputMessage { role, text })
}

fn parse_part(path: &str, part: &Value) -> Result<String, WireError> {
    match part.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text" | "text") => part
            .get("text")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| WireError::invalid(format!("{path}.text"), format!("'{path}.text' must be a string."))),
        Some(kind) => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Parts of type '{}' are not supported.", shorten(kind)),
        )),
        None => Err(missing(&format!("{path}.type"))),
    }
}
