//! Reads `messages` of a chat completion as items.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::{
    contract::rules::{given, when},
    error::WireError,
    input::{InputCall, InputCallOutput, InputItem, InputRole, TextBody, custom_arguments, parse_text},
    read::{check_id, missing, read_field},
};

/// A message of the request. Unknown fields are ignored, because clients send back the messages that they received.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatMessageParam", extend("allOf" = rules()))]
pub struct Message {
    role: ChatRole,
    #[schemars(with = "Option<TextBody>")]
    content: Option<Value>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    #[schemars(skip)]
    audio: Option<Value>,
    #[schemars(skip)]
    function_call: Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ChatRole {
    User,
    Assistant,
    System,
    Developer,
    Tool,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatToolCallParam", extend("allOf" = [{"anyOf": [given("function"), given("custom")]}]))]
struct ToolCall {
    #[schemars(length(min = 1, max = 256))]
    id: String,
    /// Default `function`.
    #[serde(rename = "type")]
    _type: Option<CallType>,
    function: Option<FunctionCall>,
    custom: Option<CustomCall>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatToolCallType")]
#[serde(rename_all = "lowercase")]
enum CallType {
    Function,
    Custom,
}

/// A call of a custom tool, whose input is text. The prompt has a call with the argument `input`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatCustomCall")]
struct CustomCall {
    #[schemars(length(min = 1, max = 256))]
    name: String,
    input: String,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatFunctionCall")]
struct FunctionCall {
    #[schemars(length(min = 1, max = 256))]
    name: String,
    arguments: String,
}

/// Returns the schema rules for the fields that each role requires and forbids.
fn rules() -> Value {
    let other = json!({"not": {"const": "assistant"}});
    json!([
        when("role", &other, &given("content")),
        when("role", &other, &json!({"properties": {"tool_calls": {"type": "null"}}})),
        when("role", &json!({"const": "tool"}), &given("tool_call_id")),
    ])
}

/// Parses `messages`. Errors name the message and its field.
pub fn parse_messages(messages: Vec<Value>) -> Result<Vec<InputItem>, WireError> {
    if messages.is_empty() {
        return Err(WireError::invalid("messages", "'messages' has no messages."));
    }
    let mut items = Vec::with_capacity(messages.len());
    let mut calls = HashSet::new();
    for (at, message) in messages.into_iter().enumerate() {
        parse_message(&format!("messages[{at}]"), message, &mut items, &mut calls)?;
    }
    Ok(items)
}

fn parse_message(
    path: &str,
    message: Value,
    items: &mut Vec<InputItem>,
    calls: &mut HashSet<String>,
) -> Result<(), WireError> {
    let message: Message = read_field(path, message)?;
    let refuse = |field: &str, why: &str| {
        let path = format!("{path}.{field}");
        Err(WireError::invalid(&path, format!("'{path}' {why}")))
    };
    if message.audio.is_some() || message.function_call.is_some() {
        let field = if message.audio.is_some() { "audio" } else { "function_call" };
        return refuse(field, "is not supported.");
    }
    if message.tool_calls.is_some() && message.role != ChatRole::Assistant {
        return refuse("tool_calls", "is for messages of the assistant.");
    }
    let content_path = format!("{path}.content");
    let role = match message.role {
        ChatRole::Tool => {
            let path = format!("{path}.tool_call_id");
            let call_id = message.tool_call_id.ok_or_else(|| missing(&path))?;
            if !calls.contains(&call_id) {
                let message = format!("'{path}' answers no call that was made before it.");
                return Err(WireError::invalid(path, message));
            }
            let output = parse_text(&content_path, message.content)?;
            items.push(InputItem::FunctionCallOutput(InputCallOutput { call_id, output }));
            return Ok(());
        }
        ChatRole::User => InputRole::User,
        ChatRole::Assistant => InputRole::Assistant,
        ChatRole::System => InputRole::System,
        ChatRole::Developer => InputRole::Developer,
    };
    let tool_calls = message.tool_calls.unwrap_or_default();
    // A message of the assistant has no content if it only called functions or was cut off while it reasoned.
    let is_assistant = message.role == ChatRole::Assistant;
    if message.content.is_some() || tool_calls.is_empty() {
        let text = match message.content {
            None if is_assistant => String::new(),
            content => parse_text(&content_path, content)?,
        };
        if !text.is_empty() || tool_calls.is_empty() {
            items.push(InputItem::message(role, text));
        }
    }
    for (at, call) in tool_calls.into_iter().enumerate() {
        let path = format!("{path}.tool_calls[{at}]");
        check_id(&format!("{path}.id"), &call.id)?;
        let (field, name, arguments) = match (call.function, call.custom) {
            (Some(FunctionCall { name, arguments }), _) => ("function", name, arguments),
            (None, Some(CustomCall { name, input })) => ("custom", name, custom_arguments(&input)),
            (None, None) => return Err(missing(&format!("{path}.function"))),
        };
        check_id(&format!("{path}.{field}.name"), &name)?;
        calls.insert(call.id.clone());
        items.push(InputItem::FunctionCall(InputCall { call_id: call.id, name, arguments }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_conversation_becomes_items() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let items = parse_messages(vec![
            json!({"role": "system", "content": "s"}),
            json!({"role": "user", "name": "ann", "content": [{"type": "text", "text": "u"}]}),
            json!({"role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "c", "content": "o"}),
        ])
        .unwrap();
        let call = InputCall { call_id: "c".into(), name: "f".into(), arguments: "{}".into() };
        let expected = [
            InputItem::message(InputRole::System, "s"),
            InputItem::message(InputRole::User, "u"),
            InputItem::FunctionCall(call),
            InputItem::FunctionCallOutput(InputCallOutput { call_id: "c".into(), output: "o".into() }),
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn calls_of_custom_tools_and_calls_without_a_type_are_taken_back() {
        let items = parse_messages(vec![
            json!({"role": "assistant", "tool_calls": [
                {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
                {"id": "b", "function": {"name": "f", "arguments": "{}"}},
            ]}),
            json!({"role": "tool", "tool_call_id": "a", "content": "README"}),
        ])
        .unwrap();
        let call = |call_id: &str, name: &str, arguments: &str| {
            InputItem::FunctionCall(InputCall {
                call_id: call_id.into(),
                name: name.into(),
                arguments: arguments.into(),
            })
        };
        assert_eq!(items[..2], [call("a", "shell", r#"{"input":"ls"}"#), call("b", "f", "{}")]);
    }

    #[test]
    fn a_message_that_ended_in_a_thought_is_taken_back() {
        for content in
            [json!({"role": "assistant", "content": null, "reasoning_content": "hm"}), json!({"role": "assistant"})]
        {
            let items = parse_messages(vec![content]).unwrap();
            assert_eq!(items, [InputItem::message(InputRole::Assistant, "")]);
        }
    }

    #[test]
    fn errors_name_the_message() {
        for (message, param) in [
            (json!({"content": "x"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!(["user", "hi"]), "messages[0]"),
            (json!({"role": "user", "content": null}), "messages[0].content"),
            (json!({"role": "function", "name": "f", "content": "x"}), "messages[0].role"),
            (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "tool", "tool_call_id": "c", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "user", "content": "x", "tool_calls": []}), "messages[0].tool_calls"),
            (json!({"role": "assistant", "tool_calls": [{"id": "c"}]}), "messages[0].tool_calls[0].function"),
            (
                json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "odd"}]}),
                "messages[0].tool_calls[0].type",
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "", "input": ""}}]}),
                "messages[0].tool_calls[0].custom.name",
            ),
            (json!({"role": "assistant", "content": "x", "function_call": {}}), "messages[0].function_call"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].type"),
        ] {
            match parse_messages(vec![message.clone()]) {
                Err(WireError::InvalidRequest { param: Some(found), .. }) => assert_eq!(found, param, "{message}"),
                other => panic!("{message}: {other:?}"),
            }
        }
    }
}
