//! Tests the Responses API over HTTP and server-sent events.

use caudal_tests::{
    App, Client, EventLog,
    http::{Sse, SseEvent, call, get, post},
    log::{kind, output_text},
    spawn_app,
};
use serde_json::{Value, json};

/// Returns the events of an SSE answer as a log, after checking the framing of each.
fn log_of(events: &[SseEvent]) -> EventLog {
    let (last, events) = events.split_last().expect("the stream has events");
    assert_eq!((last.event.as_deref(), last.data.as_str()), (None, "[DONE]"));
    let mut log = EventLog::default();
    for event in events {
        let body: Value = serde_json::from_str(&event.data).expect("data is JSON");
        assert_eq!(event.event.as_deref(), Some(kind(&body)), "`event:` equals the type");
        assert_eq!(event.id, None);
        log.push(body);
    }
    log
}

async fn created_stream(app: &App, mut body: Value) -> Sse {
    body["stream"] = true.into();
    let stream = call(app.address, "POST", "/v1/responses").json(&body).events().await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["content-type"].to_str().unwrap().split(';').next(), Some("text/event-stream"));
    stream
}

#[tokio::test]
async fn post_answers_with_the_finished_response() {
    let app = spawn_app(&["engine.scripted.tokens=12"]);
    let answer = post(app.address, "/v1/responses", &json!({"input": "hello", "metadata": {"a": "b"}})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let response = answer.json();
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("completed"), &json!(12)));
    assert_eq!(output_text(&response).split_whitespace().count(), 12);
    let stored = get(app.address, &format!("/v1/responses/{}", response["id"].as_str().unwrap())).await;
    assert_eq!(stored.json(), response);
    for stream in [json!(false), Value::Null] {
        let again = post(app.address, "/v1/responses", &json!({"input": "hello", "stream": stream})).await;
        assert_eq!(again.json()["status"], "completed");
    }
}

#[tokio::test]
async fn post_streams_the_same_events_as_a_websocket() {
    let app = spawn_app(&["engine.scripted.tokens=12"]);
    let log = log_of(&created_stream(&app, json!({"input": "hello"})).await.all().await);
    log.assert_gap_free();
    log.assert_text_agrees();
    let mut client = Client::plain(&app).await;
    client.resume(&log.id(), None).await;
    assert_eq!(client.response().await, log);
}

#[tokio::test]
async fn a_stream_is_sent_as_it_is_generated() {
    let app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=50"]);
    let mut stream = created_stream(&app, json!({"input": "hello"})).await;
    assert_eq!(stream.headers["cache-control"], "no-cache");
    // These events arrive a minute before the reply ends.
    for expected in
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    {
        assert_eq!(stream.next().await.unwrap().event.as_deref(), Some(expected));
    }
    assert_eq!(stream.next().await.unwrap().event.as_deref(), Some("response.output_text.delta"));
}

#[tokio::test]
async fn a_failure_in_a_stream_is_its_last_event() {
    let app = spawn_app(&["engine.scripted.fail_after=3"]);
    let log = log_of(&created_stream(&app, json!({"input": "hello"})).await.all().await);
    log.assert_gap_free();
    assert_eq!((log.status(), &log.response()["error"]["code"]), ("failed", &json!("engine_failed")));
    let answer = post(app.address, "/v1/responses", &json!({"input": "hello"})).await.json();
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("engine_failed")));
}

#[tokio::test]
async fn get_streams_from_any_event() {
    let app = spawn_app(&["engine.scripted.tokens=12"]);
    let log = Client::plain(&app).await.run(json!({})).await;
    let path = format!("/v1/responses/{}?stream=true", log.id());
    let whole = log_of(&call(app.address, "GET", &path).events().await.all().await);
    assert_eq!(whole, log);
    for after in 0..log.events.len() - 1 {
        let rest = call(app.address, "GET", &format!("{path}&starting_after={after}")).events().await.all().await;
        assert_eq!(log_of(&rest).events, log.events[after + 1..]);
    }
    let rest =
        call(app.address, "GET", &format!("{path}&starting_after={}", log.events.len() - 1)).events().await.all().await;
    assert_eq!(rest.len(), 1, "after the last event only [DONE]: {rest:?}");
}

