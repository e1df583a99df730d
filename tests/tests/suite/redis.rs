//! Tests replicas on one Redis: each serves every response.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, EventLog, Redis, Setup, http,
    log::{kind, output_text},
    redis::Tls,
    until,
    ws::{Connect, code, create},
};
use futures::future::join_all;
use serde_json::{Value, json};

pub fn replica(redis: &Redis, settings: &[&str]) -> App {
    replica_at(&redis.url(), settings)
}

pub fn replica_at(url: &str, settings: &[&str]) -> App {
    let store = ["store.kind=redis", &format!("store.redis.url={url}")];
    Setup::scripted().set(&store).set(settings).spawn()
}

/// A reply of three seconds.
pub const LONG: [&str; 2] = ["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=100"];

/// Creates a response and reads at least this many deltas. Returns the client and the events.
pub async fn speaking(app: &App, deltas: usize) -> (Client, EventLog) {
    let mut client = Client::extended(app).await;
    client.create(json!({})).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < deltas {
        log.push(client.event().await);
    }
    (client, log)
}

pub async fn resumed(app: &App, id: &str, after: Option<u64>) -> (Client, Value) {
    let mut client = Client::extended(app).await;
    client.resume(id, after).await;
    let answer = client.event().await;
    (client, answer)
}

pub async fn replay(app: &App, id: &str) -> EventLog {
    let (mut client, answer) = resumed(app, id, None).await;
    assert_eq!(kind(&answer), "caudal:response.resumed", "{answer}");
    let log = client.response().await;
    log.assert_gap_free();
    log.assert_text_agrees();
    log
}

pub async fn ready(app: &App, status: u16) {
    until(format!("readyz to say {status}"), || async {
        (http::get(app.address, "/readyz").await.status == status).then_some(())
    })
    .await;
}

pub async fn refused(client: &mut Client, expected: &str) {
    let asked = Instant::now();
    client.create(json!({})).await;
    let error = client.error().await;
    assert_eq!((code(&error), &error["status"]), (expected, &json!(503)), "{error}");
    assert!(error["retry_after_ms"].is_u64(), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(5), "promptly, not after {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_response_is_followed_and_resumed_on_any_replica() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 20).await;
    let (mut other, answer) = resumed(&b, &log.id(), Some(10)).await;
    assert_eq!((&answer["status"], &answer["starting_after"]), (&json!("in_progress"), &json!(10)));
    assert!(answer["last_sequence_number"].as_u64().unwrap() >= 20, "{answer}");
    let mut tail = EventLog::default();
    other.rest(&mut tail).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!(log.usage("output_tokens"), 300);
    assert_eq!(tail.events, log.events[11..], "the same events with the same numbers");
    assert_eq!(replay(&b, &log.id()).await, log);
    let stored = http::get(b.address, &format!("/v1/responses/{}", log.id())).await.json();
    assert_eq!(output_text(&stored), log.text());
    // The response can also be continued there.
    let mut client = Client::extended(&b).await;
    let next = client.run(json!({"previous_response_id": log.id()})).await;
    assert!(next.usage("input_tokens") > log.usage("input_tokens"));
}

#[tokio::test]
async fn whoever_joins_at_any_moment_sees_all_of_it_once() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 1).await;
    let id = log.id();
    let joined = async {
        let mut followers = vec![];
        for n in 0..40 {
            let (app, id) = (if n % 2 == 0 { &a } else { &b }, id.clone());
            followers.push(resumed(app, &id, None).await);
            tokio::task::yield_now().await;
        }
        let logs = followers.into_iter().map(|(mut client, _)| async move { client.response().await });
        join_all(logs).await
    };
    let (joined, ()) = tokio::join!(joined, client.rest(&mut log));
    log.assert_gap_free();
    for seen in joined {
        assert_eq!(seen, log);
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_owner_from_any_replica() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 5).await;
    let mut other = Client::extended(&b).await;
    let asked = Instant::now();
    other.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    let took = asked.elapsed();
    println!("cancelled from another replica after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    log.assert_gap_free();
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    assert_eq!(replay(&b, &log.id()).await, log);
}

