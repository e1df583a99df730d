//! Tests the limits of a connection.

use std::time::{Duration, Instant};

use caudal_tests::{Client, EventLog, Received, log::kind, raw::RawSocket, spawn_app, ws::code};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// The default of `server.max_message_bytes`.
const LIMIT: usize = 4 << 20;

fn create_of(bytes: usize) -> String {
    let empty = json!({"type": "response.create", "input": ""}).to_string();
    let message = json!({"type": "response.create", "input": "a".repeat(bytes - empty.len())}).to_string();
    assert_eq!(message.len(), bytes);
    message
}

#[tokio::test]
async fn a_message_over_the_limit_closes_the_connection_with_1009() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    client.send_message(Message::text(create_of(LIMIT))).await;
    assert_eq!(client.response().await.status(), "completed", "the limit itself is allowed");
    client.send_message(Message::text(create_of(LIMIT + 1))).await;
    assert_eq!(client.closed().await, Some(1009));
    assert_eq!(Client::plain(&app).await.run(json!({})).await.status(), "completed");
}

#[tokio::test]
async fn a_message_in_fragments_is_one_message_with_the_same_limit() {
    let app = spawn_app(&["server.max_message_bytes=4096"]);
    let mut socket = RawSocket::connect(app.address).await;
    let message = create_of(3000);
    let (first, rest) = message.as_bytes().split_at(1000);
    assert!(
        socket.send(0x01, first).await
            && socket.send(0x00, &rest[..500]).await
            && socket.send(0x80, &rest[500..]).await
    );
    let event = socket.frame().await.expect("an event");
    assert!(String::from_utf8_lossy(&event.payload).contains("response.created"), "{event:?}");
    let mut socket = RawSocket::connect(app.address).await;
    socket.send(0x01, &[b'a'; 2000]).await;
    socket.send(0x00, &[b'a'; 2000]).await;
    socket.send(0x00, &[b'a'; 2000]).await;
    assert_eq!(socket.closed().await, Some(1009));
}

#[tokio::test]
async fn a_length_that_only_promises_much_is_refused_at_once() {
    let app = spawn_app(&[]);
    let mut socket = RawSocket::connect(app.address).await;
    // A header that announces a terabyte, and nothing after it: the server must neither wait nor allocate.
    let mut header = vec![0x81, 0x80 | 127];
    header.extend((1u64 << 40).to_be_bytes());
    header.extend([1, 2, 3, 4]);
    assert!(socket.send_bytes(&header).await);
    assert_eq!(socket.closed().await, Some(1009));
}

#[tokio::test]
async fn who_answers_no_ping_is_closed_as_idle() {
    let app = spawn_app(&["server.heartbeat_ms=100", "server.idle_timeout_ms=500"]);
    let begun = Instant::now();
    let mut silent = RawSocket::connect(app.address).await;
    let ping = silent.frame().await.expect("a frame");
    assert_eq!(ping.opcode, 9, "the server pings");
    assert_eq!(silent.closed().await, Some(4001));
    assert!(begun.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn who_answers_pings_may_stay_silent() {
    let app = spawn_app(&["server.heartbeat_ms=200", "server.idle_timeout_ms=900", "engine.scripted.prefill_ms=3000"]);
    let mut client = Client::plain(&app).await;
    // The client is silent for three idle timeouts; the library answers pings meanwhile.
    let log = client.run(json!({})).await;
    log.assert_gap_free();
    assert!(client.pings >= 5, "{} pings", client.pings);
}

#[tokio::test]
async fn a_ping_message_is_answered() {
    let app = spawn_app(&[]);
    let mut client = Client::extended(&app).await;
    client.send(json!({"type": "caudal:ping"})).await;
    assert_eq!(kind(&client.event().await), "caudal:pong");
    client.send(json!({"type": "caudal:pong"})).await;
    assert!(client.settle().await.is_empty(), "a pong is answered with nothing");
    let mut raw = RawSocket::connect(app.address).await;
    assert!(raw.send(0x89, b"still there?").await);
    let pong = raw.frame().await.expect("a frame");
    assert_eq!((pong.opcode, pong.payload.as_slice()), (10, &b"still there?"[..]));
}

#[tokio::test]
async fn a_connection_at_its_greatest_age_is_closed_and_its_stream_resumed() {
    let app = spawn_app(&[
        "server.connection_limit_ms=400",
        "engine.scripted.tokens=100",
        "engine.scripted.tokens_per_second=100",
    ]);
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let (mut log, mut limit) = (EventLog::default(), None);
    let closed = loop {
        match client.receive().await {
            Received::Event(event) if kind(&event) == "error" => limit = Some(event),
            Received::Event(event) => log.push(event),
            Received::Closed(code) => break code,
        }
    };
    let limit = limit.expect("an error says why");
    assert_eq!((code(&limit), &limit["status"]), ("websocket_connection_limit_reached", &json!(400)));
    assert_eq!(closed, Some(4002));
    while !log.ended() {
        let mut again = Client::extended(&app).await;
        again.resume(&log.id(), log.last_number()).await;
        loop {
            match again.receive().await {
                Received::Event(event) if kind(&event) == "error" || kind(&event).starts_with("caudal:") => {}
                Received::Event(event) => log.push(event),
                Received::Closed(_) => break,
            }
            if log.ended() {
                break;
            }
        }
    }
    log.assert_gap_free();
    assert_eq!(log.usage("output_tokens"), 100);
}

#[tokio::test]
async fn frames_that_have_no_meaning_here_close_the_connection() {
    let app = spawn_app(&[]);
    for (first_byte, payload, codes) in [
        (0x82, &b"binary"[..], &[1003][..]),
        (0x81, &b"\xff\xfe\xfd"[..], &[1007]),
        (0xf1, &b"reserved bits"[..], &[1002]),
        (0x83, &b"reserved opcode"[..], &[1002]),
        (0x80, &b"a continuation of nothing"[..], &[1002]),
    ] {
        let mut socket = RawSocket::connect(app.address).await;
        socket.send(first_byte, payload).await;
        let closed = socket.closed().await;
        assert!(closed.is_some_and(|code| codes.contains(&code)), "{first_byte:#x}: {closed:?}");
    }
    assert_eq!(Client::plain(&app).await.run(json!({})).await.status(), "completed");
}
