//! Tests the OpenAPI and AsyncAPI documents that the server answers.

use caudal_tests::{http::call, http::get, spawn_app};
use serde_json::Value;

#[tokio::test]
async fn the_documents_are_public_and_cached() {
    let app = spawn_app(&["auth.mode=keys", "auth.keys=[{key=\"secret-key-of-a-tenant\",tenant=\"a\"}]"]);
    for (path, version) in [("/openapi.json", "openapi"), ("/asyncapi.json", "asyncapi")] {
        let answer = get(app.address, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.json()[version].as_str().is_some_and(|version| version.starts_with("3.")), "{path}");
        assert!(answer.header("cache-control").is_some_and(|value| value.contains("max-age")), "{path}");
        let head = call(app.address, "HEAD", path).send().await;
        let length = answer.body.len().to_string();
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some(&*length), 0), "{path}");
    }
}

#[tokio::test]
async fn the_document_has_the_methods_that_each_path_takes() {
    let app = spawn_app(&[]);
    let document = get(app.address, "/openapi.json").await.json();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 20);
    for (path, operations) in paths {
        let place = path.replace("{id}", "x").replace("{item}", "y");
        let answer = call(app.address, "OPTIONS", &place).send().await;
        let allow = answer.header("allow").unwrap_or_else(|| panic!("{path} answers OPTIONS: {answer:?}")).to_owned();
        let mut taken: Vec<String> = allow.split(", ").map(str::to_lowercase).collect();
        taken.retain(|method| method != "head" && method != "options");
        let mut documented: Vec<String> = operations.as_object().map(keys).unwrap_or_default();
        taken.sort();
        documented.sort();
        assert_eq!(taken, documented, "{path}");
    }
}

fn keys(object: &serde_json::Map<String, Value>) -> Vec<String> {
    object.keys().cloned().collect()
}
