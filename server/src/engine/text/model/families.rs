//! Templates with the rules of the families that are served, for tests. Each is written for these tests.

use super::{
    chat_template::{ChatTemplate, Protected, Source},
    messages::{Rules, System},
};
use crate::{
    dialect::{Calls, Dialect, detect},
    engine::{Message, Prompt, Role, ToolCall, prompt::FunctionCall},
};

pub struct Family {
    pub name: &'static str,
    pub template: &'static str,
    pub rules: Rules,
}

const fn rules(system: System, alternates: bool, one_call: bool) -> Rules {
    Rules { system, alternates, one_call }
}

pub const FAMILIES: [Family; 8] = [
    Family {
        name: "llama 2",
        template: "{% set ns = namespace(system='') %}{% if messages[0].role == 'system' %}{% set ns.system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% endif %}\
            {% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
            {% if m.role == 'user' %}{{ bos_token + '[INST] ' + (ns.system if loop.first else '') + m.content | trim + ' [/INST]' }}\
            {% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        rules: rules(System::First, true, false),
    },
    Family {
        name: "llama 3",
        template: "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}\
            {% elif m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}\
            {% set call = m.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"' + call.name + '\", \"parameters\": ' + (call.arguments | tojson) + '}<|eot_id|>' }}\
            {% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
            {% if tools %}{{ 'respond with \"parameters\"' }}{% endif %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        rules: rules(System::Anywhere, false, true),
    },
    Family {
        name: "mistral",
        template: "{% set ns = namespace(at=0, system='') %}{% if messages[0].role == 'system' %}{% set ns.system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}{{ bos_token }}\
            {% for m in messages %}{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}\
            {% if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('after the optional system message roles alternate') }}{% endif %}{% set ns.at = ns.at + 1 %}{% endif %}\
            {% if m.role == 'user' %}{{ '[INST] ' }}{% if loop.first and ns.system %}{{ ns.system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}\
            {% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + m.content | string + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}\
            {% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}{% if call.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' + (']' + eos_token if loop.last else ', ') }}{% endfor %}\
            {% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('only user and assistant, and an initial system message') }}{% endif %}{% endfor %}{% if tools %}{{ '[AVAILABLE_TOOLS]' }}{% endif %}",
        rules: rules(System::First, true, false),
    },
    Family {
        name: "qwen",
        template: "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}\
            {% else %}{% set content = m.content.split('</think>')[-1] if m.role == 'assistant' else m.content %}{{ '<|im_start|>' + m.role + '\n' + content }}\
            {% for call in m.tool_calls or [] %}{{ '\n<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}\
            {% if tools %}{{ '<tools>' }}{% endif %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "gemma",
        template: "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}\
            {% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
            {{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        rules: rules(System::Nowhere, true, false),
    },
    Family {
        name: "phi 3",
        template: "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "smollm 2",
        template: "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "deepseek r1",
        template: "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}{{ bos_token + ns.system }}\
            {% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
            {% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        rules: rules(System::First, false, false),
    },
];

fn compiled(family: &Family) -> ChatTemplate {
    let source =
        Source { template: family.template.into(), bos: Some("<s>".into()), eos: Some("</s>".into()), unk: None };
    ChatTemplate::new(source, &Protected { control: vec!["</s>".into()], shown: vec![] }).expect("it compiles")
}

fn call(id: &str, arguments: &str) -> ToolCall {
    let function = FunctionCall { name: "weather".into(), arguments: super::arguments(arguments) };
    ToolCall { id: id.into(), kind: "function", function }
}

fn output(id: &str, text: &str) -> Message {
    Message { tool_call_id: Some(id.into()), ..Message::text(Role::Tool, text) }
}

#[test]
fn the_rules_of_every_family_are_found_out() {
    for family in &FAMILIES {
        let found = compiled(family).rules();
        // A template that writes no calls is given none.
        let found = Rules { one_call: found.one_call, ..found };
        assert_eq!(found, family.rules, "{}", family.name);
    }
}

#[test]
fn ways_of_thinking_and_calling_are_told() {
    let of =
        |name: &str| -> Dialect { detect(FAMILIES.iter().find(|family| family.name == name).expect("there").template) };
    assert_eq!((of("llama 3").calls, of("llama 3").template_has_tools), (Calls::Llama, true));
    assert_eq!((of("mistral").calls, of("mistral").template_has_tools), (Calls::Mistral, true));
    assert_eq!((of("qwen").calls, of("qwen").template_has_tools), (Calls::Hermes, true));
    assert!(of("qwen").reasoning.is_some_and(|tags| tags.optional && !tags.opened));
    assert!(of("deepseek r1").reasoning.is_some_and(|tags| tags.opened));
    for name in ["llama 2", "gemma", "phi 3", "smollm 2"] {
        assert_eq!(of(name), Dialect::default(), "{name}");
    }
}

/// Instructions, a developer and a system in the middle; turns cancelled before their first token; a conversation that
/// ends in a question.
#[test]
fn every_family_shows_every_text() {
    let messages = vec![
        Message::text(Role::System, "Alpha."),
        Message::text(Role::System, "Bravo."),
        Message::text(Role::User, "Charlie"),
        Message::text(Role::User, "Delta"),
        Message::text(Role::Assistant, "Echo"),
        Message::text(Role::System, "Foxtrot."),
        Message::text(Role::User, "Golf </s>"),
        Message::text(Role::Assistant, ""),
        Message::text(Role::User, "Hotel"),
    ];
    for family in &FAMILIES {
        let text = compiled(family).render(&Prompt::of(messages.clone()));
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", family.name));
        for part in ["Alpha.", "Bravo.", "Charlie", "Delta", "Echo", "Foxtrot.", "Golf", "Hotel"] {
            assert!(text.contains(part), "{}: {part} is not in {text}", family.name);
        }
        assert!(!text.contains("Golf </s>"), "{}: {text}", family.name);
        // What begins with the assistant has a user before it.
        let begun = vec![Message::text(Role::Assistant, "India"), Message::text(Role::User, "Juliet")];
        let text =
            compiled(family).render(&Prompt::of(begun)).unwrap_or_else(|error| panic!("{}: {error}", family.name));
        assert!(text.contains("India") && text.contains("Juliet"), "{}: {text}", family.name);
    }
}

#[test]
fn families_with_calls_show_two_calls_and_their_outputs() {
    let calls = Message {
        tool_calls: vec![call("call00001", r#"{"zeta":1,"alpha":2}"#), call("call00002", "")],
        ..Message::text(Role::Assistant, "")
    };
    let messages = vec![
        Message::text(Role::User, "Alpha"),
        calls,
        output("call00001", "Bravo"),
        output("call00002", "Charlie"),
        Message::text(Role::User, "Delta"),
        Message { tool_calls: vec![call("call00003", "{\"ci")], ..Message::text(Role::Assistant, "") },
        Message::text(Role::User, "Echo"),
    ];
    for family in FAMILIES.iter().filter(|family| detect(family.template).template_has_tools) {
        let prompt = Prompt { tools: vec![serde_json::json!({"type": "function"})], ..Prompt::of(messages.clone()) };
        let text = compiled(family).render(&prompt).unwrap_or_else(|error| panic!("{}: {error}", family.name));
        for part in ["Alpha", "Bravo", "Charlie", "Delta", "Echo", r#"{"zeta": 1, "alpha": 2}"#] {
            assert!(text.contains(part), "{}: {part} is not in {text}", family.name);
        }
    }
}
