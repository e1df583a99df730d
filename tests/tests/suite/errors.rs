//! Tests that invalid requests are refused with the documented code and the name of the field.

use caudal_tests::{Client, http, log::kind, spawn_app, ws::code};
use serde_json::{Value, json};

/// Returns each field with an invalid value, and the `param` of the refusal.
fn invalid_fields() -> Vec<(Value, &'static str)> {
    [wrong_types(), out_of_range(), wrong_inputs()].concat()
}

fn wrong_types() -> Vec<(Value, &'static str)> {
    let mut cases = vec![];
    for field in [
        "model",
        "instructions",
        "previous_response_id",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "client_request_id",
        "truncation",
        "service_tier",
    ] {
        for wrong in [json!(1), json!(true), json!(["a"]), json!({"a": "b"})] {
            cases.push((json!({field: wrong}), field));
        }
    }
    for field in [
        "temperature",
        "top_p",
        "min_p",
        "top_k",
        "max_output_tokens",
        "seed",
        "top_logprobs",
        "max_tool_calls",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
    ] {
        for wrong in [json!("1"), json!(true), json!([1]), json!({})] {
            cases.push((json!({field: wrong}), field));
        }
    }
    for field in ["store", "parallel_tool_calls", "generate"] {
        for wrong in [json!("true"), json!(1), json!([]), json!({})] {
            cases.push((json!({field: wrong}), field));
        }
    }
    for (field, wrongs) in [
        ("input", json!([1, true, {}, []])),
        ("metadata", json!([1, "a", ["a"], true])),
        ("logit_bias", json!([1, "a", ["a"], true, {"word": 1}])),
        ("tools", json!([1, "a", {}, true, [{}], [{"type": "function"}], [{"type": "function", "name": "a b"}]])),
        ("tool_choice", json!([1, "maybe", true, {}, {"type": "function"}])),
        ("include", json!([1, "a", {}, true, [1], ["nonsense"]])),
        ("reasoning", json!([1, "a", true, {"effort": 1}, {"effort": "enormous"}, {"colour": "red"}])),
        ("stop", json!([1, {}, true, [1], [[]], "", [""]])),
        ("text", json!([1, "a", true])),
        ("cache", json!([1, "off", true])),
    ] {
        for wrong in wrongs.as_array().unwrap() {
            cases.push((json!({field: wrong}), field));
        }
    }
    cases
}

fn out_of_range() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"temperature": 1e300}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.1}), "top_p"),
        (json!({"min_p": -0.1}), "min_p"),
        (json!({"min_p": 1.5}), "min_p"),
        (json!({"frequency_penalty": 2.1}), "frequency_penalty"),
        (json!({"presence_penalty": -2.1}), "presence_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"logit_bias": {"1": 100.5}}), "logit_bias"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"top_k": 0}), "top_k"),
        (json!({"top_k": -1}), "top_k"),
        (json!({"top_k": 1.5}), "top_k"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_output_tokens": -5}), "max_output_tokens"),
        (json!({"max_output_tokens": 4294967296u64}), "max_output_tokens"),
        (json!({"seed": 0.5}), "seed"),
        (json!({"stop": vec!["s"; 100]}), "stop"),
        (json!({"stop": ["s".repeat(5000)]}), "stop"),
        (json!({"truncation": "maybe"}), "truncation"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"metadata": {"a": "x".repeat(600)}}), "metadata"),
        (
            json!({"metadata": (0..17).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>()}),
            "metadata",
        ),
        (json!({"user": ""}), "user"),
        (json!({"user": "u".repeat(1000)}), "user"),
        (json!({"client_request_id": ""}), "client_request_id"),
    ]
}

/// Returns malformed inputs and unknown fields.
fn wrong_inputs() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user", "content": "x"}, {"role": "cook", "content": "x"}]}), "input[1].role"),
        (json!({"input": [{"role": "user", "content": 5}]}), "input[0].content"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
            "input[0].content[0].type",
        ),
        (json!({"input": [{"role": "user", "content": [{"text": "x"}]}]}), "input[0].content[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}),
            "input[0].content[0].text",
        ),
        (json!({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}), "input[0].call_id"),
        (json!({"input": [{"type": "function_call_output", "call_id": "x"}]}), "input[0].output"),
        (json!({"input": [{"type": "function_call", "call_id": "x", "arguments": "{}"}]}), "input[0].name"),
        (json!({"input": [{"type": "telepathy_call", "id": "x"}]}), "input[0].type"),
        (json!({"input": null}), "input"),
        (json!({"nonsense": 1}), "nonsense"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"text": {"colour": "red"}}), "text.colour"),
        (json!({"cache": {"mode": "off", "colour": "red"}}), "cache.colour"),
    ]
}

