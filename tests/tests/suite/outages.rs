//! Tests outages of Redis: each is a pause, never a wrong stream.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, EventLog, Redis, http,
    log::{is_terminal, kind},
    proxy::delaying,
    redis::{RedisCluster, Sentinel},
    until,
    ws::code,
};
use serde_json::json;

use super::{
    conversations::conversation,
    redis::{LONG, ready, refused, replay, replica, replica_at, resumed, speaking},
};

/// A reply that runs about as long as the outages of these tests.
const STEADY: [&str; 2] = ["engine.scripted.tokens=600", "engine.scripted.tokens_per_second=100"];

/// Runs a stream on each of two replicas, one of them followed on the other, during `trouble` with Redis.
async fn through(redis: &mut Redis, apps: [&App; 2], trouble: impl AsyncFnOnce(&mut Redis, [&App; 2], &mut Client)) {
    let mut idle = Client::extended(apps[0]).await;
    let (mut here, mut here_log) = speaking(apps[0], 20).await;
    let (mut there, mut there_log) = speaking(apps[1], 20).await;
    let (mut across, _) = resumed(apps[0], &there_log.id(), None).await;
    trouble(redis, apps, &mut idle).await;
    here.rest(&mut here_log).await;
    there.rest(&mut there_log).await;
    let across_log = across.response().await;
    for log in [&here_log, &there_log, &across_log] {
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 600));
    }
    assert_eq!(across_log, there_log);
    assert_eq!(replay(apps[1], &here_log.id()).await, here_log);
    for app in apps {
        ready(app, 200).await;
    }
    // The connections have stayed open and accept new requests.
    idle.run(json!({"max_output_tokens": 3})).await.assert_gap_free();
}

#[tokio::test]
async fn redis_goes_away_for_ten_seconds_and_comes_back() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let (a, b) = (replica(&redis, &STEADY), replica(&redis, &STEADY));
    through(&mut redis, [&a, &b], async |redis, apps, idle| {
        redis.kill();
        let gone = Instant::now();
        for app in apps {
            ready(app, 503).await;
        }
        refused(idle, "store_unavailable").await;
        assert_eq!(http::post(apps[1].address, "/v1/responses", &json!({"input": "x"})).await.status, 503);
        tokio::time::sleep_until((gone + Duration::from_secs(10)).into()).await;
        redis.start();
    })
    .await;
}

#[tokio::test]
async fn a_cancel_that_waits_for_redis_holds_no_other_message_up() {
    let redis = Redis::spawn();
    let app = replica(&redis, &LONG);
    let (mut client, log) = speaking(&app, 20).await;
    redis.signal("STOP");
    for _ in 0..3 {
        client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    }
    client.send(json!({"type": "caudal:ping"})).await;
    // The pong must come before a cancel has waited for Redis's timeout.
    loop {
        let event = client.event().await;
        assert_ne!(kind(&event), "error", "a cancel was answered before the ping: {event}");
        if kind(&event) == "caudal:pong" {
            break;
        }
    }
    redis.signal("CONT");
    loop {
        let event = client.event().await;
        if is_terminal(&event) {
            assert_eq!(event["response"]["incomplete_details"]["reason"], "cancelled");
            break;
        }
    }
}

#[tokio::test]
async fn redis_answers_nothing_for_a_while() {
    let mut redis = Redis::spawn();
    let (a, b) = (replica(&redis, &STEADY), replica(&redis, &STEADY));
    through(&mut redis, [&a, &b], async |redis, _, idle| {
        redis.signal("STOP");
        refused(idle, "store_unavailable").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        redis.signal("CONT");
    })
    .await;
}

#[tokio::test]
async fn an_outage_that_outlasts_the_writers_patience_is_a_pause_all_the_same() {
    let mut redis = Redis::persistent();
    let settings = [&STEADY[..], &["store.outage_ms=300"]].concat();
    let (a, b) = (replica(&redis, &settings), replica(&redis, &settings));
    through(&mut redis, [&a, &b], async |redis, apps, _| {
        redis.kill();
        for app in apps {
            until("the writer to give up", || async { app.stderr().contains("gave up").then_some(()) }).await;
        }
        redis.start();
    })
    .await;
}

#[tokio::test]
async fn redis_is_full_for_a_while() {
    let mut redis = Redis::spawn();
    let (a, b) = (replica(&redis, &STEADY), replica(&redis, &STEADY));
    through(&mut redis, [&a, &b], async |redis, _, idle| {
        redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        refused(idle, "store_full").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    })
    .await;
}

#[tokio::test]
async fn a_turn_that_comes_while_redis_is_full_waits_for_room() {
    let redis = Redis::spawn();
    let app = replica(&redis, &STEADY);
    let id = conversation(&app, json!({})).await;
    let mut first = Client::extended(&app).await;
    let mut log = EventLog::default();
    first.create(json!({"input": "first", "conversation": id})).await;
    log.push(first.event_of("response.created").await);
    let mut second = Client::extended(&app).await;
    second.create(json!({"input": "second", "conversation": id})).await;
    let created = second.event_of("response.queued").await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    first.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    first.rest(&mut log).await;
    until("the second to wait for room", || async {
        app.stderr().contains("the turn waits until there is room").then_some(())
    })
    .await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let id = created["response"]["id"].as_str().expect("an id");
    let whole = replay(&app, id).await;
    assert_eq!((whole.status(), whole.usage("output_tokens")), ("completed", 600));
}

