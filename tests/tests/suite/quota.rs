//! Tests what a tenant may store, hold and open: more is refused by name, and other tenants are not affected.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, Redis, Setup,
    http::{self, Answer, call},
    raw::RawSocket,
    until,
    ws::Connect,
};
use serde_json::{Value, json};

use super::redis::{ready, replica, speaking};

const KEYS: [&str; 2] = [
    "auth.mode=keys",
    r#"auth.keys=[{key="alpha-key-1", tenant="alpha"}, {key="beta-key-22", tenant="beta"},
       {key="alpha-small", tenant="alpha", limits={storage_mb=1, requests_per_minute=40, priority=true}},
       {key="alpha-tight", tenant="alpha", limits={tokens_per_minute=30}}]"#,
];

async fn ask(app: &App, method: &str, path: &str, key: &str) -> Answer {
    call(app.address, method, path).header("authorization", &format!("Bearer {key}")).send().await
}

async fn post(app: &App, path: &str, key: &str, body: Value) -> Answer {
    call(app.address, "POST", path).header("authorization", &format!("Bearer {key}")).json(&body).send().await
}

fn code_of(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

/// Creates responses with an input of 100 kB until one is refused. Returns their ids and the refusal.
async fn fill(app: &App, key: &str) -> (Vec<String>, Answer) {
    let body = json!({"input": "x ".repeat(50_000), "max_output_tokens": 1});
    let mut ids = vec![];
    loop {
        let answer = post(app, "/v1/responses", key, body.clone()).await;
        if answer.status != 200 {
            return (ids, answer);
        }
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
        assert!(ids.len() < 300, "no quota");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_fills_its_part_of_redis_and_others_do_not_notice() {
    let redis = Redis::with(&["--save", "", "--maxmemory", "40mb", "--maxmemory-policy", "noeviction"]);
    let settings = [&KEYS[..], &["engine.scripted.context_length=1000000"]].concat();
    let app = replica(&redis, &settings);
    let mine = post(&app, "/v1/responses", "beta-key-22", json!({"input": "x"})).await.json()["id"].clone();
    let (ids, refused) = fill(&app, "alpha-key-1").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (429, "storage_quota_exceeded"), "{}", refused.text());
    assert!(refused.text().contains("10485760 bytes"), "a quarter: {}", refused.text());
    assert!(ids.len() >= 10, "{}", ids.len());
    let conversation = json!({"items": [{"role": "user", "content": "x".repeat(600_000)}]});
    let refused = post(&app, "/v1/conversations", "alpha-key-1", conversation.clone()).await;
    assert_eq!(code_of(&refused), "storage_quota_exceeded");
    assert_eq!(post(&app, "/v1/conversations", "beta-key-22", conversation).await.status, 200);
    assert_eq!(post(&app, "/v1/responses", "beta-key-22", json!({"input": "x"})).await.status, 200);
    let path = format!("/v1/responses/{}", mine.as_str().expect("an id"));
    assert_eq!(ask(&app, "GET", &path, "beta-key-22").await.status, 200);
    // A tenant over the quota can read and delete, and then has room.
    for id in &ids[..3] {
        assert_eq!(ask(&app, "GET", &format!("/v1/responses/{id}"), "alpha-key-1").await.status, 200);
        assert_eq!(ask(&app, "DELETE", &format!("/v1/responses/{id}"), "alpha-key-1").await.status, 200);
    }
    assert_eq!(post(&app, "/v1/responses", "alpha-key-1", json!({"input": "x"})).await.status, 200);
    let metrics = http::get(app.address, "/admin/metrics").await;
    assert_eq!(metrics.status, 403, "there is no admin key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_a_tenant_evicts_only_its_own() {
    let settings = [&KEYS[..], &["store.memory.max_mb=8", "engine.scripted.context_length=1000000"]].concat();
    let app = Setup::scripted().set(&settings).spawn();
    let mine = post(&app, "/v1/responses", "beta-key-22", json!({"input": "x"})).await.json()["id"].clone();
    let body = json!({"input": "x ".repeat(50_000), "max_output_tokens": 1});
    let mut ids = vec![];
    for _ in 0..60 {
        let answer = post(&app, "/v1/responses", "alpha-key-1", body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
    }
    let mut there = 0;
    for id in &ids {
        there += usize::from(ask(&app, "GET", &format!("/v1/responses/{id}"), "alpha-key-1").await.status == 200);
    }
    assert!((3..=20).contains(&there), "{there} of 60 in two megabytes");
    let path = format!("/v1/responses/{}", mine.as_str().expect("an id"));
    assert_eq!(ask(&app, "GET", &path, "beta-key-22").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_a_pause_and_a_cancel_needs_no_room() {
    let redis = Redis::with(&["--save", "", "--maxmemory-policy", "noeviction"]);
    let steady = ["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=50", "store.outage_ms=500"];
    let (app, other) = (replica(&redis, &steady), replica(&redis, &steady));
    let (mut paused, mut log) = speaking(&app, 10).await;
    let (mut cancelled, mut ended) = speaking(&app, 10).await;
    let conversation = http::post(app.address, "/v1/conversations", &json!({})).await.json()["id"].clone();
    let mut turn = Client::extended(&app).await;
    turn.create(json!({"conversation": conversation})).await;
    turn.event_of("response.output_text.delta").await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let full = until("a full store", || async {
        let answer = http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((full.status, code_of(&full).as_str()), (503, "store_full"), "{}", full.text());
    assert!(full.header("retry-after").is_some());
    let deleted =
        http::call(app.address, "DELETE", &format!("/v1/conversations/{}", conversation.as_str().expect("an id")));
    for replica in [&app, &other] {
        ready(replica, 200).await;
    }
    // Cancels on the replica that does not run the response.
    let path = format!("/v1/responses/{}/cancel", ended.id());
    let begun = Instant::now();
    let answer = http::post(other.address, &path, &json!({})).await;
    let reason = answer.json()["incomplete_details"]["reason"].clone();
    assert_eq!((answer.status, reason), (200, json!("cancelled")), "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    cancelled.rest(&mut ended).await;
    ended.assert_gap_free();
    assert_eq!(deleted.send().await.status, 200);
    // Longer than the server waits for an unreachable store.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ready(&app, 200).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    paused.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
    assert_eq!(http::post(other.address, "/v1/responses", &json!({"input": "x"})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_who_do_not_read_a_large_log_hold_little_of_it() {
    let redis = Redis::spawn();
    let app = replica(&redis, &["engine.scripted.tokens=1500", "engine.scripted.context_length=100000"]);
    let body = json!({"input": "x ".repeat(20_000), "top_logprobs": 20, "include": ["message.output_text.logprobs"]});
    let id = http::post(app.address, "/v1/responses", &body).await.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/responses/{id}?stream=true");
    // The first read causes one-time allocations, which must not count.
    let events = call(app.address, "GET", &path).events().await.all().await.len();
    assert!(events > 1500, "{events}");
    let before = app.resident_bytes();
    let mut unread = vec![];
    for _ in 0..60 {
        let mut events = call(app.address, "GET", &path).events().await;
        assert!(events.next().await.is_some());
        unread.push(events);
    }
    let mut sockets = vec![];
    for _ in 0..20 {
        let mut client = Connect::to(app.address)
            .protocols("caudal.responses.v1")
            .receive_buffer(4096)
            .open()
            .await
            .expect("a socket");
        client.resume(&id, None).await;
        sockets.push(client);
    }
    let answered = Instant::now();
    assert_eq!(http::get(app.address, "/healthz").await.status, 200);
    assert!(answered.elapsed() < Duration::from_secs(2), "{:?}", answered.elapsed());
    let grown = app.resident_bytes().saturating_sub(before) >> 20;
    println!("80 followers hold {grown} MiB");
    assert!(grown < 150, "{grown} MiB");
    let last = unread.pop().expect("a stream").all().await;
    assert_eq!(last.len() + 1, events, "and each gets all of it");
}

#[tokio::test]
async fn a_key_has_limits_of_its_own() {
    let redis = Redis::spawn();
    let app = replica(&redis, &[&KEYS[..], &["engine.scripted.context_length=1000000"]].concat());
    let (ids, refused) = fill(&app, "alpha-small").await;
    assert_eq!(
        (code_of(&refused).as_str(), refused.text().contains("This key may store 1048576 bytes")),
        ("storage_quota_exceeded", true),
        "{}",
        refused.text()
    );
    assert_eq!(
        post(&app, "/v1/responses", "alpha-key-1", json!({"input": "x"})).await.status,
        200,
        "its tenant has room"
    );
    assert_eq!(ask(&app, "DELETE", &format!("/v1/responses/{}", ids[0]), "alpha-key-1").await.status, 200);
    assert_eq!(post(&app, "/v1/responses", "alpha-small", json!({"input": "x"})).await.status, 200);
    let tiered = |key| {
        let app = &app;
        async move {
            post(app, "/v1/responses", key, json!({"input": "x", "service_tier": "priority"})).await.json()["service_tier"].clone()
        }
    };
    assert_eq!((tiered("alpha-small").await, tiered("alpha-key-1").await), (json!("priority"), json!("default")));
    let refused = loop {
        let answer = post(&app, "/v1/responses", "alpha-small", json!({"input": "x", "max_output_tokens": 1})).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.status, code_of(&refused).as_str()), (429, "rate_limit_exceeded"));
    assert!(refused.text().contains("This key may send 40 requests a minute"), "{}", refused.text());
    assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("40"));
    assert_eq!(post(&app, "/v1/responses", "alpha-tight", json!({"input": "x"})).await.status, 200);
    let refused = post(&app, "/v1/responses", "alpha-tight", json!({"input": "x"})).await;
    let refused = if refused.status == 200 {
        post(&app, "/v1/responses", "alpha-tight", json!({"input": "x"})).await
    } else {
        refused
    };
    assert!(refused.text().contains("This key may use 30 tokens a minute"), "{}", refused.text());
    assert_eq!(
        post(&app, "/v1/responses", "alpha-key-1", json!({"input": "x"})).await.status,
        200,
        "others are not held to it"
    );
    let wrong = Setup::scripted().set(&[
        "auth.mode=keys",
        r#"auth.keys=[{key="alpha-key-1", tenant="a", limits={requests_per_minute=1000001}}]"#,
    ]);
    let wrong = wrong.run("serve");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("limits.requests_per_minute is at most 1000000"));
}

#[tokio::test]
async fn sockets_of_an_address_and_of_a_tenant_are_bounded() {
    for (setting, name) in [("server.sockets_per_address=3", "address"), ("server.sockets_per_tenant=3", "tenant")] {
        let app = Setup::scripted().set(&[setting, "auth.admin_key=open-sesame"]).spawn();
        let mut open = vec![];
        for _ in 0..3 {
            open.push(Client::plain(&app).await);
        }
        let Err(refused) = Connect::to(app.address).open().await else { panic!("a fourth socket") };
        assert_eq!(refused.status().as_u16(), 429);
        let body = String::from_utf8(refused.into_body().unwrap_or_default()).expect("text");
        assert!(body.contains("rate_limit_exceeded") && body.contains(name), "{body}");
        drop(open.pop());
        until("room", || async { Connect::to(app.address).open().await.ok() }).await;
        let metrics = call(app.address, "GET", "/admin/metrics")
            .header("authorization", "Bearer open-sesame")
            .send()
            .await
            .text();
        assert!(metrics.contains(&format!("caudal_limited_total{{limit=\"{name}_sockets\"}}")), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_never_whole_are_bounded() {
    let app = Setup::scripted()
        .set(&["server.max_message_bytes=1000000", "server.heartbeat_ms=300", "server.body_timeout_ms=1000"])
        .spawn();
    let part = vec![b'x'; 900_000];
    let before = app.resident_bytes();
    // A tenant may hold 32 messages of the maximum size.
    let mut sockets = vec![];
    let mut refused = 0;
    for _ in 0..45 {
        let mut socket = RawSocket::connect(app.address).await;
        if !socket.send(0x01, &part).await {
            refused += 1;
        }
        sockets.push(socket);
    }
    let mut codes = vec![];
    for socket in &mut sockets {
        codes.push(socket.closed().await);
    }
    assert!(codes.iter().all(|code| *code == Some(4003)), "{refused} {codes:?}");
    assert!(app.resident_bytes().saturating_sub(before) < 120 << 20);
    assert_eq!(Client::plain(&app).await.run(json!({})).await.status(), "completed");
    let mut fragments = RawSocket::connect(app.address).await;
    let mut sent = fragments.send(0x01, b"").await;
    for _ in 0..5000 {
        sent = sent && fragments.send(0x00, b"").await;
    }
    assert_eq!(fragments.closed().await, Some(1009));
}

#[tokio::test]
async fn a_stream_ends_with_the_key_that_opened_it_and_what_runs_goes_on() {
    let file = std::env::temp_dir().join(format!("caudal-quota-keys-{}.toml", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let path = file.to_str().expect("a path");
    let key = |arguments: &[&str]| {
        let setup = arguments.iter().fold(Setup::default(), |setup, argument| setup.argument(argument));
        let output = setup.argument("--keys-file").argument(path).run("key");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let limits = ["--requests-per-minute", "500", "--tokens-per-minute", "90000", "--storage-mb", "10", "--priority"];
    let first = key(&[&["create", "--tenant", "alpha"], &limits[..]].concat());
    let second = key(&["create", "--tenant", "alpha"]);
    let listed = key(&["list"]);
    assert!(listed.contains("500 requests a minute\t90000 tokens a minute\t10 MB of storage\tpriority"), "{listed}");
    let file_setting = format!("auth.keys_file={path}");
    let settings =
        ["auth.mode=keys", &file_setting, "engine.scripted.tokens=400", "engine.scripted.tokens_per_second=50"];
    let app = Setup::scripted().set(&settings).spawn();
    let bearer = format!("Bearer {first}");
    let body = json!({"input": "x", "stream": true});
    let mut stream =
        call(app.address, "POST", "/v1/responses").header("authorization", &bearer).json(&body).events().await;
    let created: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
    let chat = json!({"messages": [{"role": "user", "content": "x"}], "stream": true});
    let mut chunks =
        call(app.address, "POST", "/v1/chat/completions").header("authorization", &bearer).json(&chat).events().await;
    chunks.next().await.expect("a chunk");
    let mut plain = Connect::to(app.address).header("authorization", &bearer).open().await.expect("a socket");
    plain.create(json!({})).await;
    let on_socket = plain.event_of("response.created").await["response"]["id"].clone();
    key(&["revoke", first.split('_').nth(1).expect("an id")]);
    let events = stream.all().await;
    let [.., error, done] = &events[..] else { panic!("{events:?}") };
    assert_eq!((error.event.as_deref(), done.data.as_str()), (Some("error"), "[DONE]"));
    assert!(error.data.contains("invalid_api_key"), "{}", error.data);
    let chunks = chunks.all().await;
    assert!(chunks[chunks.len() - 2].data.contains("invalid_api_key"), "{chunks:?}");
    assert_eq!(plain.closed().await, Some(1008));
    // Longer than the server waits for a client that has left.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for id in [&created["response"]["id"], &on_socket] {
        let path = format!("/v1/responses/{}", id.as_str().expect("an id"));
        let response = ask(&app, "GET", &path, &second).await.json();
        assert!(response["status"] == "in_progress" || response["status"] == "completed", "{response}");
    }
    let _ = std::fs::remove_file(&file);
}
