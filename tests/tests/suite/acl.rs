//! Tests users of Redis with exactly the rights that docs/operations.md lists.

use caudal_tests::{
    App, Client, EventLog, Redis,
    http::{call, get, post},
    redis::Sentinel,
    until,
};
use serde_json::{Value, json};

use super::{
    conversations::{conversation, items},
    redis::{LONG, ready, replay, replica_at, resumed, speaking},
};

async fn run(app: &App, fields: Value) -> EventLog {
    let log = Client::extended(app).await.run(fields).await;
    log.assert_gap_free();
    log
}

async fn delete(app: &App, path: &str) {
    let answer = call(app.address, "DELETE", path).send().await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
}

async fn responses(a: &App, b: &App) {
    let (mut client, mut log) = speaking(a, 5).await;
    let (mut other, _) = resumed(b, &log.id(), Some(3)).await;
    other.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    assert_eq!(replay(b, &log.id()).await, log);
    delete(b, &format!("/v1/responses/{}", log.id())).await;
    let unstored = run(a, json!({"store": false, "client_request_id": "once", "max_output_tokens": 3})).await;
    assert_eq!(unstored.status(), "incomplete");
}

async fn conversations(a: &App, b: &App) {
    let id = conversation(a, json!({"items": [{"role": "user", "content": "Hello"}]})).await;
    let path = format!("/v1/conversations/{id}");
    assert_eq!(post(b.address, &path, &json!({"metadata": {"n": "1"}})).await.status, 200);
    for app in [a, b] {
        run(app, json!({"input": "x", "conversation": id, "max_output_tokens": 3})).await;
    }
    let all = items(b, &id).await;
    assert_eq!(all.len(), 5);
    let item = all[0]["id"].as_str().expect("an id");
    for order in ["asc", "desc"] {
        let page = get(a.address, &format!("{path}/items?order={order}&after={item}")).await;
        assert_eq!(page.status, 200, "{page:?}");
    }
    delete(a, &format!("{path}/items/{item}")).await;
    delete(b, &path).await;
}

async fn prompts(a: &App, b: &App) {
    for text in ["one", "two"] {
        assert_eq!(post(a.address, "/v1/prompts", &json!({"id": "p", "instructions": text})).await.status, 200);
    }
    let log = run(b, json!({"prompt": {"id": "p"}, "max_output_tokens": 3})).await;
    assert_eq!(log.response()["instructions"], "two");
    assert_eq!(get(b.address, "/v1/prompts?order=asc").await.json()["data"][0]["id"], "p");
    delete(b, "/v1/prompts/p").await;
}

/// Creates a response whose followers all leave.
async fn orphan(url: &str) {
    let app = replica_at(url, &[LONG[0], LONG[1], "generation.orphan_grace_ms=200"]);
    let (client, log) = speaking(&app, 5).await;
    drop(client);
    let path = format!("/v1/responses/{}", log.id());
    until("it to be cancelled", || async {
        (get(app.address, &path).await.json()["status"] == "incomplete").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_documented_rights_suffice_and_all_are_used() {
    let redis = Redis::spawn();
    let url = format!("redis://{}@{}", redis.user("caudal", ""), redis.address);
    let settings =
        [LONG[0], LONG[1], "limits.requests_per_minute=600", "limits.tokens_per_minute=100000", "store.quota_mb=64"];
    let (a, b) = (replica_at(&url, &settings), replica_at(&url, &settings));
    responses(&a, &b).await;
    conversations(&a, &b).await;
    prompts(&a, &b).await;
    let fields = json!({"input": "again", "seed": 7, "max_output_tokens": 3});
    let first = run(&a, fields.clone()).await;
    let again = run(&b, fields).await;
    assert_eq!(again.text(), first.text());
    assert_eq!(
        again.response()["usage"]["input_tokens_details"]["cached_tokens"],
        again.usage("input_tokens"),
        "from the cache"
    );
    orphan(&url).await;
    let (_lost, log) = speaking(&a, 10).await;
    a.signal("KILL");
    assert_eq!(replay(&b, &log.id()).await.usage("output_tokens"), 300, "taken over");
    ready(&b, 200).await;
    assert_eq!(redis.refusals(), "");
    assert_eq!(redis.unused_rights("caudal"), [""; 0]);
}

#[tokio::test]
async fn the_documented_rights_suffice_with_sentinel() {
    let mut redis = Redis::spawn();
    let watch = Sentinel::spawn(&redis);
    let user = redis.user("caudal", "+role");
    watch.standby.user("caudal", "+role");
    let watcher = watch.sentinel.user("watcher", "");
    let (name, password) = watcher.split_once(':').expect("a name and a password");
    let url = watch.url().replace("://", &format!("://{user}@"));
    let settings = [format!("store.redis.sentinel_user={name}"), format!("store.redis.sentinel_password={password}")];
    let app = replica_at(&url, &settings.each_ref().map(String::as_str));
    run(&app, json!({})).await;
    assert_eq!(redis.refusals(), "");
    redis.kill();
    until("the failover", || async { (watch.master() == watch.standby.address).then_some(()) }).await;
    ready(&app, 200).await;
    run(&app, json!({})).await;
    assert_eq!((watch.standby.refusals(), watch.sentinel.refusals()), Default::default());
}
