//! Compares the events of typical responses with the golden frames in `tests/golden/`, so that a change of the wire is a change
//! of a file. `make renew` writes the files.

use std::{collections::HashMap, env, fs, path::Path};

use caudal_tests::{
    App, Client, EventLog,
    http::{call, post},
    log::{is_terminal, kind},
    spawn_app,
};
use serde_json::{Value, json};

/// Compares events with the lines of a file.
#[track_caller]
fn check(name: &str, events: impl IntoIterator<Item = Value>) {
    let mut ids = HashMap::new();
    let lines = events.into_iter().map(|mut event| {
        mask(&mut event, &mut ids);
        event.to_string() + "\n"
    });
    let found: String = lines.collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.jsonl"));
    if env::var_os("CAUDAL_RENEW").is_some() {
        fs::write(&path, &found).expect("the golden file can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    for (at, (found, golden)) in found.lines().zip(golden.lines()).enumerate() {
        // The order of members is ignored.
        let [found, golden] = [found, golden].map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        assert_eq!(found, golden, "{name}, event {at}; `make renew` writes the files anew");
    }
    assert_eq!(found.lines().count(), golden.lines().count(), "{name} has other events; `make renew` writes them anew");
}

/// Replaces values that differ from run to run: ids by their kind and number, times by 0.
fn mask(value: &mut Value, ids: &mut HashMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let is_time = matches!(name.as_str(), "created_at" | "completed_at" | "created" | "estimated_wait_ms");
                if is_time && value.is_number() {
                    *value = 0.into();
                } else {
                    mask(value, ids);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, ids)),
        Value::String(text) => {
            let kinds = ["resp", "msg", "fc", "call", "rs", "chatcmpl"];
            let Some((kind, rest)) = text.split_once(['_', '-']) else { return };
            if kinds.contains(&kind) && rest.len() >= 16 {
                let number = 1 + ids.values().filter(|id| id.split('_').next() == Some(kind)).count();
                *text = ids.entry(text.clone()).or_insert_with(|| format!("{kind}_{number}")).clone();
            }
        }
        _ => {}
    }
}

/// Starts a server whose every answer is `text`.
fn saying(text: &str, settings: &[&str]) -> App {
    let tokens = format!("engine.scripted.tokens={}", text.split_whitespace().count());
    let text = format!("engine.scripted.text={text}");
    spawn_app(&[&[text.as_str(), tokens.as_str()], settings].concat())
}

const WEATHER: &str = r#"<tool_call> {"name": "weather", "arguments": {"city": "Porto"}} </tool_call>"#;

fn tools() -> Value {
    json!([{"type": "function", "name": "weather", "description": "The weather in a city.", "strict": true,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}])
}

async fn run(app: &App, fields: Value) -> EventLog {
    let log = Client::plain(app).await.run(fields).await;
    log.assert_gap_free();
    log
}

#[tokio::test]
async fn plain_text() {
    let app = saying("A river flows.", &[]);
    check("plain_text", run(&app, json!({"instructions": "Be brief.", "metadata": {"topic": "rivers"}})).await.events);
}

#[tokio::test]
async fn errors() {
    let app = saying("A river flows.", &["engine.scripted.fail_after=1"]);
    let mut client = Client::plain(&app).await;
    client.create(json!({"temperature": "hot"})).await;
    let mut events = vec![client.error().await];
    client.create(json!({"model": "nothing"})).await;
    events.push(client.error().await);
    events.extend(client.run(json!({})).await.events);
    check("errors", events);
}

#[tokio::test]
async fn tool_call() {
    let app = saying(&format!("Let me see. {WEATHER}"), &[]);
    check("tool_call", run(&app, json!({"tools": tools()})).await.events);
}

#[tokio::test]
async fn forced_call() {
    let app = saying(WEATHER, &[]);
    let choice = json!({"type": "function", "name": "weather"});
    check("forced_call", run(&app, json!({"tools": tools(), "tool_choice": choice})).await.events);
}

#[tokio::test]
async fn structured_output() {
    let app = saying(r#"{"city": "Porto", "degrees": 21}"#, &[]);
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "name": "weather", "schema": schema, "strict": true});
    check("structured_output", run(&app, json!({"text": {"format": format}})).await.events);
}

#[tokio::test]
async fn reasoning() {
    let app = saying("<think> Is it? </think> Yes, é.", &["engine.scripted.reasoning=true"]);
    check("reasoning", run(&app, json!({"reasoning": {"effort": "low", "summary": "auto"}})).await.events);
}

#[tokio::test]
async fn logprobs() {
    let app = saying("A river.", &[]);
    let fields = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    check("logprobs", run(&app, fields).await.events);
}

#[tokio::test]
async fn cancelled() {
    let app =
        spawn_app(&["engine.max_running=1", "engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let mut running = Client::plain(&app).await;
    running.create(json!({})).await;
    running.event_of("response.output_text.delta").await;
    // Cancels it in the queue, so that the number of tokens is fixed.
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let mut events = vec![];
    loop {
        let event = client.event().await;
        if kind(&event) == "caudal:response.queued" {
            let id = event["response_id"].clone();
            client.send(json!({"type": "caudal:response.cancel", "response_id": id})).await;
        }
        let last = is_terminal(&event);
        events.push(event);
        if last {
            break;
        }
    }
    check("cancelled", events);
}

#[tokio::test]
async fn incomplete() {
    let app = saying("A river flows to the sea.", &[]);
    check("incomplete", run(&app, json!({"max_output_tokens": 2})).await.events);
}

#[tokio::test]
async fn background_and_resume() {
    let app = saying("A river flows.", &[]);
    let created = post(app.address, "/v1/responses", &json!({"input": "Hello", "background": true})).await.json();
    let id = created["id"].as_str().expect("an id");
    let path = format!("/v1/responses/{id}?stream=true&starting_after=2");
    let rest = call(app.address, "GET", &path).events().await.all().await;
    let mut events = vec![];
    for event in rest {
        // The last line is not JSON.
        events.push(serde_json::from_str(&event.data).unwrap_or_else(|_| json!(event.data)));
    }
    let mut resumed = Client::extended(&app).await;
    resumed.resume(id, Some(3)).await;
    events.push(resumed.event_of("caudal:response.resumed").await);
    events.extend(resumed.response().await.events);
    check("background_and_resume", events);
}

#[tokio::test]
async fn chat_completion() {
    let app = saying(&format!("Let me see. {WEATHER}"), &[]);
    let function = json!({"name": "weather", "parameters": {"type": "object"}});
    let body = json!({"messages": [{"role": "user", "content": "Hello"}], "stream": true,
        "stream_options": {"include_usage": true}, "tools": [{"type": "function", "function": function}]});
    let events = call(app.address, "POST", "/v1/chat/completions").json(&body).events().await.all().await;
    let parsed = events.iter().map(|event| serde_json::from_str(&event.data).unwrap_or_else(|_| json!(event.data)));
    check("chat_completion", parsed);
}
