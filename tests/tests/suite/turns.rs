//! Tests consecutive turns of a conversation, on one server and on several.

use caudal_tests::{App, Client, EventLog, Redis, log::kind, spawn_app, ws::code};
use futures::future::join_all;
use serde_json::json;

use super::{
    conversations::{SLOW, conversation, items, pair, said},
    redis::replica,
};

/// Creates a turn of a conversation and reads its first event.
async fn turn(app: &App, conversation: &str, input: &str) -> (Client, EventLog) {
    let mut client = Client::extended(app).await;
    client.create(json!({"input": input, "conversation": conversation})).await;
    let mut log = EventLog::default();
    log.push(client.event().await);
    (client, log)
}

#[tokio::test]
async fn a_second_turn_waits_for_the_first_and_reads_what_it_said() {
    let app = spawn_app(&SLOW);
    let id = conversation(&app, json!({})).await;
    let (mut a, mut first) = turn(&app, &id, "first").await;
    let (mut b, mut second) = turn(&app, &id, "second").await;
    second.push(b.event().await);
    assert_eq!(second.kinds(), ["response.created", "response.queued"]);
    a.rest(&mut first).await;
    b.rest(&mut second).await;
    first.assert_gap_free();
    second.assert_gap_free();
    let expected = [
        pair("user", "first"),
        pair("assistant", &first.text()),
        pair("user", "second"),
        pair("assistant", &second.text()),
    ];
    assert_eq!(said(&items(&app, &id).await), expected);
    assert!(second.usage("input_tokens") > first.usage("input_tokens") + 50, "it read the first turn");
}

#[tokio::test]
async fn a_waiting_turn_can_be_cancelled_and_the_next_one_goes_on() {
    let app = spawn_app(&SLOW);
    let id = conversation(&app, json!({})).await;
    let mut clients = vec![];
    for n in 0..3 {
        clients.push(turn(&app, &id, &n.to_string()).await);
    }
    let waiting = clients[1].1.id();
    clients[0].0.send(json!({"type": "response.cancel", "response_id": waiting})).await;
    let (client, log) = &mut clients[1];
    client.rest(log).await;
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    assert!(!log.kinds().contains(&"response.in_progress"));
    for at in [0, 2] {
        let (client, log) = &mut clients[at];
        client.rest(log).await;
        assert_eq!(log.status(), "completed");
    }
    let users: Vec<(String, String)> =
        said(&items(&app, &id).await).into_iter().filter(|(role, _)| role == "user").collect();
    assert_eq!(users, [pair("user", "0"), pair("user", "2")]);
}

#[tokio::test]
async fn many_turns_at_once_take_their_turns_in_order_or_are_refused_by_name() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let id = conversation(&app, json!({})).await;
    let asked = (0..12).map(|n| {
        let (app, id) = (&app, id.clone());
        async move { Client::extended(app).await.run(json!({"input": n.to_string(), "conversation": id})).await }
    });
    let logs = join_all(asked).await;
    assert!(logs.iter().all(|log| log.status() == "completed"));
    let roles: Vec<String> = said(&items(&app, &id).await).into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant"].repeat(12), "turns never interleave");

    let mut settings = SLOW.to_vec();
    settings.push("generation.conversation_conflict=refuse");
    let app = spawn_app(&settings);
    let id = conversation(&app, json!({})).await;
    let (mut a, mut b) = (Client::extended(&app).await, Client::extended(&app).await);
    a.create(json!({"conversation": id, "client_request_id": "once"})).await;
    let mut log = EventLog::default();
    log.push(a.event().await);
    b.create(json!({"conversation": id})).await;
    let error = b.error().await;
    assert_eq!((code(&error), &error["status"]), ("conversation_busy", &json!(409)));
    // A repeated request does not create a second turn.
    let same = b.run(json!({"conversation": id, "client_request_id": "once"})).await;
    a.rest(&mut log).await;
    assert_eq!(same, log);
    assert_eq!(b.run(json!({"conversation": id})).await.status(), "completed");
    assert_eq!(items(&app, &id).await.len(), 4);
}

#[tokio::test]
async fn a_prompt_that_no_longer_fits_fails_the_waiting_turn_by_name() {
    let mut settings = SLOW.to_vec();
    settings.push("engine.scripted.context_length=80");
    let app = spawn_app(&settings);
    let id = conversation(&app, json!({})).await;
    let (mut a, mut b) = (Client::extended(&app).await, Client::extended(&app).await);
    a.create(json!({"input": "first", "conversation": id})).await;
    a.event().await;
    let words = "word ".repeat(40);
    let second = b.run(json!({"input": words, "conversation": id})).await;
    assert_eq!(second.status(), "failed");
    assert_eq!(second.response()["error"]["code"], "context_length_exceeded");
    let (mut a, id) = (Client::extended(&app).await, id.as_str());
    assert_eq!(items(&app, id).await.len(), 2, "the refused turn left nothing");
    assert_ne!(a.run(json!({"input": "again", "conversation": id})).await.status(), "failed");
}