#[tokio::test]
async fn redis_is_a_replica_for_a_while() {
    let mut redis = Redis::spawn();
    let (a, b) = (replica(&redis, &STEADY), replica(&redis, &STEADY));
    through(&mut redis, [&a, &b], async |redis, _, idle| {
        redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        refused(idle, "store_unavailable").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.ask(&["REPLICAOF", "NO", "ONE"]);
    })
    .await;
}

#[tokio::test]
async fn sentinel_promotes_another_master() {
    let mut redis = Redis::spawn();
    let sentinel = Sentinel::spawn(&redis);
    let settings = [&STEADY[..], &["store.redis.timeout_ms=500"]].concat();
    let (a, b) = (replica_at(&sentinel.url(), &settings), replica_at(&sentinel.url(), &settings));
    through(&mut redis, [&a, &b], async |redis, _, _| {
        redis.kill();
        until("the failover", || async { (sentinel.master() == sentinel.standby.address).then_some(()) }).await;
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_that_wants_a_password_gets_it() {
    let redis = Redis::spawn();
    let sentinel = Sentinel::with_password(&redis, "of-the-sentinel");
    let app = replica_at(&sentinel.url(), &["store.redis.sentinel_password=of-the-sentinel"]);
    assert_eq!(Client::plain(&app).await.run(json!({})).await.status(), "completed");
    let without = replica_at(&sentinel.url(), &[]);
    let answer = http::post(without.address, "/v1/responses", &json!({"input": "x"})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("store_unavailable")));
    until("the log to say why", || async { without.stderr().contains("NOAUTH").then_some(()) }).await;
    assert!(!app.stderr().contains("of-the-sentinel"));
}

#[tokio::test]
async fn an_id_with_braces_is_unknown_on_a_cluster() {
    let cluster = RedisCluster::spawn();
    let app = replica_at(&cluster.url(), &[]);
    for id in ["%7D", "%7Ba%7Db", "a%7B%7D", "%00", "a%20b", "..", &"x".repeat(500)] {
        for (method, path, code) in [
            ("GET", format!("/v1/responses/{id}"), "response_not_found"),
            ("GET", format!("/v1/responses/{id}?stream=true"), "response_not_found"),
            ("GET", format!("/v1/responses/{id}/input_items"), "response_not_found"),
            ("POST", format!("/v1/responses/{id}/cancel"), "response_not_found"),
            ("DELETE", format!("/v1/responses/{id}"), "response_not_found"),
            ("GET", format!("/v1/conversations/{id}"), "conversation_not_found"),
            ("GET", format!("/v1/conversations/{id}/items"), "conversation_not_found"),
            ("DELETE", format!("/v1/conversations/{id}"), "conversation_not_found"),
            ("GET", format!("/v1/prompts/{id}"), "prompt_not_found"),
            ("DELETE", format!("/v1/prompts/{id}"), "prompt_not_found"),
        ] {
            let answer = http::call(app.address, method, &path).send().await;
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(code)), "{method} {path}");
        }
    }
    for body in [
        json!({"input": "x", "previous_response_id": "}"}),
        json!({"input": "x", "conversation": "{}"}),
        json!({"input": [{"id": "msg_}"}]}),
    ] {
        let answer = http::post(app.address, "/v1/responses", &body).await;
        assert!([400, 404].contains(&answer.status), "{body}: {}", answer.text());
    }
}

#[tokio::test]
async fn replicas_share_a_cluster() {
    let mut cluster = RedisCluster::spawn();
    let (url, [first, ..]) = (cluster.url(), &mut cluster.nodes);
    let (a, b) = (replica_at(&url, &STEADY), replica_at(&url, &STEADY));
    through(first, [&a, &b], async |redis, _, _| {
        redis.signal("STOP");
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.signal("CONT");
    })
    .await;
}

#[tokio::test]
async fn redis_loses_its_latest_entries_and_they_are_written_again() {
    // Only an explicit save reaches the disk.
    let mut redis = Redis::with(&["--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb"]);
    let (a, b) = (replica(&redis, &STEADY), replica(&redis, &STEADY));
    through(&mut redis, [&a, &b], async |redis, _, _| {
        redis.ask(&["SAVE"]);
        tokio::time::sleep(Duration::from_millis(700)).await;
        redis.kill();
        redis.start();
    })
    .await;
    assert!(format!("{}{}", a.stderr(), b.stderr()).contains("lost entries"), "the test lost none");
}

#[tokio::test]
async fn redis_comes_back_empty_and_nobody_sees_a_wrong_stream() {
    let mut redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, log) = speaking(&a, 5).await;
    let (mut other, _) = resumed(&b, &log.id(), None).await;
    redis.kill();
    redis.start();
    for client in [&mut client, &mut other] {
        let last = loop {
            let event = client.event().await;
            assert!(!is_terminal(&event), "{event}");
            if kind(&event) == "error" {
                break event;
            }
        };
        assert_eq!(code(&last), "response_not_found");
    }
    assert_eq!(code(&resumed(&b, &log.id(), None).await.1), "response_not_found");
    client.run(json!({"max_output_tokens": 3})).await.assert_gap_free();
}

#[tokio::test]
async fn a_slow_redis_makes_streams_later_not_shorter() {
    let redis = Redis::spawn();
    let slow = delaying(redis.address, Duration::from_millis(100)).await;
    let (a, b) = (replica_at(&format!("redis://{slow}"), &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 5).await;
    let (mut other, _) = resumed(&b, &log.id(), None).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
    assert_eq!(other.response().await, log);
    assert!(!b.stderr().contains("taken over"), "slow is not dead:\n{}", b.stderr());
}
