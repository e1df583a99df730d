//! The `input` of a request: a string, or items: messages of text, calls of functions and their outputs, thoughts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    compaction,
    error::WireError,
    read::{check_id, missing, read_field},
    shorten,
};

/// An item of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputItem {
    Message(InputMessage),
    FunctionCall(InputCall),
    FunctionCallOutput(InputCallOutput),
    /// What the model thought earlier. Accepted back; not shown to the model again.
    Reasoning(InputThought),
    /// An item that the server has. Replaced by the item before a response is created.
    Reference(InputReference),
}

/// The id of an item of the tenant, wherever the item is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReference {
    pub id: String,
}

/// A message, its text parts joined.
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

/// What the model called earlier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCall {
    pub call_id: String,
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// What a call came to, its text parts joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCallOutput {
    pub call_id: String,
    pub output: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputThought {
    pub summary: String,
}

impl InputItem {
    /// Of its text, names and ids.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.text.len(),
            Self::FunctionCall(call) => call.call_id.len() + call.name.len() + call.arguments.len(),
            Self::FunctionCallOutput(output) => output.call_id.len() + output.output.len(),
            Self::Reasoning(thought) => thought.summary.len(),
            Self::Reference(reference) => reference.id.len(),
        }
    }

    pub fn message(role: InputRole, text: impl Into<String>) -> Self {
        Self::Message(InputMessage { role, text: text.into() })
    }
}

/// Reads `input`; errors name the item and the part.
pub fn parse_input(input: Value) -> Result<Vec<InputItem>, WireError> {
    let items = match input {
        Value::String(text) => vec![InputItem::message(InputRole::User, text)],
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(at, item)| parse_item(at, item)).collect::<Result<_, _>>()?
        }
        _ => return Err(WireError::invalid("input", "'input' must be a string or an array of items.")),
    };
    Ok(items)
}

fn parse_item(at: usize, item: Value) -> Result<InputItem, WireError> {
    let path = format!("input[{at}]");
    match kind_of(&path, &item)? {
        "message" => parse_message(&path, item).map(InputItem::Message),
        "function_call" => parse_call(&path, item).map(InputItem::FunctionCall),
        "function_call_output" => parse_call_output(&path, item).map(InputItem::FunctionCallOutput),
        "reasoning" => parse_thought(&path, item).map(InputItem::Reasoning),
        "item_reference" => parse_reference(&path, item).map(InputItem::Reference),
        "compaction" => parse_compaction(&path, item).map(InputItem::Message),
        kind => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Items of type '{}' are not supported.", shorten(kind)),
        )),
    }
}

/// An item's type. An item without one is a message, or a reference if it has nothing but an id.
fn kind_of<'i>(path: &str, item: &'i Value) -> Result<&'i str, WireError> {
    match item.get("type").filter(|kind| !kind.is_null()) {
        Some(Value::String(kind)) => Ok(kind),
        Some(_) => Err(WireError::invalid(format!("{path}.type"), format!("'{path}.type' must be a string."))),
        None => {
            let has = |field| item.get(field).is_some_and(|value: &Value| !value.is_null());
            Ok(if has("id") && !has("role") && !has("content") { "item_reference" } else { "message" })
        }
    }
}

// Items come back from earlier answers, of this server or of others: fields that are not read here are ignored.

fn parse_message(path: &str, item: Value) -> Result<InputMessage, WireError> {
    #[derive(Deserialize)]
    struct Item {
        role: Option<InputRole>,
        content: Option<Value>,
    }
    let item: Item = read_field(path, item)?;
    let role = item.role.ok_or_else(|| missing(&format!("{path}.role")))?;
    let text = match item.content {
        // An assistant that only called, or was cut in its thoughts.
        None if role == InputRole::Assistant => String::new(),
        content => parse_text(&format!("{path}.content"), content)?,
    };
    Ok(InputMessage { role, text })
}

fn parse_call(path: &str, item: Value) -> Result<InputCall, WireError> {
    #[derive(Deserialize)]
    struct Item {
        call_id: String,
        name: String,
        arguments: String,
    }
    let item: Item = read_field(path, item)?;
    check_id(&format!("{path}.call_id"), &item.call_id)?;
    check_id(&format!("{path}.name"), &item.name)?;
    Ok(InputCall { call_id: item.call_id, name: item.name, arguments: item.arguments })
}

fn parse_call_output(path: &str, item: Value) -> Result<InputCallOutput, WireError> {
    #[derive(Deserialize)]
    struct Item {
        call_id: String,
        output: Option<Value>,
    }
    let item: Item = read_field(path, item)?;
    check_id(&format!("{path}.call_id"), &item.call_id)?;
    Ok(InputCallOutput { call_id: item.call_id, output: parse_text(&format!("{path}.output"), item.output)? })
}

fn parse_thought(path: &str, item: Value) -> Result<InputThought, WireError> {
    #[derive(Deserialize)]
    struct Item {
        summary: Option<Value>,
    }
    let item: Item = read_field(path, item)?;
    let summary = item.summary.map(|summary| parse_text(&format!("{path}.summary"), Some(summary))).transpose()?;
    Ok(InputThought { summary: summary.unwrap_or_default() })
}

fn parse_reference(path: &str, item: Value) -> Result<InputReference, WireError> {
    #[derive(Deserialize)]
    struct Item {
        id: String,
    }
    let item: Item = read_field(path, item)?;
    check_id(&format!("{path}.id"), &item.id)?;
    Ok(InputReference { id: item.id })
}

fn parse_compaction(path: &str, item: Value) -> Result<InputMessage, WireError> {
    #[derive(Deserialize)]
    struct Item {
        encrypted_content: String,
    }
    let item: Item = read_field(path, item)?;
    let text = compaction::summary(&item.encrypted_content).ok_or_else(|| {
        let path = format!("{path}.encrypted_content");
        WireError::invalid(&path, format!("'{path}' was not made by this server."))
    })?;
    Ok(InputMessage { role: InputRole::Developer, text })
}

/// Text as a string or as an array of parts, which are joined.
pub fn parse_text(path: &str, text: Option<Value>) -> Result<String, WireError> {
    match text.filter(|text| !text.is_null()).ok_or_else(|| missing(path))? {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            parts.iter().enumerate().map(|(at, part)| parse_part(&format!("{path}[{at}]"), part)).collect()
        }
        _ => Err(WireError::invalid(path, format!("'{path}' must be a string or an array of parts."))),
    }
}

fn parse_part<'p>(path: &str, part: &'p Value) -> Result<&'p str, WireError> {
    if !part.is_object() {
        return Err(WireError::invalid(path, format!("'{path}' must be an object.")));
    }
    match part.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text" | "text" | "summary_text") => part
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| WireError::invalid(format!("{path}.text"), format!("'{path}.text' must be a string."))),
        Some("refusal") => Ok(part.get("refusal").and_then(Value::as_str).unwrap_or_default()),
        Some(kind) => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Parts of type '{}' are not supported.", shorten(kind)),
        )),
        None => Err(missing(&format!("{path}.type"))),
    }
}