#[tokio::test]
async fn a_request_id_creates_once_over_all_replicas() {
    let redis = Redis::spawn();
    let apps = [replica(&redis, &[]), replica(&redis, &[]), replica(&redis, &[])];
    let logs = join_all((0..12).map(|n| {
        let app = &apps[n % 3];
        async move { Client::extended(app).await.run(json!({"client_request_id": "once"})).await }
    }))
    .await;
    assert!(logs.iter().all(|log| *log == logs[0]), "one response");
    // After a delete the same request id creates a new response.
    let path = format!("/v1/responses/{}", logs[0].id());
    assert_eq!(http::call(apps[1].address, "DELETE", &path).send().await.status, 200);
    let anew = Client::extended(&apps[2]).await.run(json!({"client_request_id": "once"})).await;
    anew.assert_gap_free();
    assert_ne!(anew.id(), logs[0].id());
}

#[tokio::test]
async fn a_response_deleted_on_one_replica_is_gone_on_all() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, log) = speaking(&a, 5).await;
    let path = format!("/v1/responses/{}", log.id());
    assert_eq!(http::call(b.address, "DELETE", &path).send().await.status, 200);
    let last = loop {
        let event = client.event().await;
        if kind(&event) != "response.output_text.delta" {
            break event;
        }
    };
    assert_eq!(code(&last), "response_not_found");
    for app in [&a, &b] {
        assert_eq!(http::get(app.address, &path).await.status, 404);
    }
    until("nothing of it to be left", || async { redis.ask(&["KEYS", "*resp_*"]).is_empty().then_some(()) }).await;
    // The connection stays usable.
    client.run(json!({"max_output_tokens": 1})).await.assert_gap_free();
}

#[tokio::test]
async fn what_is_not_stored_is_gone_after_its_window_and_another_tenant_cannot_tell() {
    let redis = Redis::spawn();
    let keys = r#"auth.keys=[{key="key of one", tenant="one"},{key="key of two", tenant="two"}]"#;
    let settings = ["auth.mode=keys", keys, "generation.resume_window_ms=300"];
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    let get = |app: &App, key: &str, path: String| {
        http::call(app.address, "GET", &path).header("authorization", &format!("Bearer {key}")).send()
    };
    let created = http::call(a.address, "POST", "/v1/responses")
        .header("authorization", "Bearer key of one")
        .json(&json!({"input": "x", "store": false}))
        .send()
        .await
        .json();
    let path = format!("/v1/responses/{}", created["id"].as_str().expect("an id"));
    assert_eq!(get(&b, "key of two", path.clone()).await.json()["error"]["code"], "response_not_found");
    let gone = until("the window to end", || async {
        Some(get(&b, "key of one", path.clone()).await).filter(|answer| answer.status != 200)
    });
    assert_eq!(gone.await.json()["error"]["code"], "resume_window_expired");
    assert_eq!(get(&b, "key of two", path).await.json()["error"]["code"], "response_not_found");
}

#[tokio::test]
async fn while_one_replica_has_a_follower_the_generation_on_another_goes_on() {
    let redis = Redis::spawn();
    let mut settings = LONG.to_vec();
    settings.push("generation.orphan_grace_ms=400");
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    let (first, log) = speaking(&a, 5).await;
    let (mut second, _) = resumed(&b, &log.id(), None).await;
    first.kill();
    let seen = second.response().await;
    seen.assert_gap_free();
    assert_eq!((seen.status(), seen.usage("output_tokens")), ("completed", 300));
    // Without a follower the generation ends.
    let (first, log) = speaking(&a, 5).await;
    let (second, _) = resumed(&b, &log.id(), None).await;
    first.kill();
    second.kill();
    let path = format!("/v1/responses/{}", log.id());
    let ended = until("the orphan to end", || async {
        Some(http::get(b.address, &path).await.json()).filter(|response| response["status"] != "in_progress")
    });
    assert_eq!(ended.await["incomplete_details"]["reason"], "cancelled");
}

