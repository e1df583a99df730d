//! Tests keys of a file, rotation without a restart, and client secrets for browsers.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output};

use caudal_tests::{
    App, Client, Setup,
    http::{Answer, call},
    until,
    ws::{Connect, Received, SUBPROTOCOL, code},
};
use serde_json::{Value, json};

/// A temporary keys file, deleted at the end of the test.
struct Keys(PathBuf);

impl Keys {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("caudal-keys-{}-{name}.toml", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let setup = arguments.iter().fold(Setup::default(), |setup, argument| setup.argument(argument));
        setup.argument("--keys-file").argument(self.path()).run("key")
    }

    /// Creates a key. Returns its text.
    fn create(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["create"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a key").trim().to_owned()
    }

    fn revoke(&self, key: &str) {
        let id = key.split('_').nth(1).expect("a key names its id");
        assert!(self.run(&["revoke", id]).status.success());
    }

    fn serve(&self, settings: &[&str]) -> App {
        let file = format!("auth.keys_file={}", self.path());
        Setup::scripted().set(&["auth.mode=keys", &file]).set(settings).spawn()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn ask(app: &App, method: &str, path: &str, key: &str) -> Answer {
    call(app.address, method, path).header("authorization", &format!("Bearer {key}")).send().await
}

async fn post(app: &App, path: &str, key: &str, body: Value) -> Answer {
    call(app.address, "POST", path).header("authorization", &format!("Bearer {key}")).json(&body).send().await
}

async fn until_status(app: &App, key: &str, status: u16) {
    until(format!("{status}"), || async { (ask(app, "GET", "/v1/models", key).await.status == status).then_some(()) })
        .await;
}

/// Creates a client secret for `session` that is valid for `seconds`.
async fn secret(app: &App, key: &str, seconds: u64, session: Value) -> String {
    let body = json!({"expires_after": {"anchor": "created_at", "seconds": seconds}, "session": session});
    let answer = post(app, "/v1/client_secrets", key, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["value"].as_str().expect("a value").to_owned()
}

async fn socket(app: &App, secret: &str) -> Client {
    let protocols = format!("{SUBPROTOCOL}, openai-insecure-api-key.{secret}");
    let mut client = Connect::to(app.address).protocols(&protocols).open().await.expect("the secret is good");
    client.event_of("caudal:session.created").await;
    client
}

/// Returns the id of the next created response.
async fn created(client: &mut Client) -> String {
    let event = client.event_of("response.created").await;
    event["response"]["id"].as_str().expect("an id").to_owned()
}

/// Reads a connection to its end. Returns the close code.
async fn closed(client: &mut Client) -> Option<u16> {
    loop {
        if let Received::Closed(code) = client.receive().await {
            return code;
        }
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_while_the_server_runs() {
    let keys = Keys::new("rotation");
    let first = keys.create(&["--tenant", "alpha"]);
    assert_eq!(fs::metadata(keys.path()).expect("a file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(keys.path()).expect("a file");
    assert!(!text.contains(first.rsplit('_').next().expect("a secret")), "only a hash is kept: {text}");
    let app = keys.serve(&[]);
    until_status(&app, &first, 200).await;
    let id = post(&app, "/v1/responses", &first, json!({"input": "x"})).await.json()["id"].clone();
    let second = keys.create(&["--tenant", "alpha"]);
    until_status(&app, &second, 200).await;
    let path = format!("/v1/responses/{}", id.as_str().expect("an id"));
    assert_eq!(ask(&app, "GET", &path, &second).await.status, 200, "another key of the tenant is the same tenant");
    let listed = String::from_utf8(keys.run(&["list"]).stdout).expect("a list");
    assert_eq!(listed.lines().filter(|line| line.contains("alpha")).count(), 2, "{listed}");
    assert!(!listed.contains(&first) && !listed.contains(&second));
    let mut client = socket(&app, &first).await;
    let mut other = socket(&app, &second).await;
    keys.revoke(&first);
    assert_eq!(closed(&mut client).await, Some(1008), "its sockets close");
    until_status(&app, &first, 401).await;
    assert_eq!(other.run(json!({})).await.status(), "completed", "others do not notice");
    assert!(!keys.run(&["revoke", "0000"]).status.success());
    assert!(!app.stderr().contains(&first) && !app.stderr().contains(&second), "{}", app.stderr());
}

#[tokio::test]
async fn a_file_that_breaks_leaves_the_keys_as_they_were() {
    let keys = Keys::new("broken");
    let key = keys.create(&["--tenant", "alpha"]);
    let app = keys.serve(&[]);
    fs::set_permissions(keys.path(), fs::Permissions::from_mode(0o644)).expect("a mode");
    until("the log to say so", || async { app.stderr().contains("chmod 600").then_some(()) }).await;
    assert_eq!(ask(&app, "GET", "/v1/models", &key).await.status, 200);
    let file = format!("auth.keys_file={}", keys.path());
    let refused = Setup::scripted().set(&["auth.mode=keys", &file]).run("serve");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("chmod 600"));
}

#[tokio::test]
async fn a_key_does_what_its_scopes_and_models_say() {
    let keys = Keys::new("scopes");
    let model = ["--models", "caudal-scripted"];
    let reader = keys.create(&["--tenant", "alpha", "--scopes", "read"]);
    let writer = keys.create(&["--tenant", "alpha", "--scopes", "create"]);
    let admin = keys.create(&["--tenant", "alpha", "--scopes", "admin"]);
    let elsewhere = keys.create(&["--tenant", "alpha", "--models", "another-model"]);
    let here = keys.create(&[&["--tenant", "alpha"], &model[..]].concat());
    let app = keys.serve(&["engine.scripted.aliases=[\"caudal-scripted\"]"]);
    let create = |key: String| {
        let app = &app;
        async move { post(app, "/v1/responses", &key, json!({"input": "x"})).await.status }
    };
    for (key, reads, creates, admins) in
        [(&reader, 200, 403, 401), (&writer, 403, 200, 401), (&admin, 403, 403, 200), (&here, 200, 200, 401)]
    {
        let status = [
            ask(&app, "GET", "/v1/models", key).await.status,
            create(key.clone()).await,
            ask(&app, "GET", "/admin/cache", key).await.status,
        ];
        assert_eq!(status, [reads, creates, admins], "{key}");
    }
    assert_eq!(create(elsewhere.clone()).await, 403, "a model that it may not use");
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(post(&app, "/v1/chat/completions", &elsewhere, chat).await.status, 403);
    let compact = post(&app, "/v1/responses/compact", &elsewhere, json!({"input": "x"})).await;
    assert_eq!(compact.status, 403, "{}", compact.text());
    let mut read_only = socket(&app, &reader).await;
    read_only.create(json!({})).await;
    assert_eq!(code(&read_only.error().await), "insufficient_permissions");
    read_only.send(json!({"type": "response.cancel", "response_id": "resp_x"})).await;
    assert_eq!(code(&read_only.error().await), "insufficient_permissions");
    let past = keys.run(&["create", "--tenant", "a", "--expires", "2020-01-01"]);
    assert!(!past.status.success());
}

#[tokio::test]
async fn a_key_sees_the_models_that_it_may_use_and_is_told_which() {
    let keys = Keys::new("models");
    let here = keys.create(&["--tenant", "alpha", "--models", "small"]);
    let gone = keys.create(&["--tenant", "alpha", "--models", "huge"]);
    let any = keys.create(&["--tenant", "alpha"]);
    let app = keys.serve(&["engine.scripted.aliases=[\"small\"]"]);
    let listed = |key: String| {
        let app = &app;
        async move { ask(app, "GET", "/v1/models", &key).await.json()["data"].as_array().map_or(0, Vec::len) }
    };
    assert_eq!([listed(any.clone()).await, listed(here.clone()).await, listed(gone.clone()).await], [1, 1, 0]);
    assert_eq!(post(&app, "/v1/responses", &here, json!({"input": "x"})).await.json()["model"], "scripted");
    let refused = post(&app, "/v1/responses", &gone, json!({"input": "x"})).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["error"]["message"], "This key is for 'huge', and no such model is here.");
    for refused in [
        post(&app, "/v1/responses", &gone, json!({"input": "x", "model": "small"})).await,
        ask(&app, "GET", "/v1/models/small", &gone).await,
    ] {
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!("insufficient_permissions")));
    }
    let id = |key: &str| key.split('_').nth(1).expect("a key names its id").to_owned();
    let warned = |key: String, model: &'static str| {
        let app = &app;
        async move {
            until(format!("a warning of {model}"), || async {
                app.stderr().lines().any(|line| line.contains(&key) && line.contains(model)).then_some(())
            })
            .await;
        }
    };
    warned(id(&gone), "huge").await;
    assert!(!app.stderr().contains(&id(&here)), "{}", app.stderr());
    // A key that is created while the server runs.
    let later = keys.create(&["--tenant", "alpha", "--models", "small,vast"]);
    warned(id(&later), "vast").await;
}

#[tokio::test]
async fn a_client_secret_opens_what_it_is_pinned_to() {
    let keys = Keys::new("pins");
    let key = keys.create(&["--tenant", "alpha"]);
    let beta = keys.create(&["--tenant", "beta"]);
    let app = keys.serve(&["engine.scripted.aliases=[\"m\"]", "engine.scripted.tokens=30"]);
    let made = post(&app, "/v1/client_secrets", &key, json!({})).await.json();
    assert!(made["value"].as_str().is_some_and(|value| value.starts_with("ek_")), "{made}");
    assert!(made["expires_at"].as_u64().is_some() && made["session"].is_object(), "{made}");
    let any = made["value"].as_str().expect("a value");
    assert_eq!(post(&app, "/v1/responses", any, json!({"input": "x"})).await.status, 200);
    assert_eq!(post(&app, "/v1/client_secrets", any, json!({})).await.status, 403, "it makes no others");
    assert_eq!(ask(&app, "GET", "/admin/cache", any).await.status, 403, "nothing opens it here");
    assert_eq!(call(app.address, "GET", &format!("/v1/models?token={any}&api_key={any}")).send().await.status, 401);

    let conversation = |key: String| {
        let app = &app;
        async move { post(app, "/v1/conversations", &key, json!({})).await.json()["id"].as_str().expect("an id").to_owned() }
    };
    let (own, other, foreign) =
        (conversation(key.clone()).await, conversation(key.clone()).await, conversation(beta.clone()).await);
    let pinned = secret(&app, &key, 600, json!({"model": "m", "conversation": own, "max_output_tokens": 5})).await;
    let turn = post(&app, "/v1/responses", &pinned, json!({"input": "x"})).await.json();
    assert_eq!((&turn["conversation"]["id"], &turn["usage"]["output_tokens"]), (&json!(own), &json!(5)), "{turn}");
    let response = format!("/v1/responses/{}", turn["id"].as_str().expect("an id"));
    let elsewhere = post(&app, "/v1/responses", &key, json!({"input": "x", "conversation": other})).await.json();
    let elsewhere = format!("/v1/responses/{}", elsewhere["id"].as_str().expect("an id"));
    for (method, path, expected) in [
        ("GET", response.clone(), 200),
        ("GET", format!("{response}/input_items"), 200),
        ("GET", format!("/v1/conversations/{own}/items"), 200),
        ("GET", format!("/v1/conversations/{other}"), 404),
        ("GET", format!("/v1/conversations/{other}/items"), 404),
        ("GET", elsewhere.clone(), 404),
        ("POST", format!("{elsewhere}/cancel"), 404),
        ("GET", "/v1/conversations".into(), 403),
        ("GET", "/v1/prompts".into(), 403),
        ("DELETE", response.clone(), 403),
        ("DELETE", format!("/v1/conversations/{own}"), 403),
    ] {
        assert_eq!(ask(&app, method, &path, &pinned).await.status, expected, "{method} {path}");
    }
    for (body, expected) in [
        (json!({"input": "x", "conversation": other}), 404),
        (json!({"input": "x", "conversation": foreign}), 404),
        (json!({"input": "x", "max_output_tokens": 6}), 403),
        (json!({"input": "x", "previous_response_id": turn["id"]}), 403),
    ] {
        let answer = post(&app, "/v1/responses", &pinned, body.clone()).await;
        assert_eq!(answer.status, expected, "{body}: {}", answer.text());
    }
    let mut client = socket(&app, &pinned).await;
    let log = client.run(json!({})).await;
    assert_eq!((log.status(), log.usage("output_tokens")), ("incomplete", 5));
    for message in [
        json!({"type": "caudal:response.resume", "conversation": other}),
        json!({"type": "caudal:response.resume", "response_id": elsewhere.rsplit('/').next()}),
        json!({"type": "response.cancel", "response_id": elsewhere.rsplit('/').next()}),
        json!({"type": "response.create", "input": "x", "conversation": other}),
    ] {
        client.send(message.clone()).await;
        assert!(code(&client.error().await).ends_with("_not_found"), "{message}");
    }
    for (session, status) in [
        (json!({"conversation": foreign}), 404),
        (json!({"model": "unknown"}), 404),
        (json!({"max_output_tokens": 0}), 400),
        (json!({"tenant": "beta"}), 400),
    ] {
        assert_eq!(
            post(&app, "/v1/client_secrets", &key, json!({"session": session})).await.status,
            status,
            "{session}"
        );
    }
    for seconds in [0, 9, 7201] {
        let body = json!({"expires_after": {"seconds": seconds}});
        assert_eq!(post(&app, "/v1/client_secrets", &key, body).await.status, 400, "{seconds}");
    }
}

/// A `client_request_id` finds the response that was created with it before, but must not give access to another conversation.
#[tokio::test]
async fn a_pinned_client_secret_finds_no_response_of_elsewhere_by_its_request_id() {
    let keys = Keys::new("requests");
    let key = keys.create(&["--tenant", "alpha"]);
    let app = keys.serve(&[]);
    let own = post(&app, "/v1/conversations", &key, json!({})).await.json()["id"].clone();
    let pinned = secret(&app, &key, 600, json!({"conversation": own})).await;
    let turn = |id: &str| json!({"input": "x", "client_request_id": id});
    assert_eq!(post(&app, "/v1/responses", &key, turn("turn-1")).await.status, 200);
    let refused = post(&app, "/v1/responses", &pinned, turn("turn-1")).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (404, &json!("response_not_found")));
    let mut client = socket(&app, &pinned).await;
    client.create(turn("turn-1")).await;
    assert_eq!(code(&client.error().await), "response_not_found");
    // The client secret's own responses are found.
    let first = post(&app, "/v1/responses", &pinned, turn("turn-2")).await.json()["id"].clone();
    assert_eq!(post(&app, "/v1/responses", &pinned, turn("turn-2")).await.json()["id"], first);
    assert_eq!(client.run(turn("turn-2")).await.id(), first);
}

#[tokio::test]
async fn the_end_of_a_client_secret_closes_its_sockets_and_cancels_nothing() {
    let keys = Keys::new("ends");
    let (key, revoked) = (keys.create(&["--tenant", "alpha"]), keys.create(&["--tenant", "alpha"]));
    let app = keys.serve(&["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=20"]);
    let mut expiring = socket(&app, &secret(&app, &key, 10, json!({})).await).await;
    let kept = secret(&app, &revoked, 600, json!({})).await;
    let mut orphan = socket(&app, &kept).await;
    expiring.create(json!({})).await;
    orphan.create(json!({})).await;
    let ids = [created(&mut expiring).await, created(&mut orphan).await];
    keys.revoke(&revoked);
    assert_eq!(closed(&mut orphan).await, Some(1008), "its key was revoked");
    assert_eq!(closed(&mut expiring).await, Some(1008), "it has expired");
    assert_eq!(ask(&app, "GET", "/v1/models", &kept).await.status, 401);
    for id in ids {
        let response = ask(&app, "GET", &format!("/v1/responses/{id}"), &key).await.json();
        assert_eq!(response["status"], "in_progress", "{response}");
    }
}

#[tokio::test]
async fn keys_of_the_settings_make_client_secrets_where_they_cannot_be_guessed() {
    let short = r#"auth.keys=[{key="alpha-key-1", tenant="alpha"}]"#;
    let app = Setup::scripted().set(&["auth.mode=keys", short]).spawn();
    let refused = post(&app, "/v1/client_secrets", "alpha-key-1", json!({})).await;
    assert_eq!((refused.status, refused.text().contains("auth.token_secret")), (403, true), "{}", refused.text());
    let signed = ["auth.mode=keys", short, "auth.token_secret=0123456789abcdef0123456789abcdef"];
    let (one, two) = (Setup::scripted().set(&signed).spawn(), Setup::scripted().set(&signed).spawn());
    let made = secret(&one, "alpha-key-1", 60, json!({})).await;
    for replica in [&one, &two] {
        assert_eq!(post(replica, "/v1/responses", &made, json!({"input": "x"})).await.status, 200, "on every replica");
    }
    assert_eq!(ask(&app, "GET", "/v1/models", &made).await.status, 401, "signed elsewhere");
}
