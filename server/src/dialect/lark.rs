//! The grammar of the allowed outputs, in llguidance's variant of Lark: a thought if the model thinks, then calls of the functions
//! or a body. [`super::Parser`] reads every output that the grammar allows.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    Calls, Dialect,
    schema::{self, Loosened, Refused},
};
use crate::wire::tools::FunctionTool;

/// The allowed output after the thought.
pub struct Output<'a> {
    pub calls: Option<CallRules<'a>>,
    pub body: GrammarBody<'a>,
    /// `false`: the output has no thought.
    pub thinks: bool,
}

pub struct CallRules<'a> {
    /// The functions that the model may call; at least one.
    pub functions: Vec<Callable<'a>>,
    /// Whether the output must be a call.
    pub required: bool,
    /// Whether an output may have several calls.
    pub parallel: bool,
}

/// A function that the model may call.
pub struct Callable<'a> {
    pub name: &'a str,
    /// The schema of the arguments, from [`arguments`].
    pub arguments: Value,
}

pub enum GrammarBody<'a> {
    Text,
    /// JSON of a schema from [`schema::hold`].
    Json(&'a Value),
    Regex(&'a str),
}

/// Adds rules for the white space of JSON unless the schema has its own: JSON is written on one line, because small models may
/// repeat white space without end.
pub fn compact(schema: &Value) -> Value {
    with(schema, "x-guidance", json!({"whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?"}))
}

/// Writes the grammar of `output`.
pub fn lark(dialect: &Dialect, output: &Output) -> String {
    let free = matches!(output.body, GrammarBody::Text) && output.calls.as_ref().is_none_or(|calls| !calls.required);
    let mut rules = String::new();
    let thought = thought(dialect, output, free, &mut rules);
    let main = match &output.calls {
        None => body(&output.body, &mut rules),
        Some(calls) => {
            let lead = if free { "lead" } else { "open" };
            let written = write_calls(dialect.calls, calls, lead, &mut rules);
            if calls.required { written } else { format!("{} | {written}", body(&output.body, &mut rules)) }
        }
    };
    if rules.contains("PLAIN") {
        let _ = writeln!(rules, "PLAIN: {}", plain(dialect, output));
    }
    format!("start: {thought}main\nmain: {main}\n{rules}")
}

fn thought(dialect: &Dialect, output: &Output, free: bool, rules: &mut String) -> String {
    let Some(tags) = &dialect.reasoning else { return String::new() };
    if !output.thinks && !tags.opened {
        return String::new();
    }
    let open = if tags.opened { String::new() } else { quoted(&tags.open) + " " };
    let _ = writeln!(rules, "thought[lazy]: {open}ANY {}\nANY: /(?s:.*)/", quoted(&tags.close));
    // Without a gap, white space after a thought belongs to the text.
    let gap = if free { "" } else { " gap" };
    if !free {
        let _ = writeln!(rules, "gap: /[ \\t\\r\\n]{{1,4}}/?");
    }
    if tags.opened { format!("thought{gap} ") } else { format!("(thought{gap})? ") }
}

fn body(body: &GrammarBody, rules: &mut String) -> String {
    let rule = match body {
        GrammarBody::Text => "PLAIN".to_owned(),
        GrammarBody::Json(schema) => format!("%json {}", compact(schema)),
        GrammarBody::Regex(regex) => format!("/{}/", delimited(regex)),
    };
    let _ = writeln!(rules, "body: {rule}");
    "body".to_owned()
}

/// Returns the pattern of plain text, which does not begin like a thought, or like a call without tags.
fn plain(dialect: &Dialect, output: &Output) -> String {
    let thought =
        dialect.reasoning.as_ref().filter(|tags| output.thinks && !tags.opened).map(|tags| tags.open.as_str());
    let call = output.calls.as_ref().filter(|_| dialect.calls == Calls::Llama).map(|_| "{");
    let exclusions: String =
        thought.into_iter().chain(call).map(|begin| format!(" & ~/\\s*{}(?s:.*)/", escaped(begin))).collect();
    format!("/(?s:.*)/{exclusions}")
}

/// Writes the rules of a block of calls. `lead`: the name of the rule that begins the block; it may include the text before.
fn write_calls(way: Calls, calls: &CallRules, lead: &str, rules: &mut String) -> String {
    let names: Vec<String> = (0..calls.functions.len()).map(|at| format!("call_{at}")).collect();
    let _ = writeln!(rules, "call: {}", names.join(" | "));
    let arguments = if way == Calls::Llama { "parameters" } else { "arguments" };
    for (at, function) in calls.functions.iter().enumerate() {
        let head = quoted(&format!("{{\"name\": {}, \"{arguments}\": ", quoted(function.name)));
        let schema = compact(&function.arguments);
        let _ = writeln!(rules, "call_{at}: {head} arguments_{at} \"}}\"\narguments_{at}: %json {schema}");
    }
    if way != Calls::Llama {
        let open = quoted(way.open());
        let _ = match lead {
            "lead" => writeln!(rules, "lead[lazy]: PLAIN {open}"),
            _ => writeln!(rules, "open: {open}"),
        };
    }
    let more = |separator: &str| if calls.parallel { format!(" (\"{separator}\" call)*") } else { String::new() };
    match way {
        Calls::Hermes => {
            let more = more("\\n</tool_call>\\n<tool_call>\\n");
            format!("{lead} \"\\n\" call{more} \"\\n</tool_call>\"")
        }
        Calls::Mistral => format!("{lead} \"[\" call{} \"]\"", more(", ")),
        Calls::Llama => format!("call{}", more("; ")),
    }
}

/// Returns the enforceable schema of a function's arguments, which are always an object.
///
/// # Errors
/// The schema is malformed, or the function is strict and the engine cannot enforce the whole schema.
pub fn arguments(function: &FunctionTool, loosened: &Loosened) -> Result<Value, Refused> {
    let none = json!({"properties": {}});
    let parameters = with(function.parameters.as_ref().unwrap_or(&none), "type", json!("object"));
    schema::hold(&parameters, loosened, function.strict == Some(true))
}

/// Adds a member to the object unless the object has it.
fn with(object: &Value, key: &str, value: Value) -> Value {
    let mut object = object.clone();
    if let Some(members) = object.as_object_mut() {
        members.entry(key).or_insert(value);
    }
    object
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Escapes text for a regular expression.
fn escaped(text: &str) -> String {
    let mut regex = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~/".contains(c) {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

/// Escapes the slashes and line ends of a regular expression that is written between slashes.
fn delimited(regex: &str) -> String {
    let mut delimited = String::new();
    let mut is_escaped = false;
    for c in regex.chars() {
        if c == '/' && !is_escaped {
            delimited.push('\\');
        }
        is_escaped = c == '\\' && !is_escaped;
        // A line end would end the rule.
        match c {
            '\n' => delimited.push_str("\\n"),
            '\r' => delimited.push_str("\\r"),
            c => delimited.push(c),
        }
    }
    delimited
}

#[cfg(test)]
mod tests {
    use llguidance::{
        Matcher, ParserFactory,
        api::{ParserLimits, TopLevelGrammar},
        toktrie::ApproximateTokEnv,
    };

    use super::*;
    use crate::{
        dialect::{Parser, Segment, Tags},
        wire::tools::parse_tools,
    };

    /// Makes a factory with low limits, because the grammars of this file must be cheap.
    fn factory() -> ParserFactory {
        let mut factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: 200_000,
            step_lexer_fuel: 50_000,
            step_max_items: 10_000,
            max_lexer_states: 10_000,
            ..ParserLimits::default()
        };
        factory.quiet();
        factory
    }

    /// Returns whether the grammar accepts the whole text, byte by byte.
    #[track_caller]
    fn accepts(grammar: &str, text: &str) -> bool {
        let mut matcher = Matcher::new(factory().create_parser(TopLevelGrammar::from_lark(grammar.to_owned())));
        assert!(!matcher.is_error(), "{:?} in\n{grammar}", matcher.get_error());
        let tokens = ApproximateTokEnv::single_byte_env().tok_trie().greedy_tokenize(text.as_bytes());
        assert_eq!(tokens.len(), text.len());
        matcher.try_consume_tokens(&tokens).unwrap() == tokens.len() && matcher.is_accepting().unwrap()
    }

    fn tools() -> Vec<FunctionTool> {
        parse_tools(vec![
            json!({"type": "function", "name": "weather", "parameters": {"type": "object", "properties":
                {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}, "required": ["city"]}}),
            json!({"type": "function", "name": "now"}),
        ])
        .unwrap()
    }

    fn callable(tools: &[FunctionTool]) -> Vec<Callable<'_>> {
        let held = |tool| arguments(tool, &Loosened::default()).unwrap();
        tools.iter().map(|tool| Callable { name: &tool.name, arguments: held(tool) }).collect()
    }

    fn dialect(calls: Calls, reasoning: Option<bool>) -> Dialect {
        let tags = |opened| Tags { open: "<think>".into(), close: "</think>".into(), opened, optional: false };
        Dialect { reasoning: reasoning.map(tags), calls, template_has_tools: true }
    }

    fn grammar(dialect: &Dialect, required: bool, parallel: bool, body: GrammarBody) -> String {
        let tools = tools();
        let calls = CallRules { functions: callable(&tools), required, parallel };
        lark(dialect, &Output { calls: Some(calls), body, thinks: true })
    }

    const WEATHER: &str =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Porto\", \"unit\": \"C\"}}\n</tool_call>";
    const NOW: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    const WRONG: [&str; 5] = [
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": 5}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"x\", \"unit\": \"K\"}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
        "<tool_call> x",
    ];

    #[test]
    fn a_required_call_is_all_there_is() {
        let grammar = grammar(&dialect(Calls::Hermes, None), true, true, GrammarBody::Text);
        assert!(accepts(&grammar, WEATHER));
        assert!(accepts(&grammar, &format!("{WEATHER}\n{NOW}\n{WEATHER}")));
        for wrong in WRONG.into_iter().chain(["", "Hello", &WEATHER[..WEATHER.len() - 1]]) {
            assert!(!accepts(&grammar, wrong), "{wrong}");
        }
    }

    #[test]
    fn one_call_where_they_are_not_parallel() {
        let grammar = grammar(&dialect(Calls::Hermes, None), true, false, GrammarBody::Text);
        assert!(accepts(&grammar, NOW));
        assert!(!accepts(&grammar, &format!("{NOW}\n{NOW}")));
    }

    #[test]
    fn text_goes_on_until_it_calls() {
        for reasoning in [None, Some(false)] {
            let grammar = grammar(&dialect(Calls::Hermes, reasoning), false, true, GrammarBody::Text);
            let thought = if reasoning.is_some() { "<think>\nA <tool_call> may help.\n</think>\n\n" } else { "" };
            for good in ["", "Hello, <tool> é", WEATHER, &format!("Let me see.\n{NOW}\n{WEATHER}")] {
                assert!(accepts(&grammar, good), "{good}\n{grammar}");
                assert!(accepts(&grammar, &format!("{thought}{good}")), "{thought}{good}\n{grammar}");
            }
            for wrong in WRONG {
                for text in [wrong.to_owned(), format!("Let me see. {wrong}"), format!("{thought}{wrong}")] {
                    assert!(!accepts(&grammar, &text), "{text}\n{grammar}");
                }
            }
        }
    }

    #[test]
    fn a_thought_that_the_prompt_opened_is_closed_first() {
        let grammar = grammar(&dialect(Calls::Hermes, Some(true)), true, true, GrammarBody::Text);
        assert!(accepts(&grammar, &format!("hm <tool_call>\n</think>\n\n{NOW}")), "{grammar}");
        assert!(!accepts(&grammar, NOW));
        let auto = self::grammar(&dialect(Calls::Hermes, Some(true)), false, true, GrammarBody::Text);
        assert!(accepts(&auto, "hm</think>\n\nHello.") && accepts(&auto, &format!("hm</think>\n\n{NOW}")), "{auto}");
    }

    #[test]
    fn a_model_that_is_not_to_think_does_not() {
        let schema = json!({"type": "object"});
        let body = lark(
            &dialect(Calls::Hermes, Some(false)),
            &Output { calls: None, body: GrammarBody::Json(&schema), thinks: false },
        );
        assert!(accepts(&body, "{\"a\": 1}") && !accepts(&body, "<think>a</think>{}"));
    }

    #[test]
    fn other_ways_of_calling() {
        let mistral = grammar(&dialect(Calls::Mistral, None), false, true, GrammarBody::Text);
        assert!(accepts(&mistral, "Hello [you]"));
        let calls =
            r#"[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "weather", "arguments": {"city": "x"}}]"#;
        assert!(accepts(&mistral, calls), "{mistral}");
        assert!(!accepts(&mistral, r#"[TOOL_CALLS][{"name": "later", "arguments": {}}]"#));
        let llama = grammar(&dialect(Calls::Llama, Some(false)), false, true, GrammarBody::Text);
        for good in [
            "",
            "Hello {you}",
            r#"{"name": "now", "parameters": {}}"#,
            r#"<think>a</think>{"name": "now", "parameters": {}}"#,
        ] {
            assert!(accepts(&llama, good), "{good}\n{llama}");
        }
        assert!(!accepts(&llama, "{\"a\": 1}"), "{llama}");
    }

    #[test]
    fn a_body_has_its_format() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
        let output = |body| Output { calls: None, body, thinks: true };
        let json = lark(&dialect(Calls::Hermes, Some(false)), &output(GrammarBody::Json(&schema)));
        for good in ["{\"a\": 1}", "{\"a\":1}", "<think>\nso\n</think>\n\n{\"a\": 1}", "<think>{}</think>{\"a\": 1}"] {
            assert!(accepts(&json, good), "{good}");
        }
        for wrong in ["{}", "{\"a\":  1}", "{\n\"a\": 1}", "so", "<think>so</think>"] {
            assert!(!accepts(&json, wrong), "{wrong}");
        }
        let regex = lark(&dialect(Calls::Hermes, Some(true)), &output(GrammarBody::Regex(r"a/b\/[0-9]+")));
        assert!(accepts(&regex, "so</think>a/b/7") && !accepts(&regex, "a/b/7"));
        let either = grammar(&dialect(Calls::Hermes, None), false, true, GrammarBody::Json(&schema));
        assert!(accepts(&either, "{\"a\": 1}") && accepts(&either, NOW) && !accepts(&either, "Hello"));
    }

    #[test]
    fn what_it_takes_the_parser_reads() {
        let dialect = dialect(Calls::Hermes, Some(false));
        let text = format!("<think>hm</think>\nLet me see.\n{NOW}\n{WEATHER}");
        assert!(accepts(&grammar(&dialect, false, true, GrammarBody::Text), &text));
        let mut parser = Parser::new(&dialect, true);
        let segments = [parser.push(&text), parser.finish()].concat();
        let calls = segments.iter().filter(|segment| matches!(segment, Segment::Call { .. })).count();
        assert_eq!((calls, segments.len()), (2, 6), "{segments:?}");
    }

    #[test]
    fn odd_schemas_are_let_pass_unless_strict() {
        let function = |strict| {
            json!({"type": "function", "name": "f", "strict": strict, "parameters": {"properties":
                {"a": {"type": "string", "format": "colour"}, "b": {"$ref": "#/$defs/B"}}, "$defs": {"B": {"type": "null"}}}})
        };
        let tools = parse_tools(vec![function(false)]).unwrap();
        let calls = CallRules { functions: callable(&tools), required: true, parallel: false };
        let lark = lark(&Dialect::default(), &Output { calls: Some(calls), body: GrammarBody::Text, thinks: true });
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"red\", \"b\": null}}\n</tool_call>";
        assert!(accepts(&lark, call), "{lark}");
        let strict = parse_tools(vec![function(true)]).unwrap();
        let refused = arguments(&strict[0], &Loosened::default()).unwrap_err();
        assert_eq!(refused.path, "properties.a.format");
    }

    #[test]
    fn alternatives_beside_properties_can_be_called() {
        let tools = parse_tools(vec![json!({"type": "function", "name": "f", "parameters": {
            "type": "object",
            "properties": {"action": {"type": "string", "enum": ["go", "stay"]}},
            "required": ["action"],
            "oneOf": [
                {"properties": {"action": {"const": "go"}, "to": {"type": "string"}}, "required": ["to"]},
                {"properties": {"action": {"const": "stay"}}},
            ],
        }})])
        .unwrap();
        let calls = CallRules { functions: callable(&tools), required: true, parallel: false };
        let lark = lark(&Dialect::default(), &Output { calls: Some(calls), body: GrammarBody::Text, thinks: true });
        let call =
            |arguments: &str| format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {arguments}}}\n</tool_call>");
        for good in [r#"{"action": "go", "to": "Porto"}"#, r#"{"action": "stay"}"#] {
            assert!(accepts(&lark, &call(good)), "{good}\n{lark}");
        }
        for wrong in [r#"{"action": "go"}"#, r#"{"action": "stay", "more": 1}"#, "{}"] {
            assert!(!accepts(&lark, &call(wrong)), "{wrong}\n{lark}");
        }
    }
}
