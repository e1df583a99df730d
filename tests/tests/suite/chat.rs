//! Tests chat completions.

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
    let before = &chunks[..chunks.len() - 1];
    assert!(before.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "null, not absent");
}

#[tokio::test]
async fn several_choices_are_generated_side_by_side() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=4"]);
    for more in [json!({"n": 3}), json!({"n": 8, "seed": 1}), json!({"n": 2, "temperature": 0})] {
        let n = more["n"].as_u64().unwrap();
        let body = post(app.address, PATH, &ask(more.clone())).await.json();
        let choices = body["choices"].as_array().unwrap();
        assert_eq!(
            choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(),
            (0..n).collect::<Vec<_>>()
        );
        assert!(choices.iter().all(|choice| choice["message"]["content"].as_str().unwrap().starts_with("uno dois")));
        assert_eq!(body["usage"]["completion_tokens"], 4 * n);
        let sum = body["usage"]["prompt_tokens"].as_u64().unwrap() + 4 * n;
        assert_eq!(body["usage"]["total_tokens"], sum, "the prompt counts once");
        let mut streamed = ask(more);
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({"include_usage": true});
        let chunks = chunks(&app, &streamed).await;
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        for index in 0..n {
            let of_choice = chunks.iter().filter_map(|c| c["choices"].get(0)).filter(|c| c["index"] == index);
            let of_choice: Vec<&Value> = of_choice.collect();
            let text: String = of_choice.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
            assert_eq!((text.trim(), of_choice[0]["delta"]["role"].as_str()), ("uno dois trés uno", Some("assistant")));
            assert_eq!(of_choice.last().unwrap()["finish_reason"], "stop");
        }
        // The second time the prompt may be cached.
        for field in ["completion_tokens", "total_tokens"] {
            assert_eq!(chunks.last().unwrap()["usage"][field], body["usage"][field]);
        }
    }
}

#[tokio::test]
async fn a_reply_that_was_cut_in_its_thoughts_can_be_sent_back() {
    let app = spawn_app(&["engine.scripted.reasoning=true", "engine.scripted.text=<think> hm so and so </think> Yes."]);
    let cut = post(app.address, PATH, &ask(json!({"max_tokens": 3}))).await.json()["choices"][0]["message"].clone();
    assert_eq!((&cut["content"], cut["reasoning_content"].is_string()), (&json!(""), true), "{cut}");
    let messages = json!([{"role": "user", "content": "hello"}, cut, {"role": "user", "content": "go on"}]);
    let answer = post(app.address, PATH, &ask(json!({"messages": messages}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
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
        (json!({"n": 9}), "n"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}), "messages[0].tool_call_id"),
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

/// Starts a server whose output is reasoning, a text and two calls.
fn agent() -> App {
    spawn_app(&[
        "engine.scripted.reasoning=true",
        "engine.scripted.tokens=20",
        "engine.scripted.text=<think> hm so </think> Let me see. <tool_call> {\"name\": \"f\", \"arguments\": {\"a\": 1}} </tool_call> <tool_call> {\"name\": \"g\", \"arguments\": {}} </tool_call>",
    ])
}

fn functions() -> Value {
    json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
           {"type": "function", "function": {"name": "g"}}])
}

#[tokio::test]
async fn calls_and_thoughts_have_their_fields() {
    let app = agent();
    let answer = post(app.address, PATH, &ask(json!({"tools": functions()}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let choice = answer.json()["choices"][0].clone();
    let message = &choice["message"];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Let me see. "), &json!("hm so")));
    let calls = message["tool_calls"].as_array().unwrap();
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(functions, [&json!({"name": "f", "arguments": "{\"a\": 1}"}), &json!({"name": "g", "arguments": "{}"})]);
    assert!(calls.iter().all(|call| call["type"] == "function") && calls[0]["id"] != calls[1]["id"]);
    assert!(answer.json()["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 4);
}

#[tokio::test]
async fn calls_are_streamed_by_index() {
    let app = agent();
    let chunks = chunks(&app, &ask(json!({"tools": functions(), "stream": true}))).await;
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    assert_eq!(choices[0]["delta"]["role"], "assistant");
    let joined = |field: &str| -> String { choices.iter().filter_map(|c| c["delta"][field].as_str()).collect() };
    assert_eq!((joined("reasoning_content").as_str(), joined("content").as_str()), ("hm so", "Let me see. "));
    let deltas: Vec<&Value> = choices.iter().filter_map(|c| c["delta"]["tool_calls"].as_array()).flatten().collect();
    for (index, (name, arguments)) in [("f", "{\"a\": 1}"), ("g", "{}")].into_iter().enumerate() {
        let of_call: Vec<&&Value> = deltas.iter().filter(|delta| delta["index"] == index).collect();
        assert_eq!(of_call[0]["function"], json!({"name": name, "arguments": ""}));
        assert!(of_call[0]["id"].is_string() && of_call[0]["type"] == "function");
        assert!(of_call[1..].iter().all(|delta| delta.get("id").is_none()), "the first alone has the id");
        let said: String = of_call.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
        assert_eq!(said, arguments);
    }
    assert_eq!(choices.last().unwrap()["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn an_agent_loop_goes_round() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=3"]);
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let question = json!({"role": "user", "content": "hello"});
    let messages = json!([question, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a result of five words"}]);
    let alone = post(app.address, PATH, &ask(json!({"tools": functions()}))).await.json();
    let answer = post(app.address, PATH, &ask(json!({"tools": functions(), "messages": messages}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let tokens = |body: &Value| body["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&answer.json()) >= tokens(&alone) + 5, "call and result are in the prompt");
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn log_probabilities_come_when_asked_for() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=3"]);
    let asked = json!({"logprobs": true, "top_logprobs": 2});
    let whole = post(app.address, PATH, &ask(asked.clone())).await.json();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let tokens: Vec<&str> = content.iter().map(|l| l["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["uno ", "dois ", "trés "]);
    assert!(content.iter().all(|l| l["top_logprobs"].as_array().unwrap().len() == 2 && l["logprob"].is_f64()));
    let mut streamed = ask(asked);
    streamed["stream"] = true.into();
    let chunks = chunks(&app, &streamed).await;
    let parts = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(parts.flatten().cloned().collect::<Vec<_>>(), content);
    let without = post(app.address, PATH, &ask(json!({}))).await.json();
    assert!(without["choices"][0]["logprobs"].is_null());
}