#[tokio::test]
async fn a_cut_background_stream_is_resumed_over_http() {
    let app = spawn_app(&["engine.scripted.tokens=60", "engine.scripted.tokens_per_second=100"]);
    let mut stream = created_stream(&app, json!({"input": "hello", "background": true})).await;
    let mut log = EventLog::default();
    while log.events.len() < 15 {
        log.push(serde_json::from_str(&stream.next().await.unwrap().data).unwrap());
    }
    drop(stream);
    let id = log.id();
    let path = format!("/v1/responses/{id}?stream=true&starting_after={}", log.last_number().unwrap());
    log_of(&call(app.address, "GET", &path).events().await.all().await).events.into_iter().for_each(|e| log.push(e));
    log.assert_gap_free();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 60));
}

#[tokio::test]
async fn a_running_response_is_retrieved_as_it_stands() {
    let app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::plain(&app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    let path = format!("/v1/responses/{}", created["response"]["id"].as_str().unwrap());
    let mut text = String::new();
    while text.split_whitespace().count() < 5 {
        text += client.event_of("response.output_text.delta").await["delta"].as_str().unwrap();
    }
    let response = get(app.address, &path).await.json();
    assert_eq!((&response["status"], &response["usage"]), (&json!("in_progress"), &Value::Null));
    assert!(output_text(&response).starts_with(&text), "what a client has seen is stored");
}

#[tokio::test]
async fn input_items_are_what_was_sent() {
    let app = spawn_app(&[]);
    let input = json!([{"role": "system", "content": "be kind"}, {"type": "message", "role": "user",
        "content": [{"type": "input_text", "text": "hello"}]}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "bye"}]);
    let log = Client::plain(&app).await.run(json!({"input": input})).await;
    let answer = get(app.address, &format!("/v1/responses/{}/input_items", log.id())).await;
    assert_eq!(answer.status, 200);
    let list = answer.json();
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    let data = list["data"].as_array().unwrap();
    let mut items: Vec<(&str, &str)> =
        data.iter().map(|i| (i["role"].as_str().unwrap(), i["content"][0]["text"].as_str().unwrap())).collect();
    assert!(data.iter().all(|i| i["type"] == "message" && i["id"].is_string()));
    assert_eq!((&list["first_id"], &list["last_id"]), (&data[0]["id"], &data[3]["id"]));
    // OpenAI lists the latest item first by default; both orders follow the input.
    if items[0].1 == "bye" {
        items.reverse();
    }
    assert_eq!(items, [("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "bye")]);
}

#[tokio::test]
async fn deleted_is_gone() {
    let app = spawn_app(&[]);
    let log = Client::plain(&app).await.run(json!({})).await;
    let path = format!("/v1/responses/{}", log.id());
    let deleted = call(app.address, "DELETE", &path).send().await;
    assert_eq!((deleted.status, deleted.json()["deleted"].as_bool()), (200, Some(true)));
    for (method, path) in [
        ("GET", path.clone()),
        ("GET", format!("{path}?stream=true")),
        ("GET", format!("{path}/input_items")),
        ("POST", format!("{path}/cancel")),
        ("DELETE", path.clone()),
    ] {
        let answer = call(app.address, method, &path).send().await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (404, &json!("response_not_found")),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn deleting_a_running_response_frees_its_slot() {
    let app =
        spawn_app(&["engine.max_running=1", "engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    client.event_of("response.output_text.delta").await;
    let path = format!("/v1/responses/{}", created["response"]["id"].as_str().unwrap());
    assert_eq!(call(app.address, "DELETE", &path).send().await.status, 200);
    // A follower is told that the response was deleted, instead of waiting forever.
    loop {
        let event = client.event().await;
        match kind(&event) {
            "error" => {
                assert_eq!(event["error"]["code"], "response_not_found");
                break;
            }
            "response.incomplete" => break,
            _ => {}
        }
    }
    client.create(json!({})).await;
    client.event_of("response.output_text.delta").await;
}

#[tokio::test]
async fn errors_are_openais() {
    let app = spawn_app(&[]);
    let invalid = post(app.address, "/v1/responses", &json!({"input": "x", "temperature": "hot"})).await;
    assert_eq!(invalid.status, 400);
    let body = invalid.json();
    let mut keys: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    assert_eq!(
        (&body["error"]["type"], &body["error"]["param"]),
        (&json!("invalid_request_error"), &json!("temperature"))
    );

    let call = |path: &str| call(app.address, "POST", path);
    let no_json = call("/v1/responses").header("content-type", "application/json").body("{").send().await;
    assert_eq!((no_json.status, &no_json.json()["error"]["code"]), (400, &json!("invalid_json")));
    let no_type = call("/v1/responses").body(r#"{"input":"x"}"#).send().await;
    assert_eq!((no_type.status, &no_type.json()["error"]["code"]), (415, &json!("unsupported_media_type")));
    let stream = post(app.address, "/v1/responses", &json!({"input": "x", "stream": "yes"})).await;
    assert_eq!((stream.status, &stream.json()["error"]["param"]), (400, &json!("stream")));
    let model = post(app.address, "/v1/responses", &json!({"input": "x", "model": "nothing", "stream": true})).await;
    assert_eq!((model.status, &model.json()["error"]["code"]), (404, &json!("model_not_found")));
    let lost = get(app.address, "/v1/nonsense").await;
    assert_eq!(lost.status, 404);
    assert!(lost.json()["error"]["message"].is_string());
    let after = get(app.address, "/v1/responses/resp_x?stream=true&starting_after=soon").await;
    assert_eq!((after.status, &after.json()["error"]["type"]), (400, &json!("invalid_request_error")));
}

#[tokio::test]
async fn an_unknown_path_is_json_and_names_the_base_url_that_was_meant() {
    let folder = std::env::temp_dir().join(format!("caudal-paths-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("assets")).expect("a folder");
    std::fs::write(folder.join("index.html"), "<!doctype html>").expect("a page");
    // With the chat page at `/`, and without.
    for page in [folder.clone(), folder.join("nothing")] {
        let app = spawn_app(&[&format!("server.chat_dir={}", page.display())]);
        let base = format!("set the base URL to http://{}/v1.", app.address);
        for (method, path, meant) in [
            ("POST", "/responses", true),
            ("GET", "/responses", true),
            ("GET", "/responses/resp_x", true),
            ("POST", "/chat/completions", true),
            ("GET", "/models", true),
            ("POST", "/v1/v1/responses", true),
            ("GET", "/v1/v1/models", true),
            ("GET", "/v1/nonsense", false),
            ("POST", "/v1", false),
            ("PUT", "/nonsense", false),
            ("GET", "/nonsense", false),
            ("GET", "/assets", false),
            ("GET", "/assets/", false),
            ("GET", "/%2e%2e/secret", false),
            ("GET", "/admin/nonsense", false),
        ] {
            let answer = call(app.address, method, path).send().await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (404, Some("application/json")),
                "{method} {path}"
            );
            let error = answer.json()["error"].clone();
            let message = error["message"].as_str().unwrap_or_default();
            assert_eq!(error["code"], "not_found", "{method} {path}");
            assert!(message.starts_with(&format!("There is no {method} /")), "{message}");
            assert_eq!(message.ends_with(&base), meant, "{method} {path}: {message}");
        }
        for (method, path, allow) in [
            ("PUT", "/v1/responses", "GET, POST, HEAD, OPTIONS"),
            ("POST", "/healthz", "GET, HEAD, OPTIONS"),
            ("POST", "/", "GET, HEAD, OPTIONS"),
        ] {
            let answer = call(app.address, method, path).send().await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
            assert_eq!(answer.json()["error"]["code"], "method_not_allowed");
        }
    }
    let app = spawn_app(&[&format!("server.chat_dir={}", folder.display())]);
    let page = get(app.address, "/").await;
    assert_eq!((page.status, page.text().as_str()), (200, "<!doctype html>"));
    assert_eq!(call(app.address, "HEAD", "/").send().await.status, 200);
    let _ = std::fs::remove_dir_all(&folder);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let app = spawn_app(&["server.max_message_bytes=2000"]);
    let answer = post(app.address, "/v1/responses", &json!({"input": "x".repeat(3000)})).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.json()["error"]["message"].is_string());
    assert_eq!(post(app.address, "/v1/responses", &json!({"input": "x".repeat(1000)})).await.status, 200);
}

#[tokio::test]
async fn models_health_and_readiness() {
    let app = spawn_app(&[]);
    let models = get(app.address, "/v1/models").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["object"]), (&json!("scripted"), &json!("model")));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(app.address, path).await.status, 200, "{path}");
    }
}
