//! Tests slow clients: a client that does not read is disconnected, and no other client is affected.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, EventLog, Received, http,
    log::{is_terminal, kind},
    raw::RawSocket,
    spawn_app,
    ws::{Connect, SUBPROTOCOL},
};
use futures::future::join_all;
use serde_json::{Value, json};

/// The kernel buffers some megabytes before a socket is full, so these replies are larger: 300 bytes for each event. The text
/// of an event is one word; longer ones would make the last events, which repeat the text, the largest part.
const FLOOD: [&str; 4] = [
    "engine.scripted.text=w",
    "engine.scripted.tokens=30000",
    "generation.max_output_tokens=30000",
    "engine.scripted.context_length=40000",
];

fn spawn(more: &[&str]) -> App {
    let mut settings = FLOOD.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_and_can_resume() {
    let app = spawn(&["server.outbox_bytes=65536", "server.slow_client_grace_ms=1000", "server.heartbeat_ms=100"]);
    let connect = Connect::to(app.address).protocols(SUBPROTOCOL).receive_buffer(8192);
    let mut slow = connect.open().await.expect("the server upgrades");
    slow.create(json!({})).await;
    // A client that does not read notices nothing, so the test waits for twenty heartbeats of another connection. They are two
    // seconds: longer than the grace, and within the five seconds in which a close frame can still be read.
    let mut clock = RawSocket::connect(app.address).await;
    for _ in 0..20 {
        assert_eq!(clock.frame().await.map(|f| f.opcode), Some(9));
    }
    let (mut log, mut bytes) = (EventLog::default(), 0);
    let closed = loop {
        assert!(!log.ended(), "it was sent all {bytes} bytes without being cut");
        match slow.receive().await {
            Received::Event(event) if kind(&event).starts_with("caudal:") => {}
            Received::Event(event) => {
                bytes += event.to_string().len();
                log.push(event);
            }
            Received::Closed(code) => break code,
        }
    };
    assert_eq!(closed, Some(4000), "after {bytes} bytes");
    assert!(bytes < 8 << 20, "{bytes} bytes of 9 MB waited for it");
    let mut again = Client::extended(&app).await;
    again.resume(&log.id(), log.last_number()).await;
    again.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 30000), "nothing is missing after the resume");
}

#[tokio::test]
async fn other_streams_keep_their_pace_beside_clients_that_do_not_read() {
    let word = format!("engine.scripted.text={}", "w".repeat(1500));
    let app = spawn(&[
        &word,
        "engine.scripted.tokens_per_second=100",
        "server.outbox_bytes=65536",
        "server.slow_client_grace_ms=200",
        // One thread serves all connections, so blocking it would block all.
        "server.workers=1",
    ]);
    let mut slow = vec![];
    for _ in 0..4 {
        let mut client = Connect::to(app.address).receive_buffer(32768).open().await.expect("the server upgrades");
        for lane in 0..16 {
            client.create(json!({"stream_id": lane.to_string(), "max_output_tokens": 1000})).await;
        }
        slow.push(client);
    }
    let healthy = join_all((0..5).map(|_| async {
        let mut client = Client::plain(&app).await;
        let begun = Instant::now();
        (client.run(json!({"max_output_tokens": 400})).await, begun.elapsed())
    }))
    .await;
    for (log, took) in healthy {
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!(log.usage("output_tokens"), 400);
        // The streams take four seconds at their own pace. Waiting for an unread socket would take far longer.
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    for mut client in slow {
        let (events, code) = client.drain().await;
        assert!(!events.iter().any(is_terminal), "a client that does not read is cut within four seconds");
        assert!(matches!(code, Some(4000) | None), "{code:?}");
    }
}

#[tokio::test]
async fn what_one_reads_slowly_but_reads_is_not_cut() {
    let app = spawn(&["server.outbox_bytes=16384", "server.slow_client_grace_ms=3000"]);
    let mut client = Connect::to(app.address).receive_buffer(8192).open().await.expect("the server upgrades");
    client.create(json!({})).await;
    let mut log = EventLog::default();
    while !log.ended() {
        match client.receive().await {
            Received::Event(event) => log.push(event),
            Received::Closed(code) => panic!("a client that reads was cut with {code:?}"),
        }
        if log.events.len().is_multiple_of(3000) {
            // Slower than the server can send, well within the grace.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    log.assert_gap_free();
    log.assert_text_agrees();
}

#[tokio::test]
async fn a_slow_clients_generation_is_not_slowed() {
    let app = spawn(&["server.outbox_bytes=16384", "server.slow_client_grace_ms=60000"]);
    let mut slow = Connect::to(app.address).receive_buffer(32768).open().await.expect("the server upgrades");
    slow.create(json!({})).await;
    let created = slow.event().await;
    let path = format!("/v1/responses/{}", created["response"]["id"].as_str().unwrap());
    // The client has read one event, and reads no other before the response is complete.
    let response: Value = caudal_tests::until("the response to complete", || async {
        Some(http::get(app.address, &path).await.json()).filter(|r| r["status"] == "completed")
    })
    .await;
    assert_eq!(response["usage"]["output_tokens"], 30000);
}
