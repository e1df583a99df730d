//! Tests the exact prompt cache: a request that was answered before, or is being answered, is not generated again.

use std::time::{Duration, Instant};

use caudal_tests::{App, Client, EventLog, Redis, http, log::kind, spawn_app, until, ws::Connect, ws::create};
use futures::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};

use super::redis::{replay, replica};

/// A reply of one second.
const SLOW: [&str; 2] = ["engine.scripted.tokens=50", "engine.scripted.tokens_per_second=50"];

fn cached(log: &EventLog) -> u64 {
    log.response()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a number")
}

/// Whether the reply came from the cache. The scripted engine reuses no KV, so only a hit has cached tokens.
fn is_hit(log: &EventLog) -> bool {
    cached(log) == log.usage("input_tokens")
}

async fn run(app: &App, fields: Value) -> EventLog {
    let log = Client::extended(app).await.run(fields).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    log
}

/// Creates a response and reads its events up to this many deltas.
async fn speaking(app: &App, fields: Value, deltas: usize) -> (Client, EventLog) {
    let mut client = Client::extended(app).await;
    client.create(fields).await;
    let mut log = EventLog::default();
    while log.events.is_empty() || log.of_kind("response.output_text.delta").count() < deltas {
        log.push(client.event().await);
    }
    (client, log)
}

#[tokio::test]
async fn a_repetition_is_answered_from_the_cache_under_an_id_of_its_own() {
    let app = spawn_app(&[]);
    let fields = json!({"input": "one two", "seed": 7, "metadata": {"n": "1"}});
    let first = run(&app, fields.clone()).await;
    assert!(!is_hit(&first));
    let again = run(&app, json!({"input": "one two", "seed": 7, "metadata": {"n": "2"}})).await;
    assert!(is_hit(&again));
    assert_ne!(again.id(), first.id());
    assert_eq!((again.text(), again.kinds()), (first.text(), first.kinds()));
    assert_eq!(again.response()["metadata"], json!({"n": "2"}));
    assert!(again.response()["completed_at"].as_u64() >= again.response()["created_at"].as_u64());
    // Both can be retrieved, resumed and continued like any other response.
    for log in [&first, &again] {
        assert_eq!(replay(&app, &log.id()).await, *log);
        let stored = http::get(app.address, &format!("/v1/responses/{}", log.id())).await.json();
        assert_eq!(stored, *log.response());
        let next = run(&app, json!({"previous_response_id": log.id()})).await;
        assert!(next.usage("input_tokens") > log.usage("input_tokens") + 10);
    }
    let chat = json!({"messages": [{"role": "user", "content": "one two"}], "seed": 7});
    let chat = http::post(app.address, "/v1/chat/completions", &chat).await.json();
    assert_eq!(chat["choices"][0]["message"]["content"], first.text());
}

#[tokio::test]
async fn only_what_is_the_same_in_everything_that_counts_is_a_hit() {
    let app = spawn_app(&[]);
    let fields = json!({"input": "x", "seed": 1, "temperature": 0.5, "max_output_tokens": 9, "stop": ["zzz"]});
    run(&app, fields.clone()).await;
    let with = |name: &str, value: Value| {
        let mut changed = fields.clone();
        changed[name] = value;
        changed
    };
    for (name, value) in [
        ("input", json!("x y")),
        ("instructions", json!("Be brief.")),
        ("seed", json!(2)),
        ("temperature", json!(0.6)),
        ("top_p", json!(0.5)),
        ("top_k", json!(5)),
        ("min_p", json!(0.1)),
        ("frequency_penalty", json!(1)),
        ("presence_penalty", json!(1)),
        ("repetition_penalty", json!(1.5)),
        ("logit_bias", json!({"5": 1})),
        ("max_output_tokens", json!(8)),
        ("stop", json!(["yyy"])),
        ("text", json!({"format": {"type": "json_object"}})),
        ("top_logprobs", json!(1)),
        ("tools", json!([{"type": "function", "name": "f", "parameters": {}}])),
        ("cache", json!({"mode": "off"})),
    ] {
        let log = Client::extended(&app).await.run(with(name, value)).await;
        assert!(!is_hit(&log), "{name}");
    }
    for (name, value) in [
        ("user", json!("me")),
        ("metadata", json!({"a": "b"})),
        ("store", json!(false)),
        ("cache", json!({"mode": "read"})),
        ("prompt_cache_key", json!("k")),
    ] {
        assert!(is_hit(&run(&app, with(name, value)).await), "{name}");
    }
}

