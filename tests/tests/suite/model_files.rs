//! Tests the download of a model's file, for an engine in the browser.

use std::{fs, path::PathBuf};

use caudal_tests::{
    App,
    http::{Answer, call, get},
    spawn_app,
};
use serde_json::json;

/// SHA-256 of `0123456789`.
const SUM: &str = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
const PATH: &str = "/v1/models/scripted/file";

/// A temporary file, deleted at the end of the test.
struct Weights(PathBuf);

impl Weights {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("caudal-weights-{}-{name}", std::process::id()));
        fs::write(&path, "0123456789").expect("a file");
        Self(path)
    }

    fn serve(&self, settings: &[&str]) -> App {
        let file = format!("engine.scripted.file={}", self.0.display());
        spawn_app(&[settings, &[&file]].concat())
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn ask(app: &App, headers: &[(&str, &str)]) -> Answer {
    headers.iter().fold(call(app.address, "GET", PATH), |call, (name, value)| call.header(name, value)).send().await
}

#[tokio::test]
async fn a_shared_file_is_answered_whole_or_by_ranges() {
    let weights = Weights::new("ranges");
    let app = weights.serve(&[]);
    let etag = format!("\"sha256-{SUM}\"");
    let whole = ask(&app, &[]).await;
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    for (name, value) in [
        ("etag", etag.as_str()),
        ("accept-ranges", "bytes"),
        ("cache-control", "private, no-cache"),
        ("content-length", "10"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    let head = call(app.address, "HEAD", PATH).send().await;
    assert_eq!(
        (head.status, head.header("content-length"), head.header("etag")),
        (200, Some("10"), Some(etag.as_str()))
    );
    assert!(head.body.is_empty());
    for (range, body, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let part = ask(&app, &[("range", range)]).await;
        let got = (part.status, part.text(), part.header("content-range"));
        assert_eq!(got, (206, body.to_owned(), Some(content_range)), "{range}");
    }
    let beyond = ask(&app, &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let several = ask(&app, &[("range", "bytes=0-1,4-5")]).await;
    assert_eq!((several.status, several.text().as_str()), (200, "0123456789"), "several ranges get the whole file");
}

#[tokio::test]
async fn conditions_hold_and_a_named_version_is_immutable() {
    let weights = Weights::new("conditions");
    let app = weights.serve(&[]);
    let etag = format!("\"sha256-{SUM}\"");
    assert_eq!(ask(&app, &[("if-none-match", &etag)]).await.status, 304);
    assert_eq!(ask(&app, &[("if-none-match", "\"another\"")]).await.status, 200);
    assert_eq!(ask(&app, &[("range", "bytes=0-1"), ("if-range", &etag)]).await.status, 206);
    assert_eq!(ask(&app, &[("range", "bytes=0-1"), ("if-range", "\"another\"")]).await.status, 200);
    let named = get(app.address, &format!("{PATH}?sha256={SUM}")).await;
    assert_eq!((named.status, named.header("cache-control")), (200, Some("private, max-age=31536000, immutable")));
    fs::write(&weights.0, "another file").expect("a file");
    let gone = get(app.address, &format!("{PATH}?sha256={SUM}")).await;
    assert_eq!((gone.status, &gone.json()["error"]["code"]), (404, &json!("file_not_found")));
    assert_ne!(ask(&app, &[]).await.header("etag"), Some(etag.as_str()), "a replaced file has another tag");
    let unknown = get(app.address, &format!("{PATH}?colour=1")).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["param"]), (400, &json!("colour")));
}

#[tokio::test]
async fn a_file_is_refused_where_it_is_not_shared_or_not_the_keys() {
    let app = spawn_app(&[]);
    let refused = get(app.address, PATH).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!("insufficient_permissions")));
    assert!(refused.text().contains("engine.models[].share"), "{}", refused.text());
    let missing = get(app.address, "/v1/models/owner/name/file").await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("model_not_found")));

    let weights = Weights::new("keys");
    let keys = "auth.keys=[{ key = \"other-model-1\", tenant = \"a\", models = [\"other\"] }, { key = \"may-read-1\", tenant = \"b\" }]";
    let app = weights.serve(&["auth.mode=keys", keys]);
    assert_eq!(ask(&app, &[]).await.status, 401);
    assert_eq!(ask(&app, &[("authorization", "Bearer other-model-1")]).await.status, 403);
    assert_eq!(ask(&app, &[("authorization", "Bearer may-read-1")]).await.status, 200);
}

#[tokio::test]
async fn the_page_may_run_webassembly_with_threads() {
    let folder = std::env::temp_dir().join(format!("caudal-isolated-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("index.html"), "<!doctype html>").expect("a page");
    let app = spawn_app(&[&format!("server.chat_dir={}", folder.display())]);
    let page = get(app.address, "/").await;
    for (name, value) in
        [("cross-origin-opener-policy", "same-origin"), ("cross-origin-embedder-policy", "require-corp")]
    {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(policy.contains("script-src 'self' 'wasm-unsafe-eval';"), "{policy}");
    assert!(policy.contains("worker-src 'self' blob:;"), "{policy}");
    let _ = fs::remove_dir_all(&folder);
}

#[tokio::test]
async fn a_message_keeps_its_metadata_in_a_conversation() {
    let app = spawn_app(&[]);
    let said = |role: &str| json!({"role": role, "content": "x", "metadata": {"where": "browser"}});
    let created = caudal_tests::http::post(app.address, "/v1/conversations", &json!({})).await.json();
    let path = format!("/v1/conversations/{}/items", created["id"].as_str().expect("an id"));
    let body = json!({"items": [said("user"), said("assistant"), {"role": "user", "content": "y"}]});
    assert_eq!(caudal_tests::http::post(app.address, &path, &body).await.status, 200);
    let listed = get(app.address, &format!("{path}?order=asc")).await.json();
    for at in [0, 1] {
        assert_eq!(listed["data"][at]["metadata"], json!({"where": "browser"}), "{listed}");
    }
    assert_eq!(listed["data"][2].get("metadata"), None);
    let wrong = json!({"items": [{"role": "user", "content": "x", "metadata": {"where": "y".repeat(513)}}]});
    let refused = caudal_tests::http::post(app.address, &path, &wrong).await.json();
    assert_eq!(refused["error"]["param"], "items[0].metadata", "{refused}");
}