#[tokio::test]
async fn a_follower_that_leaves_takes_nothing_from_the_others() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 5).await;
    let mut stays = resumed(&b, &log.id(), None).await.0;
    for _ in 0..10 {
        let (mut leaves, _) = resumed(&b, &log.id(), None).await;
        leaves.event().await;
        leaves.kill();
    }
    let seen = stays.response().await;
    client.rest(&mut log).await;
    assert_eq!(seen, log);
}

#[tokio::test]
async fn without_any_follower_nothing_is_missing() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (client, log) = speaking(&a, 5).await;
    client.kill();
    let path = format!("/v1/responses/{}", log.id());
    until("it to end unseen", || async {
        (http::get(b.address, &path).await.json()["status"] == "completed").then_some(())
    })
    .await;
    let whole = replay(&b, &log.id()).await;
    assert_eq!(whole.usage("output_tokens"), 300);
    assert_eq!(whole.events[..log.events.len()], log.events);
}

#[tokio::test]
async fn a_resume_during_a_slow_prefill_waits_with_it() {
    let redis = Redis::spawn();
    let slow = ["engine.scripted.prefill_ms=1500"];
    let (a, b) = (replica(&redis, &slow), replica(&redis, &slow));
    let mut client = Client::extended(&a).await;
    client.create(json!({})).await;
    let started = client.event_of("response.in_progress").await;
    let id = started["response"]["id"].as_str().unwrap().to_owned();
    let (mut other, answer) = resumed(&b, &id, None).await;
    assert_eq!((&answer["status"], &answer["last_sequence_number"]), (&json!("in_progress"), &json!(1)));
    let log = other.response().await;
    log.assert_gap_free();
    assert_eq!(log.status(), "completed");
}

#[tokio::test]
async fn messages_that_were_lost_are_read_even_the_last() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (client, log) = speaking(&a, 5).await;
    drop(client);
    let (mut other, _) = resumed(&b, &log.id(), None).await;
    let mut seen = EventLog::default();
    // All connections for live messages are cut repeatedly; the response may also end between two of them.
    while !seen.ended() {
        if seen.events.len() % 20 == 0 {
            redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        seen.push(other.event().await);
    }
    seen.assert_gap_free();
    assert_eq!(seen.usage("output_tokens"), 300);
    assert_eq!(replay(&b, &log.id()).await, seen);
}

#[tokio::test]
async fn the_connection_may_be_encrypted() {
    let tls = Tls::make();
    let redis = Redis::with(&tls.redis());
    let url = format!("rediss://localhost:{}", tls.port);
    let store = ["store.kind=redis".to_owned(), format!("store.redis.url={url}")];
    let encrypted = || Setup::scripted().set(&[&store[0], &store[1]]);
    let trusting = encrypted().env("SSL_CERT_FILE", &tls.certificate()).spawn();
    let log = Client::extended(&trusting).await.run(json!({})).await;
    log.assert_gap_free();
    assert_eq!(replay(&replica(&redis, &[]), &log.id()).await, log);
    // A client that does not trust the certificate does not connect.
    let wary = encrypted().spawn();
    refused(&mut Client::extended(&wary).await, "store_unavailable").await;
}

