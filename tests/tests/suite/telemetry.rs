//! Tests traces and metrics as an OpenTelemetry collector receives them, and the lines of the log.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use caudal_tests::{
    App, Client, Redis, Setup,
    collector::{Collector, SeenSpan},
    http, until,
    ws::Connect,
};
use serde_json::{Value, json};

use super::redis::{LONG, resumed, speaking};

/// A text that no span and no log line may contain.
const PROMPT: &str = "an unspeakable secret";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traced(collector: &Collector, settings: &[&str]) -> App {
    let otlp = format!("telemetry.otlp={}", collector.url);
    let setup = Setup::scripted().set(&[&otlp]).set(settings);
    setup.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_METRIC_EXPORT_INTERVAL", "50").spawn()
}

/// Waits for a trace with all of these names. Returns its spans.
async fn spans<const N: usize>(collector: &Collector, names: [&str; N]) -> [SeenSpan; N] {
    until(format!("the spans {names:?}"), || async {
        let all = collector.spans();
        let found = names.map(|name| all.iter().find(|span| span.name == name).cloned());
        found.iter().all(Option::is_some).then(|| found.map(|span| span.expect("found")))
    })
    .await
}

/// Checks the spans of one streamed response: they are children of the client's span, in order, with the attributes of the
/// conventions.
async fn assert_trace(collector: &Collector, request: &str, transport: &str) {
    let names = [request, "prepare", "chat scripted", "queue", "prefill", "decode", "append"];
    let [root, prepare, chat, queue, prefill, decode, append] = spans(collector, names).await;
    assert_eq!((root.trace.as_str(), root.parent.as_str(), root.kind), (TRACE, PARENT, 2), "a server's span: {root:?}");
    for child in [&prepare, &chat] {
        assert_eq!((&child.trace, &child.parent), (&root.trace, &root.id), "{child:?}");
    }
    for child in [&queue, &prefill, &decode, &append] {
        assert_eq!((&child.trace, &child.parent), (&root.trace, &chat.id), "{child:?}");
    }
    let order = [root.begun, prepare.begun, queue.begun, queue.ended, prefill.ended, decode.ended, chat.ended];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!((queue.ended, prefill.ended), (prefill.begun, decode.begun), "no time is between them");
    assert!(decode.ended > decode.begun && root.ended >= prepare.ended, "{root:?}");
    assert_eq!(root.attributes["network.protocol.name"], transport);
    let appends = collector.spans().iter().filter(|span| span.name == "append").count();
    assert!((3..=5).contains(&appends), "begin, first token and end, not one a token: {appends}");
    let expected = [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "caudal"),
        ("gen_ai.request.model", "scripted"),
        ("gen_ai.request.max_tokens", "30"),
        ("gen_ai.request.temperature", "0.5"),
        ("gen_ai.output.type", "text"),
        ("gen_ai.response.finish_reasons", "length"),
        ("gen_ai.usage.output_tokens", "30"),
        ("caudal.tenant", "default"),
        ("caudal.taken_over", "false"),
    ];
    for (name, value) in expected {
        assert_eq!(chat.attributes.get(name).map(String::as_str), Some(value), "{name}: {chat:?}");
    }
    assert!(chat.attributes["gen_ai.response.id"].starts_with("resp_"), "{chat:?}");
    assert!(!collector.text().contains(PROMPT), "no text of a prompt is exported");
}

/// Settings with which 30 tokens take a quarter of a second.
const STREAM: [&str; 2] = ["engine.scripted.tokens=64", "engine.scripted.tokens_per_second=120"];

fn request() -> Value {
    json!({"input": PROMPT, "max_output_tokens": 30, "temperature": 0.5, "cache": {"mode": "off"}})
}

