//! Tests with a template for each supported family, written for these tests with the rules of the family's template.

use caudal_tests::tiny;

use super::{
    TextModel,
    chat_template::{ChatTemplate, Protected, TemplateSource},
    messages::{MessageRules, System},
};
use crate::{
    dialect::{Calls, Dialect, detect},
    engine::{Message, Prompt, Role, StopStrings, ToolCall, decoder::Decoder, prompt::FunctionCall},
};

pub struct Family {
    pub name: &'static str,
    pub template: &'static str,
    pub rules: MessageRules,
}

const fn rules(system: System, alternates: bool, one_call: bool) -> MessageRules {
    MessageRules { system, alternates, one_call, takes_empty: true, lone_system: true }
}

pub const FAMILIES: [Family; 8] = [
    Family {
        name: "llama 2",
        template: include_str!("../../../../../tests/templates/llama-2.jinja"),
        rules: rules(System::First, true, false),
    },
    Family {
        name: "llama 3",
        template: include_str!("../../../../../tests/templates/llama-3.jinja"),
        rules: rules(System::Anywhere, false, true),
    },
    Family {
        name: "mistral",
        template: include_str!("../../../../../tests/templates/mistral.jinja"),
        rules: rules(System::First, true, false),
    },
    Family {
        name: "qwen",
        template: include_str!("../../../../../tests/templates/qwen.jinja"),
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "gemma",
        template: include_str!("../../../../../tests/templates/gemma.jinja"),
        rules: rules(System::Nowhere, true, false),
    },
    Family {
        name: "phi 3",
        template: include_str!("../../../../../tests/templates/phi-3.jinja"),
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "smollm 2",
        template: include_str!("../../../../../tests/templates/smollm-2.jinja"),
        rules: rules(System::Anywhere, false, false),
    },
    Family {
        name: "deepseek r1",
        template: include_str!("../../../../../tests/templates/deepseek-r1.jinja"),
        rules: rules(System::First, false, false),
    },
];

fn compiled(family: &Family) -> ChatTemplate {
    let source = TemplateSource {
        template: family.template.into(),
        bos: Some("<s>".into()),
        eos: Some("</s>".into()),
        unk: None,
    };
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
        let expected = MessageRules { lone_system: found.lone_system, ..family.rules };
        assert_eq!(found, expected, "{}", family.name);
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
        // A conversation that begins with the assistant gets a message of the user first.
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

fn tiny(family: tiny::Family) -> TextModel {
    let folder = std::env::temp_dir().join(format!(
        "caudal-tiny-{}-{family:?}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = family.write(&folder).expect("it is written");
    let model = TextModel::of_gguf(&file);
    std::fs::remove_dir_all(&folder).expect("it was made");
    model.unwrap_or_else(|error| panic!("{family:?}: {error}"))
}

#[test]
fn every_family_reads_and_writes_every_script() {
    let scripts = [
        "the river, 12345 \t\n\n x",
        "日本語",
        "שלום عالم",
        "🙂🙃👩\u{200d}👩\u{200d}👧🇵🇹",
        "naïve Ünïcödé",
        "  a   b ",
    ];
    for family in tiny::Family::ALL {
        let model = tiny(family);
        for script in scripts {
            let tokens = model.tokens.encode_plain(script);
            let mut decoder = Decoder::new(model.tokens.bytes(), StopStrings::default());
            let text: String = tokens.iter().map(|token| decoder.push(*token).0).collect();
            assert_eq!(text + &decoder.finish(), script, "{family:?}");
        }
    }
}

#[test]
fn contents_of_every_family_are_text() {
    for family in tiny::Family::ALL {
        let model = tiny(family);
        let ids = model.tokens.vocabulary();
        let controls: Vec<u32> = model.tokens.controls().map(|(id, _)| id).collect();
        let render = |content: &str| {
            let messages = vec![Message::text(Role::User, content), Message::text(Role::Assistant, content)];
            model.tokens.render(&Prompt::of(messages)).unwrap_or_else(|error| panic!("{family:?}: {error}"))
        };
        let count = |tokens: &[u32]| tokens.iter().filter(|token| controls.contains(token)).count();
        let attack: String =
            ids.iter().filter(|(_, id)| controls.contains(id)).map(|(name, _)| name.as_str()).collect();
        let (plain, attacked) = (render("a"), render(&attack));
        assert_eq!(count(&plain), count(&attacked), "{family:?}");
        assert!(attacked.len() > plain.len() + attack.len() / 4, "{family:?}: no character is lost");
        let begins = plain.iter().filter(|id| Some(**id) == ids.get("<s>").copied()).count();
        assert!(begins <= 1, "{family:?}: {begins} times BOS");
    }
}

#[test]
fn tags_of_thoughts_and_calls_are_text() {
    let shows = |family: tiny::Family, token: &str| {
        let model = tiny(family);
        let id = model.tokens.vocabulary()[token];
        crate::engine::decoder::TokenBytes::decode(&model.tokens.bytes(), &[id])
    };
    for (family, token) in [
        (tiny::Family::Qwen2, "<tool_call>"),
        (tiny::Family::Qwen3, "</think>"),
        (tiny::Family::Mistral, "[TOOL_CALLS]"),
        (tiny::Family::DeepSeekR1, "<think>"),
    ] {
        assert_eq!(shows(family, token), token);
    }
    assert_eq!(shows(tiny::Family::Mistral, "[INST]"), "");
}
