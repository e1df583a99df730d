//! What operators see: counts and times as OpenMetrics.

use std::collections::HashMap;

use caudal_tests::{App, Client, Redis, http, spawn_app, until};
use serde_json::json;

use super::redis::{LONG, replica, resumed, speaking};

const ADMIN: &str = "auth.admin_key=admin-key-1";

/// Every sample by its name and labels, as they are written.
async fn samples(app: &App) -> HashMap<String, f64> {
    let ask = http::call(app.address, "GET", "/admin/metrics").header("authorization", "Bearer admin-key-1");
    let answer = ask.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

/// Waits until the samples are these: the last ones are counted just after the client has seen what they count.
async fn assert_samples(app: &App, expected: &[(&str, f64)]) -> HashMap<String, f64> {
    until(format!("{expected:?}"), || async {
        let samples = samples(app).await;
        expected.iter().all(|(name, value)| samples.get(*name) == Some(value)).then_some(samples)
    })
    .await
}

#[tokio::test]
async fn responses_are_counted_and_timed() {
    let pace = ["engine.scripted.tokens=64", "engine.scripted.tokens_per_second=100"];
    let app = spawn_app(&[ADMIN, "engine.max_running=1", "admission.queue=1", pace[0], pace[1]]);
    let none = samples(&app).await;
    assert_eq!(none["caudal_running_max{model=\"scripted\"}"], 1.0);
    assert!(!none.contains_key("caudal_responses_total{model=\"scripted\",status=\"completed\"}"));

    let mut client = Client::extended(&app).await;
    let whole = client.run(json!({"cache": {"mode": "off"}})).await;
    let short = client.run(json!({"max_output_tokens": 10, "cache": {"mode": "off"}})).await;
    client.create(json!({"cache": {"mode": "off"}})).await;
    let id = client.event_of("response.output_text.delta").await["response_id"].as_str().unwrap().to_owned();
    let mut queued = Client::plain(&app).await;
    queued.create(json!({"max_output_tokens": 1, "cache": {"mode": "off"}})).await;
    queued.event_of("response.queued").await;
    let mut refused = Client::plain(&app).await;
    refused.create(json!({})).await;
    refused.error().await;
    assert_samples(
        &app,
        &[
            ("caudal_running{model=\"scripted\"}", 1.0),
            ("caudal_waiting{model=\"scripted\"}", 1.0),
            ("caudal_refused_total{code=\"server_overloaded\"}", 1.0),
            ("caudal_connections", 3.0),
        ],
    )
    .await;
    client.send(json!({"type": "response.cancel", "response_id": id})).await;
    let mut cancelled = client.event_of("response.incomplete").await["response"]["usage"].take();
    let last = queued.response().await;
    refused.kill();
    let samples = assert_samples(
        &app,
        &[
            ("caudal_responses_total{model=\"scripted\",status=\"completed\"}", 1.0),
            ("caudal_responses_total{model=\"scripted\",status=\"incomplete\"}", 2.0),
            ("caudal_responses_total{model=\"scripted\",status=\"cancelled\"}", 1.0),
            ("caudal_running{model=\"scripted\"}", 0.0),
            ("caudal_waiting{model=\"scripted\"}", 0.0),
            ("caudal_connections", 2.0),
        ],
    )
    .await;
    let mut sum = |field: &str| {
        let of = |log: &caudal_tests::EventLog| log.usage(field);
        let cut = cancelled[field].take().as_u64().expect("a number");
        (of(&whole) + of(&short) + of(&last) + cut) as f64
    };
    let output = sum("output_tokens");
    let of = |name: &str| samples[&format!("caudal_{name}{{model=\"scripted\"}}")];
    assert_eq!(of("output_tokens_total"), output);
    assert_eq!(of("prompt_tokens_total"), sum("input_tokens"));
    for times in ["queue", "time_to_first_token", "response"] {
        assert_eq!(of(&format!("{times}_seconds_count")), 4.0, "{times}");
    }
    assert_eq!(of("inter_token_latency_seconds_count"), output - 4.0, "all but the first of each");
    // One of them alone has 64 tokens at 100 a second.
    assert!(of("inter_token_latency_seconds_sum") >= 0.5 && of("response_seconds_sum") >= 0.5, "{samples:?}");
    assert!(of("queue_seconds_sum") < of("response_seconds_sum"));
}

#[tokio::test]
async fn what_is_answered_from_the_prompt_cache_did_not_run() {
    let app = spawn_app(&[ADMIN]);
    let mut client = Client::plain(&app).await;
    for _ in 0..3 {
        client.run(json!({"seed": 1})).await.assert_gap_free();
    }
    let expected = [
        ("caudal_prompt_cache_total{answer=\"miss\"}", 1.0),
        ("caudal_prompt_cache_total{answer=\"hit\"}", 2.0),
        ("caudal_responses_total{model=\"scripted\",status=\"completed\"}", 1.0),
    ];
    assert_samples(&app, &expected).await;
}

#[tokio::test]
async fn what_changes_hands_is_counted_by_who_goes_on() {
    let redis = Redis::spawn();
    let settings = [LONG.as_slice(), &[ADMIN]].concat();
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    until("the replicas to know each other", || async {
        (redis.ask(&["ZCARD", "caudal:1:{fleet}:replicas"]) == "2").then_some(())
    })
    .await;
    let (_lost, log) = speaking(&a, 20).await;
    let (mut client, _) = resumed(&b, &log.id(), None).await;
    a.signal("TERM");
    let log = client.response().await;
    let expected = [
        ("caudal_taken_over_total", 1.0),
        ("caudal_resumed_total", 1.0),
        ("caudal_responses_total{model=\"scripted\",status=\"completed\"}", 1.0),
    ];
    let samples = assert_samples(&b, &expected).await;
    // Its creation and its first token were the other's to time.
    let of = |name: &str| samples[&format!("caudal_{name}_seconds_count{{model=\"scripted\"}}")];
    assert_eq!(["queue", "time_to_first_token", "response"].map(of), [0.0; 3]);
    let produced = of("inter_token_latency");
    assert!(produced > 0.0 && produced < log.usage("output_tokens") as f64);
}

#[tokio::test]
async fn metrics_open_to_the_admin_key_alone() {
    assert_eq!(http::get(spawn_app(&[]).address, "/admin/metrics").await.status, 403);
    let app = spawn_app(&[ADMIN]);
    assert_eq!(http::get(app.address, "/admin/metrics").await.status, 401);
}