#[tokio::test]
async fn a_response_over_websocket_is_one_trace() {
    let collector = Collector::spawn();
    let app = traced(&collector, &STREAM);
    let connect = Connect::to(app.address).header("traceparent", &format!("00-{TRACE}-{PARENT}-01"));
    let mut client = connect.open().await.expect("the server upgrades");
    client.run(request()).await.assert_gap_free();
    assert_trace(&collector, "response.create", "websocket").await;
    let names = ["gen_ai.server.request.duration", "gen_ai.server.time_to_first_token"];
    let rest = ["gen_ai.server.time_per_output_token", "gen_ai.client.token.usage"];
    until("the metrics of the conventions", || async {
        let metrics = collector.metrics();
        let has = |name: &&str, unit: &str| metrics.get(*name).map(String::as_str) == Some(unit);
        let seconds = names.iter().chain(&rest[..1]).all(|name| has(name, "s"));
        (seconds && has(&rest[1], "{token}")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_over_http_is_one_trace() {
    let collector = Collector::spawn();
    let app = traced(&collector, &STREAM);
    let mut body = request();
    body["stream"] = true.into();
    let call = http::call(app.address, "POST", "/v1/responses").json(&body);
    let mut stream = call.header("traceparent", &format!("00-{TRACE}-{PARENT}-01")).events().await;
    while stream.next().await.is_some() {}
    assert_trace(&collector, "POST /v1/responses", "http").await;
    let root = &spans(&collector, ["POST /v1/responses"]).await[0];
    // 30 tokens at 120 a second take 240 ms. The log writer's span ends concurrently, so the two ends are not compared.
    let lasted = Duration::from_nanos(root.ended - root.begun);
    assert!(lasted >= Duration::from_millis(200), "the request lasts as long as its stream: {lasted:?}");
}

#[tokio::test]
async fn a_response_that_changes_hands_stays_in_its_trace() {
    let (collector, redis) = (Collector::spawn(), Redis::spawn());
    let url = format!("store.redis.url={}", redis.url());
    let settings = [LONG[0], LONG[1], "store.kind=redis", url.as_str()];
    let (a, b) = (traced(&collector, &settings), traced(&collector, &settings));
    until("the replicas to know each other", || async {
        (redis.ask(&["ZCARD", "caudal:1:{fleet}:replicas"]) == "2").then_some(())
    })
    .await;
    let (_lost, log) = speaking(&a, 20).await;
    let (mut client, _) = resumed(&b, &log.id(), None).await;
    a.signal("TERM");
    client.response().await.assert_gap_free();
    let chats = until("a span of each replica", || async {
        let all = collector.spans();
        let chats: Vec<SeenSpan> = all.into_iter().filter(|span| span.name == "chat scripted").collect();
        (chats.len() == 2).then_some(chats)
    })
    .await;
    assert_eq!((&chats[0].trace, &chats[0].parent), (&chats[1].trace, &chats[1].parent));
    let taken = chats.iter().map(|span| span.attributes["caudal.taken_over"].as_str());
    assert_eq!(taken.collect::<Vec<_>>(), ["false", "true"]);
    assert_ne!(chats[0].attributes["caudal.replica"], chats[1].attributes["caudal.replica"]);
}

#[tokio::test]
async fn what_its_client_does_not_sample_is_not_exported() {
    let collector = Collector::spawn();
    let app = traced(&collector, &[]);
    for flags in ["00", "01"] {
        let call = http::call(app.address, "POST", "/v1/responses").json(&request());
        let answer = call.header("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}")).send().await;
        assert_eq!(answer.status, 200);
    }
    let [_, _] = spans(&collector, ["POST /v1/responses", "chat scripted"]).await;
    assert_eq!(collector.spans().iter().filter(|span| span.name == "chat scripted").count(), 1);
}

#[tokio::test]
async fn who_is_not_let_in_fills_no_trace() {
    let collector = Collector::spawn();
    let key = "a-key-that-is-long-enough-for-this";
    let app = traced(&collector, &["auth.mode=keys", &format!("auth.keys=[{{key=\"{key}\", tenant=\"t\"}}]")]);
    assert_eq!(http::post(app.address, "/v1/responses", &request()).await.status, 401);
    let call = http::call(app.address, "POST", "/v1/responses").json(&request());
    assert_eq!(call.header("authorization", &format!("Bearer {key}")).send().await.status, 200);
    let [_, _] = spans(&collector, ["POST /v1/responses", "chat scripted"]).await;
    assert_eq!(collector.spans().iter().filter(|span| span.name == "POST /v1/responses").count(), 1);
    assert!(!collector.text().contains(key), "no key is exported");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let otlp = format!("telemetry.otlp=http://{}", silent.local_addr().expect("its address"));
    let setup =
        Setup::scripted().set(&[&otlp]).env("OTEL_BSP_SCHEDULE_DELAY", "10").env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
    let mut app = setup.spawn();
    let mut client = Client::extended(&app).await;
    let begun = Instant::now();
    for _ in 0..50 {
        client.run(json!({"cache": {"mode": "off"}})).await.assert_gap_free();
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let begun = Instant::now();
    app.signal("TERM");
    app.exit();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// Waits for `count` log lines about ended responses.
async fn ended(app: &App, count: usize) -> Vec<Value> {
    until(format!("{count} lines of ended responses"), || async {
        let stderr = app.stderr();
        let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.filter(|line| line["fields"]["message"] == "response ended").collect();
        (lines.len() == count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_response_is_one_line_of_the_log() {
    let app = Setup::scripted().set(&STREAM).set(&["log.format=json", "cluster.replica=north"]).spawn();
    let mut client = Client::plain(&app).await;
    let log = client.run(request()).await;
    let mut body = request();
    body["temperature"] = json!(0.0);
    assert_eq!(http::post(app.address, "/v1/responses", &body).await.status, 200);
    let lines = ended(&app, 2).await;
    for (line, transport) in lines.iter().zip(["websocket", "http"]) {
        let fields = &line["fields"];
        let expected = json!({
            "tenant": "default", "model": "scripted", "replica": "north", "transport": transport, "finish": "length",
            "output_tokens": 30, "cached_tokens": 0, "taken_over": false
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&fields[name], value, "{name}: {line}");
        }
        let time = |name: &str| fields[name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
        let order = [0.0, time("queue_ms"), time("first_token_ms"), time("total_ms")];
        assert!(order.is_sorted() && order[3] >= 200.0, "{line}");
        assert!(time("append_ms") > 0.0 && time("token_ms") > 1.0 && fields["appends"].as_u64() > Some(3), "{line}");
        // The line belongs to the span of its response.
        let span = line["spans"].as_array().and_then(|spans| spans.iter().find(|span| span["name"] == "response"));
        assert_eq!(span.map(|span| &span["id"]), Some(&fields["response"]), "{line}");
    }
    assert_eq!(lines[0]["fields"]["response"], log.id());
    assert!(!app.stderr().contains(PROMPT), "no text of a prompt is logged");
}
