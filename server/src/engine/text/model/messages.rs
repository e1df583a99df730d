//! Rewrites messages so that a template shows all their texts. Templates refuse conversations that their authors did not expect: a
//! system message after the first message, two messages of a user in a row, two calls in one message. Some templates drop such messages
//! silently. The rules of a template are found once, by rendering a few short conversations.

use crate::engine::{Message, Role, ToolCall, prompt::FunctionCall};

/// The conversations that a template accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRules {
    pub system: System,
    /// Messages of the user and of the assistant must alternate, and the user must begin.
    pub alternates: bool,
    /// A message has at most one call.
    pub one_call: bool,
    /// An answer may have no text.
    pub takes_empty: bool,
    /// A conversation may consist of messages of the system alone.
    pub lone_system: bool,
}

/// The place where a template accepts messages of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Anywhere,
    First,
    Nowhere,
}

impl MessageRules {
    /// Finds the rules of a template. `render` renders messages; `None` if the template refuses them.
    pub fn probe(render: impl Fn(&[Message]) -> Option<String>) -> Self {
        let shows = |messages: &[Message]| {
            render(messages).is_some_and(|text| {
                let words = messages.iter().map(|message| message.content.as_str());
                let calls = messages.iter().flat_map(|message| &message.tool_calls);
                words.chain(calls.map(|call| call.function.name.as_str())).all(|word| text.contains(word))
            })
        };
        let [system, second] = ["Psalm", "Quartz"].map(|word| Message::text(Role::System, word));
        let [ask, again] = ["Orchid", "Walnut"].map(|word| Message::text(Role::User, word));
        let [answer, more] = ["Saddle", "Tundra"].map(|word| Message::text(Role::Assistant, word));
        let within = [system.clone(), ask.clone(), answer.clone(), second, again.clone()];
        let lone_system = shows(std::slice::from_ref(&system));
        let takes_empty = shows(&[ask.clone(), Message::text(Role::Assistant, ""), again.clone()]);
        let system = match (shows(&within), shows(&[system, ask.clone()])) {
            (true, _) => System::Anywhere,
            (false, true) => System::First,
            (false, false) => System::Nowhere,
        };
        let repeats = shows(&[ask.clone(), again.clone()]) && shows(&[ask.clone(), answer, more, again]);
        let call = |at: usize| {
            let function = FunctionCall { name: ["copper", "violet"][at % 2].into(), arguments: serde_json::json!({}) };
            ToolCall { id: format!("call{at:05}"), kind: "function", function }
        };
        let output = |at: usize| Message {
            tool_call_id: Some(format!("call{at:05}")),
            ..Message::text(Role::Tool, ["Ember", "Pebble"][at % 2])
        };
        let calls = |calls: Vec<ToolCall>| Message { tool_calls: calls, ..Message::text(Role::Assistant, "") };
        let two = shows(&[ask.clone(), calls(vec![call(0), call(1)]), output(0), output(1)]);
        let one = shows(&[ask, calls(vec![call(0)]), output(0)]);
        Self { system, alternates: !repeats, one_call: one && !two, takes_empty, lone_system }
    }

    /// Rewrites messages so that the template accepts them.
    pub fn apply(&self, messages: &[Message]) -> Vec<Message> {
        let mut messages = self.place_systems(messages);
        if self.one_call {
            messages = split_calls(messages);
        }
        if self.alternates {
            messages = alternate(messages);
        }
        if !self.takes_empty {
            let answers = messages.iter_mut().filter(|message| message.role == Role::Assistant);
            let empty = answers.filter(|message| message.content.is_empty() && message.tool_calls.is_empty());
            empty.for_each(|message| message.content.push(' '));
        }
        messages
    }

    /// Joins the leading messages of the system, and moves messages of the system to where the template accepts them.
    fn place_systems(&self, messages: &[Message]) -> Vec<Message> {
        let leading = messages.iter().take_while(|message| message.role == Role::System).count();
        let (leading, rest) = messages.split_at(leading);
        let texts: Vec<&str> = leading.iter().map(|message| message.content.as_str()).collect();
        let head = (!texts.is_empty()).then(|| texts.join("\n\n"));
        let mut placed: Vec<Message> = rest
            .iter()
            .map(|message| match (message.role, self.system) {
                (Role::System, System::First | System::Nowhere) => Message::text(Role::User, &message.content),
                _ => message.clone(),
            })
            .collect();
        match (head, self.system) {
            (None, _) => {}
            (Some(head), _) if placed.is_empty() && !self.lone_system => placed.push(Message::text(Role::User, head)),
            (Some(head), System::Anywhere | System::First) => placed.insert(0, Message::text(Role::System, head)),
            (Some(head), System::Nowhere) => match placed.first_mut().filter(|message| message.role == Role::User) {
                Some(first) => first.content = format!("{head}\n\n{}", first.content),
                None => placed.insert(0, Message::text(Role::User, head)),
            },
        }
        placed
    }
}

/// Puts each call into a message of its own, followed by its outputs.
fn split_calls(messages: Vec<Message>) -> Vec<Message> {
    let mut split = Vec::new();
    let mut messages = messages.into_iter().peekable();
    while let Some(message) = messages.next() {
        if message.tool_calls.len() < 2 {
            split.push(message);
            continue;
        }
        let mut outputs = Vec::new();
        while let Some(output) = messages.next_if(|message| message.role == Role::Tool) {
            outputs.push(output);
        }
        let mut content = Some(message.content.clone());
        for call in message.tool_calls {
            let id = Some(call.id.clone());
            let text = content.take().unwrap_or_default();
            split.push(Message { tool_calls: vec![call], ..Message::text(Role::Assistant, text) });
            let (own, others) = outputs.into_iter().partition(|output| output.tool_call_id == id);
            split.extend::<Vec<Message>>(own);
            outputs = others;
        }
        split.extend(outputs);
    }
    split
}

