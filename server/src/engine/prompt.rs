//! A prompt before the model's chat template turns it into tokens.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a chat template is given. Field names are those that templates read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Prompt {
    pub messages: Vec<Message>,
    /// Functions the model may call, as `{"type": "function", "function": {name, description, parameters}}`. Empty where the
    /// dialect describes them in a message instead.
    pub tools: Vec<Value>,
    /// `low`, `medium`, `high`, …; as the client said it.
    pub reasoning_effort: Option<String>,
    /// Tokens that it may have. A longer one need not be tokenised to its end.
    #[serde(skip)]
    pub most: Option<usize>,
}

/// Who said a message; the chat template decides how each role is written.
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
    /// What an assistant called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's message: the call it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a tool's message: the function that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call, as templates read it: `{id, type: "function", function: {name, arguments}}`.
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
    /// An object; templates write it as JSON themselves.
    pub arguments: Value,
}

impl Message {
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None, name: None }
    }
}

impl Prompt {
    /// Of messages alone.
    pub fn of(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}
