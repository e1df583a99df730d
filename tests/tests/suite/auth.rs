//! Tests authentication, origins, and that a tenant learns nothing of another one.

use caudal_tests::{
    App, Client,
    http::{Answer, call, get},
    log::kind,
    spawn_app, until,
    ws::{Connect, SUBPROTOCOL},
};
use serde_json::{Value, json};

const KEYS: &str = r#"auth.keys=[{key="alpha-key-1", tenant="alpha"}, {key="alpha-key-2", tenant="alpha"}, {key="beta-key-11", tenant="beta"}]"#;

fn spawn() -> App {
    spawn_app(&["auth.mode=keys", KEYS])
}

async fn refused(connect: Connect) -> (u16, Value) {
    match connect.open().await {
        Ok(_) => panic!("the server let it in"),
        Err(response) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), serde_json::from_slice(&body).unwrap_or_default())
        }
    }
}

async fn connected(app: &App, key: &str) -> Client {
    let connect = Connect::to(app.address).protocols(SUBPROTOCOL).header("authorization", &format!("Bearer {key}"));
    let mut client = connect.open().await.expect("the key is good");
    assert_eq!(kind(&client.event().await), "caudal:session.created");
    client
}

#[tokio::test]
async fn without_a_good_key_the_upgrade_is_refused() {
    let app = spawn();
    for header in [
        None,
        Some("Bearer wrong-key-1"),
        Some("Bearer "),
        Some("Bearer alpha-key-"),
        Some("alpha-key-1"),
        Some("Basic YTpi"),
    ] {
        let mut connect = Connect::to(app.address);
        if let Some(value) = header {
            connect = connect.header("authorization", value);
        }
        let (status, body) = refused(connect).await;
        assert_eq!(status, 401, "{header:?}");
        // A WebSocket client may not read the body; if it does, the body is the error.
        assert!(body.is_null() || body["error"]["code"] == "invalid_api_key", "{header:?}: {body}");
    }
    for protocols in [
        "caudal.responses.v1, openai-insecure-api-key.wrong-key-1",
        "caudal.responses.v1, openai-insecure-api-key.",
        "alpha-key-1",
    ] {
        assert_eq!(refused(Connect::to(app.address).protocols(protocols)).await.0, 401, "{protocols}");
    }
}

#[tokio::test]
async fn a_good_key_opens_by_header_or_by_subprotocol() {
    let app = spawn();
    for key in ["alpha-key-1", "alpha-key-2", "beta-key-11"] {
        assert_eq!(connected(&app, key).await.run(json!({})).await.status(), "completed");
        let protocols = format!("caudal.responses.v1, openai-insecure-api-key.{key}");
        let mut browser = Connect::to(app.address).protocols(&protocols).open().await.expect("the key is good");
        assert_eq!(browser.protocol(), Some(SUBPROTOCOL), "the key is not selected, so not repeated");
        browser.event().await;
        assert_eq!(browser.run(json!({})).await.status(), "completed");
    }
}

