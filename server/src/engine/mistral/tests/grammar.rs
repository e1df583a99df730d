//! Tests outputs that must match a grammar.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::engine::{Grammar, Rules};

fn held(question: &str, grammar: Grammar, max_output_tokens: u32) -> GenerateRequest {
    GenerateRequest { grammar: Some(grammar), ..request(question, max_output_tokens) }
}

fn of(rules: Rules) -> Grammar {
    Grammar { tenant: "t".into(), rules }
}

fn of_schema(schema: Value) -> Grammar {
    of(Rules::JsonSchema(schema))
}

fn of_regex(regex: String) -> Grammar {
    of(Rules::Regex(regex))
}

fn of_lark(lark: String) -> Grammar {
    of(Rules::Lark(lark))
}

/// The number of tokens of the shortest output that is found.
fn shortest(grammar: &Grammar) -> u32 {
    let request = held("Hi.", grammar.clone(), 4096);
    let grammars = the(&ENGINE).shared.grammars.clone();
    let place = RUNTIME.block_on(grammars.hold(&request, 4096)).expect("it compiles").expect("held");
    place.closing().len() as u32
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["kind", "tall", "\u{e9}t\u{e9}"]}, "minItems": 2},
            "home": {
                "type": "object",
                "properties": {"city": {"type": "string", "minLength": 3}, "zip": {"type": ["string", "null"]}},
                "required": ["city", "zip"],
                "additionalProperties": false,
            },
            "note": {"type": "string"},
        },
        "required": ["name", "age", "tags", "home"],
        "additionalProperties": false,
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    #[serde(rename = "name")]
    _name: String,
    age: u8,
    tags: Vec<String>,
    home: Home,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Home {
    city: String,
    #[serde(rename = "zip")]
    _zip: Option<String>,
}

#[track_caller]
fn assert_person(reply: &Reply) {
    let person: Person = serde_json::from_str(&reply.text).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
    assert!(person.age <= 150 && person.tags.len() >= 2 && person.home.city.chars().count() >= 3, "{person:?}");
    assert!(person.tags.iter().all(|tag| ["kind", "tall", "\u{e9}t\u{e9}"].contains(&tag.as_str())), "{person:?}");
}

#[test]
fn an_object_fits_its_schema_at_every_length() {
    let grammar = of_schema(person());
    let least = shortest(&grammar);
    let mut cut = 0;
    for max in (least..least + 16).chain([90, 250]) {
        for temperature in [0.0, 1.3] {
            let mut request = held("Invent a person from Lyon, as JSON.", grammar.clone(), max);
            request.sampling = Sampling { temperature, seed: max.into(), ..Sampling::default() };
            let reply = run(request);
            assert!(reply.tokens.len() <= max as usize, "{} of {max}", reply.tokens.len());
            assert_person(&reply);
            assert!(matches!(reply.finish, Some(Finish::Stop | Finish::Length)), "{reply:?}");
            cut += usize::from(reply.finish == Some(Finish::Length));
            assert_eq!(reply.text, the(&ENGINE).shared.tokens.bytes().decode(&reply.tokens), "{max}");
        }
    }
    assert!(cut > 10, "only {cut} were ended by length");
}

#[test]
fn any_json_is_whole_at_every_length() {
    let grammar = of_schema(json!({"type": "object"}));
    assert!(shortest(&grammar) <= 2);
    for max in 2..40 {
        let mut request =
            held("Describe a river as nested JSON with lists, in Japanese and emoji.", grammar.clone(), max);
        request.sampling = Sampling { temperature: 1.5, seed: max.into(), ..Sampling::default() };
        let reply = run(request);
        let value: Value =
            serde_json::from_str(&reply.text).unwrap_or_else(|error| panic!("{max}: {error}: {reply:?}"));
        assert!(value.is_object() && reply.tokens.len() <= max as usize);
    }
}

#[test]
fn it_ends_as_soon_as_nothing_can_follow() {
    let grammar = of_schema(json!({"enum": ["yes", "no"]}));
    let reply = run(held("Is the sky blue?", grammar, 50));
    assert_eq!(reply.finish, Some(Finish::Stop), "{reply:?}");
    assert!(["\"yes\"", "\"no\""].contains(&reply.text.as_str()), "{reply:?}");
}

