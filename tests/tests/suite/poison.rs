//! Tests responses that kill their replica, that no replica can run, or that a newer server wrote: they end or are left alone,
//! and other responses lose nothing.

use caudal_tests::{App, Client, Redis, http, log::kind, until, ws::code};
use serde_json::{Value, json};

use super::redis::{replay, replica, resumed, speaking};

/// A prompt of this many tokens kills its process.
const DEADLY: usize = 77;

/// Starts a server with replies of six seconds and the fault.
fn fragile(redis: &Redis) -> App {
    let fault = format!("engine.scripted.die_at_prompt={DEADLY}");
    replica(redis, &["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=50", &fault])
}

/// Returns the Redis key of a response.
fn meta(id: &str) -> String {
    format!("caudal:1:{{{id}}}:meta")
}

/// Returns the status of a background response from any running replica.
async fn status(apps: &mut [App], id: &str) -> Option<Value> {
    let living = apps.iter_mut().find_map(|app| app.is_running().then_some(app.address))?;
    let answer = http::try_get(living, &format!("/v1/responses/{id}")).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

#[tokio::test]
async fn a_request_that_kills_its_replica_fails_after_three_and_bystanders_lose_nothing() {
    let redis = Redis::spawn();
    let mut apps: Vec<App> = (0..5).map(|_| fragile(&redis)).collect();
    let mut bystanders = vec![];
    for app in &apps {
        for _ in 0..3 {
            bystanders.push(speaking(app, 3).await);
        }
    }
    // The scripted engine counts two tokens besides the words.
    let words = vec!["word"; DEADLY - 2].join(" ");
    let deadly = json!({"input": words, "background": true, "client_request_id": "deadly", "cache": {"mode": "off"}});
    let victim = apps[0].address;
    let post = tokio::spawn(async move {
        let _ = http::post(victim, "/v1/responses", &deadly).await;
    });
    until("the first replica to die", || std::future::ready((!apps[0].is_running()).then_some(()))).await;
    let _ = post.await;
    let keys = redis.ask(&["KEYS", "*:meta"]);
    let is_deadly = |key: &&str| redis.ask(&["HGET", key, "request"]) == "deadly";
    let key = keys.lines().find(is_deadly).expect("the deadly response").to_owned();
    let id = key.split(['{', '}']).nth(1).expect("an id").to_owned();
    let mut failed = None;
    for _ in 0..2000 {
        failed = status(&mut apps, &id).await.filter(|response| response["status"] == "failed");
        if failed.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let failed = failed.expect("the deadly response fails");
    assert_eq!(failed["error"]["code"], "engine_failed", "{failed}");
    let living: Vec<&App> = apps.iter_mut().filter_map(|app| app.is_running().then_some(&*app)).collect();
    assert_eq!(living.len(), 2, "three replicas have died of it");
    let mut texts = vec![];
    for (_, log) in &bystanders {
        let log = replay(living[0], &log.id()).await;
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
        texts.push(log.text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "no token is lost or repeated");
}

#[tokio::test]
async fn a_response_whose_model_nobody_serves_any_more_fails() {
    let redis = Redis::spawn();
    let a = replica(&redis, &["engine.scripted.prefill_ms=60000"]);
    let (mut cancelled, mut left) = (Client::extended(&a).await, Client::extended(&a).await);
    let mut ids = vec![];
    for client in [&mut cancelled, &mut left] {
        client.create(json!({})).await;
        let began = client.event_of("response.in_progress").await;
        ids.push(began["response"]["id"].as_str().expect("an id").to_owned());
    }
    // Simulates that all remaining replicas serve another model.
    for id in &ids {
        let key = meta(id);
        let header = redis.ask(&["HGET", &key, "header"]);
        redis.ask(&["HSET", &key, "header", &header.replace("\"model\":\"scripted\"", "\"model\":\"gone\"")]);
    }
    let b = replica(&redis, &[]);
    a.signal("KILL");
    let (mut again, _) = resumed(&b, &ids[0], None).await;
    let log = again.response().await;
    log.assert_gap_free();
    assert_eq!((log.status(), &log.response()["error"]["code"]), ("failed", &json!("engine_failed")));
    let answer = http::post(b.address, &format!("/v1/responses/{}/cancel", ids[1]), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.json()["status"], "in_progress");
}

#[tokio::test]
async fn a_cancel_of_what_no_living_replica_runs_ends_it_at_once() {
    let redis = Redis::spawn();
    let slow = ["engine.scripted.prefill_ms=60000", "cluster.lease_ms=1000"];
    let a = replica(&redis, &slow);
    let mut client = Client::extended(&a).await;
    client.create(json!({})).await;
    let began = client.event_of("response.in_progress").await;
    let id = began["response"]["id"].as_str().expect("an id").to_owned();
    let b = replica(&redis, &slow);
    let key = meta(&id);
    // An owner that the fleet has forgotten, so no replica takes its responses over.
    redis.ask(&["HSET", &key, "owner", "long-gone"]);
    a.signal("STOP");
    let answer = http::post(b.address, &format!("/v1/responses/{id}/cancel"), &json!({})).await;
    assert_eq!(answer.json()["incomplete_details"]["reason"], "cancelled", "{}", answer.text());
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_left_alone_and_said_once() {
    let redis = Redis::spawn();
    let a = replica(&redis, &["engine.scripted.prefill_ms=60000"]);
    let mut client = Client::extended(&a).await;
    client.create(json!({})).await;
    let began = client.event_of("response.in_progress").await;
    let id = began["response"]["id"].as_str().expect("an id").to_owned();
    let key = meta(&id);
    let header = redis.ask(&["HGET", &key, "header"]);
    redis.ask(&["HSET", &key, "header", &header.replacen("\"version\":1", "\"version\":2", 1)]);
    let b = replica(&redis, &["cluster.lease_ms=400"]);
    let (_, answer) = resumed(&b, &id, None).await;
    assert_eq!((kind(&answer), code(&answer)), ("error", "log_version_unsupported"));
    let answer = http::get(b.address, &format!("/v1/responses/{id}")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("log_version_unsupported")));
    let owner = redis.ask(&["HGET", &key, "owner"]);
    a.signal("KILL");
    until("the newer log to be told of", || {
        std::future::ready(b.stderr().contains("cannot read the response").then_some(()))
    })
    .await;
    // Waits for two seconds of heartbeats, measured by the tokens of another response.
    let (mut clock, mut log) = speaking(&b, 1).await;
    clock.rest(&mut log).await;
    assert_eq!(b.stderr().matches("cannot read the response").count(), 1, "{}", b.stderr());
    assert_eq!(redis.ask(&["HGET", &key, "owner"]), owner, "it is not claimed");
}

#[tokio::test]
async fn the_grace_of_a_response_that_nobody_follows_goes_on_after_a_take_over() {
    let redis = Redis::spawn();
    let a = replica(&redis, &["engine.scripted.prefill_ms=600000"]);
    let mut client = Client::extended(&a).await;
    client.create(json!({})).await;
    let began = client.event_of("response.in_progress").await;
    let id = began["response"]["id"].as_str().expect("an id");
    let key = meta(id);
    client.kill();
    until("the fleet to know that nobody follows", || async {
        (!redis.ask(&["HGET", &key, "nobody_since"]).is_empty()).then_some(())
    })
    .await;
    // Simulates that the followers left long ago, so that the grace is over.
    redis.ask(&["HSET", &key, "nobody_since", "1"]);
    let b = replica(&redis, &["engine.scripted.prefill_ms=600000"]);
    a.signal("KILL");
    until("the response to end", || async { (redis.ask(&["HGET", &key, "end"]) == "1").then_some(()) }).await;
    // The engine may have started before the cancel.
    assert_eq!(redis.ask(&["HGET", &key, "fence"]), "2", "it was taken over once");
    let ended = http::get(b.address, &format!("/v1/responses/{id}")).await.json();
    assert_eq!(ended["incomplete_details"]["reason"], "cancelled", "{ended}");
}
