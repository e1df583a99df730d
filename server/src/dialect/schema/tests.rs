use serde_json::Map;

use super::*;

fn held(schema: Value) -> Value {
    hold(&schema, &Loosened::default(), false).expect("it is held")
}

#[track_caller]
fn assert_refused(schema: Value, path: &str) {
    let refused = hold(&schema, &Loosened::default(), true).expect_err("it is refused");
    assert_eq!(refused.path, path, "{}", refused.reason);
}

#[test]
fn what_constrains_nothing_is_left_out() {
    let schema = json!({
        "$schema": "x", "title": "T", "description": "d", "type": "object",
        "properties": {"description": {"type": "string", "title": "t", "examples": ["a"], "default": "b"}},
    });
    assert_eq!(
        held(schema),
        json!({"type": "object", "properties": {"description": {"type": "string"}}, "additionalProperties": false})
    );
}

#[test]
fn objects_are_closed_where_the_schema_does_not_say() {
    let nested = json!({"properties": {"a": {"type": "object", "properties": {"b": true}}}});
    let closed = held(nested);
    assert_eq!(closed["additionalProperties"], false);
    assert_eq!(closed["properties"]["a"]["additionalProperties"], false);
    for open in [
        json!({"type": "object"}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "properties": {"a": true}, "additionalProperties": true}),
        json!({"type": "string"}),
        json!(true),
    ] {
        assert_eq!(held(open.clone()), open);
    }
    let required = held(json!({"type": "object", "required": ["a"]}));
    assert_eq!(required["properties"], json!({"a": true}));
}

#[test]
fn a_union_allows_the_properties_beside_it() {
    let closed = held(json!({
        "type": "object",
        "properties": {"action": {"enum": ["go", "stay"]}},
        "required": ["action"],
        "oneOf": [
            {"properties": {"action": {"const": "go"}, "to": {"type": "string"}}, "required": ["action", "to"]},
            {"properties": {"action": {"const": "stay"}}, "required": ["action"]},
        ],
    }));
    assert!(closed.get("additionalProperties").is_none(), "{closed}");
    for (at, names) in [vec!["action", "to"], vec!["action"]].into_iter().enumerate() {
        let option = &closed["anyOf"][at];
        let found: Vec<&String> = option["properties"].as_object().expect("properties").keys().collect();
        assert_eq!(
            (found, &option["additionalProperties"]),
            (names.iter().map(|n| n.to_string()).collect::<Vec<_>>().iter().collect(), &json!(false))
        );
    }
}

#[test]
fn an_intersection_allows_the_properties_of_all_its_parts() {
    let closed = held(json!({
        "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "integer"}}}],
        "properties": {"c": {"type": "null"}},
        "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
    }));
    assert_eq!(closed["properties"], json!({"c": {"type": "null"}, "a": true, "b": true}));
    assert_eq!(closed["additionalProperties"], false);
    assert!(
        closed["allOf"].as_array().is_some_and(|all| all.iter().all(|part| part.get("additionalProperties").is_none()))
    );
}

#[test]
fn references_stand_at_one_place() {
    let recursive = held(json!({
        "$ref": "#/definitions/node",
        "definitions": {"node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/node"}, "a": {"$ref": "#/definitions/a%25b"}}},
                        "a%b": {"type": "null"}},
    }));
    assert_eq!(recursive["$ref"], "#/$defs/d0");
    assert_eq!(recursive["$defs"]["d0"]["properties"]["next"], json!({"$ref": "#/$defs/d0"}));
    assert_eq!(recursive["$defs"]["d0"]["properties"]["a"], json!({"$ref": "#/$defs/d1"}));
    assert_eq!(recursive["$defs"]["d1"], json!({"type": "null"}));
}

