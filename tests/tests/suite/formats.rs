//! Tests output options: formats, log-probabilities, and no output.

use caudal_tests::{Client, http, spawn_app};
use serde_json::{Value, json};

#[tokio::test]
async fn formats_are_echoed() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    let schema = json!({"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}});
    for (format, echoed) in [
        (json!({"type": "text"}), json!({"type": "text"})),
        (json!({"type": "json_object"}), json!({"type": "json_object"})),
        (
            json!({"type": "json_schema", "name": "n", "schema": schema}),
            json!({"type": "json_schema", "name": "n", "description": null, "schema": schema, "strict": null}),
        ),
        (
            json!({"type": "grammar", "syntax": "regex", "definition": "a+"}),
            json!({"type": "grammar", "syntax": "regex", "definition": "a+"}),
        ),
    ] {
        let log = client.run(json!({"text": {"format": format, "verbosity": "medium"}})).await;
        assert_eq!(log.response()["text"], json!({"format": echoed}));
    }
    assert_eq!(client.run(json!({})).await.response()["text"], json!({"format": {"type": "text"}}));
}

#[tokio::test]
async fn log_probabilities_come_when_asked_for() {
    let app = spawn_app(&["engine.scripted.text=uno dois trés", "engine.scripted.tokens=3"]);
    let mut client = Client::plain(&app).await;
    let tokens = |logprobs: &Value| -> Vec<String> {
        let logprobs = logprobs.as_array().unwrap().iter();
        logprobs.map(|logprob| logprob["token"].as_str().unwrap().to_owned()).collect()
    };
    for (fields, top) in [
        (json!({"include": ["message.output_text.logprobs"]}), 0),
        (json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}), 2),
        (json!({"top_logprobs": 20}), 20),
    ] {
        let log = client.run(fields).await;
        log.assert_text_agrees();
        assert_eq!(log.response()["top_logprobs"], top);
        let deltas: Vec<&Value> = log.of_kind("response.output_text.delta").collect();
        for delta in &deltas {
            assert_eq!(tokens(&delta["logprobs"]), [delta["delta"].as_str().unwrap()]);
        }
        let done = &log.one("response.output_text.done")["logprobs"];
        assert_eq!(tokens(done), ["uno ", "dois ", "trés "]);
        assert_eq!(log.items()[0]["content"][0]["logprobs"], *done);
        let first = &done[2];
        assert_eq!(first["bytes"], json!("trés ".as_bytes()));
        assert!(first["logprob"].as_f64().is_some_and(|logprob| logprob < 0.0));
        assert_eq!(first["top_logprobs"].as_array().unwrap().len(), top);
    }
    let without = client.run(json!({})).await;
    assert_eq!(without.one("response.output_text.done")["logprobs"], json!([]));
}

#[tokio::test]
async fn a_prompt_is_warmed_without_output() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    let warmed = client.run(json!({"generate": false, "instructions": "Be brief."})).await;
    assert_eq!(warmed.kinds(), ["response.created", "response.in_progress", "response.completed"]);
    let response = warmed.response();
    assert_eq!((&response["status"], &response["output"]), (&json!("completed"), &json!([])));
    assert_eq!(response["usage"]["output_tokens"], 0);
    assert!(warmed.usage("input_tokens") > 0);
    let over_http = http::post(app.address, "/v1/responses", &json!({"input": "x", "generate": false})).await;
    assert_eq!((over_http.status, &over_http.json()["output"]), (200, &json!([])));
    // The response can be continued: its input is part of the chain.
    let next = client.run(json!({"previous_response_id": warmed.id()})).await;
    let alone = client.run(json!({})).await;
    assert!(next.usage("input_tokens") > alone.usage("input_tokens"));
}
