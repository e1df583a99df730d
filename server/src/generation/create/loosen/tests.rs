use std::cell::RefCell;

use super::*;
use crate::{
    engine::text::constrained::{Grammars, tests::vocabulary},
    store::conformance::header,
    wire::request::Create,
};

/// An engine that refuses grammars with one of these words, and the grammars that it was asked for.
struct Refusing {
    words: Vec<&'static str>,
    asked: RefCell<usize>,
}

impl Refusing {
    fn loosened(&self, fields: Value) -> Result<Header, Failed> {
        let mut fields = fields;
        fields["input"] = "x".into();
        let header = Header { spec: Create::from_value(fields).expect("a request").into(), ..header("resp_1", "t") };
        loosen(header, &|grammar: &Grammar| {
            *self.asked.borrow_mut() += 1;
            let text = match &grammar.rules {
                Rules::JsonSchema(schema) => schema.to_string(),
                Rules::Regex(text) | Rules::Lark(text) => text.clone(),
            };
            match self.words.iter().find(|word| text.contains(**word)) {
                Some(word) => Err(EngineError::Grammar(format!("no {word}"))),
                None => Ok(()),
            }
        })
    }
}

fn refusing(words: &[&'static str]) -> Refusing {
    Refusing { words: words.to_vec(), asked: RefCell::new(0) }
}

fn tools(strict: bool) -> Value {
    let properties = json!({"a": {"type": "string", "pattern": "BAD", "minLength": 2}, "b": {"enum": ["BIG"]}});
    json!({"tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object", "properties": properties}, "strict": strict},
        {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {"c": {"type": "string", "pattern": "ok"}}}},
    ]})
}

#[test]
fn what_can_be_compiled_is_asked_for_once() {
    let engine = refusing(&[]);
    let header = engine.loosened(tools(false)).expect("held");
    assert!(header.holding.is_empty());
    assert_eq!(*engine.asked.borrow(), 1);
}

