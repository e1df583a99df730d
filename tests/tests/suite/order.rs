//! Tests one response on one socket: every event, every field, in order.

use caudal_tests::{
    Client, EventLog, Received, http,
    log::{kind, number, output_text},
    spawn_app,
    ws::{Connect, SUBPROTOCOL},
};
use serde_json::{Value, json};

/// A text whose words show each token's position, with characters of two to four bytes.
const TEXT: &str = "engine.scripted.text=uno dois trés 四 🙂 six";
const WORDS: [&str; 6] = ["uno", "dois", "trés", "四", "🙂", "six"];

fn words(count: usize) -> Vec<&'static str> {
    WORDS.into_iter().cycle().take(count).collect()
}

#[tokio::test]
async fn a_plain_response_has_the_full_event_order() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=13"]);
    let log = Client::plain(&app).await.run(json!({})).await;
    log.assert_gap_free();
    let mut expected =
        vec!["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    expected.extend(["response.output_text.delta"; 13]);
    expected.extend([
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]);
    assert_eq!(log.kinds(), expected);
}

#[tokio::test]
async fn the_text_is_the_same_in_deltas_done_events_the_object_and_the_store() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=50"]);
    let log = Client::plain(&app).await.run(json!({})).await;
    assert_eq!(log.text().split_whitespace().collect::<Vec<_>>(), words(50));
    log.assert_text_agrees();
    let stored = http::get(app.address, &format!("/v1/responses/{}", log.id())).await;
    assert_eq!(stored.status, 200);
    assert_eq!(output_text(&stored.json()), log.text());
    assert_eq!(&stored.json(), log.response(), "the stored object is the one of the last event");
}

#[tokio::test]
async fn usage_counts_tokens() {
    let app = spawn_app(&["engine.scripted.tokens=17"]);
    let mut client = Client::plain(&app).await;
    let short = client.run(json!({"input": "one two three"})).await;
    let long = client.run(json!({"input": "one two three four five six seven"})).await;
    for log in [&short, &long] {
        assert_eq!(log.usage("output_tokens"), 17);
        assert_eq!(log.usage("total_tokens"), log.usage("input_tokens") + 17);
        assert_eq!(log.response()["usage"]["input_tokens_details"]["cached_tokens"], 0);
        assert_eq!(log.response()["usage"]["output_tokens_details"]["reasoning_tokens"], 0);
    }
    assert!(short.usage("input_tokens") >= 3);
    assert_eq!(long.usage("input_tokens") - short.usage("input_tokens"), 4, "four words more are four tokens more");
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().unwrap_or_else(|| panic!("an object: {value}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(mut keys: Vec<&str>) -> Vec<&str> {
    keys.sort_unstable();
    keys
}

/// Returns the fields of an event besides `type` and `sequence_number`.
fn fields(kind: &str) -> Vec<&'static str> {
    match kind {
        "response.output_item.added" | "response.output_item.done" => vec!["output_index", "item"],
        "response.content_part.added" | "response.content_part.done" => {
            vec!["item_id", "output_index", "content_index", "part"]
        }
        "response.output_text.delta" => vec!["item_id", "output_index", "content_index", "delta", "logprobs"],
        "response.output_text.done" => vec!["item_id", "output_index", "content_index", "text", "logprobs"],
        _ => vec!["response"],
    }
}

#[tokio::test]
async fn every_event_has_its_fields_and_without_the_subprotocol_no_others() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let plain = Client::plain(&app).await.run(json!({})).await;
    let extended = Client::extended(&app).await.run(json!({})).await;
    for event in &plain.events {
        let mut expected = fields(kind(event));
        expected.extend(["type", "sequence_number"]);
        assert_eq!(keys(event), sorted(expected), "{event}");
    }
    for event in &extended.events {
        let mut expected = fields(kind(event));
        expected.extend(["type", "sequence_number", "response_id"]);
        assert_eq!(keys(event), sorted(expected), "{event}");
        assert_eq!(event["response_id"], extended.id().as_str());
    }
}

#[tokio::test]
async fn items_and_parts_are_whole() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let log = Client::plain(&app).await.run(json!({})).await;
    let added = &log.one("response.output_item.added")["item"];
    let id = added["id"].as_str().expect("an item has an id");
    assert_eq!(
        added,
        &json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
    );
    assert_eq!(
        log.one("response.content_part.added")["part"],
        json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
    );
    let part = json!({"type": "output_text", "text": log.text(), "annotations": [], "logprobs": []});
    let done = json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part]});
    assert_eq!(log.one("response.content_part.done")["part"], part);
    assert_eq!(log.one("response.output_item.done")["item"], done);
    assert_eq!(log.response()["output"], json!([done]));
    for event in log.events.iter().filter(|e| e.get("item_id").is_some()) {
        assert_eq!(
            (&event["item_id"], &event["output_index"], &event["content_index"]),
            (&json!(id), &json!(0), &json!(0))
        );
    }
    for event in log.of_kind("response.output_text.delta").chain(log.of_kind("response.output_text.done")) {
        assert_eq!(event["logprobs"], json!([]));
    }
}

