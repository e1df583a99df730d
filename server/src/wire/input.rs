//! The `input` of a request: a string, or items (messages, tool calls and their outputs, reasoning, references).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    compaction,
    contract::rules::{given, when},
    error::WireError,
    metadata::{check_metadata, metadata_value},
    output::SummaryText,
    read::{FOREIGN, check_id, is_foreign, missing, read_field, type_of},
    shorten,
};

/// An item of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputItem {
    Message(InputMessage),
    FunctionCall(InputCall),
    FunctionCallOutput(InputCallOutput),
    /// Earlier reasoning of the model. It is accepted and left out of the prompt.
    Reasoning(InputThought),
    /// The id of a stored item. The server replaces it by the item before it creates the response.
    Reference(InputReference),
    /// An item of a tool that this server does not have, such as `web_search_call`. It keeps its index among the items and is
    /// left out of the prompt.
    Ignored(IgnoredItem),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredItem {
    /// The `type` of the item.
    pub kind: String,
}

/// The id of a stored item of the tenant, of a response or a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReference {
    pub id: String,
}

/// A message. Its text parts are joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputMessage {
    pub role: InputRole,
    pub text: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputRole {
    User,
    Assistant,
    System,
    Developer,
}

/// An earlier call of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCall {
    pub call_id: String,
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// The output of a call. Its text parts are joined.
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
    /// Returns the bytes of the item's text, names and ids.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.text.len(),
            Self::FunctionCall(call) => call.call_id.len() + call.name.len() + call.arguments.len(),
            Self::FunctionCallOutput(output) => output.call_id.len() + output.output.len(),
            Self::Reasoning(thought) => thought.summary.len(),
            Self::Reference(reference) => reference.id.len(),
            Self::Ignored(_) => 0,
        }
    }

    pub fn message(role: InputRole, text: impl Into<String>) -> Self {
        Self::Message(InputMessage::new(role, text.into()))
    }
}

impl InputMessage {
    pub fn new(role: InputRole, text: String) -> Self {
        Self { role, text, metadata: BTreeMap::new() }
    }
}

/// Parses `input`. Errors name the item and the part.
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

/// Returns the names of the ignored items, such as `input[1]: web_search_call`.
pub fn ignored(items: &[InputItem]) -> Vec<String> {
    let named = items.iter().enumerate().filter_map(|(at, item)| match item {
        InputItem::Ignored(ignored) => Some(format!("input[{at}]: {}", ignored.kind)),
        _ => None,
    });
    named.collect()
}

/// Types of items that belong to tools which a provider runs, or which are not called like a function.
const ELSEWHERE: [&str; 24] = [
    "web_search_call",
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "code_interpreter_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "configuration_update",
    "program",
    "program_output",
    "compaction_trigger",
    "context_compaction",
];

fn parse_item(at: usize, item: Value) -> Result<InputItem, WireError> {
    let path = format!("input[{at}]");
    match kind_of(&path, &item)? {
        "message" => parse_message(&path, item).map(InputItem::Message),
        "function_call" => parse_call(&path, item).map(InputItem::FunctionCall),
        "custom_tool_call" => parse_custom_call(&path, item).map(InputItem::FunctionCall),
        "function_call_output" | "custom_tool_call_output" => {
            parse_call_output(&path, item).map(InputItem::FunctionCallOutput)
        }
        "reasoning" => parse_thought(&path, item).map(InputItem::Reasoning),
        "item_reference" => parse_reference(&path, item).map(InputItem::Reference),
        "compaction" => parse_compaction(&path, item).map(InputItem::Message),
        kind if ELSEWHERE.contains(&kind) || is_foreign(kind) => {
            Ok(InputItem::Ignored(IgnoredItem { kind: shorten(kind) }))
        }
        kind => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Items of type '{}' are not supported.", shorten(kind)),
        )),
    }
}

/// Returns the type of an item. An item without a type is a reference if it has only an id, otherwise a message.
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

// Clients send back items of earlier answers, also of other servers, so unknown fields are ignored.

