//! Tests many responses on one socket: without a `stream_id` first in, first out; with one, side by side.

use std::collections::{HashMap, HashSet};

use caudal_tests::{
    Client, EventLog,
    log::{is_terminal, kind},
    spawn_app,
    ws::code,
};
use serde_json::{Value, json};

const SLOW: &str = "engine.scripted.tokens_per_second=100";

/// Reads until `count` responses have ended. Returns their logs by `stream_id`, and the lanes in the order of their deltas.
async fn by_lane(client: &mut Client, count: usize) -> (HashMap<String, Vec<EventLog>>, Vec<String>) {
    let (mut lanes, mut order, mut ended) = (HashMap::<String, Vec<EventLog>>::new(), vec![], 0);
    while ended < count {
        let event = client.event().await;
        let lane = event["stream_id"]
            .as_str()
            .unwrap_or_else(|| panic!("every event of a lane echoes its stream_id: {event}"));
        let logs = lanes.entry(lane.to_owned()).or_default();
        if kind(&event) == "response.created" {
            logs.push(EventLog::default());
        }
        if kind(&event) == "response.output_text.delta" {
            order.push(lane.to_owned());
        }
        ended += usize::from(is_terminal(&event));
        logs.last_mut().expect("a response begins with response.created").push(event);
    }
    (lanes, order)
}

#[tokio::test]
async fn without_a_stream_id_responses_come_one_after_the_other() {
    let app = spawn_app(&[SLOW, "engine.scripted.tokens=10"]);
    let mut client = Client::plain(&app).await;
    let names: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    for name in &names {
        client.create(json!({"metadata": {"name": name}})).await;
    }
    let mut ids = HashSet::new();
    for name in &names {
        let log = client.response().await;
        // Events of another response in between would break the numbering.
        log.assert_gap_free();
        assert_eq!(log.response()["metadata"]["name"], name.as_str(), "first in, first out");
        assert!(log.events.iter().all(|e| e.get("stream_id").is_none()));
        ids.insert(log.id());
    }
    assert_eq!(ids.len(), names.len());
}

#[tokio::test]
async fn lanes_run_side_by_side() {
    let app = spawn_app(&[SLOW, "engine.scripted.tokens=100"]);
    let mut client = Client::plain(&app).await;
    for lane in ["a", "b", "c.d", "E_f-9"] {
        client.create(json!({"stream_id": lane})).await;
    }
    let (lanes, order) = by_lane(&mut client, 4).await;
    assert_eq!(lanes.len(), 4);
    for logs in lanes.values() {
        assert_eq!(logs.len(), 1);
        logs[0].assert_gap_free();
        logs[0].assert_text_agrees();
    }
    let firsts = ["a", "b", "c.d", "E_f-9"].map(|lane| order.iter().position(|l| l == lane).unwrap());
    let lasts = ["a", "b", "c.d", "E_f-9"].map(|lane| order.iter().rposition(|l| l == lane).unwrap());
    assert!(firsts.iter().max() < lasts.iter().min(), "each lane speaks before any has ended: {order:?}");
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 20, "the lanes do not interleave: {order:?}");
}

#[tokio::test]
async fn within_a_lane_responses_are_in_order_and_other_lanes_do_not_wait() {
    let app = spawn_app(&[SLOW, "engine.scripted.tokens=20"]);
    let mut client = Client::plain(&app).await;
    for (lane, name) in [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")] {
        client.create(json!({"stream_id": lane, "metadata": {"name": name}})).await;
    }
    let (lanes, order) = by_lane(&mut client, 4).await;
    let names: Vec<&Value> = lanes["a"].iter().map(|log| &log.response()["metadata"]["name"]).collect();
    assert_eq!(names, ["1", "2", "3"]);
    lanes.values().flatten().for_each(EventLog::assert_gap_free);
    let last_of_b = order.iter().rposition(|lane| lane == "b").unwrap();
    assert!(
        order[last_of_b..].iter().filter(|lane| *lane == "a").count() > 15,
        "b did not wait for a's second and third"
    );
}

