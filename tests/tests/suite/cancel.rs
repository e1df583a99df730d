//! Tests cancels: from any connection, at any stage, each releases the permit.

use caudal_tests::{
    App, Client, EventLog, http,
    log::{is_terminal, kind, output_text},
    spawn_app,
    ws::code,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// A reply that is longer than any test, so only a cancel ends it.
const ENDLESS: [&str; 2] = ["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"];

fn spawn(more: &[&str]) -> App {
    let mut settings = ENDLESS.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

/// Creates a response and waits for its first delta.
async fn speaking(app: &App) -> (Client, EventLog) {
    let mut client = Client::extended(app).await;
    client.create(json!({})).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < 3 {
        let event = client.event().await;
        if !kind(&event).starts_with("caudal:") {
            log.push(event);
        }
    }
    (client, log)
}

async fn stored(app: &App, id: &str) -> Value {
    http::get(app.address, &format!("/v1/responses/{id}")).await.json()
}

#[track_caller]
fn assert_cancelled(log: &EventLog) {
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!(log.events.last().map(kind), Some("response.incomplete"));
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    assert_eq!(log.one("response.output_item.done")["item"]["status"], "incomplete");
    assert!(log.response()["completed_at"].is_null());
}

#[tokio::test]
async fn from_another_connection_by_either_name() {
    let app = spawn(&["engine.max_running=1"]);
    for name in ["caudal:response.cancel", "response.cancel"] {
        let (mut client, mut log) = speaking(&app).await;
        let mut other = Client::plain(&app).await;
        other.send(json!({"type": name, "response_id": log.id()})).await;
        client.rest(&mut log).await;
        assert_cancelled(&log);
        assert!(log.usage("output_tokens") >= 3);
        assert_eq!(&stored(&app, &log.id()).await, log.response());
        // The only permit is free, so the next iteration starts.
    }
}

#[tokio::test]
async fn a_message_sent_before_the_connection_ends_counts() {
    let app = spawn(&[]);
    for goodbye in [true, false] {
        let (mut client, mut log) = speaking(&app).await;
        let mut other = Client::plain(&app).await;
        other.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
        if goodbye {
            other.send_message(Message::Close(None)).await;
        }
        drop(other);
        client.rest(&mut log).await;
        assert_eq!(log.reason(), "cancelled", "with a close frame: {goodbye}");
        assert_cancelled(&log);
    }
}

#[tokio::test]
async fn on_the_same_connection_it_does_not_wait_in_line() {
    let app = spawn(&[]);
    let (mut client, mut log) = speaking(&app).await;
    client.create(json!({"max_output_tokens": 2})).await;
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    assert_cancelled(&log);
    assert_eq!(client.response().await.usage("output_tokens"), 2, "the next in line follows");
}

#[tokio::test]
async fn over_http_the_answer_is_the_cancelled_response() {
    let app = spawn(&[]);
    let (mut client, mut log) = speaking(&app).await;
    let answer = http::call(app.address, "POST", &format!("/v1/responses/{}/cancel", log.id())).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    client.rest(&mut log).await;
    assert_cancelled(&log);
    assert_eq!(&answer.json(), log.response());
}

#[tokio::test]
async fn the_next_in_the_queue_starts() {
    let app = spawn(&["engine.max_running=1"]);
    let (mut first, mut log) = speaking(&app).await;
    let mut second = Client::extended(&app).await;
    second.create(json!({})).await;
    second.event_of("response.queued").await;
    second.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    second.event_of("response.output_text.delta").await;
    first.rest(&mut log).await;
    assert_cancelled(&log);
}

#[tokio::test]
async fn who_is_cancelled_in_the_queue_never_reaches_the_engine() {
    let app = spawn(&["engine.max_running=1"]);
    let (mut first, mut log) = speaking(&app).await;
    let (mut second, mut third) = (Client::extended(&app).await, Client::extended(&app).await);
    second.create(json!({})).await;
    let queued = second.event_of("response.queued").await;
    third.create(json!({})).await;
    third.event_of("response.queued").await;
    let id = queued["response"]["id"].as_str().unwrap().to_owned();
    first.send(json!({"type": "response.cancel", "response_id": id})).await;
    second.event_of("response.incomplete").await;
    let mut replay = Client::extended(&app).await;
    replay.resume(&id, None).await;
    let cancelled = replay.response().await;
    assert_cancelled(&cancelled);
    assert_eq!(cancelled.of_kind("response.in_progress").count(), 0, "it never started");
    assert_eq!((cancelled.usage("output_tokens"), cancelled.text().as_str()), (0, ""));
    // The third request is next now.
    first.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    first.rest(&mut log).await;
    assert_cancelled(&log);
    third.event_of("response.output_text.delta").await;
}

#[tokio::test]
async fn an_unknown_response_cannot_be_cancelled() {
    let app = spawn(&[]);
    let mut client = Client::plain(&app).await;
    client.send(json!({"type": "response.cancel", "response_id": "resp_nothing"})).await;
    let error = client.error().await;
    assert_eq!((code(&error), &error["status"]), ("response_not_found", &json!(404)));
    let answer = http::call(app.address, "POST", "/v1/responses/resp_nothing/cancel").send().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("response_not_found")));
}

#[tokio::test]
async fn what_has_ended_stays_as_it_is() {
    let app = spawn_app(&[]);
    let log = Client::plain(&app).await.run(json!({})).await;
    let mut client = Client::extended(&app).await;
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    let said = client.settle().await;
    assert!(said.iter().all(|e| kind(e) != "response.incomplete"), "{said:?}");
    let answer = http::call(app.address, "POST", &format!("/v1/responses/{}/cancel", log.id())).send().await;
    assert_eq!((answer.status, &answer.json()), (200, log.response()));
    assert_eq!(&stored(&app, &log.id()).await, log.response());
}

#[tokio::test]
async fn a_cancelled_reply_can_be_continued() {
    let app = spawn(&[]);
    let (mut client, mut log) = speaking(&app).await;
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    let next = client.run(json!({"previous_response_id": log.id(), "max_output_tokens": 3})).await;
    next.assert_gap_free();
    assert!(!output_text(next.response()).is_empty());
    assert!(next.usage("input_tokens") > log.usage("input_tokens"));
}

#[tokio::test]
async fn a_thousand_cancels_in_a_row_do_not_touch_a_stream_beside_them() {
    let app =
        spawn_app(&["engine.max_running=2", "engine.scripted.tokens=100000", "engine.scripted.tokens_per_second=200"]);
    let (mut beside, mut log) = speaking(&app).await;
    let mut client = Client::plain(&app).await;
    for _ in 0..1000 {
        client.create(json!({})).await;
        let created = client.event_of("response.created").await;
        client.send(json!({"type": "response.cancel", "response_id": created["response"]["id"]})).await;
        while !is_terminal(&client.event().await) {}
    }
    // Both permits are free: neither request waits.
    let (_other, _) = speaking(&app).await;
    while log.of_kind("response.output_text.delta").count() < 200 {
        log.push(beside.event().await);
    }
    beside.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    beside.rest(&mut log).await;
    assert_cancelled(&log);
}