#[test]
fn the_model_ends_it_only_where_the_grammar_may_end() {
    // Even with a large bias for the end token, the output ends after a whole sentence.
    let mut request = held("Say something.", of_regex(r"[a-z ]{12,40}\.( [a-z ]{3,20}\.)*".into()), 60);
    request.sampling.logit_bias = the(&ENGINE).shared.eos.iter().map(|eos| (*eos, 100.0)).collect();
    let reply = run(request);
    assert_eq!(reply.finish, Some(Finish::Stop), "{reply:?}");
    assert!(reply.text.len() >= 13 && reply.text.ends_with('.'), "{reply:?}");
}

#[test]
fn regexes_and_lark_hold_at_every_length() {
    let regex = of_regex(r"[A-Z]{2,9}-[0-9]{4}(, [a-z]+@[a-z]+\.(org|example))*".into());
    let lark =
        of_lark("start: \"<list>\" item+ \"</list>\"\nitem: \"<item>\" TEXT \"</item>\"\nTEXT: /[^<>]{4,60}/\n".into());
    for (grammar, least) in [(&regex, shortest(&regex)), (&lark, shortest(&lark))] {
        for max in least..least + 24 {
            let mut request = held("Write a code, then addresses; or a list of rivers.", grammar.clone(), max);
            request.sampling = Sampling { temperature: 1.0, seed: max.into(), ..Sampling::default() };
            let reply = run(request);
            assert!(reply.tokens.len() <= max as usize);
            match &grammar.rules {
                Rules::Lark(_) => {
                    let items = reply.text.strip_prefix("<list>").and_then(|text| text.strip_suffix("</list>"));
                    let items = items.unwrap_or_else(|| panic!("{max}: {reply:?}"));
                    for item in items.split_inclusive("</item>") {
                        let text = item.strip_prefix("<item>").and_then(|item| item.strip_suffix("</item>"));
                        let text = text.unwrap_or_else(|| panic!("{max}: {reply:?}"));
                        assert!((4..=60).contains(&text.chars().count()) && !text.contains(['<', '>']), "{reply:?}");
                    }
                }
                _ => {
                    let mut parts = reply.text.split(", ");
                    let (letters, digits) = parts.next().and_then(|code| code.split_once('-')).expect("a code");
                    assert!((2..=9).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_uppercase()));
                    assert!(digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()), "{max}: {reply:?}");
                    for address in parts {
                        let (name, host) = address.split_once('@').unwrap_or_else(|| panic!("{max}: {reply:?}"));
                        assert!(
                            !name.is_empty() && (host.ends_with(".org") || host.ends_with(".example")),
                            "{reply:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Checks that a grammar allows the same tokens and has the same completion, whether tokens are pushed one by one or at once.
fn may_follow_by_the_tokens_alone(request: &GenerateRequest, tokens: &[u32]) {
    let max = u64::from(request.max_output_tokens);
    let hold = |output: &[u32]| {
        let request = GenerateRequest { output: output.to_vec(), ..request.clone() };
        RUNTIME.block_on(the(&ENGINE).shared.grammars.clone().hold(&request, max)).expect("fits").expect("held")
    };
    let choice = |held: &mut crate::engine::text::constrained::Constraint| {
        let mut logits = vec![0.0; 49_152];
        held.mask(&mut logits, &the(&ENGINE).shared.eos).expect("a choice");
        logits
    };
    let mut stepwise = hold(&[]);
    for (at, token) in tokens.iter().enumerate() {
        let mut at_once = hold(&tokens[..at]);
        assert_eq!(stepwise.closing(), at_once.closing(), "after {at}");
        assert!(choice(&mut stepwise) == choice(&mut at_once), "after {at}");
        if stepwise.push(*token, max - at as u64 - 1) == Ok(crate::engine::text::constrained::Pushed::NoRoom) {
            return;
        }
    }
}

/// A thought may be any text, so the completion must find the grammar's `</think>` by itself.
#[test]
fn a_thought_is_closed_before_what_follows_it() {
    let lark = "start: \"<think>\" thought gap main\nthought[lazy]: ANY \"</think>\"\nANY: /(?s:.*)/\n\
                gap: /[ \\t\\r\\n]{1,4}/?\nmain: %json {\"type\": \"object\", \"properties\": {\"a\": {\"type\": \
                \"integer\"}}, \"required\": [\"a\"]}\n";
    let grammar = of_lark(lark.into());
    let least = shortest(&grammar);
    assert!(least < 24, "{least}");
    for max in least..least + 12 {
        let mut request = held("How many rivers are there?", grammar.clone(), max);
        request.sampling = Sampling { temperature: 1.0, seed: max.into(), ..Sampling::default() };
        let reply = run(request);
        let (_, json) = reply.text.split_once("</think>").unwrap_or_else(|| panic!("{reply:?}"));
        let value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
        assert!(value["a"].is_i64() && reply.tokens.len() <= max as usize, "{reply:?}");
    }
}

#[test]
fn a_held_output_is_continued_by_its_tokens() {
    let least = shortest(&of_schema(person()));
    let whole_of = |max| {
        let mut request = held("Invent a person from Oslo, as JSON.", of_schema(person()), max);
        request.sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        (request.clone(), run(request))
    };
    for max in [least + 3, 120] {
        let (request, whole) = whole_of(max);
        assert_person(&whole);
        // The last delta is sent whole, so no output is cut inside it.
        let mut cuts: Vec<usize> = (1..whole.tokens.len() - whole.last).step_by(9).collect();
        cuts.push(whole.tokens.len() - whole.last);
        for cut in cuts {
            let rest = run(GenerateRequest { output: whole.tokens[..cut].to_vec(), ..request.clone() });
            // The text that a client has seen. A character whose bytes are incomplete comes with the rest.
            let mut decoder =
                crate::engine::decoder::Decoder::new(the(&ENGINE).shared.tokens.bytes(), Vec::new().into());
            let shown: String = whole.tokens[..cut].iter().map(|token| decoder.push(*token).0).collect();
            assert_person(&Reply { text: shown + &rest.text, ..rest.clone() });
            assert_eq!([&whole.tokens[..cut], &rest.tokens].concat(), whole.tokens, "cut at {cut} of {max}");
        }
        may_follow_by_the_tokens_alone(&request, &whole.tokens);
        let mut nothing_left = request.clone();
        nothing_left.output = whole.tokens.clone();
        nothing_left.max_output_tokens = nothing_left.output.len() as u32;
        assert!(run(nothing_left).tokens.is_empty());
    }
    let mut other = held("Invent a person.", of_schema(person()), 100);
    other.output = the(&ENGINE).shared.tokens.encode_plain("Hello");
    assert!(matches!(run(other).finish, Some(Finish::Failed(_))), "an output of another grammar");
}

#[test]
fn a_stop_string_ends_a_held_output_too() {
    let mut request = held("Invent a person, as JSON.", of_schema(person()), 200);
    request.stop = vec!["\"tags\"".into()].into();
    let reply = run(request);
    assert_eq!(reply.finish, Some(Finish::Stop));
    assert!(reply.text.contains("\"age\"") && !reply.text.contains("tags"), "{reply:?}");
}

#[test]
fn a_grammar_that_cannot_be_used_is_refused_with_the_reason() {
    let refusal = |grammar: Grammar| match ENGINE.check("m", &grammar, 1000) {
        Err(EngineError::Grammar(reason)) => {
            eprintln!("{reason}");
            reason
        }
        other => panic!("{grammar:?}: {other:?}"),
    };
    assert!(refusal(of_schema(json!({"type": "nonsense"}))).contains("nonsense"));
    assert!(refusal(of_schema(json!({"type": "string", "contentEncoding": 1, "not": {}}))).contains("not"));
    assert!(refusal(of_schema(json!({"$ref": "https://example.com/x"}))).contains("example.com"));
    refusal(of_schema(json!({"type": "integer", "minimum": 3, "maximum": 1})));
    refusal(of_schema(json!(7)));
    refusal(of_regex("(a".into()));
    refusal(of_lark("start: nothing_here\n".into()));
    refusal(of_lark(String::new()));
    assert!(refusal(of_regex("a".repeat(3_000_000))).contains("2097152"));
    assert!(matches!(ENGINE.check("x", &of_regex("a".into()), 1), Err(EngineError::UnknownModel(_))));
}

/// A chain of `links` definitions, each of which refers to the next.
fn chain(links: usize) -> Value {
    let mut schema = json!({"$ref": "#/$defs/0", "$defs": {}});
    for link in 0..links {
        schema["$defs"][link.to_string()] = json!({"$ref": format!("#/$defs/{}", link + 1)});
    }
    schema["$defs"][links.to_string()] = json!({"type": "null"});
    schema
}

#[test]
fn hostile_grammars_are_bounded() {
    let deep =
        (0..60).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner, "minItems": 1}));
    let wide = json!({"allOf": vec![json!({"anyOf": (0..12).map(|n| json!({"properties": {n.to_string(): {"const": n}}})).collect::<Vec<_>>()}); 12]});
    let patterns: serde_json::Map<String, Value> =
        (0..120).map(|n| (format!("^(a|b)*{n}(a|b){{{n}}}$"), json!({"type": "null"}))).collect();
    let rules: String = (0..5000).map(|n| format!("a{n}:a{}\n", n + 1)).collect();
    let hostile: Vec<(&str, Grammar)> = vec![
        ("repeats", of_regex("((a{1,1000}b){1,1000}c){1,1000}".into())),
        ("lookbehind", of_regex("(.*a.{200}b.*c.{200})*".into())),
        ("states", of_regex("[ab]*a[ab]{30}x".into())),
        ("unicode", of_regex(r"(\w{1,500}\p{L}{1,500}){1,50}".into())),
        ("nested regex", of_regex("(".repeat(199) + "a" + &")*".repeat(199))),
        ("brackets", of_regex("(".repeat(30_000) + &")".repeat(30_000))),
        ("nested lark", of_lark(format!("start: {}\"a\"{}", "(".repeat(190), ")?".repeat(190)))),
        ("rules", of_lark(format!("start: a0\n{rules}a5000: \"x\"\n"))),
        ("loop", of_lark("start: start start | \"a\" | \n".into())),
        ("left", of_lark("start: a a a a a a\na: a a | a a a | \"x\" |\n".into())),
        ("deep", of_schema(deep)),
        ("chain", of_schema(chain(1500))),
        ("wide", of_schema(wide)),
        ("patterns", of_schema(json!({"type": "object", "patternProperties": patterns}))),
        ("long string", of_schema(json!({"type": "string", "minLength": 100_000, "maxLength": 100_000}))),
        ("many items", of_schema(json!({"type": "array", "minItems": 1_000_000}))),
        ("multiple", of_schema(json!({"type": "integer", "multipleOf": 99_999_999}))),
    ];
    for (name, grammar) in hostile {
        let begun = Instant::now();
        let outcome = ENGINE.check("m", &grammar, 200);
        let (took, said) =
            (begun.elapsed(), outcome.as_ref().map(|()| "accepted".to_owned()).unwrap_or_else(ToString::to_string));
        let short: String = said.chars().take(160).collect();
        eprintln!("{name}: {took:?}: {short}");
        assert!(took < Duration::from_secs(5), "{name} took {took:?}");
        assert!(said.len() < 600, "{name}: {said}");
        if outcome.is_ok() {
            let mut request = held("Go.", grammar, 30);
            request.sampling.temperature = 1.0;
            if ENGINE.check("m", request.grammar.as_ref().unwrap(), 30).is_ok() {
                let begun = Instant::now();
                let reply = run(request);
                eprintln!("  {} tokens in {:?}: {:?}", reply.tokens.len(), begun.elapsed(), reply.finish);
                assert!(begun.elapsed() < Duration::from_secs(20), "{name}");
            }
        }
    }
    assert!(ENGINE.check("m", &of_regex("a".into()), 5).is_ok());
    // Compilations that were abandoned end, too.
    let begun = Instant::now();
    while the(&ENGINE).shared.grammars.compiling() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "a compilation has no end");
        std::thread::yield_now();
    }
    eprintln!("all compiled after {:?}", begun.elapsed());
}
