//! Chat completions, for the chat UIs of today.

use caudal_tests::{
    App,
    http::{call, post},
    spawn_app,
};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";
const TEXT: &str = "engine.scripted.text=uno dois trés";

fn ask(more: Value) -> Value {
    let mut body = json!({"model": "scripted", "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn chunks(app: &App, body: &Value) -> Vec<Value> {
    let stream = call(app.address, "POST", PATH).json(body).events().await;
    assert_eq!(stream.status, 200);
    let mut events = stream.all().await;
    let last = events.pop().expect("the stream has events");
    assert_eq!(last.data, "[DONE]");
    assert!(events.iter().all(|e| e.event.is_none() && e.id.is_none()), "chunks carry data only");
    events.iter().map(|e| serde_json::from_str(&e.data).expect("data is JSON")).collect()
}

#[tokio::test]
async fn a_completion_is_one_object() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=4"]);
    let answer = post(app.address, PATH, &ask(json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("scripted")));
    assert!(body["id"].is_string() && body["created"].is_u64());
    let choice = &body["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"].as_str().unwrap().trim(), "uno dois trés uno");
    assert_eq!(body["usage"]["completion_tokens"], 4);
    let sum = body["usage"]["prompt_tokens"].as_u64().unwrap() + 4;
    assert_eq!(body["usage"]["total_tokens"], sum);
}

#[tokio::test]
async fn a_stream_is_chunks_that_spell_the_same() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=10"]);
    let whole = post(app.address, PATH, &ask(json!({}))).await.json();
    let chunks = chunks(&app, &ask(json!({"stream": true}))).await;
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text.as_str());
    let finishes: Vec<&str> = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(finishes, ["stop"]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|c| c.get("usage").is_none_or(Value::is_null)), "usage comes when asked for");
}

#[tokio::test]
async fn usage_comes_in_a_last_chunk_when_asked_for() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=10"]);
    let chunks = chunks(&app, &ask(json!({"stream": true, "stream_options": {"include_usage": true}}))).await;
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(10)));
}

#[tokio::test]
async fn limits_and_stops_are_honoured() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=10"]);
    for (field, value, text, finish) in [
        ("max_tokens", json!(2), "uno dois", "length"),
        ("max_completion_tokens", json!(3), "uno dois trés", "length"),
        ("stop", json!("trés"), "uno dois", "stop"),
        ("stop", json!(["dois"]), "uno", "stop"),
    ] {
        let answer = post(app.address, PATH, &ask(json!({field: value}))).await;
        assert_eq!(answer.status, 200, "{field}: {}", answer.text());
        let choice = answer.json()["choices"][0].clone();
        assert_eq!(
            (choice["message"]["content"].as_str().unwrap().trim(), choice["finish_reason"].as_str().unwrap()),
            (text, finish)
        );
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_honoured_is_refused_by_name() {
    let app = spawn_app(&[]);
    for (more, param) in [
        (json!({"messages": "hello"}), "messages"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"n": 2}), "n"),
        (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools"),
        (json!({"nonsense": 1}), "nonsense"),
    ] {
        let answer = post(app.address, PATH, &ask(more.clone())).await;
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        let named = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert!(named.starts_with(param), "{more}: param is '{named}'");
    }
    let answer = post(app.address, PATH, &ask(json!({"model": "nothing"}))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_failing_engine_is_an_error() {
    let app = spawn_app(&["engine.scripted.fail_after=2"]);
    let answer = post(app.address, PATH, &ask(json!({}))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("engine_failed")));
    let stream = call(app.address, "POST", PATH).json(&ask(json!({"stream": true}))).events().await;
    let events = stream.all().await;
    assert!(events.iter().any(|e| e.data.contains("engine_failed")), "{events:?}");
}
