//! `messages` of a chat completion, as items.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::wire::{
    error::WireError,
    input::{InputCall, InputCallOutput, InputItem, InputRole, TextBody, parse_text},
    read::{check_id, missing, read_field},
    tools::Function,
};

/// A message as it may arrive. Fields that are not read here are ignored: clients send back what they got.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatMessageParam")]
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
#[schemars(rename = "ChatToolCallParam")]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    _type: Function,
    function: FunctionCall,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ChatFunctionCall")]
struct FunctionCall {
    name: String,
    arguments: String,
}

/// Reads `messages`; errors name the message and its field.
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
    // An assistant that only called, or was cut in its thoughts, has no content.
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
        check_id(&format!("{path}.tool_calls[{at}].id"), &call.id)?;
        check_id(&format!("{path}.tool_calls[{at}].function.name"), &call.function.name)?;
        calls.insert(call.id.clone());
        let FunctionCall { name, arguments } = call.function;
        items.push(InputItem::FunctionCall(InputCall { call_id: call.id, name, arguments }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            (json!({"role": "assistant", "tool_calls": [{"id": "c"}]}), "messages[0].tool_calls[0].type"),
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
