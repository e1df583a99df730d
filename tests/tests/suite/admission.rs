//! What cannot run now waits within a bound, and is told so.

use caudal_tests::{App, Client, EventLog, http, log::kind, spawn_app, ws::code};
use serde_json::{Value, json};

const SLOW: [&str; 2] = ["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"];

fn spawn(more: &[&str]) -> App {
    let mut settings = SLOW.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

/// Takes a slot until it is cancelled.
async fn holder(app: &App) -> (Client, String) {
    let mut client = Client::plain(app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    client.event_of("response.output_text.delta").await;
    (client, created["response"]["id"].as_str().unwrap().to_owned())
}

async fn queued(app: &App) -> (Client, String) {
    let mut client = Client::extended(app).await;
    client.create(json!({"max_output_tokens": 3})).await;
    let event = client.event_of("response.queued").await;
    (client, event["response"]["id"].as_str().unwrap().to_owned())
}

#[track_caller]
fn assert_overloaded(error: &Value) {
    assert_eq!(
        (code(error), &error["status"], &error["error"]["type"]),
        ("server_overloaded", &json!(503), &json!("server_error"))
    );
    assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
}

#[tokio::test]
async fn over_the_queues_bound_requests_are_refused() {
    let app = spawn(&["engine.slots=1", "admission.queue=2"]);
    let (mut running, id) = holder(&app).await;
    let (mut first, _) = queued(&app).await;
    let (mut second, _) = queued(&app).await;
    let mut third = Client::plain(&app).await;
    third.create(json!({})).await;
    assert_overloaded(&third.error().await);
    let answer = http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("server_overloaded")));
    assert!(answer.header("retry-after").and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s > 0));
    // Nobody who waits was disturbed.
    running.send(json!({"type": "response.cancel", "response_id": id})).await;
    for client in [&mut first, &mut second] {
        client.event_of("response.in_progress").await;
        client.event_of("response.incomplete").await;
    }
    third.create(json!({"max_output_tokens": 1})).await;
    assert!(third.response().await.ended());
}

#[tokio::test]
async fn without_a_queue_the_slots_are_the_bound() {
    let app = spawn(&["engine.slots=2", "admission.queue=0"]);
    let _running = (holder(&app).await, holder(&app).await);
    let mut client = Client::plain(&app).await;
    client.create(json!({})).await;
    assert_overloaded(&client.error().await);
}

/// Reads until the client is told this position; until then it may be told again where it stood.
async fn stands_at(client: &mut Client, position: u64) {
    loop {
        let event = client.event().await;
        assert_eq!(kind(&event), "caudal:response.queued", "{event}");
        assert!(event["estimated_wait_ms"].is_u64() && event["response_id"].is_string(), "{event}");
        let told = event["position"].as_u64().expect("position is a number");
        assert!(told >= position, "expected {position}: {event}");
        if told == position {
            return;
        }
    }
}

#[tokio::test]
async fn who_waits_is_told_where_it_stands() {
    let app = spawn(&["engine.slots=1"]);
    let (mut running, holder) = holder(&app).await;
    let (mut first, first_id) = queued(&app).await;
    let (mut second, second_id) = queued(&app).await;
    let (mut third, _) = queued(&app).await;
    for (client, position) in [(&mut first, 1), (&mut second, 2), (&mut third, 3)] {
        stands_at(client, position).await;
    }
    // Who is cancelled in the queue lets the others move up.
    running.send(json!({"type": "response.cancel", "response_id": first_id})).await;
    for (client, position) in [(&mut second, 1), (&mut third, 2)] {
        stands_at(client, position).await;
    }
    first.event_of("response.incomplete").await;
    running.send(json!({"type": "response.cancel", "response_id": holder})).await;
    second.event_of("response.in_progress").await;
    third.event_of("response.in_progress").await;
    let mut replay = Client::extended(&app).await;
    replay.resume(&second_id, None).await;
    let log = replay.response().await;
    log.assert_gap_free();
    assert_eq!(
        log.kinds()[..3],
        ["response.created", "response.queued", "response.in_progress"],
        "one queued event, in its place"
    );
}

#[tokio::test]
async fn the_queue_is_served_in_order() {
    let app = spawn(&["engine.slots=1"]);
    let (mut running, holder) = holder(&app).await;
    // All on one connection, in lanes of their own, so that the order of their events is the order of their turns.
    let mut client = Client::plain(&app).await;
    let mut logs = vec![EventLog::default(); 6];
    for (lane, log) in logs.iter_mut().enumerate() {
        client.create(json!({"stream_id": lane.to_string(), "max_output_tokens": 5})).await;
        while log.events.len() < 2 {
            log.push(client.event().await);
        }
        assert_eq!(log.kinds(), ["response.created", "response.queued"]);
    }
    running.send(json!({"type": "response.cancel", "response_id": holder})).await;
    let mut started = vec![];
    while !logs.iter().all(EventLog::ended) {
        let event = client.event().await;
        let lane: usize = event["stream_id"].as_str().unwrap().parse().unwrap();
        if kind(&event) == "response.in_progress" {
            started.push(lane);
        }
        logs[lane].push(event);
    }
    logs.iter().for_each(EventLog::assert_gap_free);
    assert_eq!(started, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn slots_bound_what_runs_at_once() {
    let app = spawn_app(&["engine.slots=3", "engine.scripted.tokens=20", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::plain(&app).await;
    for lane in 0..12 {
        client.create(json!({"stream_id": lane.to_string()})).await;
    }
    let (mut running, mut most, mut ended) = (0, 0, 0);
    while ended < 12 {
        match kind(&client.event().await) {
            "response.in_progress" => running += 1,
            "response.completed" => {
                running -= 1;
                ended += 1;
            }
            _ => {}
        }
        most = most.max(running);
    }
    // The next starts a moment before the last event of the one before it has been read.
    assert!((3..=6).contains(&most), "{most} ran at once on three slots");
}
