//! Tests SIGTERM: running responses may finish, no new one begins, sockets close last, the exit code is 0.

use caudal_tests::{
    App, Client, EventLog, Received, http,
    log::{kind, output_text},
    spawn_app, until,
    ws::code,
};
use serde_json::json;

async fn speaking(app: &App) -> (Client, EventLog) {
    let mut client = Client::extended(app).await;
    client.create(json!({})).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < 2 {
        log.push(client.event().await);
    }
    (client, log)
}

async fn draining(app: &App) {
    until("readyz to say 503", || async { (http::get(app.address, "/readyz").await.status == 503).then_some(()) })
        .await;
}

#[tokio::test]
async fn running_streams_finish_and_nothing_new_begins() {
    let mut app = spawn_app(&["engine.scripted.tokens=400", "engine.scripted.tokens_per_second=100"]);
    let (mut client, mut log) = speaking(&app).await;
    let mut idle = Client::extended(&app).await;
    let mut plain = Client::plain(&app).await;
    let mut sse =
        http::call(app.address, "POST", "/v1/responses").json(&json!({"input": "x", "stream": true})).events().await;
    sse.next().await.expect("an event");
    app.signal("TERM");
    draining(&app).await;
    assert_eq!(http::get(app.address, "/healthz").await.status, 200, "it lives");
    let notice = idle.event().await;
    assert_eq!(kind(&notice), "caudal:server.draining");
    assert!(notice["reconnect_after_ms"].is_u64(), "{notice}");
    // New work is refused, on any transport.
    for client in [&mut idle, &mut plain] {
        client.create(json!({})).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), ("server_overloaded", &json!(503)));
        assert!(error["retry_after_ms"].is_u64());
    }
    let answer = http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("server_overloaded")));
    // The running response is read to its end, then the sockets close.
    client.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 400));
    let sse = sse.all().await;
    assert_eq!(sse.last().unwrap().data, "[DONE]");
    assert!(sse[sse.len() - 2].data.contains("response.completed"));
    for client in [&mut client, &mut idle, &mut plain] {
        assert_eq!(client.closed().await, Some(1012));
    }
    assert_eq!(app.exit().code(), Some(0));
}

#[tokio::test]
async fn at_the_deadline_what_runs_is_cancelled() {
    let mut app = spawn_app(&[
        "engine.max_running=1",
        "engine.scripted.tokens=4000",
        "engine.scripted.tokens_per_second=100",
        "server.shutdown_deadline_ms=500",
    ]);
    let (mut client, mut log) = speaking(&app).await;
    let mut queued = Client::extended(&app).await;
    queued.create(json!({})).await;
    queued.event_of("response.queued").await;
    app.signal("TERM");
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    queued.event_of("response.incomplete").await;
    assert_eq!((client.closed().await, queued.closed().await), (Some(1012), Some(1012)));
    assert_eq!(app.exit().code(), Some(0));
}

#[tokio::test]
async fn with_nothing_running_it_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut app = spawn_app(&["server.shutdown_deadline_ms=600000"]);
        let mut idle = Client::extended(&app).await;
        let mut plain = Client::plain(&app).await;
        app.signal(signal);
        assert_eq!(kind(&idle.event().await), "caudal:server.draining");
        assert_eq!(idle.receive().await, Received::Closed(Some(1012)));
        assert_eq!(plain.receive().await, Received::Closed(Some(1012)), "without extensions there is no notice");
        assert_eq!(app.exit().code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn while_draining_a_running_response_can_be_resumed_and_cancelled() {
    let mut app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let (client, log) = speaking(&app).await;
    let mut other = Client::extended(&app).await;
    app.signal("TERM");
    draining(&app).await;
    client.kill();
    other.resume(&log.id(), None).await;
    loop {
        let event = other.event().await;
        if kind(&event) == "response.output_text.delta" {
            break;
        }
    }
    other.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    let incomplete = other.event_of("response.incomplete").await;
    assert!(!output_text(&incomplete["response"]).is_empty());
    assert_eq!(other.closed().await, Some(1012));
    assert_eq!(app.exit().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_without_waiting() {
    let mut app = spawn_app(&[
        "engine.scripted.tokens=4000",
        "engine.scripted.tokens_per_second=100",
        "server.shutdown_deadline_ms=600000",
    ]);
    let (mut client, mut log) = speaking(&app).await;
    app.signal("TERM");
    draining(&app).await;
    app.signal("TERM");
    client.rest(&mut log).await;
    assert_eq!(log.reason(), "cancelled");
    assert_eq!(app.exit().code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_does_not_hold_the_exit() {
    let mut app = spawn_app(&[]);
    let mut silent = caudal_tests::raw::RawSocket::connect(app.address).await;
    assert!(silent.send(0x81, br#"{"type":"response.create","input":"x"}"#).await);
    silent.frame().await.expect("an event");
    app.signal("TERM");
    assert_eq!(app.exit().code(), Some(0));
    assert_eq!(silent.closed().await, Some(1012));
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_the_exit() {
    let flood = [
        "engine.scripted.text=w",
        "engine.scripted.tokens=30000",
        "generation.max_output_tokens=30000",
        "engine.scripted.context_length=40000",
        "server.slow_client_grace_ms=600000",
    ];
    let mut app = spawn_app(&flood);
    // Both clients have read one event and read no more, although megabytes wait for them.
    let mut socket = caudal_tests::ws::Connect::to(app.address).receive_buffer(32768).open().await.expect("an upgrade");
    socket.create(json!({})).await;
    socket.event().await;
    let body = json!({"input": "x", "stream": true});
    let mut sse = http::call(app.address, "POST", "/v1/responses").json(&body).events().await;
    sse.next().await.expect("an event");
    app.signal("TERM");
    assert_eq!(app.exit().code(), Some(0));
}