#[tokio::test]
async fn http_wants_a_key_as_well() {
    let app = spawn();
    for (method, path) in [
        ("GET", "/v1/models"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/responses/resp_x"),
        ("DELETE", "/v1/responses/resp_x"),
        ("POST", "/v1/responses/resp_x/cancel"),
        ("GET", "/v1/responses/resp_x/input_items"),
    ] {
        for key in [None, Some("Bearer wrong-key-1")] {
            let mut request = call(app.address, method, path).json(&json!({"input": "x"}));
            if let Some(key) = key {
                request = request.header("authorization", key);
            }
            let answer = request.send().await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (401, &json!("invalid_api_key")),
                "{method} {path}"
            );
            assert_eq!(answer.json()["error"]["type"], "authentication_error");
        }
    }
    assert_eq!(get(app.address, "/healthz").await.status, 200, "health needs no key");
    let models = call(app.address, "GET", "/v1/models").header("authorization", "Bearer beta-key-11").send().await;
    assert_eq!(models.status, 200);
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_connect() {
    let app = spawn_app(&[r#"server.allowed_origins=["https://app.example"]"#]);
    let own = format!("http://{}", app.address);
    for origin in
        ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null", "http://127.0.0.1:1"]
    {
        let (status, body) = refused(Connect::to(app.address).header("origin", origin)).await;
        assert_eq!(status, 403, "{origin}");
        assert!(body.is_null() || body["error"]["code"] == "insufficient_permissions", "{body}");
        let answer = call(app.address, "POST", "/v1/responses")
            .json(&json!({"input": "x"}))
            .header("origin", origin)
            .send()
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (403, &json!("insufficient_permissions")),
            "{origin}"
        );
    }
    for origin in ["https://app.example", own.as_str()] {
        let mut client = Connect::to(app.address).header("origin", origin).open().await.expect("an allowed origin");
        assert_eq!(client.run(json!({})).await.status(), "completed", "{origin}");
    }
}

/// Sends every request about `id` over HTTP and WebSocket. Returns the answers with the id removed.
async fn all_answers(app: &App, key: &str, id: &str) -> Vec<Value> {
    let mut answers = vec![];
    for (method, path) in [
        ("GET", format!("/v1/responses/{id}")),
        ("GET", format!("/v1/responses/{id}?stream=true")),
        ("GET", format!("/v1/responses/{id}?stream=true&starting_after=2")),
        ("GET", format!("/v1/responses/{id}/input_items")),
        ("POST", format!("/v1/responses/{id}/cancel")),
        ("DELETE", format!("/v1/responses/{id}")),
    ] {
        let Answer { status, headers, body } =
            call(app.address, method, &path).header("authorization", &format!("Bearer {key}")).send().await;
        let names: Vec<String> = headers.keys().map(|k| k.to_string()).collect();
        let body = String::from_utf8_lossy(&body).replace(id, "ID");
        answers.push(json!({"what": method, "status": status, "headers": names, "body": body}));
    }
    let chained = call(app.address, "POST", "/v1/responses")
        .header("authorization", &format!("Bearer {key}"))
        .json(&json!({"input": "x", "previous_response_id": id}))
        .send()
        .await;
    answers.push(json!({"status": chained.status, "body": chained.text().replace(id, "ID")}));
    let mut client = connected(app, key).await;
    for message in [
        json!({"type": "caudal:response.resume", "response_id": id}),
        json!({"type": "caudal:response.resume", "response_id": id, "starting_after": 3}),
        json!({"type": "response.cancel", "response_id": id}),
        json!({"type": "response.create", "input": "x", "previous_response_id": id}),
    ] {
        client.send(message).await;
        let error = client.error().await;
        answers.push(serde_json::from_str(&error.to_string().replace(id, "ID")).unwrap());
    }
    answers
}

#[tokio::test]
async fn another_tenants_response_is_answered_as_one_that_does_not_exist() {
    let app =
        spawn_app(&["auth.mode=keys", KEYS, "engine.scripted.tokens=300", "engine.scripted.tokens_per_second=100"]);
    let mut alpha = connected(&app, "alpha-key-1").await;
    let finished = alpha.run(json!({"max_output_tokens": 3})).await.id();
    let unstored = alpha.run(json!({"max_output_tokens": 3, "store": false})).await.id();
    alpha.create(json!({})).await;
    let running = alpha.event_of("response.created").await["response"]["id"].as_str().unwrap().to_owned();
    let unknown = all_answers(&app, "beta-key-11", "resp_00000000000000000000000000000000").await;
    for id in [&finished, &unstored, &running] {
        assert_eq!(all_answers(&app, "beta-key-11", id).await, unknown, "{id}");
    }
    alpha.event_of("response.completed").await;
    // Another key of the same tenant has the same data.
    let mut colleague = connected(&app, "alpha-key-2").await;
    colleague.resume(&running, None).await;
    let log = colleague.response().await;
    log.assert_gap_free();
    assert_eq!(
        (log.status(), log.usage("output_tokens")),
        ("completed", 300),
        "nobody else's cancel or delete took effect"
    );
}

/// Sends every request about a conversation, its item and a prompt. Returns the answers with the ids removed.
async fn stored_answers(app: &App, key: &str, conversation: &str, item: &str, prompt: &str) -> Vec<Value> {
    let turn = |more: Value| {
        let mut body = json!({"input": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let said = json!({"items": [{"type": "message", "role": "user", "content": "x"}]});
    let asked = [
        ("GET", format!("/v1/conversations/{conversation}"), None),
        ("POST", format!("/v1/conversations/{conversation}"), Some(json!({"metadata": {"a": "b"}}))),
        ("POST", format!("/v1/conversations/{conversation}/fork"), Some(json!({}))),
        ("POST", format!("/v1/conversations/{conversation}/fork"), Some(json!({"after": item}))),
        ("GET", format!("/v1/conversations/{conversation}/items"), None),
        ("GET", format!("/v1/conversations/{conversation}/items?after={item}"), None),
        ("POST", format!("/v1/conversations/{conversation}/items"), Some(said)),
        ("GET", format!("/v1/conversations/{conversation}/items/{item}"), None),
        ("DELETE", format!("/v1/conversations/{conversation}/items/{item}"), None),
        ("DELETE", format!("/v1/conversations/{conversation}"), None),
        ("GET", format!("/v1/prompts/{prompt}"), None),
        ("GET", format!("/v1/prompts/{prompt}?version=1"), None),
        ("GET", format!("/v1/prompts?after={prompt}"), None),
        ("GET", format!("/v1/conversations?after={conversation}"), None),
        ("POST", "/v1/responses".into(), Some(turn(json!({"conversation": conversation})))),
        ("POST", "/v1/responses".into(), Some(turn(json!({"prompt": {"id": prompt}})))),
        ("POST", "/v1/responses".into(), Some(json!({"input": [{"type": "item_reference", "id": item}]}))),
        ("POST", "/v1/responses/input_tokens".into(), Some(turn(json!({"conversation": conversation})))),
        ("POST", "/v1/responses/input_tokens".into(), Some(turn(json!({"prompt": {"id": prompt}})))),
        ("POST", "/v1/responses/compact".into(), Some(json!({"input": [{"type": "item_reference", "id": item}]}))),
        ("POST", "/v1/client_secrets".into(), Some(json!({"session": {"conversation": conversation}}))),
    ];
    let without = |text: String| text.replace(conversation, "CONV").replace(item, "ITEM").replace(prompt, "PROMPT");
    let mut answers = vec![];
    for (method, path, body) in asked {
        let mut request = call(app.address, method, &path).header("authorization", &format!("Bearer {key}"));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await;
        answers.push(json!([method, without(path), answer.status, without(answer.text())]));
    }
    let mut client = connected(app, key).await;
    for message in [
        json!({"type": "caudal:response.resume", "conversation": conversation}),
        json!({"type": "response.create", "input": "x", "conversation": conversation}),
        json!({"type": "response.create", "input": "x", "prompt": {"id": prompt}}),
    ] {
        client.send(message).await;
        answers.push(serde_json::from_str(&without(client.error().await.to_string())).unwrap());
    }
    answers
}

#[tokio::test]
async fn what_another_tenant_stored_is_answered_as_what_does_not_exist() {
    let key = "0123456789abcdef0123456789abcdef";
    let keys = format!(r#"auth.keys=[{{key="alpha-key-1", tenant="alpha"}}, {{key="{key}", tenant="beta"}}]"#);
    let app = spawn_app(&["auth.mode=keys", &keys]);
    let alpha =
        |method: &str, path: &str| call(app.address, method, path).header("authorization", "Bearer alpha-key-1");
    let said = json!({"items": [{"type": "message", "role": "user", "content": "a secret"}]});
    let conversation = alpha("POST", "/v1/conversations").json(&said).send().await.json();
    let conversation = conversation["id"].as_str().unwrap();
    let path = format!("/v1/conversations/{conversation}/items");
    let items = alpha("GET", &path).send().await.json();
    let item = items["data"][0]["id"].as_str().unwrap();
    let prompt = json!({"id": "greeting", "instructions": "A secret."});
    assert_eq!(alpha("POST", "/v1/prompts").json(&prompt).send().await.status, 200);
    let unknown =
        stored_answers(&app, key, &format!("conv_{}", "0".repeat(32)), &format!("msg_{}", "0".repeat(32)), "none")
            .await;
    let foreign = stored_answers(&app, key, conversation, item, "greeting").await;
    assert!(unknown.iter().filter_map(|answer| answer[2].as_u64()).all(|status| status >= 400), "{unknown:#?}");
    assert_eq!(foreign, unknown);
    assert_eq!(alpha("GET", &path).send().await.json(), items, "nothing has changed");
}

#[tokio::test]
async fn an_expired_response_of_another_tenant_is_unknown_too() {
    let app = spawn_app(&["auth.mode=keys", KEYS, "generation.resume_window_ms=500"]);
    let id = connected(&app, "alpha-key-1").await.run(json!({"store": false})).await.id();
    let path = format!("/v1/responses/{id}");
    until("its own tenant to hear that it has expired", || async {
        let own = call(app.address, "GET", &path).header("authorization", "Bearer alpha-key-1").send().await;
        (own.status == 410).then_some(())
    })
    .await;
    let unknown = all_answers(&app, "beta-key-11", "resp_00000000000000000000000000000000").await;
    assert_eq!(all_answers(&app, "beta-key-11", &id).await, unknown);
}

#[tokio::test]
async fn request_ids_are_each_tenants_own() {
    let app = spawn();
    let fields = json!({"client_request_id": "turn-1"});
    let alpha = connected(&app, "alpha-key-1").await.run(fields.clone()).await;
    let same = connected(&app, "alpha-key-2").await.run(fields.clone()).await;
    let beta = connected(&app, "beta-key-11").await.run(fields).await;
    assert_eq!(alpha, same);
    assert_ne!(alpha.id(), beta.id());
}

#[tokio::test]
async fn a_browser_that_asks_first_is_answered_by_origin() {
    let app = spawn_app(&[r#"server.allowed_origins=["https://app.example"]"#]);
    let preflight = |origin: &'static str| {
        call(app.address, "OPTIONS", "/v1/responses")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization, content-type")
            .send()
    };
    let allowed = preflight("https://app.example").await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    let headers = allowed.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
    assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    let refused = preflight("https://evil.example").await;
    assert_eq!(refused.header("access-control-allow-origin"), None);
    let answer = call(app.address, "POST", "/v1/responses")
        .json(&json!({"input": "x"}))
        .header("origin", "https://app.example")
        .send()
        .await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
}
