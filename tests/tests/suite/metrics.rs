//! Tests the counts and times that operators read as OpenMetrics.

use std::{
    collections::HashMap,
    io::Write,
    process::{Command, Stdio},
};

use caudal_tests::{App, Client, Redis, http, spawn_app, until};
use serde_json::json;

use super::redis::{LONG, replica, resumed, speaking};

/// The setting of the admin key that [`samples`] sends.
pub const ADMIN: &str = "auth.admin_key=admin-key-1";

async fn scrape(app: &App) -> String {
    let ask = http::call(app.address, "GET", "/admin/metrics").header("authorization", "Bearer admin-key-1");
    let answer = ask.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// Returns every sample by its name and labels as written.
pub async fn samples(app: &App) -> HashMap<String, f64> {
    let text = scrape(app).await;
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

/// Waits until the samples have these values, because an event is counted just after the client receives it.
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
    // One of the responses has 64 tokens at 100 a second.
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
    // The other replica has timed its creation and first token.
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

#[tokio::test]
async fn appends_the_event_loops_and_the_cache_are_measured() {
    let app = spawn_app(&[ADMIN]);
    Client::plain(&app).await.run(json!({"seed": 1})).await.assert_gap_free();
    until("every loop to have been late by something", || async {
        let samples = samples(&app).await;
        let late =
            |threads| samples.get(&format!("caudal_event_loop_lag_seconds_count{{threads=\"{threads}\"}}")).copied();
        let all = [late("runtime")?, late("connections")?, samples["caudal_append_seconds_count"]];
        (all.iter().all(|count| *count > 0.0) && samples["caudal_prompt_cache_bytes"] > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refusals_are_counted_by_the_limit_that_is_exceeded() {
    let settings = ["limits.requests_per_minute=1", "server.max_message_bytes=4096"];
    let app = spawn_app(&[ADMIN, settings[0], settings[1]]);
    let large = json!({"input": "x".repeat(5000)});
    assert_eq!(http::post(app.address, "/v1/responses", &large).await.status, 413);
    for status in [200, 429] {
        assert_eq!(http::post(app.address, "/v1/responses", &json!({"input": "x"})).await.status, status);
    }
    let expected = [
        ("caudal_limited_total{limit=\"message_bytes\"}", 1.0),
        ("caudal_limited_total{limit=\"tenant_requests\"}", 1.0),
        ("caudal_refused_total{code=\"rate_limit_exceeded\"}", 1.0),
    ];
    assert_samples(&app, &expected).await;
}

#[tokio::test]
async fn calls_that_find_the_store_away_are_counted() {
    let mut redis = Redis::spawn();
    let app = replica(&redis, &[ADMIN]);
    redis.kill();
    until("an append or a create to fail", || async {
        http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
        let samples = samples(&app).await;
        samples.get("caudal_store_errors_total{operation=\"create\"}").filter(|count| **count > 0.0).map(drop)
    })
    .await;
}

/// Runs Prometheus's own linter on all metrics of a busy server.
#[tokio::test]
async fn all_metrics_keep_to_the_conventions_of_prometheus() {
    let app = spawn_app(&[ADMIN, "limits.requests_per_minute=2"]);
    for _ in 0..3 {
        http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    }
    http::get(app.address, "/admin/cache").await;
    let text = scrape(&app).await;
    // The linter reads the older format, in which the name of a counter's family has the suffix.
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let lines = text.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF").map(|line| {
        let mut words: Vec<&str> = line.splitn(4, ' ').collect();
        let suffixed;
        if words[0] == "#" && counters.contains(&words[2]) {
            suffixed = format!("{}_total", words[2]);
            words[2] = &suffixed;
        }
        words.join(" ") + "\n"
    });
    let older: String = lines.collect();
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts; on Debian: apt-get install prometheus");
    linter.stdin.take().expect("a pipe").write_all(older.as_bytes()).expect("promtool reads");
    let linted = linter.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&linted.stdout) + String::from_utf8_lossy(&linted.stderr);
    assert!(linted.status.success() && said.trim().is_empty(), "{said}\n{older}");
    // Clients cannot choose label values, so the number of samples is bounded.
    assert!(older.lines().count() < 1000, "{older}");
}