#[test]
fn what_an_output_cannot_be_held_to_is_ignored_or_refused_with_its_path() {
    let object = |property: Value| json!({"type": "object", "properties": {"a": property}});
    for (property, keyword, left) in [
        (json!({"type": "string", "format": "colour"}), "format", json!({"type": "string"})),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems", json!({"type": "array"})),
        (json!({"not": {"type": "null"}}), "not", json!({})),
        (json!({"$ref": "https://example.com/x"}), "$ref", json!({})),
        (json!({"$ref": "#/nowhere"}), "$ref", json!({})),
        (json!({"type": "object", "propertyNames": {"maxLength": 3}}), "propertyNames", json!({"type": "object"})),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            "oneOf",
            json!({"anyOf": [{"type": "integer"}, {"type": "number"}]}),
        ),
        (json!({"type": "integer", "multipleOf": 0}), "multipleOf", json!({"type": "integer"})),
    ] {
        assert_eq!(held(object(property.clone()))["properties"]["a"], left);
        assert_refused(object(property), &format!("properties.a.{keyword}"));
    }
    for fine in
        [json!({"uniqueItems": false}), json!({"oneOf": [{"type": "null"}, {"type": "string"}]}), json!({"x-own": 1})]
    {
        assert!(hold(&fine, &Loosened::default(), true).is_ok(), "{fine}");
    }
}

#[test]
fn ranges_end_where_the_compiler_takes_them() {
    let int64 = json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX});
    assert_eq!(
        hold(&int64, &Loosened::default(), true),
        Ok(json!({"type": "integer", "minimum": -1e18, "maximum": 1e18}))
    );
    let double = json!({"type": "number", "minimum": f64::MIN, "exclusiveMaximum": 5});
    assert_eq!(held(double), json!({"type": "number", "minimum": -1e18, "exclusiveMaximum": 5}));
    for (keyword, value) in
        [("maximum", json!(i64::MIN)), ("minimum", json!(u64::MAX)), ("exclusiveMaximum", json!(-1e300))]
    {
        let schema = json!({"type": "integer", keyword: value});
        assert_eq!(held(schema.clone()), json!({"type": "integer"}));
        assert_refused(schema, keyword);
    }
}

#[test]
fn patterns_are_those_of_ecma() {
    let schema = json!({"properties": {
        "a": {"type": "string", "pattern": r"^\d+$"},
        "b": {"type": "object", "patternProperties": {r"^\w$": {"type": "string", "pattern": "[[&&]"}}},
        "c": {"type": "object", "propertyNames": {"pattern": r"^\d$"}},
    }});
    let held = held(schema);
    assert_eq!(held["properties"]["a"]["pattern"], "^[0-9]+$");
    assert_eq!(held["properties"]["b"]["patternProperties"]["^[A-Za-z0-9_]$"]["pattern"], r"[\[\&\&]");
    assert!(held["properties"]["c"]["patternProperties"].get("^[0-9]$").is_some(), "{held}");
}

#[test]
fn an_integer_that_a_float_cannot_hold_is_no_constant() {
    for value in [json!(i64::MIN), json!(12_345_678_901_234_567_890_u64), json!({"id": [9_007_199_254_740_993_i64]})] {
        let schema = json!({"properties": {"a": {"const": value}, "b": {"enum": [1, value]}}});
        assert_eq!(held(schema.clone())["properties"], json!({"a": {}, "b": {}}));
        assert_refused(schema, "properties.a.const");
    }
    let exact = json!({"enum": [9_007_199_254_740_991_i64, 1.5e300, "12345678901234567890", null]});
    assert_eq!(held(exact.clone()), exact);
}

#[test]
fn a_malformed_schema_is_refused_in_any_case() {
    for (schema, path) in [
        (json!({"type": "nonsense"}), "type"),
        (json!({"properties": {"a": 7}}), "properties.a"),
        (json!({"anyOf": []}), "anyOf"),
        (json!({"$ref": "#/$defs/x", "$defs": {"x": {"enum": 3}}}), "$defs.x.enum"),
    ] {
        let refused = hold(&schema, &Loosened::default(), false).expect_err("it is refused");
        assert_eq!(refused.path, path);
    }
}

#[test]
fn names_of_properties_become_properties() {
    let record = held(
        json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}}),
    );
    assert_eq!(record["properties"], json!({"a": {"$ref": "#/$defs/s0"}, "b": {"$ref": "#/$defs/s0"}}));
    assert_eq!(record["$defs"], json!({"s0": {"type": "null"}}));
    let by_pattern =
        held(json!({"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": {"type": "null"}}));
    assert_eq!(
        (&by_pattern["patternProperties"], &by_pattern["additionalProperties"]),
        (&json!({"^x": {"type": "null"}}), &json!(false))
    );
}

