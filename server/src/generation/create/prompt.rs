//! Converts items to the messages of a prompt by the model's dialect, and leaves out turns that the context does not hold.

use std::collections::HashMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    dialect::{Calls, Dialect, teach},
    engine::{Message, Prompt, Role, ToolCall, prompt::FunctionCall, text::model},
    store::GenerationSpec,
    wire::input::{InputItem, InputRole},
};

/// Builds the prompt: instructions, tools and items.
pub fn prompt<'i>(dialect: &Dialect, spec: &GenerationSpec, items: impl Iterator<Item = &'i InputItem>) -> Prompt {
    let mut writer = PromptWriter { dialect, messages: Vec::new(), names: HashMap::new(), answering: false };
    if let Some(instructions) = &spec.instructions {
        writer.messages.push(Message::text(Role::System, instructions));
    }
    items.for_each(|item| writer.item(item));
    let mut messages = writer.messages;
    let tools = if spec.callable().next().is_some() { &spec.tools[..] } else { &[] };
    let mut described = Vec::new();
    if dialect.template_has_tools {
        described = tools.iter().map(|f| json!({"type": "function", "function": teach::describe(f)})).collect();
    } else if !tools.is_empty() {
        let taught = teach::instructions(tools.iter());
        match messages.first_mut().filter(|message| message.role == Role::System) {
            // Many templates accept only one system message, at the beginning.
            Some(system) => system.content = format!("{}\n\n{taught}", system.content),
            None => messages.insert(0, Message::text(Role::System, taught)),
        }
    }
    let reasoning_effort = spec.reasoning.effort.map(|effort| effort.name().to_owned());
    Prompt { messages, tools: described, reasoning_effort, most: None }
}

struct PromptWriter<'a> {
    dialect: &'a Dialect,
    messages: Vec<Message>,
    /// Call id → function.
    names: HashMap<&'a str, &'a str>,
    /// The last message is one that this writer made from outputs of calls.
    answering: bool,
}

impl<'a> PromptWriter<'a> {
    fn item(&mut self, item: &'a InputItem) {
        let answering = std::mem::replace(&mut self.answering, false);
        match item {
            InputItem::Message(message) => {
                let role = match message.role {
                    InputRole::User => Role::User,
                    InputRole::Assistant => Role::Assistant,
                    InputRole::System | InputRole::Developer => Role::System,
                };
                self.messages.push(Message::text(role, &message.text));
            }
            InputItem::FunctionCall(call) => {
                self.names.insert(&call.call_id, &call.name);
                let arguments = call.arguments.as_str();
                let id = self.call_id(&call.call_id);
                let has_tools = self.dialect.template_has_tools;
                let message = self.assistant();
                if has_tools {
                    let function = FunctionCall { name: call.name.clone(), arguments: model::arguments(arguments) };
                    message.tool_calls.push(ToolCall { id, kind: "function", function });
                } else {
                    if !message.content.is_empty() {
                        message.content.push('\n');
                    }
                    let is_whole = serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok();
                    message.content.push_str(&teach::call(&call.name, if is_whole { arguments } else { "{}" }));
                }
            }
            InputItem::FunctionCallOutput(output) if self.dialect.template_has_tools => {
                self.messages.push(Message {
                    tool_call_id: Some(self.call_id(&output.call_id)),
                    name: self.names.get(output.call_id.as_str()).map(|name| (*name).to_owned()),
                    ..Message::text(Role::Tool, &output.output)
                });
            }
            InputItem::FunctionCallOutput(output) => {
                let text = teach::output(&output.output);
                match self.messages.last_mut().filter(|_| answering) {
                    Some(message) => message.content = format!("{}\n{text}", message.content),
                    None => self.messages.push(Message::text(Role::User, text)),
                }
                self.answering = true;
            }
            // `resolve` has replaced all references before.
            InputItem::Reasoning(_) | InputItem::Reference(_) | InputItem::Ignored(_) => self.answering = answering,
        }
    }

    /// Returns the assistant's message that a call belongs to: the last message, or a new one.
    fn assistant(&mut self) -> &mut Message {
        if self.messages.last().is_none_or(|message| message.role != Role::Assistant) {
            self.messages.push(Message::text(Role::Assistant, ""));
        }
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }

    /// Returns the id of a call in the prompt. Mistral's templates accept ids of 9 characters only.
    fn call_id(&self, id: &str) -> String {
        match self.dialect.calls {
            Calls::Mistral => hex::encode(Sha256::digest(id)).chars().take(9).collect(),
            Calls::Hermes | Calls::Llama => id.to_owned(),
        }
    }
}

/// Splits items into turns. Each turn begins with a message of the user, so a call and its output stay in one turn.
pub fn turns(items: Vec<InputItem>) -> Vec<Vec<InputItem>> {
    let mut turns: Vec<Vec<InputItem>> = vec![vec![]];
    let mut asked = false;
    for item in items {
        let asks = matches!(&item, InputItem::Message(message) if message.role == InputRole::User);
        let turn = if asks && asked { None } else { turns.last_mut() };
        match turn {
            Some(turn) => turn.push(item),
            None => turns.push(vec![item]),
        }
        asked |= asks;
    }
    turns
}

/// Returns the items that remain without the first `dropped` turns. Messages of systems and developers always remain.
pub fn kept(turns: &[Vec<InputItem>], dropped: usize) -> impl Iterator<Item = &InputItem> + Clone {
    let is_pinned = |item: &InputItem| matches!(item, InputItem::Message(m) if matches!(m.role, InputRole::System | InputRole::Developer));
    turns
        .iter()
        .enumerate()
        .flat_map(move |(at, turn)| turn.iter().filter(move |item| at >= dropped || is_pinned(item)))
}

