//! Tests stored prompts: versions, variables, and sharing between replicas.

use caudal_tests::{
    App, Client, Redis,
    http::{call, get, post},
    spawn_app, until,
    ws::code,
};
use serde_json::{Value, json};

use super::redis::replica;

async fn put(app: &App, body: Value) -> Value {
    let stored = post(app.address, "/v1/prompts", &body).await;
    assert_eq!(stored.status, 200, "{stored:?}");
    stored.json()
}

#[tokio::test]
async fn prompts_are_stored_in_versions_listed_and_deleted() {
    let redis = Redis::spawn();
    for app in [spawn_app(&[]), replica(&redis, &[])] {
        let body = json!({"name": "greeting", "instructions": "Greet {{name}}.", "messages": [{"role": "user", "content": "In {{ language }}."}]});
        let first = put(&app, body.clone()).await;
        let id = first["id"].as_str().unwrap();
        assert_eq!((&first["object"], &first["version"]), (&json!("prompt"), &json!("1")));
        assert_eq!((&first["variables"], &first["name"]), (&json!(["language", "name"]), &json!("greeting")));
        let second = put(&app, json!({"id": id, "instructions": "Hello."})).await;
        assert_eq!((&second["id"], &second["version"]), (&json!(id), &json!("2")));
        let path = format!("/v1/prompts/{id}");
        assert_eq!(get(app.address, &path).await.json(), second);
        assert_eq!(get(app.address, &format!("{path}?version=1")).await.json(), first);
        assert_eq!(get(app.address, &format!("{path}?version=3")).await.json()["error"]["code"], "prompt_not_found");
        assert_eq!(get(app.address, &format!("{path}?version=x")).await.json()["error"]["param"], "version");
        let named = put(&app, json!({"id": "my-prompt.v", "instructions": "x"})).await;
        let listed = get(app.address, "/v1/prompts?order=asc&limit=1").await.json();
        assert_eq!((&listed["data"], &listed["has_more"]), (&json!([second]), &json!(true)));
        let rest = get(app.address, &format!("/v1/prompts?order=asc&after={id}")).await.json();
        assert_eq!((&rest["data"], &rest["has_more"]), (&json!([named]), &json!(false)));
        let deleted = call(app.address, "DELETE", &path).send().await.json();
        assert_eq!(deleted, json!({"id": id, "object": "prompt.deleted", "deleted": true}));
        assert_eq!(get(app.address, &path).await.status, 404);
        assert_eq!(call(app.address, "DELETE", &path).send().await.status, 404);
        for (body, param) in [
            (json!({}), "instructions"),
            (json!({"instructions": "{{no name}}"}), "instructions"),
            (json!({"id": "a b", "instructions": "x"}), "id"),
            (
                json!({"messages": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}),
                "messages[0].type",
            ),
        ] {
            let refused = post(app.address, "/v1/prompts", &body).await;
            assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(param)), "{body}");
        }
    }
}

#[tokio::test]
async fn a_prompt_gives_instructions_and_messages_before_the_input() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    put(
        &app,
        json!({"id": "p", "instructions": "say {{what}}", "messages": [{"role": "user", "content": "to {{whom}}"}]}),
    )
    .await;
    let mut client = Client::extended(&app).await;
    let variables = json!({"what": "one two three", "whom": {"type": "input_text", "text": "{{what}}"}});
    let log = client.run(json!({"input": "now", "prompt": {"id": "p", "version": "1", "variables": variables}})).await;
    log.assert_gap_free();
    // The scripted engine counts two tokens for each message besides its words: `say one two three`, `to {{what}}`, `now`.
    assert_eq!(log.usage("input_tokens"), (2 + 4) + (2 + 2) + (2 + 1));
    assert_eq!(log.response()["instructions"], "say one two three");
    assert_eq!(log.response()["prompt"]["id"], "p");
    assert_eq!(log.response()["prompt"]["version"], "1");
    let input = get(app.address, &format!("/v1/responses/{}/input_items", log.id())).await.json();
    assert_eq!(input["data"].as_array().unwrap().len(), 1, "the input is what the client sent");
    // The input may be omitted, and the request's own instructions take precedence.
    let variables = json!({"what": "x", "whom": "y"});
    let log = client
        .run(json!({"instructions": "be brief", "input": null, "prompt": {"id": "p", "variables": variables}}))
        .await;
    assert_eq!(log.usage("input_tokens"), (2 + 2) + (2 + 2));
}

