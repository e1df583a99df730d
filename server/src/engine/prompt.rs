//! A prompt before the model's chat template turns it into tokens.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The input of a chat template. The field names are those that templates read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Prompt {
    pub messages: Vec<Message>,
    /// Functions that the model may call, as `{"type": "function", "function": {name, description, parameters}}`. Empty if the
    /// dialect describes them in a message instead.
    pub tools: Vec<Value>,
    /// `low`, `medium`, `high`, …; as the client sent it.
    pub reasoning_effort: Option<String>,
    /// The maximum number of tokens. A longer prompt need not be tokenised to its end.
    #[serde(skip)]
    pub most: Option<usize>,
}

/// The author of a message. The chat template decides how each role is written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    /// The result of a call.
    Tool,
}

/// One message of the prompt.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// The calls of an assistant's message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The called function of a tool's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call in the form that templates read: `{id, type: "function", function: {name, arguments}}`.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct ToolCall {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: FunctionCall,
}

#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct FunctionCall {
    pub name: String,
    /// A JSON object. Templates write it as text themselves.
    pub arguments: Value,
}

impl Message {
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None, name: None }
    }
}

impl Prompt {
    /// A prompt of messages without tools.
    pub fn of(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}