/// Joins consecutive messages of one role, and inserts empty messages where roles do not alternate. Calls and their outputs belong to
/// the assistant; a message without a call ends its part.
fn alternate(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    for message in messages {
        let plain = |message: &Message| message.role == Role::Assistant && message.tool_calls.is_empty();
        match (out.last_mut(), message.role) {
            (None | Some(Message { role: Role::System, .. }), Role::Assistant | Role::Tool) => {
                out.push(Message::text(Role::User, ""));
                out.push(message);
            }
            (Some(last), Role::User) if last.role == Role::User => join(last, &message.content),
            (Some(last), Role::Assistant) if plain(last) && plain(&message) => join(last, &message.content),
            (Some(last), Role::Assistant) if plain(last) => {
                last.tool_calls = message.tool_calls;
                join(last, &message.content);
            }
            (Some(last), Role::User) if last.role == Role::Tool || !last.tool_calls.is_empty() => {
                out.push(Message::text(Role::Assistant, ""));
                out.push(message);
            }
            _ => out.push(message),
        }
    }
    out
}

fn join(message: &mut Message, text: &str) {
    match (message.content.is_empty(), text.is_empty()) {
        (_, true) => {}
        (true, false) => message.content = text.to_owned(),
        (false, false) => message.content = format!("{}\n\n{text}", message.content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(role: Role, content: &str) -> Message {
        Message::text(role, content)
    }

    fn calls(ids: &[&str]) -> Message {
        let call = |id: &&str| ToolCall {
            id: (*id).to_owned(),
            kind: "function",
            function: FunctionCall { name: "f".into(), arguments: serde_json::json!({}) },
        };
        Message { tool_calls: ids.iter().map(call).collect(), ..text(Role::Assistant, "") }
    }

    fn output(id: &str) -> Message {
        Message { tool_call_id: Some(id.into()), ..text(Role::Tool, id) }
    }

    const STRICT: MessageRules = MessageRules {
        system: System::Nowhere,
        alternates: true,
        one_call: true,
        takes_empty: true,
        lone_system: false,
    };

    #[test]
    fn a_strict_template_gets_every_text() {
        let messages = [
            text(Role::System, "a"),
            text(Role::System, "b"),
            text(Role::User, "1"),
            text(Role::User, "2"),
            text(Role::Assistant, "x"),
            text(Role::System, "c"),
            text(Role::User, "3"),
        ];
        let expected = [text(Role::User, "a\n\nb\n\n1\n\n2"), text(Role::Assistant, "x"), text(Role::User, "c\n\n3")];
        assert_eq!(STRICT.apply(&messages), expected);
        let free = MessageRules { system: System::Anywhere, alternates: false, one_call: false, ..STRICT };
        assert_eq!(free.apply(&messages)[0], text(Role::System, "a\n\nb"));
        assert_eq!(free.apply(&messages)[1..], messages[2..]);
        let first = MessageRules { system: System::First, ..free };
        assert_eq!(first.apply(&messages)[4], text(Role::User, "c"));
    }

    #[test]
    fn calls_come_one_by_one_with_their_outputs() {
        let messages = [text(Role::User, "q"), calls(&["1", "2"]), output("2"), output("1"), text(Role::User, "r")];
        let expected = [
            text(Role::User, "q"),
            calls(&["1"]),
            output("1"),
            calls(&["2"]),
            output("2"),
            text(Role::Assistant, ""),
            text(Role::User, "r"),
        ];
        assert_eq!(STRICT.apply(&messages), expected);
    }

    /// Like Ministral's template, which refuses an answer without text.
    #[test]
    fn an_answer_without_text_gets_a_space_if_the_template_requires_text() {
        let rules = MessageRules::probe(|messages| {
            let is_empty = |message: &Message| message.content.is_empty() && message.tool_calls.is_empty();
            let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            (!messages.iter().any(is_empty)).then(|| texts.join("\n"))
        });
        assert!(!rules.takes_empty);
        let messages = [text(Role::User, "1"), text(Role::Assistant, ""), text(Role::User, "2")];
        assert_eq!(rules.apply(&messages)[1], text(Role::Assistant, " "));
        assert_eq!(STRICT.apply(&messages)[1], text(Role::Assistant, ""));
    }

    /// Like Mistral Nemo's template, which puts the system's message into the user's last message.
    #[test]
    fn a_system_alone_is_shown() {
        let rules = MessageRules::probe(|messages| {
            let is_user = |message: &Message| message.role == Role::User;
            let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            Some(if messages.iter().any(is_user) { texts.join("\n") } else { String::new() })
        });
        assert!(!rules.lone_system);
        assert_eq!(rules.apply(&[text(Role::System, "s")]), [text(Role::User, "s")]);
        assert_eq!(rules.apply(&[text(Role::System, "s"), text(Role::User, "q")])[0], text(Role::System, "s"));
    }

    #[test]
    fn a_conversation_that_the_assistant_begins_has_a_user() {
        let messages = [text(Role::System, "s"), text(Role::Assistant, "hello"), text(Role::User, "q")];
        let rules = MessageRules { system: System::First, ..STRICT };
        let roles: Vec<Role> = rules.apply(&messages).iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
    }
}