#[tokio::test]
async fn the_response_object_has_every_field_at_every_stage() {
    // The only permit is taken, so that the second response is queued, too.
    let app = spawn_app(&["engine.max_running=1", "engine.scripted.tokens_per_second=200"]);
    let mut holder = Client::plain(&app).await;
    holder.create(json!({})).await;
    holder.event_of("response.in_progress").await;
    let log = Client::plain(&app).await.run(json!({})).await;
    let nullable = [
        "completed_at",
        "incomplete_details",
        "previous_response_id",
        "instructions",
        "error",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
    ];
    let present = [
        "id",
        "object",
        "created_at",
        "status",
        "model",
        "output",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "temperature",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "store",
        "background",
        "service_tier",
        "metadata",
    ];
    for (event, status) in [
        ("response.created", "in_progress"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
        ("response.completed", "completed"),
    ] {
        let response = &log.one(event)["response"];
        for field in nullable {
            assert!(response.get(field).is_some(), "{event}: {field} is missing in {response}");
        }
        for field in present {
            assert!(response.get(field).is_some_and(|v| !v.is_null()), "{event}: {field} is missing in {response}");
        }
        assert_eq!(response["status"], status, "{event}");
        assert_eq!(response["id"], log.id().as_str());
        let ended = status == "completed";
        assert_eq!(response["usage"].is_null(), !ended, "{event}: usage comes with the end");
        assert_eq!(response["completed_at"].is_null(), !ended, "{event}: completed_at comes with the end");
    }
    let response = log.response();
    assert_eq!(response["object"], "response");
    assert!(response["completed_at"].as_u64() >= response["created_at"].as_u64());
    assert_eq!(response["text"], json!({"format": {"type": "text"}}));
    assert_eq!((&response["store"], &response["background"]), (&json!(true), &json!(false)));
    assert_eq!((&response["tools"], &response["metadata"]), (&json!([]), &json!({})));
}

#[tokio::test]
async fn what_was_asked_is_echoed() {
    let app = spawn_app(&[]);
    let asked = json!({"instructions": "Be brief.", "temperature": 0.7, "top_p": 0.9, "max_output_tokens": 5, "store": false,
        "truncation": "auto", "parallel_tool_calls": false, "metadata": {"a": "1", "b": "zwei"}, "safety_identifier": "someone",
        "prompt_cache_key": "a-key", "user": "me", "model": "scripted"});
    let log = Client::plain(&app).await.run(asked.clone()).await;
    for (field, value) in asked.as_object().unwrap() {
        for event in [log.one("response.created"), log.events.last().unwrap()] {
            assert_eq!(&event["response"][field], value, "{field}");
        }
    }
}

#[tokio::test]
async fn fields_that_change_nothing_are_accepted_as_openai_sends_them() {
    let app = spawn_app(&[]);
    let log = Client::plain(&app)
        .await
        .run(json!({"stream": true, "stream_options": {"include_obfuscation": false}, "background": false, "tools": [],
            "tool_choice": "auto", "include": [], "text": {"format": {"type": "text"}}, "top_logprobs": 0,
            "reasoning": null, "cache": {"mode": "off"}, "generate": true, "temperature": null, "seed": 5, "top_k": 40, "min_p": 0.05,
            "stop": ["never said"], "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}))
        .await;
    log.assert_gap_free();
    assert_eq!(log.status(), "completed");
}

#[tokio::test]
async fn the_session_is_announced_first_and_counts_for_itself() {
    let app = spawn_app(&["engine.max_running=1", "server.heartbeat_ms=12345", "generation.resume_window_ms=54321"]);
    let mut client = Connect::to(app.address).protocols(SUBPROTOCOL).open().await.expect("the server upgrades");
    assert_eq!(client.protocol(), Some(SUBPROTOCOL));
    let session = client.event().await;
    assert_eq!(kind(&session), "caudal:session.created");
    assert!(session["connection_id"].as_str().is_some_and(|id| !id.is_empty()), "{session}");
    assert!(session["limits"].is_object(), "{session}");
    assert_eq!(session["limits"]["max_message_bytes"], 4194304);
    assert_eq!((&session["heartbeat_ms"], &session["resume_window_ms"]), (&json!(12345), &json!(54321)));
    assert_eq!(number(&session), 0);
    client.send(json!({"type": "caudal:ping"})).await;
    let pong = client.event().await;
    assert_eq!((kind(&pong), number(&pong)), ("caudal:pong", 1));
    let log = client.run(json!({})).await;
    log.assert_gap_free();
}

#[tokio::test]
async fn without_the_subprotocol_nothing_of_ours_is_said() {
    let app = spawn_app(&["engine.max_running=1", "engine.scripted.tokens_per_second=100"]);
    let mut holder = Client::plain(&app).await;
    holder.create(json!({})).await;
    holder.event_of("response.in_progress").await;
    let mut client = Client::plain(&app).await;
    assert_eq!(client.protocol(), None);
    client.create(json!({})).await;
    client.send(json!({"type": "caudal:ping"})).await;
    let mut log = EventLog::default();
    while !log.ended() {
        let event = client.event().await;
        assert!(!kind(&event).starts_with("caudal:"), "{event}");
        log.push(event);
    }
    log.assert_gap_free();
    assert_eq!(log.of_kind("response.queued").count(), 1, "it was queued, and heard so in the standard's words only");
    // A resume, too, is answered with the response's own events only.
    client.resume(&log.id(), None).await;
    assert_eq!(client.response().await, log);
    drop(holder);
}

#[tokio::test]
async fn an_unknown_subprotocol_is_not_selected() {
    let app = spawn_app(&[]);
    let opened = Connect::to(app.address).protocols("something.else, caudal.responses.v1").open().await;
    assert_eq!(opened.expect("ours was offered as well").protocol(), Some(SUBPROTOCOL));
    let mut client = caudal_tests::raw::RawSocket::connect(app.address).await;
    assert!(client.send(0x81, br#"{"type":"response.create","input":"x"}"#).await);
    let first = client.frame().await.expect("an event");
    assert!(String::from_utf8_lossy(&first.payload).contains("response.created"), "{first:?}");
}

#[tokio::test]
async fn a_reply_at_its_token_limit_is_incomplete() {
    let app = spawn_app(&["engine.scripted.tokens=50"]);
    let log = Client::plain(&app).await.run(json!({"max_output_tokens": 7})).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.reason(), log.usage("output_tokens")), ("incomplete", "max_output_tokens", 7));
    assert_eq!(log.events.last().map(kind), Some("response.incomplete"));
    assert_eq!(log.one("response.output_item.done")["item"]["status"], "incomplete");
}

#[tokio::test]
async fn a_stop_string_ends_the_reply_and_is_never_shown() {
    let app = spawn_app(&[TEXT, "engine.scripted.tokens=50"]);
    let mut client = Client::plain(&app).await;
    // Stop strings within a token, at a token's end, across tokens, and as a plain string.
    for (stop, expected) in [
        (json!(["trés"]), "uno dois "),
        (json!(["ré"]), "uno dois t"),
        (json!(["is trés 四"]), "uno do"),
        (json!("🙂"), "uno dois trés 四 "),
        (json!(["never", "four", "dois"]), "uno "),
    ] {
        let log = client.run(json!({"stop": stop})).await;
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!(log.text(), expected, "{stop}");
        assert_eq!(log.status(), "completed");
    }
    let whole = client.run(json!({"stop": ["six sept"]})).await;
    assert_eq!(
        whole.text().split_whitespace().collect::<Vec<_>>(),
        words(50),
        "what was held back is given in the end"
    );
}

#[tokio::test]
async fn a_failing_engine_ends_the_response_as_failed() {
    for (tokens, kinds) in [(0, 0), (5, 5)] {
        let app = spawn_app(&[&format!("engine.scripted.fail_after={tokens}")]);
        let mut client = Client::plain(&app).await;
        let log = client.run(json!({})).await;
        log.assert_gap_free();
        assert_eq!(log.status(), "failed");
        assert_eq!(log.response()["error"]["code"], "engine_failed");
        assert!(log.response()["error"]["message"].as_str().is_some_and(|m| !m.is_empty()));
        assert_eq!(log.of_kind("response.output_text.delta").count(), kinds, "what was said before stays");
        // The connection stays open, and the permit is released.
        assert_eq!(client.run(json!({})).await.status(), "failed");
    }
}

#[tokio::test]
async fn the_connection_ends_with_1000_when_the_client_says_goodbye() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    client.run(json!({})).await;
    let close = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "".into() };
    client.send_message(tokio_tungstenite::tungstenite::Message::Close(Some(close))).await;
    assert_eq!(client.receive().await, Received::Closed(Some(1000)));
}