/// A message. With the role `system` or `developer` it is an instruction, with `assistant` an earlier answer.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "InputMessage", extend("allOf" = [content_unless_assistant()]))]
pub struct MessageBody {
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>", extend("enum" = ["message", null]))]
    _kind: Option<Value>,
    #[schemars(with = "InputRole")]
    role: Option<InputRole>,
    #[schemars(with = "Option<TextBody>")]
    content: Option<Value>,
    /// Key-value pairs of the client; lists return them with the item. Up to 16 pairs, keys of 64 characters, values of 512.
    #[schemars(extend("maxProperties" = 16, "propertyNames" = {"maxLength": 64}, "additionalProperties" = metadata_value()))]
    metadata: Option<BTreeMap<String, String>>,
    /// Ignored.
    #[serde(rename = "id")]
    _id: Option<Value>,
    /// Ignored.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

fn content_unless_assistant() -> Value {
    when("role", &json!({"not": {"const": "assistant"}}), &given("content"))
}

fn parse_message(path: &str, item: Value) -> Result<InputMessage, WireError> {
    let item: MessageBody = read_field(path, item)?;
    let role = item.role.ok_or_else(|| missing(&format!("{path}.role")))?;
    let text = match item.content {
        // A message of the assistant has no content if it only called functions or was cut off while it reasoned.
        None if role == InputRole::Assistant => String::new(),
        content => parse_text(&format!("{path}.content"), content)?,
    };
    let metadata = check_metadata(item.metadata.unwrap_or_default())
        .map_err(|error| error.renamed("metadata", &format!("{path}.metadata")))?;
    Ok(InputMessage { role, text, metadata })
}

/// A call that the model made earlier.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "FunctionCallInput")]
struct CallBody {
    #[schemars(length(min = 1, max = 256))]
    call_id: String,
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// JSON, as the model wrote it.
    arguments: String,
    /// Ignored.
    #[serde(rename = "id")]
    _id: Option<Value>,
    /// Ignored.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

fn parse_call(path: &str, item: Value) -> Result<InputCall, WireError> {
    let item: CallBody = read_field(path, item)?;
    check_id(&format!("{path}.call_id"), &item.call_id)?;
    check_id(&format!("{path}.name"), &item.name)?;
    Ok(InputCall { call_id: item.call_id, name: item.name, arguments: item.arguments })
}

/// A call of a custom tool, whose input is text. The prompt has a call with the argument `input`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CustomToolCallInput")]
struct CustomCallBody {
    #[schemars(length(min = 1, max = 256))]
    call_id: String,
    #[schemars(length(min = 1, max = 256))]
    name: String,
    input: String,
}

fn parse_custom_call(path: &str, item: Value) -> Result<InputCall, WireError> {
    let item: CustomCallBody = read_field(path, item)?;
    check_id(&format!("{path}.call_id"), &item.call_id)?;
    check_id(&format!("{path}.name"), &item.name)?;
    Ok(InputCall { call_id: item.call_id, name: item.name, arguments: custom_arguments(&item.input) })
}

/// Returns the input of a custom tool as the arguments of a function.
pub fn custom_arguments(input: &str) -> String {
    json!({ "input": input }).to_string()
}

/// The output of an earlier call, of this input or of the continued response or conversation.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "FunctionCallOutput")]
struct CallOutputBody {
    #[schemars(length(min = 1, max = 256))]
    call_id: String,
    #[schemars(with = "TextBody")]
    output: Option<Value>,
    /// Ignored.
    #[serde(rename = "id")]
    _id: Option<Value>,
    /// Ignored.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

fn parse_call_output(path: &str, item: Value) -> Result<InputCallOutput, WireError> {
    let item: CallOutputBody = read_field(path, item)?;
    check_id(&format!("{path}.call_id"), &item.call_id)?;
    Ok(InputCallOutput { call_id: item.call_id, output: parse_text(&format!("{path}.output"), item.output)? })
}

/// Earlier reasoning of the model. It is accepted and left out of the prompt.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReasoningInput")]
struct ThoughtBody {
    #[schemars(with = "Option<Vec<SummaryText>>")]
    summary: Option<Value>,
    /// Ignored.
    #[serde(rename = "id")]
    _id: Option<Value>,
    /// Ignored.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

fn parse_thought(path: &str, item: Value) -> Result<InputThought, WireError> {
    let item: ThoughtBody = read_field(path, item)?;
    let summary = item.summary.map(|summary| parse_text(&format!("{path}.summary"), Some(summary))).transpose()?;
    Ok(InputThought { summary: summary.unwrap_or_default() })
}

/// The id of an item that the server stores, of a response or a conversation.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ItemReference")]
struct ReferenceBody {
    #[schemars(length(min = 1, max = 256))]
    id: String,
}

fn parse_reference(path: &str, item: Value) -> Result<InputReference, WireError> {
    let item: ReferenceBody = read_field(path, item)?;
    check_id(&format!("{path}.id"), &item.id)?;
    Ok(InputReference { id: item.id })
}

/// The item that `POST /v1/responses/compact` returned.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CompactionInput")]
struct CompactionBody {
    encrypted_content: String,
    /// Ignored.
    #[serde(rename = "id")]
    _id: Option<Value>,
}

fn parse_compaction(path: &str, item: Value) -> Result<InputMessage, WireError> {
    let item: CompactionBody = read_field(path, item)?;
    let text = compaction::summary(&item.encrypted_content).ok_or_else(|| {
        let path = format!("{path}.encrypted_content");
        WireError::invalid(&path, format!("'{path}' was not made by this server."))
    })?;
    Ok(InputMessage::new(InputRole::Developer, text))
}

// Schemas of the types that are dispatched by hand above. These types have no values.

/// The `input` of a request.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "Input")]
#[serde(untagged)]
pub enum InputBody {
    Text(String),
    Items(Vec<ItemBody>),
}

/// An element of `input`. Every output item may be sent back unchanged.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "InputItem")]
#[serde(untagged)]
pub enum ItemBody {
    Typed(TypedItem),
    Message(MessageBody),
    Hosted(HostedItem),
}

#[allow(dead_code, private_interfaces)]
#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TypedItem {
    FunctionCall(CallBody),
    FunctionCallOutput(CallOutputBody),
    CustomToolCall(CustomCallBody),
    CustomToolCallOutput(CustomCallOutputBody),
    Reasoning(ThoughtBody),
    ItemReference(ReferenceBody),
    Compaction(CompactionBody),
}

/// The output of a call of a custom tool.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "CustomToolCallOutput")]
struct CustomCallOutputBody {
    #[schemars(length(min = 1, max = 256))]
    call_id: String,
    output: TextBody,
}

/// An item of a tool that this server does not have. Ignored.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "HostedToolItem")]
pub struct HostedItem {
    #[serde(rename = "type")]
    #[schemars(extend("anyOf" = elsewhere()))]
    kind: String,
}

/// Returns the schemas of the types of [`HostedItem`].
fn elsewhere() -> Value {
    json!([{"enum": ELSEWHERE}, {"type": "string", "pattern": FOREIGN}])
}

/// Returns the schema of an input with at least one item that is not ignored.
pub fn something_said() -> Value {
    let ignored = json!({"required": ["type"], "properties": {"type": {"anyOf": elsewhere()}}});
    let input = json!({"anyOf": [{"type": "string"}, {"type": "array", "contains": {"not": ignored}}]});
    json!({"required": ["input"], "properties": {"input": input}})
}

/// Text, or parts of a text, which are joined.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "Text")]
#[serde(untagged)]
pub enum TextBody {
    Text(String),
    Parts(Vec<TextPart>),
}

#[allow(dead_code)]
#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextPart {
    InputText {
        text: String,
    },
    OutputText {
        text: String,
    },
    Text {
        text: String,
    },
    SummaryText {
        text: String,
    },
    Refusal {
        refusal: Option<String>,
    },
    /// Left out of the prompt.
    ReasoningText {
        text: Option<String>,
    },
}

/// Parses text: a string, or an array of parts, which are joined.
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
    match type_of(path, part)? {
        "input_text" | "output_text" | "text" | "summary_text" => match part.get("text") {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => Err(missing(&format!("{path}.text"))),
            Some(_) => Err(WireError::invalid(format!("{path}.text"), format!("'{path}.text' must be a string."))),
        },
        "refusal" => Ok(part.get("refusal").and_then(Value::as_str).unwrap_or_default()),
        // The prompt leaves out earlier reasoning.
        "reasoning_text" => Ok(""),
        kind => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Parts of type '{}' are not supported.", shorten(kind)),
        )),
    }
}
