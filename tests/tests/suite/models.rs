//! Tests models for operators and clients: loading, descriptions, reloading.

use caudal_tests::{
    Client, Setup,
    http::{self, call, get, post},
    spawn_app, until,
};
use serde_json::{Value, json};

#[tokio::test]
async fn while_models_load_probes_are_answered_and_requests_asked_to_come_back() {
    let starting = Setup::scripted().set(&["engine.scripted.load_ms=1500", "engine.max_running=3"]).spawn_loading();
    let address = starting.address.expect("a chosen port");
    let answer = until("the probe to be answered", || async {
        let answer = http::try_get(address, "/readyz").await.ok()?;
        (answer.json()["models"] != json!([])).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 503);
    let expected = json!({"status": "loading", "models": [{"id": "scripted", "loaded": false}]});
    assert_eq!(answer.json(), expected);
    assert_eq!(get(address, "/healthz").await.status, 200);
    for path in ["/v1/responses", "/v1/models", "/"] {
        let refused = post(address, path, &json!({"input": "hello"})).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("server_overloaded")), "{path}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        let message = refused.json()["error"]["message"].clone();
        assert_eq!(message, "The models are loading (0 of 1 are there). Try again.");
    }
    let page = call(address, "GET", "/").header("accept", "text/html,*/*;q=0.8").send().await;
    assert_eq!((page.status, page.header("refresh"), page.header("retry-after")), (503, Some("1"), Some("1")));
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert!(
        page.text().contains("<h1>The models are loading</h1>") && page.text().contains("0 of 1"),
        "{}",
        page.text()
    );
    assert_eq!(get(address, "/").await.json()["error"]["code"], "server_overloaded", "for who asks for no page");
    assert!(!starting.is_ready(), "it has said that it serves while it was loading");
    let app = starting.ready();
    assert_eq!(app.address, address);
    let ready = get(address, "/readyz").await;
    let expected = json!({"status": "ready", "models": [{"id": "scripted", "loaded": true}]});
    assert_eq!((ready.status, ready.json()), (200, expected));
    Client::plain(&app).await.run(json!({"input": "hello"})).await.assert_gap_free();
    assert!(app.stderr().contains("loading: scripted"), "{}", app.stderr());
}

#[tokio::test]
async fn a_server_that_loads_can_be_ended() {
    let starting = Setup::scripted().set(&["engine.scripted.load_ms=600000"]).spawn_loading();
    let address = starting.address.expect("a chosen port");
    until("it to listen", || async { http::try_get(address, "/healthz").await.ok() }).await;
    assert!(starting.terminate().success());
}

#[tokio::test]
async fn a_model_is_described_by_its_name() {
    let app = spawn_app(&[]);
    let listed = get(app.address, "/v1/models").await.json()["data"][0].clone();
    let alone = get(app.address, "/v1/models/scripted").await;
    assert_eq!((alone.status, alone.json()), (200, listed.clone()));
    for (field, value) in [
        ("context_length", json!(8192)),
        ("aliases", json!([])),
        ("adapters", json!([])),
        ("quantisation", Value::Null),
        ("owned_by", json!("caudal")),
    ] {
        assert_eq!(listed[field], value, "{field}");
    }
    assert_eq!(listed["capabilities"]["tools"], "prompt");
    let missing = get(app.address, "/v1/models/owner/name").await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn admin_routes_open_to_the_admin_key_alone() {
    let closed = spawn_app(&[]);
    let path = "/admin/models/scripted/reload";
    let answer = call(closed.address, "POST", path).header("authorization", "Bearer anything").send().await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("auth.admin_key"), "{}", answer.text());

    let keys = r#"auth.keys=[{key="tenant-key-1", tenant="a"}]"#;
    let app = spawn_app(&["auth.admin_key=admin-key-1", "auth.mode=keys", keys]);
    let reload =
        |key: &'static str, path: &'static str| call(app.address, "POST", path).header("authorization", key).send();
    assert_eq!(post(app.address, path, &json!({})).await.status, 401, "no key");
    for key in ["Bearer tenant-key-1", "Bearer admin-key-2", "admin-key-1", "Bearer "] {
        assert_eq!(reload(key, path).await.status, 401, "{key}");
    }
    let done = reload("Bearer admin-key-1", path).await;
    assert_eq!((done.status, &done.json()["id"]), (200, &json!("scripted")), "{}", done.text());
    assert!(
        done.json()["took_ms"].is_u64() && done.json()["old"]["created"].is_u64() && done.json()["new"].is_object()
    );
    let unknown = reload("Bearer admin-key-1", "/admin/models/other/reload").await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("model_not_found")));
    // The admin key belongs to no tenant.
    let models = call(app.address, "GET", "/v1/models").header("authorization", "Bearer admin-key-1").send().await;
    assert_eq!(models.status, 401);
    let page = call(app.address, "POST", path).header("authorization", "Bearer admin-key-1");
    assert_eq!(page.header("origin", "https://evil.example").send().await.status, 403);
    assert_eq!(get(app.address, "/admin/nothing").await.status, 404);
}
