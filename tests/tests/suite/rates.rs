//! Tests rate limits: each tenant has one count, shared by all replicas.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, Redis, http, spawn_app, until,
    ws::{Connect, SUBPROTOCOL, code},
};
use serde_json::{Value, json};

use super::redis::{replay, replica};

const KEYS: [&str; 2] =
    ["auth.mode=keys", r#"auth.keys=[{key="alpha-key", tenant="alpha"}, {key="beta-key", tenant="beta"}]"#];

async fn connected(app: &App, key: &str) -> Client {
    let connect = Connect::to(app.address).protocols(SUBPROTOCOL).header("authorization", &format!("Bearer {key}"));
    let mut client = connect.open().await.expect("the key is good");
    client.event_of("caudal:session.created").await;
    client
}

#[track_caller]
fn assert_refused(error: &Value, at_most_ms: u64) -> Duration {
    assert_eq!(
        (code(error), &error["status"], &error["error"]["type"]),
        ("rate_limit_exceeded", &json!(429), &json!("rate_limit_error"))
    );
    let wait = error["retry_after_ms"].as_u64().unwrap_or_default();
    assert!((1..=at_most_ms).contains(&wait), "{error}");
    Duration::from_millis(wait)
}

#[tokio::test]
async fn replicas_share_a_tenants_limit_and_tenants_do_not() {
    let redis = Redis::spawn();
    let settings = [KEYS[0], KEYS[1], "limits.requests_per_minute=6"];
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    let mut alpha = [connected(&a, "alpha-key").await, connected(&b, "alpha-key").await];
    for n in 0..6 {
        alpha[n % 2].run(json!({})).await.assert_gap_free();
    }
    for client in &mut alpha {
        client.create(json!({})).await;
        assert_refused(&client.error().await, 10_000);
    }
    for (path, body) in [
        ("/v1/responses", json!({"input": "x"})),
        ("/v1/responses", json!({"input": "x", "stream": true})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]})),
    ] {
        let call = http::call(b.address, "POST", path).header("authorization", "Bearer alpha-key").json(&body);
        let answer = call.send().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{path}");
        let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| (1..=10).contains(&seconds)), "{path}: {answer:?}");
    }
    // The other tenant has its full limit, which has the same number.
    let mut beta = connected(&a, "beta-key").await;
    for _ in 0..6 {
        beta.run(json!({})).await.assert_gap_free();
    }
    beta.create(json!({})).await;
    assert_refused(&beta.error().await, 10_000);
}

#[tokio::test]
async fn after_the_time_told_one_more_is_served_on_any_replica() {
    let redis = Redis::spawn();
    let limit = ["limits.requests_per_minute=1000000", "limits.tenants.default={requests_per_minute=60}"];
    let (a, b) = (replica(&redis, &limit), replica(&redis, &limit));
    let (mut first, mut second) = (Client::extended(&a).await, Client::extended(&b).await);
    let begun = Instant::now();
    let mut served = 0;
    let wait = loop {
        first.create(json!({"max_output_tokens": 1})).await;
        let event = first.event().await;
        if event["type"] == "error" {
            break assert_refused(&event, 1000);
        }
        first.rest(&mut Default::default()).await;
        served += 1;
    };
    // A minute's limit at once, and the refill meanwhile.
    let flowed = begun.elapsed().as_secs();
    assert!((60..=61 + flowed).contains(&served), "{served} after {flowed} s");
    tokio::time::sleep(wait).await;
    let log = second.run(json!({})).await;
    log.assert_gap_free();
    second.create(json!({})).await;
    assert_refused(&second.error().await, 1000);
    // Only creates are counted.
    assert_eq!(replay(&a, &log.id()).await, log);
}

#[tokio::test]
async fn without_its_store_a_limit_refuses_as_everything_else_does() {
    let mut redis = Redis::spawn();
    let app = replica(&redis, &["limits.requests_per_minute=1", "store.redis.timeout_ms=300"]);
    redis.kill();
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let refused = client.error().await;
    assert_eq!((code(&refused), &refused["retry_after_ms"]), ("store_unavailable", &json!(1000)));
    redis.start();
    // Nothing was counted during the outage; after it, requests are counted again.
    until("the store to be back", || async {
        let answer = http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
        assert!(answer.status == 200 || answer.json()["error"]["code"] == "store_unavailable", "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    client.create(json!({})).await;
    assert_refused(&client.error().await, 60_000);
}

/// The tokens of a response are counted after its last event, so one more request may be accepted before.
#[tokio::test]
async fn replicas_share_a_tenants_tokens_and_who_owes_some_waits() {
    const PER_MINUTE: u64 = 300;
    let redis = Redis::spawn();
    let settings = [KEYS[0], KEYS[1], &format!("limits.tokens_per_minute={PER_MINUTE}"), "engine.scripted.tokens=100"];
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    let mut alpha = [connected(&a, "alpha-key").await, connected(&b, "alpha-key").await];
    let (mut used, mut last) = (0, 0);
    let (begun, mut served) = (Instant::now(), 0);
    let refused = loop {
        let client = &mut alpha[served % 2];
        client.create(json!({})).await;
        let mut event = client.event().await;
        if event["type"] == "error" {
            break event;
        }
        while event["type"] != "response.completed" {
            event = client.event().await;
        }
        last = event["response"]["usage"]["total_tokens"].as_u64().expect("a number");
        assert!(last > 100, "prompt and output: {event}");
        (used, served) = (used + last, served + 1);
    };
    let flowed = |since: Instant| since.elapsed().as_millis() as u64 * PER_MINUTE / 60_000 + 1;
    assert!(used + flowed(begun) >= PER_MINUTE && used <= PER_MINUTE + 2 * last + flowed(begun), "{used} of {last}");
    assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains("300 tokens a minute")), "{refused}");
    assert_refused(&refused, (used - PER_MINUTE + 1) * 60_000 / PER_MINUTE);
    let mut client = connected(&b, "beta-key").await;
    client.run(json!({})).await.assert_gap_free();
    // A debt must be paid before any replica serves the tenant again.
    let path = "/v1/chat/completions";
    let call = http::call(a.address, "POST", path).header("authorization", "Bearer alpha-key");
    let answer = call.json(&json!({"messages": [{"role": "user", "content": "x"}]})).send().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
}

#[tokio::test]
async fn a_single_process_counts_by_itself() {
    let app = spawn_app(&["limits.requests_per_minute=2"]);
    let mut client = Client::extended(&app).await;
    for _ in 0..2 {
        client.run(json!({})).await.assert_gap_free();
    }
    client.create(json!({})).await;
    assert_refused(&client.error().await, 30_000);
}
