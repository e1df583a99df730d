//! Tests of grammars on a small vocabulary: every byte, and frequent words and punctuation of JSON.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use serde_json::{Value, json};

use super::*;
use crate::engine::{EngineError, Grammar, Rules};

const EOS: u32 = 256;

/// The texts of the tokens after the bytes and the end.
fn words() -> Vec<String> {
    let punctuation = [
        "\"", "\":", "\": \"", "\", \"", "\"}", "}}", "]}", "\"]", "{\"", "[\"", ", ", "\"\"", " \"", "true", "false",
        "null",
    ];
    let mut words: Vec<String> = punctuation.iter().map(|text| (*text).to_owned()).collect();
    for first in b'a'..=b'z' {
        for second in b'a'..=b'z' {
            words.push(String::from_utf8_lossy(&[first, second]).into_owned());
            words.push(String::from_utf8_lossy(&[b' ', first, second]).into_owned());
        }
    }
    words
}

pub fn vocabulary() -> TokEnv {
    let mut bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    bytes.push(b"\xff<|end|>".to_vec());
    bytes.extend(words().into_iter().map(String::into_bytes));
    let info = TokRxInfo::new(bytes.len() as u32, EOS);
    Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &bytes)))
}

fn grammars() -> Arc<Grammars> {
    Arc::new(Grammars::new(&vocabulary()).expect("a vocabulary"))
}

fn grammar(rules: Rules) -> Grammar {
    Grammar { tenant: "t".into(), rules }
}

fn schema(schema: Value) -> Grammar {
    grammar(Rules::JsonSchema(schema))
}

fn place(grammars: &Arc<Grammars>, grammar: Grammar, max: u64) -> Constraint {
    grammars.place(&grammar, &[], max).expect("held")
}

/// Picks random allowed tokens, as an engine does, until the output ends or has `max` tokens. Returns the text and whether the output
/// is complete.
fn output(grammars: &Arc<Grammars>, grammar: Grammar, max: u64, seed: u64) -> (String, bool) {
    let vocabulary = vocabulary();
    let trie = vocabulary.tok_trie();
    let mut held = place(grammars, grammar, max);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut tokens = Vec::new();
    let whole = loop {
        let mut logits = vec![0.0; trie.vocab_size()];
        if held.mask(&mut logits, &[EOS]).is_err() {
            let closing = held.closing().to_vec();
            tokens.extend(&closing);
            break !closing.is_empty();
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let allowed: Vec<u32> =
            (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(token, _)| token).collect();
        let token = allowed[state as usize % allowed.len()];
        if token == EOS {
            break true;
        }
        let room = max - tokens.len() as u64 - 1;
        match held.push(token, room).expect("allowed tokens fit") {
            Pushed::Open => tokens.push(token),
            Pushed::Complete => {
                tokens.push(token);
                break true;
            }
            Pushed::NoRoom => {
                tokens.extend(held.closing());
                break true;
            }
        }
        if room == 0 {
            break held.is_complete();
        }
    };
    assert!(tokens.len() as u64 <= max);
    (String::from_utf8_lossy(&trie.decode(&tokens)).into_owned(), whole)
}

#[test]
fn an_output_is_completed_at_every_length() {
    let grammars = grammars();
    let person = schema(json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                       "tags": {"type": "array", "items": {"enum": ["kind", "tall"]}, "minItems": 2}},
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    }));
    for max in 60..80 {
        let (text, _) = output(&grammars, person.clone(), max, max);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{max}: {error}: {text}"));
        assert!(value["age"].is_u64() && value["tags"].as_array().is_some_and(|tags| tags.len() >= 2), "{text}");
    }
}

#[test]
fn no_satisfiable_grammar_is_refused_because_a_completion_was_not_found() {
    let grammars = grammars();
    let email =
        "^(?:[A-Za-z0-9_'+\\-]+\\.)*[A-Za-z0-9_'+\\-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$";
    let property = |value: Value| {
        schema(json!({"type": "object", "properties": {"a": value}, "required": ["a"], "additionalProperties": false}))
    };
    for grammar in [
        schema(json!({"type": "string", "minLength": 40})),
        property(json!({"type": "string", "minLength": 40})),
        property(json!({"type": "string", "minLength": 2000})),
        property(json!({"type": "string", "pattern": email})),
        property(json!({"type": "string", "pattern": email, "format": "email"})),
        property(json!({"type": "string", "format": "date-time"})),
        property(json!({"type": "array", "minItems": 500, "items": {"type": "null"}})),
        self::grammar(Rules::Regex("(ab){3000}".into())),
        self::grammar(Rules::Lark("start: \"x\" start | \"y\"\n".into())),
    ] {
        grammars.check(&grammar, 16).unwrap_or_else(|error| panic!("{grammar:?}: {error}"));
    }
    let (text, whole) = output(&grammars, self::grammar(Rules::Regex("(ab){3000}".into())), 40, 1);
    assert!(!whole && text.starts_with("abab"), "an output that cannot be completed is cut: {text}");
}