#[tokio::test]
async fn a_mode_says_who_reads_and_who_writes() {
    let app = spawn_app(&[]);
    // The scripted engine's prompts differ if their lengths differ.
    let ask = async |fields: Value| is_hit(&run(&app, fields).await);
    // A random reply is not cached by default.
    assert!(!ask(json!({"input": "one"})).await);
    assert!(!ask(json!({"input": "one"})).await);
    assert!(!ask(json!({"input": "one", "cache": {"mode": "read"}})).await);
    assert!(!ask(json!({"input": "one", "cache": {"mode": "read_write"}})).await);
    assert!(ask(json!({"input": "one", "cache": {"mode": "read"}})).await);
    assert!(!ask(json!({"input": "one"})).await);
    // A greedy reply does not depend on the seed.
    assert!(!ask(json!({"input": "one two", "temperature": 0})).await);
    assert!(ask(json!({"input": "one two", "temperature": 0, "seed": 5})).await);
    // A miss in mode `read` writes nothing.
    assert!(!ask(json!({"input": "one two three", "seed": 1, "cache": {"mode": "read"}})).await);
    assert!(!ask(json!({"input": "one two three", "seed": 1})).await);
    let ttl = json!({"input": "one two three four", "seed": 1, "cache": {"ttl_s": 1}});
    assert!(!ask(ttl.clone()).await);
    assert!(ask(ttl.clone()).await);
    until("the time to be over", || async { (!ask(ttl.clone()).await).then_some(()) }).await;
}

