//! Dialects: how a model writes what is not plain text, that is thoughts and calls of functions.

use serde::{Deserialize, Serialize};

/// One model's way of writing. Part of a response's header, since the text is read by it for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialect {
    /// Where the model thinks aloud.
    pub reasoning: Option<Tags>,
    pub calls: Calls,
    /// Whether the chat template describes tools to the model; otherwise a message of ours does.
    pub template_has_tools: bool,
}

/// What encloses a thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    pub open: String,
    pub close: String,
    /// The prompt ends with the opening tag, so that the output begins inside the thought.
    #[serde(default)]
    pub opened: bool,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one a call; what models without a way of their own are taught.
    #[default]
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`.
    Mistral,
    /// `{"name": …, "parameters": {…}}`, alone.
    Llama,
}