#[test]
fn a_long_string_is_completed_too() {
    let grammars = grammars();
    let long = schema(
        json!({"type": "object", "properties": {"a": {"type": "string", "minLength": 40}}, "required": ["a"], "additionalProperties": false}),
    );
    for max in 70..90 {
        let (text, whole) = output(&grammars, long.clone(), max, max);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{max}, {whole}: {error}: {text}"));
        assert!(value["a"].as_str().is_some_and(|a| a.chars().count() >= 40), "{text}");
    }
}

#[test]
fn a_place_depends_on_the_tokens_alone() {
    let grammars = grammars();
    let grammar =
        schema(json!({"type": "object", "properties": {"a": {"type": "string", "minLength": 20}}, "required": ["a"]}));
    let tokens = vocabulary().tok_trie().greedy_tokenize(br#"{"a": "the river flows to the sea"#);
    let max = 60;
    let mut stepwise = place(&grammars, grammar.clone(), max);
    for (at, token) in tokens.iter().enumerate() {
        let at_once = grammars.place(&grammar, &tokens[..at], max).expect("held");
        assert_eq!(stepwise.closing(), at_once.closing(), "after {at}");
        assert_eq!(stepwise.push(*token, max - at as u64 - 1), Ok(Pushed::Open));
    }
}

#[test]
fn what_cannot_be_compiled_is_refused_with_the_reason() {
    let grammars = grammars();
    for wrong in [Rules::Regex("(a".into()), Rules::Lark("start: nothing_here\n".into()), Rules::Lark(String::new())] {
        match grammars.check(&grammar(wrong.clone()), 100) {
            Err(EngineError::Grammar(reason)) => assert!(!reason.is_empty() && reason.len() < 600, "{reason}"),
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
}

/// Slow grammars of one tenant do not delay another tenant's grammars.
#[test]
fn a_tenant_with_expensive_grammars_delays_itself() {
    let grammars = grammars();
    let expensive = |at: usize| Grammar {
        tenant: "expensive".into(),
        rules: Rules::Regex(format!("((a{{1,1000}}b){{1,1000}}c){{1,{}}}", 900 + at)),
    };
    let (sender, started) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..8)
        .map(|at| {
            let (grammars, sender) = (grammars.clone(), sender.clone());
            std::thread::spawn(move || {
                let _ = sender.send(());
                grammars.check(&expensive(at), 100)
            })
        })
        .collect();
    threads.iter().for_each(|_| started.recv().expect("a thread"));
    for at in 0..10 {
        let small = json!({"type": "object", "properties": {(format!("p{at}")): {"type": "string"}}});
        let grammar = Grammar { tenant: "small".into(), rules: Rules::JsonSchema(small) };
        grammars.check(&grammar, 100).expect("the other tenant's turn comes");
    }
    for thread in threads {
        match thread.join().expect("it ends") {
            Ok(()) | Err(EngineError::Grammar(_)) => {}
            Err(EngineError::Busy { retry_after_ms }) => assert!(retry_after_ms > 0),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The compiler overflows its stack at some numbers, and that ends the process.
#[test]
fn no_number_of_a_schema_ends_the_process() {
    let grammars = grammars();
    let numbers = [
        json!(i64::MIN),
        json!(i64::MIN + 1),
        json!(-1e300),
        json!(-1e18),
        json!(-1),
        json!(-0.5),
        json!(0),
        json!(1e-300),
        json!(0.5),
        json!(9_007_199_254_740_993_i64),
        json!(1e18),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
    ];
    // Whether it compiles or not, it returns, and without a panic.
    let returns = |grammar: &Grammar| match grammars.check(grammar, 100) {
        Err(EngineError::Grammar(reason)) => {
            assert!(!reason.contains("panic") && reason != "The grammar cannot be compiled.", "{:?}", grammar.rules);
        }
        other => drop(other),
    };
    let check = |schema: Value| {
        let held = crate::dialect::schema::hold(&schema, &Default::default(), false).expect("it is a schema");
        returns(&self::schema(held));
    };
    for first in &numbers {
        check(json!({"const": first}));
        check(json!({"enum": [first, [first]]}));
        for kind in ["integer", "number"] {
            for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
                check(json!({"type": kind, (keyword): first}));
            }
            for second in &numbers {
                check(json!({"type": kind, "minimum": first, "maximum": second}));
            }
        }
        let lark = format!("start: %json {{\"type\": \"integer\", \"maximum\": {first}}}");
        returns(&grammar(Rules::Lark(lark)));
    }
}
