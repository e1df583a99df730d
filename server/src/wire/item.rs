//! Items as the lists of a response's input and of a conversation show them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    input::{InputMessage, InputRole},
    output::{ItemStatus, OutputItem},
};

/// An item of a conversation: a message, a function call, the output of a call, a reasoning item or a reference.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ConversationItem")]
#[serde(untagged)]
pub enum ListedItem {
    Message(StoredMessage),
    CallOutput(StoredCallOutput),
    Output(OutputItem),
    Reference(StoredReference),
}

/// A message of the user, the system or the developer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoredMessage {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "message"))]
    kind: &'static str,
    pub id: String,
    pub status: ItemStatus,
    #[schemars(with = "String", extend("enum" = ["user", "system", "developer"]))]
    pub role: InputRole,
    pub content: [InputText; 1],
    /// Key-value pairs that the client set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// An `input_text` part.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "InputTextPart")]
pub struct InputText {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "input_text"))]
    kind: &'static str,
    pub text: String,
}

/// The output of a function call.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoredCallOutput {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "function_call_output"))]
    kind: &'static str,
    pub id: String,
    pub status: ItemStatus,
    pub call_id: String,
    pub output: String,
}

/// A reference to an item that another response or conversation stores.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoredReference {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "item_reference"))]
    kind: &'static str,
    pub id: String,
}

impl ListedItem {
    pub fn message(id: String, message: InputMessage) -> Self {
        let InputMessage { role, text, metadata } = message;
        let content = [InputText { kind: "input_text", text }];
        Self::Message(StoredMessage { kind: "message", id, status: ItemStatus::Completed, role, content, metadata })
    }

    pub fn call_output(id: String, call_id: String, output: String) -> Self {
        let status = ItemStatus::Completed;
        Self::CallOutput(StoredCallOutput { kind: "function_call_output", id, status, call_id, output })
    }

    pub fn reference(id: String) -> Self {
        Self::Reference(StoredReference { kind: "item_reference", id })
    }
}