/// A prompt's tokens, or a number of tokens that exceeds the context if the prompt is too long.
pub type Rendered = Result<Vec<u32>, usize>;

/// Leaves out the fewest turns so that the prompt has at most `room` tokens, or `droppable` turns if no number fits. `render(n)`
/// makes the prompt without the first `n` turns; a binary search calls it. Returns the prompt and the number of turns left out.
///
/// # Errors
/// Those of `render`.
pub fn fit<E>(
    droppable: usize,
    room: usize,
    mut render: impl FnMut(usize) -> Result<Rendered, E>,
) -> Result<(Rendered, usize), E> {
    let fits = |prompt: &Rendered| prompt.as_ref().is_ok_and(|prompt| prompt.len() <= room);
    let whole = render(0)?;
    if fits(&whole) || droppable == 0 {
        return Ok((whole, 0));
    }
    // The prompt without `low` turns does not fit. `best` is the prompt without `high` turns, which fits.
    let (mut low, mut high) = (0, droppable);
    let mut best = render(high)?;
    if !fits(&best) {
        return Ok((best, high));
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let prompt = render(middle)?;
        if fits(&prompt) {
            (best, high) = (prompt, middle);
        } else {
            low = middle;
        }
    }
    Ok((best, high))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::wire::request::Create;

    fn spec(fields: Value) -> GenerationSpec {
        let mut fields = fields;
        fields.as_object_mut().unwrap().entry("input").or_insert("x".into());
        Create::from_value(fields).unwrap().into()
    }

    fn conversation() -> GenerationSpec {
        spec(json!({
            "instructions": "Be brief.",
            "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}],
            "reasoning": {"effort": "low"},
            "input": [
                {"role": "user", "content": "q"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}]},
                {"role": "assistant", "content": "a"},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"b\":1,\"a\":2}"},
                {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "one"},
                {"type": "function_call_output", "call_id": "c2", "output": "two"},
            ],
        }))
    }

    #[test]
    fn a_template_with_tools_gets_calls_as_they_are() {
        let spec = conversation();
        let dialect = Dialect { template_has_tools: true, ..Dialect::default() };
        let prompt = prompt(&dialect, &spec, spec.input.iter());
        assert_eq!(
            serde_json::to_value(&prompt).unwrap(),
            json!({
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a", "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}},
                        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": {}}}]},
                    {"role": "tool", "content": "one", "tool_call_id": "c1", "name": "f"},
                    {"role": "tool", "content": "two", "tool_call_id": "c2", "name": "f"},
                ],
                "tools": [{"type": "function", "function":
                    {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
                "reasoning_effort": "low",
            })
        );
        let mistral = Dialect { calls: Calls::Mistral, ..dialect };
        let ids = super::prompt(&mistral, &spec, spec.input.iter());
        let id = ids.messages[2].tool_calls[0].id.clone();
        assert!(id.len() == 9 && ids.messages[3].tool_call_id == Some(id));
    }

    #[test]
    fn a_model_without_is_taught_and_shown_text() {
        let spec = conversation();
        let prompt = prompt(&Dialect::default(), &spec, spec.input.iter());
        assert!(prompt.tools.is_empty());
        let [system, user, assistant, outputs] = &prompt.messages[..] else { panic!("{prompt:?}") };
        assert!(
            system.content.starts_with("Be brief.\n\n") && system.content.contains(r#"{"name":"f","description":"d""#)
        );
        assert_eq!((user.role, assistant.role, outputs.role), (Role::User, Role::Assistant, Role::User));
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\":1,\"a\":2}}\n</tool_call>";
        assert!(assistant.content.starts_with(&format!("a\n{call}\n<tool_call>")), "{}", assistant.content);
        let expected = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>";
        assert_eq!(outputs.content, expected);
        assert!(!format!("{prompt:?}").contains("secret"));
        let none = GenerationSpec { tool_choice: serde_json::from_value(json!("none")).unwrap(), ..spec };
        let untaught = super::prompt(&Dialect::default(), &none, none.input.iter());
        assert_eq!(untaught.messages[0].content, "Be brief.");
    }

    #[test]
    fn turns_keep_calls_and_their_outputs_together() {
        let spec = spec(json!({"input": [
            {"role": "developer", "content": "always"},
            {"role": "user", "content": "1"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "o"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "2"},
            {"role": "system", "content": "too"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "3"},
        ]}));
        let turns = turns(spec.input);
        assert_eq!(turns.iter().map(Vec::len).collect::<Vec<_>>(), [5, 3, 1]);
        assert_eq!(kept(&turns, 0).count(), 9);
        let said: Vec<_> = kept(&turns, 2).cloned().collect();
        let expected = [(InputRole::Developer, "always"), (InputRole::System, "too"), (InputRole::User, "3")];
        assert_eq!(said, expected.map(|(role, text)| InputItem::message(role, text)));
    }

    #[test]
    fn as_few_turns_as_it_takes_are_left_out_in_few_tries() {
        for droppable in [0, 1, 2, 7, 1000] {
            for room in [0, 1, 9, 10, 55, 9_990] {
                let mut tries = 0;
                let result: Result<_, ()> = fit(droppable, room, |dropped| {
                    tries += 1;
                    let tokens = 10 + (droppable - dropped) * 10;
                    Ok(if tokens > 9_995 { Err(tokens) } else { Ok(vec![0; tokens]) })
                });
                let (prompt, dropped) = result.unwrap();
                let length = prompt.map_or_else(|tokens| tokens, |prompt| prompt.len());
                let least = (0..droppable).find(|dropped| 10 + (droppable - dropped) * 10 <= room).unwrap_or(droppable);
                assert_eq!((length, dropped), (10 + (droppable - least) * 10, least), "{droppable} {room}");
                assert!(tries <= 12);
            }
        }
    }
}
