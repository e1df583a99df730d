//! Sends ten thousand invalid messages of a seeded generator. Each gets its documented error or close code, the server does not
//! panic, and a healthy stream is not disturbed.

mod generator;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use caudal_tests::{App, Client, EventLog, log::kind, raw::RawSocket, spawn_app, ws::code};
use generator::{Case, Expect, Generator};
use serde_json::{Value, json};

const MESSAGES: usize = 10_000;
const CONNECTIONS: usize = 10;
/// The default seed; `CAUDAL_FUZZ_SEED` sets another one.
const SEED: u64 = 20_260_424;

/// The error codes that may answer a message.
const CODES: [&str; 9] = [
    "invalid_json",
    "invalid_request",
    "invalid_stream_id",
    "previous_response_not_found",
    "response_not_found",
    "model_not_found",
    "context_length_exceeded",
    "websocket_stream_limit_reached",
    "server_overloaded",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bad_messages_get_their_answers_and_disturb_nobody() {
    let app = spawn_app(&[
        "engine.scripted.text=uno dois tres quatro cinco seis sete",
        "engine.scripted.tokens=4000",
        "engine.scripted.tokens_per_second=50",
        "engine.max_running=64",
        "server.max_message_bytes=262144",
    ]);
    let seed = std::env::var("CAUDAL_FUZZ_SEED").map_or(SEED, |s| s.parse().expect("CAUDAL_FUZZ_SEED is a number"));
    let done = AtomicBool::new(false);
    let closes = AtomicUsize::new(0);
    let (app, done, closes) = (&app, &done, &closes);
    let fuzz = async move {
        let each = (0..CONNECTIONS).map(|n| attack(app, seed + n as u64, MESSAGES / CONNECTIONS, closes));
        futures::future::join_all(each).await;
        done.store(true, Ordering::Relaxed);
    };
    let ((), longest) = tokio::join!(fuzz, healthy(app, done));
    let closes = closes.load(Ordering::Relaxed);
    println!("{MESSAGES} messages, {closes} closes; longest gap of the healthy stream: {longest:?} of 20 ms");
    assert!(closes > 100, "{closes} closes: the generator makes frames of every kind");
    assert!(!app.stderr().contains("panicked"), "{}", app.stderr());
    assert_eq!(Client::plain(app).await.run(json!({"max_output_tokens": 3})).await.usage("output_tokens"), 3);
}

/// Runs a stream until `done` and checks its order, content and pace. Returns the longest gap between tokens.
async fn healthy(app: &App, done: &AtomicBool) -> Duration {
    let mut client = Client::plain(app).await;
    client.create(json!({})).await;
    let (mut log, mut longest) = (EventLog::default(), Duration::ZERO);
    let mut last = None::<Instant>;
    while !done.load(Ordering::Relaxed) {
        let event = client.event().await;
        if kind(&event) == "response.output_text.delta" {
            let now = Instant::now();
            longest = longest.max(last.replace(now).map_or(Duration::ZERO, |last| now - last));
        }
        log.push(event);
    }
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!(log.reason(), "cancelled");
    let text = log.text();
    let words: Vec<&str> = text.split_whitespace().collect();
    let expected = ["uno", "dois", "tres", "quatro", "cinco", "seis", "sete"].into_iter().cycle();
    assert!(words.len() > 10 && words.iter().zip(expected).all(|(said, expected)| *said == expected), "{words:?}");
    assert!(longest < Duration::from_secs(5), "the healthy stream stood still for {longest:?}");
    longest
}

async fn attack(app: &App, seed: u64, messages: usize, closes: &AtomicUsize) {
    let mut generator = Generator::new(seed);
    let mut client = Client::extended(app).await;
    for at in 0..messages {
        let Case { name, message, expect } = generator.next();
        let what = format!("seed {seed}, message {at} ({name})");
        match expect {
            Expect::Error(expected) => {
                client.send_message(message).await;
                let error = client.event().await;
                assert_eq!(kind(&error), "error", "{what}: {error}");
                assert!(expected.contains(&code(&error)), "{what}: expected one of {expected:?}: {error}");
                assert_well_formed(&error, &what);
            }
            Expect::Silence => {
                client.send_message(message).await;
                assert_eq!(client.settle().await, Vec::<Value>::new(), "{what}");
            }
            Expect::Anything => {
                client.send_message(message).await;
                anything(&mut client, &what).await;
            }
            Expect::Close(codes) => {
                client.try_send(message).await;
                let (events, closed) = client.drain().await;
                assert!(events.iter().all(|event| code(event) == "message_too_large"), "{what}: {events:?}");
                assert!(closed.is_some_and(|code| codes.contains(&code)), "{what}: closed with {closed:?}");
                closes.fetch_add(1, Ordering::Relaxed);
                client = Client::extended(app).await;
            }
            Expect::RawClose(first_byte, codes) => {
                let mut socket = RawSocket::connect(app.address).await;
                socket.send(first_byte, &message.into_data()).await;
                let closed = socket.closed().await;
                assert!(closed.is_some_and(|code| codes.contains(&code)), "{what}: closed with {closed:?}");
                closes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Checks that a mutated message, which may still be valid, is answered by one error or one response.
async fn anything(client: &mut Client, what: &str) {
    loop {
        let event = client.event().await;
        match kind(&event) {
            "error" => {
                assert!(CODES.contains(&code(&event)), "{what}: {event}");
                return assert_well_formed(&event, what);
            }
            "response.created" => {
                let id = &event["response"]["id"];
                client.send(json!({"type": "response.cancel", "response_id": id})).await;
            }
            "response.completed" | "response.incomplete" => return,
            "response.failed" => panic!("{what}: {event}"),
            _ => {}
        }
    }
}

#[track_caller]
fn assert_well_formed(error: &Value, what: &str) {
    let status = error["status"].as_u64().unwrap_or_default();
    assert!([400, 404, 503].contains(&status), "{what}: {error}");
    assert!(error["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 2000), "{what}: {error}");
    assert!(error["error"]["type"].is_string() && error["error"].get("param").is_some(), "{what}: {error}");
    if error["error"]["code"] == "invalid_request" {
        assert!(error.to_string().len() < 4000, "{what}: what was sent is not sent back whole");
    }
}