#[tokio::test]
async fn turns_on_different_replicas_take_their_turns() {
    let redis = Redis::spawn();
    let apps = [replica(&redis, &SLOW), replica(&redis, &SLOW), replica(&redis, &SLOW)];
    let id = conversation(&apps[0], json!({})).await;
    let mut watcher = Client::extended(&apps[2]).await;
    watcher.send(json!({"type": "caudal:response.resume", "conversation": id})).await;
    watcher.error().await;
    let mut clients = vec![];
    for (n, app) in apps.iter().enumerate() {
        clients.push(turn(app, &id, &n.to_string()).await);
    }
    let mut told = vec![];
    for (client, log) in &mut clients {
        client.rest(log).await;
        log.assert_gap_free();
        told.push(watcher.event_of("caudal:conversation.turn").await["response_id"].clone());
    }
    assert_eq!(told, clients.iter().map(|(_, log)| json!(log.id())).collect::<Vec<_>>());
    let expected: Vec<_> = clients
        .iter()
        .enumerate()
        .flat_map(|(n, (_, log))| [pair("user", &n.to_string()), pair("assistant", &log.text())])
        .collect();
    for app in &apps {
        assert_eq!(said(&items(app, &id).await), expected);
    }
}

#[tokio::test]
async fn a_dead_replicas_turn_is_finished_elsewhere_and_the_next_one_follows() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let id = conversation(&b, json!({})).await;
    let (mut client, mut log) = turn(&a, &id, "first").await;
    while log.of_kind("response.output_text.delta").count() < 5 {
        log.push(client.event().await);
    }
    let mut next = Client::extended(&b).await;
    next.create(json!({"input": "second", "conversation": id})).await;
    next.event_of("response.queued").await;
    a.signal("KILL");
    let mut other = Client::extended(&b).await;
    other.resume(&log.id(), log.last_number()).await;
    other.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!(log.usage("output_tokens"), 50);
    let second = next.response().await;
    assert_eq!(second.status(), "completed");
    let kept = said(&items(&b, &id).await);
    assert_eq!(kept[..3], [pair("user", "first"), pair("assistant", &log.text()), pair("user", "second")]);
    assert_eq!(kept.len(), 4);
}

#[tokio::test]
async fn a_waiting_turn_outlives_its_replica() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let id = conversation(&b, json!({})).await;
    let (mut first, mut log) = turn(&b, &id, "first").await;
    let (mut waiting, mut second) = turn(&a, &id, "second").await;
    second.push(waiting.event().await);
    a.signal("KILL");
    let mut other = Client::extended(&b).await;
    other.resume(&second.id(), second.last_number()).await;
    other.rest(&mut second).await;
    second.assert_gap_free();
    assert_eq!(second.status(), "completed");
    first.rest(&mut log).await;
    let kept = said(&items(&b, &id).await);
    assert_eq!(kept[2..], [pair("user", "second"), pair("assistant", &second.text())]);
}

#[tokio::test]
async fn a_waiting_turn_that_has_begun_is_continued_with_the_same_prompt() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let id = conversation(&b, json!({})).await;
    let (mut first, mut log) = turn(&b, &id, "first").await;
    let (mut waiting, mut second) = turn(&a, &id, "second").await;
    first.rest(&mut log).await;
    while second.of_kind("response.output_text.delta").count() < 5 {
        second.push(waiting.event().await);
        second.events.retain(|event| !kind(event).starts_with("caudal:"));
    }
    a.signal("KILL");
    let mut other = Client::extended(&b).await;
    other.resume(&second.id(), second.last_number()).await;
    other.rest(&mut second).await;
    second.assert_gap_free();
    // The scripted engine counts two tokens for each message besides its words: the first turn, its reply, and the second
    // turn's input, each once.
    assert_eq!(second.usage("input_tokens"), (2 + 1) + (2 + 50) + (2 + 1));
    assert_eq!(items(&b, &id).await.len(), 4);
}

#[tokio::test]
async fn a_turn_of_which_nothing_is_left_does_not_hold_up_the_next() {
    let redis = Redis::spawn();
    let (a, b) = (replica(&redis, &SLOW), replica(&redis, &SLOW));
    let id = conversation(&b, json!({})).await;
    let (_client, log) = turn(&a, &id, "first").await;
    a.signal("KILL");
    redis.ask(&["DEL", &format!("caudal:1:{{{}}}:meta", log.id())]);
    let second = Client::extended(&b).await.run(json!({"input": "second", "conversation": id})).await;
    assert_eq!(second.status(), "completed");
    let users: Vec<_> = said(&items(&b, &id).await).into_iter().filter(|(role, _)| role == "user").collect();
    assert_eq!(users, [pair("user", "first"), pair("user", "second")]);
}

#[tokio::test]
async fn only_so_many_turns_wait() {
    let app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=20"]);
    let id = conversation(&app, json!({})).await;
    let mut clients = vec![];
    for _ in 0..17 {
        let mut client = Client::extended(&app).await;
        client.create(json!({"conversation": id})).await;
        client.event_of("response.created").await;
        clients.push(client);
    }
    let mut late = Client::extended(&app).await;
    late.create(json!({"conversation": id})).await;
    assert_eq!(code(&late.error().await), "conversation_busy");
}