#[tokio::test]
async fn variables_are_all_given_and_all_known() {
    let app = spawn_app(&[]);
    put(&app, json!({"id": "p", "instructions": "{{a}} {{b}}"})).await;
    put(&app, json!({"id": "silent", "instructions": "x"})).await;
    let mut client = Client::extended(&app).await;
    for (prompt, param) in [
        (json!({"id": "p", "variables": {"a": "1"}}), "prompt.variables.b"),
        (json!({"id": "p", "variables": {"a": "1", "b": "2", "c": "3"}}), "prompt.variables.c"),
        (json!({"id": "p", "variables": {"a": "1", "b": 2}}), "prompt.variables.b"),
        (json!({"id": "p", "version": "zero"}), "prompt.version"),
    ] {
        client.create(json!({"prompt": prompt})).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["error"]["param"]), ("invalid_request", &json!(param)), "{error}");
    }
    client.create(json!({"prompt": {"id": "silent"}, "input": null})).await;
    assert_eq!(client.error().await["error"]["param"], "input");
    for prompt in [json!({"id": "nothing"}), json!({"id": "p", "version": "9"})] {
        client.create(json!({"prompt": prompt})).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), ("prompt_not_found", &json!(404)));
    }
}

#[tokio::test]
async fn all_replicas_have_a_prompt_and_another_tenant_has_not() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &[]), replica(&redis, &[]));
    let stored = put(&a, json!({"id": "p", "instructions": "one two three"})).await;
    assert_eq!(get(b.address, "/v1/prompts/p").await.json(), stored);
    let log = Client::extended(&b).await.run(json!({"input": "x", "prompt": {"id": "p"}})).await;
    assert_eq!(log.response()["instructions"], "one two three");

    let keys = r#"auth.keys=[{key = "key-of-a", tenant = "a"}, {key = "key-of-b", tenant = "b"}]"#;
    let app = spawn_app(&["auth.mode=keys", keys]);
    let ask = async |method: &str, path: &str, key: &str| {
        call(app.address, method, path).header("authorization", &format!("Bearer {key}")).send().await
    };
    let body = json!({"id": "p", "instructions": "x"});
    let stored = call(app.address, "POST", "/v1/prompts").header("authorization", "Bearer key-of-a").json(&body);
    assert_eq!(stored.send().await.status, 200);
    for method in ["GET", "DELETE"] {
        let theirs = ask(method, "/v1/prompts/p", "key-of-b").await;
        let none = ask(method, "/v1/prompts/q", "key-of-b").await;
        assert_eq!((theirs.status, theirs.text().replace("'p'", "'q'")), (404, none.text()));
    }
    assert_eq!(ask("GET", "/v1/prompts", "key-of-b").await.json()["data"], json!([]));
    assert_eq!(ask("GET", "/v1/prompts/p", "key-of-a").await.status, 200);
}

#[tokio::test]
async fn hot_prompts_are_warmed_where_slots_are_idle() {
    let redis = Redis::spawn();
    let log = ["log.filter=debug,hyper=off"];
    let a = replica(&redis, &log);
    put(&a, json!({"id": "hot", "instructions": "one two three", "messages": [{"role": "user", "content": "q"}]}))
        .await;
    Client::extended(&a).await.run(json!({"input": "x", "prompt": {"id": "hot"}})).await;
    // A replica that starts now warms the prompt at once.
    let b = replica(&redis, &log);
    until("the prompt to be warmed", || async { b.stderr().contains("warmed").then_some(()) }).await;
    // With a single permit a warm-up would make requests wait, so there is none.
    let single = replica(&redis, &["log.filter=debug,hyper=off", "engine.max_running=1"]);
    Client::extended(&single).await.run(json!({})).await;
    assert!(!single.stderr().contains("warmed"));
}