#[tokio::test]
async fn five_thousand_followed_streams_need_few_connections() {
    const CONNECTIONS: usize = 313;
    const LANES: usize = 16;
    let redis = Redis::spawn();
    let settings = [
        "engine.max_running=6000",
        "engine.scripted.prefill_ms=15000",
        "engine.scripted.tokens=2",
        "store.redis.timeout_ms=20000",
        "cluster.lease_ms=20000",
    ];
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    let streams = (0..CONNECTIONS).map(|n| {
        let app = if n % 2 == 0 { &a } else { &b };
        async move {
            let mut client = Connect::to(app.address).open().await.expect("the server upgrades");
            for lane in 0..LANES {
                client.send(create(json!({"stream_id": format!("{lane}")}))).await;
            }
            client
        }
    });
    let clients = join_all(streams).await;
    let most = std::cell::Cell::new(0);
    let watched = until("all streams to be followed", || async {
        let number = |section: &str, field: &str| {
            let info = redis.ask(&["INFO", section]);
            let line = info.lines().find_map(|line| line.strip_prefix(field)).map(|n| n.trim().parse().unwrap());
            line.unwrap_or(0usize)
        };
        most.set(most.get().max(number("clients", "connected_clients:")));
        let channels = number("stats", "pubsubshard_channels:");
        (channels >= CONNECTIONS * LANES).then_some(channels)
    });
    let channels = watched.await;
    let most = most.get();
    println!("{channels} channels on {most} connections");
    assert!(most <= 10, "{most} connections");
    let ended = clients.into_iter().map(|mut client| async move {
        let mut logs: std::collections::HashMap<String, EventLog> = Default::default();
        while logs.len() < LANES || !logs.values().all(EventLog::ended) {
            let event = client.event().await;
            logs.entry(event["stream_id"].as_str().expect("a lane").into()).or_default().push(event);
        }
        logs.values().for_each(EventLog::assert_gap_free);
        logs.len()
    });
    assert_eq!(join_all(ended).await.iter().sum::<usize>(), CONNECTIONS * LANES);
}

#[tokio::test]
async fn a_user_needs_few_rights_and_its_password_is_never_shown() {
    let redis = Redis::spawn();
    let rights = "+@read +@write +@pubsub +@scripting +@connection +time";
    let user = ["ACL", "SETUSER", "caudal", "on", ">secret-word", "~caudal:*", "&caudal:*"];
    redis.ask(&user.into_iter().chain(rights.split(' ')).collect::<Vec<_>>());
    let url = format!("redis://caudal:secret-word@{}", redis.address);
    let app = replica_at(&url, &["log.filter=trace"]);
    ready(&app, 200).await;
    Client::plain(&app).await.run(json!({})).await.assert_gap_free();
    assert!(!app.stderr().contains("secret-word"));
    let setting = format!("store.redis.url={url}");
    let config = Setup::scripted().set(&["store.kind=redis", &setting]).run("config");
    assert!(config.status.success());
    assert!(!String::from_utf8_lossy(&config.stdout).contains("secret-word"));
    // A wrong password is reported without being shown.
    let wrong = replica_at(&format!("redis://caudal:wrong-word@{}", redis.address), &[]);
    until("the refusal to be logged", || async { wrong.stderr().contains("heartbeat").then_some(()) }).await;
    assert!(!wrong.stderr().contains("wrong-word"), "{}", wrong.stderr());
    ready(&wrong, 503).await;
}

#[tokio::test]
async fn a_refused_response_leaves_nothing_in_redis() {
    let redis = Redis::spawn();
    let app = replica(&redis, &[LONG[0], LONG[1], "engine.max_running=1", "admission.queue=0"]);
    let (_speaking, log) = speaking(&app, 1).await;
    let mut refused = Client::extended(&app).await;
    // As an ordinary response, and as a run that the prompt cache may store.
    for request in [json!({}), json!({"temperature": 0})] {
        refused.create(request).await;
        assert_eq!(code(&refused.error().await), "server_overloaded");
    }
    let runs = redis.ask(&["KEYS", "caudal:1:{replica:*}:runs"]);
    assert_eq!(redis.ask(&["SMEMBERS", runs.trim()]).trim(), log.id());
    assert_eq!(redis.ask(&["KEYS", "caudal:1:*:meta"]).trim(), format!("caudal:1:{{{}}}:meta", log.id()));
}