#[tokio::test]
async fn the_seventeenth_stream_in_flight_is_refused() {
    let app = spawn_app(&[SLOW, "engine.scripted.tokens=40"]);
    let mut client = Client::plain(&app).await;
    for lane in 0..16 {
        client.create(json!({"stream_id": format!("lane-{lane}")})).await;
    }
    client.create(json!({"stream_id": "one-too-many"})).await;
    let (mut refused, mut logs) = (None, HashMap::<String, EventLog>::new());
    while logs.len() < 16 || refused.is_none() || !logs.values().all(EventLog::ended) {
        let event = client.event().await;
        if kind(&event) == "error" {
            assert!(refused.replace(event).is_none(), "one refusal");
            continue;
        }
        logs.entry(event["stream_id"].as_str().expect("a stream_id").into()).or_default().push(event);
    }
    let refused = refused.unwrap();
    assert_eq!(code(&refused), "websocket_stream_limit_reached");
    assert_eq!((&refused["status"], &refused["stream_id"]), (&json!(400), &json!("one-too-many")));
    logs.values().for_each(EventLog::assert_gap_free);
    assert!(!logs.contains_key("one-too-many"));
    // Once there is room, the request is accepted.
    client.create(json!({"stream_id": "one-too-many"})).await;
    by_lane(&mut client, 1).await.0["one-too-many"][0].assert_gap_free();
}

#[tokio::test]
async fn an_invalid_stream_id_is_refused() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    let long = "x".repeat(257);
    for invalid in
        [json!(""), json!("a b"), json!("é"), json!("a/b"), json!(long), json!(7), json!(["a"]), json!({}), json!(true)]
    {
        client.create(json!({"stream_id": invalid})).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), ("invalid_stream_id", &json!(400)), "{invalid}");
        assert_eq!(error["error"]["param"], "stream_id");
    }
    client.create(json!({"stream_id": "x".repeat(256)})).await;
    by_lane(&mut client, 1).await;
}

#[tokio::test]
async fn an_error_echoes_its_lane() {
    let app = spawn_app(&[]);
    let mut client = Client::extended(&app).await;
    client.create(json!({"stream_id": "mine", "temperature": 9})).await;
    assert_eq!(client.error().await["stream_id"], "mine");
    client.send(json!({"type": "caudal:response.resume", "response_id": "resp_nothing", "stream_id": "mine"})).await;
    assert_eq!(client.error().await["stream_id"], "mine");
    client.create(json!({"temperature": 9})).await;
    assert!(client.error().await.get("stream_id").is_none_or(Value::is_null));
}

#[tokio::test]
async fn a_lane_goes_on_after_an_error() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    for fields in [json!({"previous_response_id": "resp_nothing"}), json!({}), json!({"model": "nothing"}), json!({})] {
        client.create(fields).await;
    }
    assert_eq!(code(&client.error().await), "previous_response_not_found");
    client.response().await.assert_gap_free();
    assert_eq!(code(&client.error().await), "model_not_found");
    client.response().await.assert_gap_free();
}

#[tokio::test]
async fn a_lane_has_room_for_so_many_and_refuses_more() {
    let app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::plain(&app).await;
    // One request runs, 64 wait, and one is too many.
    for _ in 0..66 {
        client.create(json!({"stream_id": "long", "max_output_tokens": 4000})).await;
    }
    loop {
        let event = client.event().await;
        assert_eq!(event["stream_id"], "long");
        if kind(&event) == "error" {
            assert_eq!(code(&event), "websocket_stream_limit_reached");
            break;
        }
        assert!(!is_terminal(&event), "the 66th was refused before the first ended");
    }
    client.create(json!({"stream_id": "other", "max_output_tokens": 2})).await;
    loop {
        let event = client.event().await;
        assert_ne!(kind(&event), "error", "one refusal, and none in another lane");
        if is_terminal(&event) {
            assert_eq!(event["stream_id"], "other");
            break;
        }
    }
}