#[test]
fn a_loosened_schema_holds_to_less() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "x", "minLength": 2}}});
    let with = |level, dropped: &[&str]| {
        let dropped = dropped.iter().map(|path| (*path).to_owned()).collect();
        hold(&schema, &Loosened { level, dropped }, false).expect("held")
    };
    assert_eq!(
        with(Level::Whole, &["properties.a.pattern"])["properties"]["a"],
        json!({"type": "string", "minLength": 2})
    );
    assert_eq!(with(Level::Shape, &[])["properties"]["a"], json!({"type": "string"}));
    assert_eq!(with(Level::Any, &[]), json!({"type": "object"}));
    let found = sites(&schema).expect("sites");
    assert_eq!(
        found,
        [Site {
            path: "properties.a".into(),
            keywords: vec!["minLength".into(), "pattern".into()],
            schema: json!({"type": "string", "minLength": 2, "pattern": "x"}),
        }]
    );
}

/// Returns 16 definitions; each except the last has `fan` references to the next one.
fn fanned(keyword: &str, fan: usize) -> Map<String, Value> {
    let mut definitions: Map<String, Value> = (0..15)
        .map(|at| (format!("d{at}"), json!({(keyword): vec![json!({"$ref": format!("#/$defs/d{}", at + 1)}); fan]})))
        .collect();
    definitions.insert("d15".into(), json!({"type": "object", "properties": {"a": {}}}));
    definitions
}

#[test]
fn a_schema_grows_in_proportion_to_its_size() {
    let names: Vec<String> = (0..2000).map(|at| format!("p{at}")).collect();
    let properties: Map<String, Value> = names.iter().map(|name| (name.clone(), json!({}))).collect();
    let needs: Vec<Value> = names.iter().map(|name| json!({"required": [name]})).collect();
    let spelled: Vec<Value> = (0..256)
        .map(|at: u32| {
            let letter = |bit: u32| if at >> bit & 1 == 0 { "%61" } else { "a" };
            json!({"$ref": format!("#/$defs/{}", (0..8).map(letter).collect::<String>())})
        })
        .collect();
    for schema in [
        json!({"type": "object", "properties": properties, "anyOf": needs}),
        json!({"properties": {"x": {}}, "allOf": [{"$ref": "#/$defs/d0"}], "$defs": fanned("anyOf", 10)}),
        json!({"properties": {"x": {}}, "anyOf": [{"$ref": "#/$defs/d0"}], "$defs": fanned("anyOf", 10)}),
        json!({"properties": {"x": {}}, "allOf": [{"$ref": "#/$defs/d0"}], "$defs": fanned("allOf", 10)}),
        json!({"anyOf": spelled, "$defs": {"aaaaaaaa": {"type": "object", "properties": properties}}}),
        json!({"type": "object", "propertyNames": {"enum": names}, "additionalProperties": {"properties": properties}}),
    ] {
        let given = schema.to_string().len();
        let grown = held(schema.clone()).to_string().len();
        assert!(grown < 10 * given + 100_000, "{given} bytes became {grown}: {:.80}", schema.to_string());
    }
}

#[test]
fn thousands_of_alternatives_are_compared_in_no_time() {
    let distinct: Vec<Value> = (0..5000).map(|at| json!({"const": at})).collect();
    let tagged: Vec<Value> = (0..2000)
        .map(|at| json!({"type": "object", "properties": {"kind": {"const": at}}, "required": ["kind"]}))
        .collect();
    for fine in [json!({"oneOf": distinct}), json!({"oneOf": tagged})] {
        assert!(hold(&fine, &Loosened::default(), true).is_ok());
    }
    let mut twice = distinct;
    twice.push(json!({"const": 7}));
    assert!(hold(&json!({"oneOf": twice}), &Loosened::default(), true).is_err());
    // Two lists of thousands of values, under thousands of names.
    let names: Vec<String> = (0..2000).map(|at| format!("p{at}")).collect();
    let option = |list: &str| {
        let properties: Map<String, Value> =
            names.iter().map(|name| (name.clone(), json!({"$ref": format!("#/$defs/{list}")}))).collect();
        json!({"type": "object", "required": names, "properties": properties})
    };
    let list = |from: usize| json!({"enum": (from..from + 5000).map(|at| at.to_string()).collect::<Vec<_>>()});
    let schema = json!({"oneOf": [option("a"), option("b")], "$defs": {"a": list(0), "b": list(4999)}});
    assert!(hold(&schema, &Loosened::default(), true).is_err(), "that is not known");
}
