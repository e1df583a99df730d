//! Tests replicas that die, freeze or leave: others continue their generations, and no stream has a gap or a repeat.

use std::time::{Duration, Instant};

use caudal_tests::{App, Client, EventLog, Redis, http, log::kind, until};
use futures::future::join_all;
use serde_json::json;

use super::redis::{LONG, replay, replica, resumed, speaking};

/// Returns the scripted engine's text without interruption.
async fn reference(redis: &Redis) -> String {
    let app = replica(redis, &["engine.scripted.tokens=300", "store.redis.prefix=reference"]);
    Client::plain(&app).await.run(json!({})).await.text()
}

fn kill(app: App) -> Instant {
    app.signal("KILL");
    Instant::now()
}

fn assert_whole(log: &EventLog, text: &str) {
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
    assert_eq!(log.text(), text, "no token is lost or repeated");
}

#[tokio::test]
async fn the_death_of_a_replica_is_a_pause() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut lost, mut log) = speaking(&a, 40).await;
    let (mut stays, _) = resumed(&b, &log.id(), None).await;
    let mut seen = EventLog::default();
    while seen.events.len() < 40 {
        seen.push(stays.event().await);
    }
    let died = kill(a);
    let (before, mut longest, mut last) = (seen.events.len(), Duration::ZERO, died);
    while !seen.ended() {
        seen.push(stays.event().await);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    println!("the longest pause was {longest:?}, after {before} events");
    assert!(longest < Duration::from_secs(4), "{longest:?}");
    assert_whole(&seen, &text);
    // A client of the dead replica resumes on another one, after its last event.
    while let caudal_tests::Received::Event(event) = lost.receive().await {
        log.push(event);
    }
    let (mut again, _) = resumed(&b, &log.id(), log.last_number()).await;
    again.rest(&mut log).await;
    assert_eq!(log, seen);
    assert!(b.stderr().contains("taken over"));
}

#[tokio::test]
async fn what_a_dead_replica_had_queued_or_prefilled_runs_elsewhere() {
    let redis = Redis::spawn();
    let slow = ["engine.max_running=1", "engine.scripted.prefill_ms=3000"];
    let a = replica(&redis, &slow);
    let mut prefilling = Client::extended(&a).await;
    prefilling.create(json!({})).await;
    let first = prefilling.event_of("response.in_progress").await["response"]["id"].as_str().unwrap().to_owned();
    let mut queued = Client::extended(&a).await;
    queued.create(json!({})).await;
    let second = queued.event_of("response.queued").await["response"]["id"].as_str().unwrap().to_owned();
    let b = replica(&redis, &["engine.max_running=1"]);
    until("the replicas to know each other", || async {
        (redis.ask(&["ZCARD", "caudal:1:{fleet}:replicas"]) == "2").then_some(())
    })
    .await;
    kill(a);
    let (one, two) = tokio::join!(replay(&b, &first), replay(&b, &second));
    assert_eq!((one.status(), two.status()), ("completed", "completed"));
    assert_eq!(two.of_kind("response.queued").count(), 1, "it waits on, and says so once");
}

#[tokio::test]
async fn a_frozen_replica_that_thaws_is_fenced_out() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (mut client, mut log) = speaking(&a, 20).await;
    let (mut other, _) = resumed(&b, &log.id(), None).await;
    a.signal("STOP");
    until("the other to take over", || async { b.stderr().contains("taken over").then_some(()) }).await;
    a.signal("CONT");
    until("the first to notice", || async { a.stderr().contains("fenced out").then_some(()) }).await;
    // Its client follows the log, whichever replica writes it.
    client.rest(&mut log).await;
    assert_whole(&log, &text);
    assert_eq!(other.response().await, log);
    assert_eq!(replay(&a, &log.id()).await, log);
    // The replica works like any other again.
    Client::plain(&a).await.run(json!({"max_output_tokens": 3})).await.assert_gap_free();
}

#[tokio::test]
async fn a_cancel_that_finds_the_owner_dead_reaches_who_takes_over() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    let (_client, log) = speaking(&a, 20).await;
    let (mut other, _) = resumed(&b, &log.id(), None).await;
    kill(a);
    other.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    let seen = other.response().await;
    seen.assert_gap_free();
    assert_eq!((seen.status(), seen.reason()), ("incomplete", "cancelled"));
    assert!(seen.usage("output_tokens") < 300);
}

#[tokio::test]
async fn what_a_dead_replica_ran_spreads_over_the_others() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let (a, b, c) = (replica(&redis, &LONG), replica(&redis, &LONG), replica(&redis, &LONG));
    let logs: Vec<EventLog> = join_all((0..24).map(|_| async { speaking(&a, 5).await.1 })).await;
    let followers = join_all(logs.iter().map(|log| {
        let app = &b;
        async move { resumed(app, &log.id(), None).await.0 }
    }))
    .await;
    kill(a);
    for log in join_all(followers.into_iter().map(|mut client| async move { client.response().await })).await {
        assert_whole(&log, &text);
    }
    let taken = [&b, &c].map(|app| app.stderr().matches("taken over").count());
    assert_eq!(taken.iter().sum::<usize>(), 24, "each once: {taken:?}");
    assert!(taken.iter().all(|taken| *taken >= 4), "{taken:?}");
}

#[tokio::test]
async fn on_sigterm_running_generations_move_and_clients_resume_elsewhere() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let (mut a, b) = (replica(&redis, &LONG), replica(&redis, &LONG));
    until("the replicas to know each other", || async {
        (redis.ask(&["ZCARD", "caudal:1:{fleet}:replicas"]) == "2").then_some(())
    })
    .await;
    let (mut client, mut log) = speaking(&a, 20).await;
    let asked = Instant::now();
    a.signal("TERM");
    let (events, closed) = client.drain().await;
    assert_eq!(closed, Some(1012));
    assert!(events.iter().any(|event| kind(event) == "caudal:server.draining"));
    for event in events.into_iter().filter(|event| !kind(event).starts_with("caudal:")) {
        log.push(event);
    }
    assert!(!log.ended(), "it was not waited for");
    let (mut again, _) = resumed(&b, &log.id(), log.last_number()).await;
    again.rest(&mut log).await;
    assert_whole(&log, &text);
    assert_eq!(a.exit().code(), Some(0));
    println!("handed over and ended after {:?}", asked.elapsed());
    assert!(a.stderr().contains("handed over") && b.stderr().contains("taken over"));
    // The replica has removed its registration, so no lease must expire.
    until("it to be forgotten", || async { (redis.ask(&["ZCARD", "caudal:1:{fleet}:replicas"]) == "1").then_some(()) })
        .await;
}

#[tokio::test]
async fn alone_a_replica_finishes_what_it_runs_on_sigterm() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let mut a = replica(&redis, &LONG);
    let (mut client, mut log) = speaking(&a, 20).await;
    a.signal("TERM");
    client.rest(&mut log).await;
    assert_whole(&log, &text);
    assert_eq!(client.closed().await, Some(1012));
    assert_eq!(a.exit().code(), Some(0));
}

#[tokio::test]
async fn a_whole_fleet_that_died_is_continued_by_the_next() {
    let redis = Redis::spawn();
    let text = reference(&redis).await;
    let a = replica(&redis, &LONG);
    let (_client, log) = speaking(&a, 20).await;
    kill(a);
    let b = replica(&redis, &LONG);
    assert_whole(&replay(&b, &log.id()).await, &text);
    let stored = http::get(b.address, &format!("/v1/responses/{}", log.id())).await.json();
    assert_eq!(stored["status"], "completed");
}
