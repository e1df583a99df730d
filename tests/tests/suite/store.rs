//! Tests how long a finished response is stored, and in how much memory.

use std::time::Duration;

use caudal_tests::{App, Client, http::get, spawn_app, until};
use serde_json::json;

async fn status(app: &App, id: &str) -> u16 {
    get(app.address, &format!("/v1/responses/{id}")).await.status
}

#[tokio::test]
async fn after_its_retention_a_response_is_gone() {
    let app = spawn_app(&["store.retention_s=1"]);
    let id = Client::plain(&app).await.run(json!({})).await.id();
    assert_eq!(status(&app, &id).await, 200);
    until("the response to be gone", || async { (status(&app, &id).await == 404).then_some(()) }).await;
}

/// Creates responses with so much input that five fill the store of these tests.
async fn large(app: &App, count: usize) -> Vec<String> {
    let mut client = Client::plain(app).await;
    let mut ids = vec![];
    for _ in 0..count {
        ids.push(client.run(json!({"input": "x".repeat(200_000)})).await.id());
    }
    ids
}

#[tokio::test]
async fn over_the_memory_bound_old_responses_leave_and_the_latest_stays() {
    let app = spawn_app(&["store.memory.max_mb=1"]);
    // Read often, but long ago.
    for id in large(&app, 4).await {
        for _ in 0..20 {
            assert_eq!(status(&app, &id).await, 200);
        }
    }
    // Eviction happens a moment later, so a round may have to be repeated.
    let latest = until("the oldest of a round to have left", || async {
        let ids = large(&app, 8).await;
        (status(&app, &ids[0]).await == 404).then_some(ids[7].clone())
    })
    .await;
    for _ in 0..50 {
        assert_eq!(status(&app, &latest).await, 200, "the latest is kept, whatever was often read before it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_memory_bound_does_not_touch_what_runs() {
    let app =
        spawn_app(&["store.memory.max_mb=1", "engine.scripted.tokens=100000", "engine.scripted.tokens_per_second=100"]);
    let mut running = Client::extended(&app).await;
    running.create(json!({})).await;
    let created = running.event_of("response.created").await;
    let mut other = Client::plain(&app).await;
    for _ in 0..15 {
        other.run(json!({"input": "x".repeat(200_000), "max_output_tokens": 1})).await;
    }
    let mut follower = Client::extended(&app).await;
    let id = created["response"]["id"].as_str().unwrap();
    follower.resume(id, None).await;
    follower.send(json!({"type": "response.cancel", "response_id": id})).await;
    let log = follower.response().await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
}