#[tokio::test]
async fn a_paced_replay_takes_about_as_long_and_a_resume_of_it_does_not() {
    let app = spawn_app(&["engine.scripted.tokens=40", "engine.scripted.tokens_per_second=20"]);
    let fields = json!({"seed": 3});
    run(&app, fields.clone()).await;
    let begun = Instant::now();
    let instant = run(&app, fields).await;
    assert!(is_hit(&instant) && begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let paced = run(&app, json!({"seed": 3, "cache": {"replay": "paced"}})).await;
    let took = begun.elapsed();
    assert!(is_hit(&paced) && took > Duration::from_millis(700) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(paced.text(), instant.text());
    assert_eq!(replay(&app, &paced.id()).await, paced);
}

#[tokio::test]
async fn who_asks_while_it_is_answered_follows_that_run() {
    let app = spawn_app(&SLOW);
    let (mut client, mut first) = speaking(&app, json!({"seed": 1}), 5).await;
    let logs = join_all((0..20).map(|_| run(&app, json!({"seed": 1})))).await;
    client.rest(&mut first).await;
    first.assert_gap_free();
    for log in &logs {
        assert!(is_hit(log));
        assert_eq!((log.text(), log.kinds()), (first.text(), first.kinds()));
    }
}

#[tokio::test]
async fn one_who_cancels_leaves_and_the_others_go_on() {
    let app = spawn_app(&SLOW);
    let fields = json!({"seed": 1});
    // The first client began the run, the second joined it.
    let (mut a, mut first) = speaking(&app, fields.clone(), 5).await;
    let (mut b, mut second) = speaking(&app, fields.clone(), 5).await;
    let (mut c, mut third) = speaking(&app, fields.clone(), 5).await;
    for (client, log) in [(&mut a, &mut first), (&mut b, &mut second)] {
        client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
        client.rest(log).await;
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
        assert!(log.text().len() < 100 && !log.text().is_empty());
        // A replay equals the live events.
        assert_eq!(replay(&app, &log.id()).await, *log);
    }
    c.rest(&mut third).await;
    assert_eq!((third.status(), third.usage("output_tokens")), ("completed", 50));
    assert!(is_hit(&run(&app, fields).await), "the run ended well");
}

#[tokio::test]
async fn the_last_who_cancels_ends_the_run_and_poisons_nothing() {
    let app = spawn_app(&["engine.scripted.tokens=50", "engine.scripted.tokens_per_second=50", "engine.max_running=1"]);
    let fields = json!({"seed": 1});
    let (mut a, mut first) = speaking(&app, fields.clone(), 3).await;
    let (mut b, mut second) = speaking(&app, fields.clone(), 3).await;
    for (client, log) in [(&mut a, &mut first), (&mut b, &mut second)] {
        client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
        client.rest(log).await;
        assert_eq!(log.reason(), "cancelled");
    }
    // The only permit is free, and no request is answered with half a reply.
    let after = run(&app, fields).await;
    assert!(!is_hit(&after));
    assert_eq!((after.status(), after.usage("output_tokens")), ("completed", 50));
}

#[tokio::test]
async fn a_cancel_before_the_first_token_is_answered_at_once() {
    let app = spawn_app(&["engine.scripted.tokens=5", "engine.scripted.prefill_ms=3000"]);
    let fields = json!({"seed": 1});
    let (mut a, mut first) = speaking(&app, fields.clone(), 0).await;
    let (mut b, mut second) = speaking(&app, fields, 0).await;
    let begun = Instant::now();
    b.send(json!({"type": "response.cancel", "response_id": second.id()})).await;
    b.rest(&mut second).await;
    assert_eq!(second.reason(), "cancelled");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    a.rest(&mut first).await;
    assert_eq!(first.status(), "completed");
}

#[tokio::test]
async fn a_failed_run_fails_those_who_followed_it_and_nobody_after() {
    let app = spawn_app(&["engine.scripted.fail_after=20", "engine.scripted.tokens_per_second=50"]);
    let fields = json!({"seed": 1});
    let (mut a, mut first) = speaking(&app, fields.clone(), 3).await;
    let second = Client::extended(&app).await.run(fields.clone()).await;
    a.rest(&mut first).await;
    assert_eq!((first.status(), second.status()), ("failed", "failed"));
    assert_eq!(first.text(), second.text());
    // The next request runs again, up to its own failure.
    let third = Client::extended(&app).await.run(fields).await;
    assert!(!is_hit(&third));
}

#[tokio::test]
async fn a_run_that_nobody_follows_any_more_is_cancelled() {
    let app = spawn_app(&[
        "engine.scripted.tokens=4000",
        "engine.scripted.tokens_per_second=50",
        "generation.orphan_grace_ms=300",
    ]);
    let (a, first) = speaking(&app, json!({"seed": 1}), 2).await;
    let (b, second) = speaking(&app, json!({"seed": 1}), 2).await;
    a.kill();
    b.kill();
    for log in [first, second] {
        let path = format!("/v1/responses/{}", log.id());
        let ended = until("the run to be cancelled", || async {
            Some(http::get(app.address, &path).await.json()).filter(|r| r["status"] != "in_progress")
        })
        .await;
        assert_eq!(ended["incomplete_details"]["reason"], "cancelled");
    }
}

#[tokio::test]
async fn deleting_the_last_response_of_a_log_deletes_the_log() {
    let app = spawn_app(&[]);
    let fields = json!({"seed": 1});
    let (first, second) = (run(&app, fields.clone()).await, run(&app, fields.clone()).await);
    let delete = async |log: &EventLog| {
        let path = format!("/v1/responses/{}", log.id());
        assert_eq!(http::call(app.address, "DELETE", &path).send().await.status, 200);
        assert_eq!(http::get(app.address, &path).await.status, 404);
    };
    delete(&first).await;
    assert_eq!(replay(&app, &second.id()).await, second, "the other still has it");
    let third = run(&app, fields.clone()).await;
    assert!(is_hit(&third));
    delete(&second).await;
    delete(&third).await;
    assert!(!is_hit(&run(&app, fields).await));
}

#[tokio::test]
async fn another_tenant_never_hits() {
    let keys = r#"auth.keys=[{key = "key-of-a", tenant = "a"}, {key = "key-of-b", tenant = "b"}]"#;
    let redis = Redis::spawn();
    for app in [spawn_app(&["auth.mode=keys", keys]), replica(&redis, &["auth.mode=keys", keys])] {
        let ask = async |key: &str| {
            let connect = Connect::to(app.address).header("authorization", &format!("Bearer {key}"));
            let mut client = connect.open().await.expect("the server upgrades");
            client.send(create(json!({"seed": 1}))).await;
            is_hit(&client.response().await)
        };
        assert!(!ask("key-of-a").await);
        assert!(ask("key-of-a").await);
        assert!(!ask("key-of-b").await);
    }
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room() {
    let app = spawn_app(&["cache.max_mb=1", "engine.scripted.tokens=4000"]);
    let ask = async |seed: u64| is_hit(&run(&app, json!({"seed": seed})).await);
    for seed in 0..6 {
        assert!(!ask(seed).await);
    }
    assert!(ask(5).await, "the latest is there");
    assert!(!ask(0).await, "the first has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_ask_the_same_of_three_replicas_at_once_are_answered_by_one_run() {
    let redis = Redis::spawn();
    let slow = ["engine.scripted.tokens=60", "engine.scripted.tokens_per_second=10"];
    let apps = [replica(&redis, &slow), replica(&redis, &slow), replica(&redis, &slow)];
    let addresses: Vec<_> = apps.iter().map(|app| app.address).collect();
    let begun = Instant::now();
    // All clients connect first, so that they send their requests during the run.
    let clients: Vec<Client> = stream::iter(0..1000)
        .map(|n| {
            let address = addresses[n % 3];
            async move { Client::extended_at(address).await }
        })
        .buffer_unordered(50)
        .collect()
        .await;
    let logs = join_all(clients.into_iter().map(|mut client| async move {
        client.create(json!({"seed": 1})).await;
        client.response().await
    }))
    .await;
    println!("1000 of 3 replicas answered in {:?}", begun.elapsed());
    let ran = logs.iter().filter(|log| !is_hit(log)).count();
    assert_eq!(ran, 1, "the engine runs once");
    let mut ids: Vec<String> = logs.iter().map(EventLog::id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    for log in &logs {
        log.assert_gap_free();
        assert_eq!((log.status(), log.text() == logs[0].text()), ("completed", true));
    }
    let waiting = apps.iter().map(|app| app.stderr()).collect::<String>();
    assert!(!waiting.contains("ERROR"), "{waiting}");
}

#[tokio::test]
async fn when_the_leaders_replica_dies_another_finishes_the_run() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let (_gone, mut first) = speaking(&a, json!({"seed": 1}), 5).await;
    let mut followers = vec![];
    for _ in 0..5 {
        followers.push(speaking(&b, json!({"seed": 1}), 5).await);
    }
    a.signal("KILL");
    for (client, log) in &mut followers {
        client.rest(log).await;
        log.assert_gap_free();
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 50));
        assert!(is_hit(log));
    }
    let mut client = Client::extended(&b).await;
    client.resume(&first.id(), first.last_number()).await;
    client.rest(&mut first).await;
    first.assert_gap_free();
    assert_eq!(first.text(), followers[0].1.text());
    assert!(is_hit(&run(&b, json!({"seed": 1})).await));
}

#[tokio::test]
async fn a_cancel_on_another_replica_lets_one_leave() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let (mut leader, mut first) = speaking(&a, json!({"seed": 1}), 3).await;
    let (mut joined, mut second) = speaking(&b, json!({"seed": 1}), 3).await;
    leader.send(json!({"type": "response.cancel", "response_id": second.id()})).await;
    joined.rest(&mut second).await;
    assert_eq!((second.status(), second.reason()), ("incomplete", "cancelled"));
    assert_eq!(replay(&a, &second.id()).await, second);
    leader.rest(&mut first).await;
    assert_eq!((first.status(), first.usage("output_tokens")), ("completed", 50));
}

#[tokio::test]
async fn a_waiting_run_tells_its_place_to_all_who_share_it() {
    let app = spawn_app(&["engine.max_running=1", "engine.scripted.tokens=40", "engine.scripted.tokens_per_second=50"]);
    let (mut busy, mut log) = speaking(&app, json!({}), 1).await;
    let mut sharing = [Client::extended(&app).await, Client::extended(&app).await];
    for client in &mut sharing {
        client.create(json!({"seed": 1})).await;
        let queued = client.event_of("caudal:response.queued").await;
        assert_eq!((kind(&queued), &queued["position"]), ("caudal:response.queued", &json!(1)));
    }
    busy.rest(&mut log).await;
    for client in &mut sharing {
        client.event_of("response.completed").await;
    }
    let replayed = run(&app, json!({"seed": 1})).await;
    assert!(is_hit(&replayed) && !replayed.kinds().contains(&"response.queued"), "it did not wait");
}

#[tokio::test]
async fn operators_are_told_what_the_cache_does_and_holds() {
    let redis = Redis::spawn();
    let settings = [
        "auth.mode=keys",
        r#"auth.keys=[{key="key-of-a", tenant="a"}, {key="key-of-b", tenant="b"}]"#,
        "auth.admin_key=admin-key-1",
        SLOW[0],
        SLOW[1],
    ];
    let (app, other) = (replica(&redis, &settings), replica(&redis, &settings));
    let told = async |app: &App| {
        let ask = http::call(app.address, "GET", "/admin/cache").header("authorization", "Bearer admin-key-1");
        let answer = ask.send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let connect = async || {
        let connect = Connect::to(app.address).header("authorization", "Bearer key-of-a");
        connect.open().await.expect("the server upgrades")
    };
    let nothing = json!({"bytes": 0, "evicted": 0});
    let counts = |hits: u64, joined: u64, misses: u64, in_flight: u64, a: &Value| {
        json!({"object": "prompt_cache", "hits": hits, "joined": joined, "misses": misses, "in_flight": in_flight,
               "tenants": {"a": a, "b": nothing}})
    };
    assert_eq!(told(&app).await, counts(0, 0, 0, 0, &nothing));
    let (mut first, mut second) = (connect().await, connect().await);
    for client in [&mut first, &mut second] {
        client.create(json!({"seed": 1})).await;
        client.event_of("response.output_text.delta").await;
    }
    assert_eq!(told(&app).await, counts(0, 1, 1, 1, &nothing));
    for client in [&mut first, &mut second] {
        client.event_of("response.completed").await;
    }
    let kept = until("the reply to be kept and its run to have ended", || async {
        let told = told(&app).await;
        (told["in_flight"] == 0 && told["tenants"]["a"] != nothing).then(|| told["tenants"]["a"].clone())
    })
    .await;
    assert!(kept["bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{kept}");
    first.run(json!({"seed": 1})).await;
    assert_eq!(told(&app).await, counts(1, 1, 1, 0, &kept));
    assert_eq!(told(&other).await, counts(0, 0, 0, 0, &kept), "the counts are a replica's, the bytes the fleet's");
    assert_eq!(http::get(app.address, "/admin/cache").await.status, 401);
}
