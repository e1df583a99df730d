//! The `input` of a request: a string, or items: messages of text, calls of tools and their outputs, thoughts.

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
    /// What the model thought earlier. Accepted back; not shown to the model again.
    Reasoning(InputThought),
    /// An item that the server has. Replaced by the item before a response is created.
    Reference(InputReference),
    /// An item of a tool that this server does not have, such as `web_search_call`. Holds its place among the items; not
    /// shown to the model.
    Ignored(IgnoredItem),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredItem {
    /// Its type.
    pub kind: String,
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

/// The items of an input that are ignored, such as `input[1]: web_search_call`.
pub fn ignored(items: &[InputItem]) -> Vec<String> {
    let named = items.iter().enumerate().filter_map(|(at, item)| match item {
        InputItem::Ignored(ignored) => Some(format!("input[{at}]: {}", ignored.kind)),
        _ => None,
    });
    named.collect()
}

/// Items of tools that run on a provider's side, or in another way than by a function's call.
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

/// A message. Of `system` and `developer` it instructs, of `assistant` it is an earlier answer.
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
    /// The client's own notes, which the item has where it is listed. Up to 16 pairs, keys of 64 characters, values of 512.
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
        // An assistant that only called, or was cut in its thoughts.
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

/// A call of a custom tool, whose input is text. The model is shown a call with the argument `input`.
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

/// The input of a custom tool as the arguments of a function.
pub fn custom_arguments(input: &str) -> String {
    json!({ "input": input }).to_string()
}

/// The result of a call before it, here or in what the request continues.
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

/// What the model thought earlier. Accepted back; not shown to the model again.
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

/// An item that the server has, of a response or a conversation.
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

/// What `POST /v1/responses/compact` answered.
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

// What is dispatched by hand above, as schemas. No value of these types is made.

/// The `input` of a request.
#[allow(dead_code)]
#[derive(JsonSchema)]
#[schemars(rename = "Input")]
#[serde(untagged)]
pub enum InputBody {
    Text(String),
    Items(Vec<ItemBody>),
}

/// What an `input` may hold. Every output item may go back in as it came.
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

/// The result of a call of a custom tool.
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

/// The types of [`HostedItem`].
fn elsewhere() -> Value {
    json!([{"enum": ELSEWHERE}, {"type": "string", "pattern": FOREIGN}])
}

/// An input in which not every item is ignored.
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
    /// Not shown to the model.
    ReasoningText {
        text: Option<String>,
    },
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
    match type_of(path, part)? {
        "input_text" | "output_text" | "text" | "summary_text" => match part.get("text") {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => Err(missing(&format!("{path}.text"))),
            Some(_) => Err(WireError::invalid(format!("{path}.text"), format!("'{path}.text' must be a string."))),
        },
        "refusal" => Ok(part.get("refusal").and_then(Value::as_str).unwrap_or_default()),
        // A model is not shown its earlier thoughts.
        "reasoning_text" => Ok(""),
        kind => Err(WireError::invalid(
            format!("{path}.type"),
            format!("Parts of type '{}' are not supported.", shorten(kind)),
        )),
    }
}
