//! Tests generations without followers: they go on for the grace period and are then cancelled.

use std::time::{Duration, Instant};

use caudal_tests::{App, Client, http, log::kind, spawn_app, until};
use serde_json::{Value, json};

/// A reply of three seconds.
const LONG: [&str; 2] = ["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=100"];

async fn begun(app: &App) -> (Client, String) {
    let mut client = Client::extended(app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    client.event_of("response.output_text.delta").await;
    (client, created["response"]["id"].as_str().unwrap().to_owned())
}

async fn ended(app: &App, id: &str) -> Value {
    let path = format!("/v1/responses/{id}");
    until("the response to end", || async {
        Some(http::get(app.address, &path).await.json())
            .filter(|r| r["status"] != "in_progress" && r["status"] != "queued")
    })
    .await
}

fn spawn(more: &[&str]) -> App {
    let mut settings = LONG.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

#[tokio::test]
async fn without_followers_it_is_cancelled_after_the_grace_and_frees_its_slot() {
    let app = spawn(&["engine.max_running=1", "generation.orphan_grace_ms=300"]);
    let (client, id) = begun(&app).await;
    let left = Instant::now();
    client.kill();
    let response = ended(&app, &id).await;
    assert!(left.elapsed() >= Duration::from_millis(300), "not before the grace has passed");
    assert_eq!(
        (&response["status"], &response["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("cancelled"))
    );
    assert!(response["usage"]["output_tokens"].as_u64().unwrap() < 300);
    begun(&app).await;
}

#[tokio::test]
async fn a_resume_within_the_grace_rescues_it() {
    let app = spawn(&["generation.orphan_grace_ms=1000"]);
    let (client, id) = begun(&app).await;
    client.kill();
    let mut again = Client::extended(&app).await;
    again.resume(&id, None).await;
    let log = again.response().await;
    log.assert_gap_free();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300), "it went on past the first grace");
}

#[tokio::test]
async fn while_one_of_two_followers_stays_it_goes_on() {
    let app = spawn(&["generation.orphan_grace_ms=200"]);
    let (first, id) = begun(&app).await;
    let mut second = Client::extended(&app).await;
    second.resume(&id, None).await;
    assert_eq!(kind(&second.event().await), "caudal:response.resumed");
    first.kill();
    let log = second.response().await;
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
}

#[tokio::test]
async fn an_sse_follower_counts_as_well() {
    let app = spawn(&["generation.orphan_grace_ms=200"]);
    let (first, id) = begun(&app).await;
    let mut events = http::call(app.address, "GET", &format!("/v1/responses/{id}?stream=true")).events().await;
    events.next().await.expect("an event");
    first.kill();
    let last = events.all().await;
    assert_eq!(last[last.len() - 2].event.as_deref(), Some("response.completed"));
}

#[tokio::test]
async fn an_orphan_in_the_queue_leaves_it() {
    let app = spawn(&["engine.max_running=1", "generation.orphan_grace_ms=200", "engine.scripted.tokens=4000"]);
    let (mut holder, _) = begun(&app).await;
    let mut queued = Client::extended(&app).await;
    queued.create(json!({})).await;
    let id = queued.event_of("response.queued").await["response"]["id"].as_str().unwrap().to_owned();
    queued.kill();
    let response = ended(&app, &id).await;
    assert_eq!(response["incomplete_details"]["reason"], "cancelled");
    assert_eq!(response["usage"]["output_tokens"], 0);
    // The response that holds the permit is not affected.
    holder.event_of("response.output_text.delta").await;
}
