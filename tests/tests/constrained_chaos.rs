//! Tests outputs with schemas and grammars, and forced calls, while the replicas that generate them are killed and replaced:
//! each output is valid and equals the one without faults.

use std::{fs, time::Duration};

use caudal_tests::{
    Client,
    chaos::{self, Ask, Fault, Options},
    log::{item_texts, without_ids},
    redis::temp_dir,
    stack::Stack,
    tiny::Family,
};
use serde_json::{Value, json};

/// The number of seeds of each shape.
const SEEDS: u64 = 4;
/// The number of outputs under faults.
const OUTPUTS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_outputs_are_valid_whatever_happens_to_their_replicas() {
    let folder = temp_dir("constrained");
    // The logits of this model's quantised weights do not depend on other sequences of the batch.
    let model = Family::Phi3.write(&folder).expect("a model");
    let models = format!("engine.models=[{{id=\"m\", model=\"{}\"}}]", model.display());
    let settings = ["engine.kind=mistralrs", &models, "engine.kv_mb=64", "engine.threads=1", "admission.queue=1024"];
    let mut stack = Stack::spawn(&settings, None).await;
    let mut asks = vec![];
    for (shape, seed) in shapes().into_iter().flat_map(|shape| (0..SEEDS).map(move |seed| (shape.clone(), seed))) {
        asks.push(undisturbed(&stack, shape, seed).await);
    }
    let (duration, every) = (Duration::from_secs(20), Duration::from_millis(1500));
    let options = Options { streams: 20, duration, asks: asks.into(), every, fault: Fault::of_a_replica, seed: 1 };
    let report = chaos::run(&mut stack, &options).await;
    println!("{report}");
    assert!(report.failures.is_empty(), "{:#?}\nnginx:\n{}", report.failures, stack.nginx_errors());
    assert!(report.responses >= OUTPUTS && report.reconnects > OUTPUTS / 10, "{report}");
    fs::remove_dir_all(&folder).expect("it was made");
}

/// A request, and the schema of its output: a message's text, or a call's arguments.
#[derive(Clone)]
struct Shape {
    fields: Value,
    schema: Value,
}

fn shapes() -> Vec<Shape> {
    let report = json!({
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 40},
            "tags": {"type": "array", "items": {"enum": ["calm", "rough", "frozen"]}, "minItems": 6, "maxItems": 9},
            "readings": {"type": "array", "minItems": 12, "maxItems": 16, "items": {
                "type": "object",
                "properties": {"at": {"type": "integer", "minimum": 0, "maximum": 999}, "warm": {"type": "boolean"}},
                "required": ["at", "warm"],
                "additionalProperties": false,
            }},
            "note": {"anyOf": [{"type": "string", "maxLength": 30}, {"type": "null"}]},
        },
        "required": ["title", "tags", "readings", "note"],
        "additionalProperties": false,
    });
    let forecast = json!({
        "type": "object",
        "properties": {
            "city": {"enum": ["Faro", "Évora"]},
            "hours": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 23}, "minItems": 30, "maxItems": 40},
            "remark": {"type": "string", "minLength": 20, "maxLength": 60},
        },
        "required": ["city", "hours", "remark"],
        "additionalProperties": false,
    });
    let words = json!({"type": "string", "minLength": 158, "maxLength": 158});
    let tool = |name: &str| json!({"type": "function", "name": name, "parameters": forecast, "strict": true});
    let format = json!({"type": "json_schema", "name": "report", "schema": report, "strict": true});
    let regex = json!({"type": "grammar", "syntax": "regex", "definition": "\"[a-f -]{158}\""});
    vec![
        Shape { fields: json!({"text": {"format": format}}), schema: report },
        Shape {
            fields: json!({"tools": [tool("forecast")], "tool_choice": {"type": "function", "name": "forecast"}}),
            schema: forecast.clone(),
        },
        Shape {
            fields: json!({"tools": [tool("rain"), tool("wind")], "tool_choice": "required", "parallel_tool_calls": false}),
            schema: forecast,
        },
        Shape { fields: json!({"text": {"format": regex}}), schema: words },
    ]
}

/// Runs a request without faults. Returns the request with its output, after checking that the output is valid.
async fn undisturbed(stack: &Stack, shape: Shape, seed: u64) -> Ask {
    let mut fields = json!({"input": "The rain, please.", "temperature": 1, "seed": seed, "max_output_tokens": 1500});
    fields.as_object_mut().expect("an object").extend(shape.fields.as_object().cloned().unwrap_or_default());
    let log = Client::extended_at(stack.address()).await.run(fields.clone()).await;
    log.items();
    let output = &log.response()["output"];
    assert_eq!(log.status(), "completed", "{}", log.response());
    for text in item_texts(output) {
        // The text of a grammar is JSON in these shapes.
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(is_valid(&shape.schema, &value), "{text} is not of {}", shape.schema);
    }
    Ask { fields, output: Some(without_ids(output)) }
}

/// Returns whether `value` matches `schema`. Supports only the keywords of the schemas above.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let length = value.as_str().map(|text| text.chars().count()).or(value.as_array().map(Vec::len)).map(|n| n as i64);
    let number = value.as_i64();
    schema.as_object().expect("a schema is an object").iter().all(|(keyword, wanted)| match keyword.as_str() {
        "type" => match wanted.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("the type {other}"),
        },
        "enum" => wanted.as_array().expect("values").contains(value),
        "anyOf" => wanted.as_array().expect("schemas").iter().any(|schema| is_valid(schema, value)),
        "minimum" => number.is_none_or(|number| Some(number) >= wanted.as_i64()),
        "maximum" => number.is_none_or(|number| Some(number) <= wanted.as_i64()),
        "minLength" | "minItems" => length.is_none_or(|length| Some(length) >= wanted.as_i64()),
        "maxLength" | "maxItems" => length.is_none_or(|length| Some(length) <= wanted.as_i64()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(wanted, item))),
        "required" => {
            let names = wanted.as_array().expect("names").iter().filter_map(Value::as_str);
            value.as_object().is_none_or(|object| names.into_iter().all(|name| object.contains_key(name)))
        }
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(name, value)| wanted.get(name).is_some_and(|schema| is_valid(schema, value)))
        }),
        // `properties` has all names.
        "additionalProperties" => wanted == false,
        other => panic!("the keyword {other}"),
    })
}