#[test]
fn the_constraint_that_cannot_be_compiled_is_left_out_alone() {
    let header = refusing(&["BAD"]).loosened(tools(false)).expect("held");
    let dropped: Vec<(&String, Vec<&String>)> =
        header.holding.iter().map(|(name, loosened)| (name, loosened.dropped.iter().collect())).collect();
    assert_eq!(dropped, [(&"f".to_owned(), vec![&"properties.a.pattern".to_owned()])]);
    match refusing(&["BAD"]).loosened(tools(true)) {
        Err(Failed::Refused(WireError::InvalidRequest { param, .. })) => {
            assert_eq!(param.as_deref(), Some("tools[0].parameters.properties.a.pattern"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_schema_that_is_too_large_keeps_its_shape_and_then_its_type() {
    let shape = refusing(&["minLength"])
        .loosened(json!({"text": {"format": {"type": "json_schema", "name": "n", "schema":
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 2}}}}}}));
    assert!(shape.expect("held").holding[""].dropped.contains("properties.a.minLength"));
    let any = refusing(&["BIG"]).loosened(tools(false)).expect("held");
    assert_eq!((any.holding["f"].level, any.holding["g"].level), (Level::Any, Level::Any));
    assert!(matches!(refusing(&["BIG"]).loosened(tools(true)), Err(Failed::Refused(_))));
    assert!(matches!(refusing(&["lead"]).loosened(tools(false)), Err(Failed::Engine(EngineError::Grammar(_)))));
}

#[test]
fn a_busy_engine_is_not_a_wrong_request() {
    let header =
        Header { spec: Create::from_value(tools_with_input()).expect("a request").into(), ..header("resp_1", "t") };
    let busy = loosen(header, &|_: &Grammar| Err(EngineError::Busy { retry_after_ms: 7 }));
    assert!(matches!(busy, Err(Failed::Engine(EngineError::Busy { retry_after_ms: 7 }))));
}

fn tools_with_input() -> Value {
    let mut fields = tools(false);
    fields["input"] = "x".into();
    fields
}

/// The types of two libraries that clients describe their data with, as these libraries write them as JSON schemas.
const LIBRARIES: [(&str, &str); 2] = [
    ("zod", include_str!("../../../../testdata/zod.json")),
    ("pydantic", include_str!("../../../../testdata/pydantic.json")),
];

/// For each type: whether an output can be held to all of it, or the path of the keyword for which it is refused where the
/// client is strict, and which is ignored otherwise.
const OUTCOMES: &str = include_str!("../../../../testdata/outcomes.txt");

/// A schema of an object that holds a value of the type.
fn object_of(schema: &Value) -> Value {
    if schema["type"] == "object" {
        return schema.clone();
    }
    let mut value = schema.clone();
    let definitions = value.as_object_mut().and_then(|members| members.remove("$defs"));
    let object = json!({"type": "object", "properties": {"value": value}, "required": ["value"]});
    match definitions {
        Some(definitions) => {
            json!({"$defs": definitions, "type": "object", "properties": object["properties"], "required": ["value"]})
        }
        None => object,
    }
}

/// The four ways to ask for a schema: a format and a tool, in both APIs.
fn requests(schema: &Value, strict: bool) -> Vec<Create> {
    let format = json!({"name": "n", "schema": schema, "strict": strict});
    let function = json!({"name": "f", "parameters": object_of(schema), "strict": strict});
    let with_type = |kind: &str, value: &Value| {
        let mut value = value.clone();
        value["type"] = kind.into();
        value
    };
    let responses = [
        json!({"input": "x", "text": {"format": with_type("json_schema", &format)}}),
        json!({"input": "x", "tools": [with_type("function", &function)], "tool_choice": "required"}),
    ];
    let chats = [
        json!({"response_format": {"type": "json_schema", "json_schema": format}}),
        json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
    ];
    let chat = |mut fields: Value| {
        fields["messages"] = json!([{"role": "user", "content": "x"}]);
        crate::wire::chat::ChatRequest::from_value(fields).expect("a request").create
    };
    responses
        .into_iter()
        .map(|fields| Create::from_value(fields).expect("a request"))
        .chain(chats.into_iter().map(chat))
        .collect()
}

/// `accepted`, or the path of the keyword within the schema.
fn outcome(engine: &Grammars, create: Create) -> String {
    let header = Header { spec: create.into(), ..header("resp_1", "t") };
    match loosen(header, &|grammar: &Grammar| engine.check(grammar, 100)) {
        Ok(header) if header.holding.is_empty() => "accepted".into(),
        Ok(header) => {
            header.holding.values().flat_map(|loosened| &loosened.dropped).cloned().collect::<Vec<_>>().join(",")
        }
        Err(Failed::Refused(WireError::InvalidRequest { param: Some(param), .. })) => {
            let path = param.replace("text.format.schema", "").replace("tools[0].parameters", "");
            path.trim_start_matches('.').trim_start_matches("properties.value").trim_start_matches('.').to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_types_of_zod_and_pydantic_are_held_to_or_named() {
    let engine = Grammars::new(&vocabulary()).expect("a vocabulary");
    let mut found = String::new();
    for (library, types) in LIBRARIES {
        let types: serde_json::Map<String, Value> = serde_json::from_str(types).expect("JSON");
        for (name, schema) in &types {
            for create in requests(schema, false) {
                let header = Header { spec: create.into(), ..header("resp_1", "t") };
                let held = loosen(header, &|grammar: &Grammar| engine.check(grammar, 100));
                let held = held.unwrap_or_else(|error| panic!("{library} {name} is refused: {error:?}"));
                assert!(held.holding.values().all(|loosened| loosened.level == Level::Whole), "{library} {name}");
            }
            let outcomes: Vec<String> =
                requests(schema, true).into_iter().map(|create| outcome(&engine, create)).collect();
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{library} {name}: {outcomes:?}");
            found.push_str(&format!("{library} {name}: {}\n", outcomes[0]));
        }
    }
    let differing: Vec<&str> =
        found.lines().filter(|line| !OUTCOMES.lines().any(|expected| expected == *line)).collect();
    assert!(differing.is_empty() && found.lines().count() == OUTCOMES.lines().count(), "{differing:#?}");
}

#[test]
fn as_many_tools_as_may_be_are_held_to() {
    let engine = Grammars::new(&vocabulary()).expect("a vocabulary");
    let description = "What it is for, and how it is to be used, at some length. ".repeat(20);
    let tool = |at: usize| {
        json!({"type": "function", "name": format!("tool_{at}"), "description": description, "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": description},
                "count": {"type": "integer", "minimum": 1, "maximum": 1000},
                "mode": {"enum": ["read", "write", "append"], "description": description},
                "options": {"type": "object", "properties": {"deep": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}}}},
            },
            "required": ["path"],
        }})
    };
    for choice in ["auto", "required"] {
        let create = json!({"input": "x", "tools": (0..128).map(tool).collect::<Vec<_>>(), "tool_choice": choice});
        assert!(create.to_string().len() > 400_000);
        let begun = std::time::Instant::now();
        assert_eq!(outcome(&engine, Create::from_value(create).expect("a request")), "accepted");
        eprintln!("128 tools, {choice}: {:?}", begun.elapsed());
    }
}