/// Returns known fields with unsupported values.
fn unsupported_fields() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"tools": [{"type": "teleporter"}]}), "tools[0].type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "name": "f"}}), "tool_choice"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"verbosity": "endless"}}), "text.verbosity"),
        (json!({"max_tool_calls": 0}), "max_tool_calls"),
        (json!({"service_tier": "scale"}), "service_tier"),
    ]
}

/// Asserts that the error is a refusal whose `param` is the field or a path into it.
#[track_caller]
fn assert_refused(error: &Value, param: &str, what: &Value) {
    assert_eq!(
        (code(error), &error["error"]["type"]),
        ("invalid_request", &json!("invalid_request_error")),
        "{what}: {error}"
    );
    let named = error["error"]["param"].as_str().unwrap_or_default();
    let within = named.strip_prefix(param).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    assert!(within, "{what}: expected the param {param}, got '{named}'");
    assert!(error["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 1000), "{what}: {error}");
}

#[tokio::test]
async fn every_mistyped_or_unsupported_field_is_named() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    for (fields, param) in invalid_fields().into_iter().chain(unsupported_fields()) {
        client.create(fields.clone()).await;
        let error = client.error().await;
        assert_eq!(error["status"], 400, "{fields}");
        assert_refused(&error, param, &fields);
    }
    client.send(json!({"type": "response.create"})).await;
    assert_refused(&client.error().await, "input", &json!("no input"));
    assert_eq!(client.run(json!({})).await.status(), "completed", "the connection is as good as before");
}

#[tokio::test]
async fn over_http_the_same_fields_are_named() {
    let app = spawn_app(&[]);
    for (mut fields, param) in unsupported_fields().into_iter().chain(invalid_fields().into_iter().step_by(7)) {
        fields.as_object_mut().unwrap().entry("input").or_insert_with(|| "x".into());
        let answer = http::post(app.address, "/v1/responses", &fields).await;
        assert_eq!(answer.status, 400, "{fields}");
        assert_refused(&answer.json(), param, &fields);
    }
}

#[tokio::test]
async fn messages_that_are_no_client_events() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    for (message, expected) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{\"type\":\"response.create\",}", "invalid_json"),
        ("{\"type\":\"response.create\"} {}", "invalid_json"),
        ("NaN", "invalid_json"),
        ("[]", "invalid_request"),
        ("null", "invalid_request"),
        ("\"response.create\"", "invalid_request"),
        ("7", "invalid_request"),
        ("{}", "invalid_request"),
        (r#"{"type":7}"#, "invalid_request"),
        (r#"{"type":null}"#, "invalid_request"),
        (r#"{"type":"response.created"}"#, "invalid_request"),
        (r#"{"type":"session.update"}"#, "invalid_request"),
        (r#"{"type":"caudal:response.resume"}"#, "invalid_request"),
        (r#"{"type":"caudal:response.resume","response_id":5}"#, "invalid_request"),
        (r#"{"type":"caudal:response.resume","response_id":"resp_a","starting_after":-1}"#, "invalid_request"),
        (r#"{"type":"caudal:response.resume","response_id":"resp_a","starting_after":"2"}"#, "invalid_request"),
        (r#"{"type":"caudal:response.resume","conversation":7}"#, "invalid_request"),
        (r#"{"type":"response.cancel"}"#, "invalid_request"),
        (r#"{"type":"response.cancel","response_id":[]}"#, "invalid_request"),
    ] {
        client.send_message(tokio_tungstenite::tungstenite::Message::text(message)).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), (expected, &json!(400)), "{message}");
    }
    assert_eq!(client.run(json!({})).await.status(), "completed");
}

#[tokio::test]
async fn the_error_event_has_its_fields_and_no_others() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    client.create(json!({"temperature": 9})).await;
    let error = client.error().await;
    for key in error.as_object().unwrap().keys() {
        assert!(["type", "status", "error", "sequence_number", "stream_id"].contains(&key.as_str()), "{error}");
    }
    let mut keys: Vec<&String> = error["error"].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["code", "message", "param", "type"]);
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    for model in ["nothing", "", "gpt-5", &"m".repeat(100_000)] {
        client.create(json!({"model": model})).await;
        let error = client.error().await;
        assert_eq!(
            (code(&error), &error["status"], &error["error"]["param"]),
            ("model_not_found", &json!(404), &json!("model"))
        );
        assert!(error.to_string().len() < 2000, "a long name is not repeated whole");
    }
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused() {
    let app = spawn_app(&["engine.scripted.context_length=64", "engine.scripted.tokens=500"]);
    let mut client = Client::plain(&app).await;
    for truncation in ["disabled", "auto"] {
        client.create(json!({"input": "word ".repeat(100), "truncation": truncation})).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), ("context_length_exceeded", &json!(400)), "{truncation}");
    }
    // A prompt that fits gets the remaining room for its output.
    let log = client.run(json!({"input": "word ".repeat(30)})).await;
    assert_eq!(kind(log.events.last().unwrap()), "response.incomplete");
    assert_eq!(log.usage("total_tokens"), 64);
}
