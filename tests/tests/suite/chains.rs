//! Tests `previous_response_id` on stored and unstored responses.

use caudal_tests::{App, Client, EventLog, http, spawn_app, ws::code};
use serde_json::{Value, json};

/// Returns the input tokens that each turn adds: its message and the reply before it. The scripted engine counts words, and a
/// constant for each message.
fn growth(turns: &[EventLog]) -> Vec<i64> {
    turns.windows(2).map(|pair| pair[1].usage("input_tokens") as i64 - pair[0].usage("input_tokens") as i64).collect()
}

#[tokio::test]
async fn each_turn_carries_all_that_came_before() {
    let app = spawn_app(&["engine.scripted.tokens=10"]);
    let mut turns = vec![Client::plain(&app).await.run(json!({"input": "one two three"})).await];
    for _ in 0..4 {
        let previous = turns.last().unwrap().id();
        // Each turn is on a new connection, because the server stores the chain.
        let turn =
            Client::plain(&app).await.run(json!({"input": "one two three", "previous_response_id": previous})).await;
        assert_eq!(turn.response()["previous_response_id"], previous.as_str());
        turns.push(turn);
    }
    let growth = growth(&turns);
    assert!(growth[0] >= 13, "three words and a reply of ten: {growth:?}");
    assert!(growth.iter().all(|g| *g == growth[0]), "each turn adds the same: {growth:?}");
}

#[tokio::test]
async fn instructions_are_for_one_turn() {
    let app = spawn_app(&["engine.scripted.tokens=5"]);
    let mut client = Client::plain(&app).await;
    let bare = client.run(json!({"input": "x"})).await;
    let first = client.run(json!({"input": "x", "instructions": "answer like a river would"})).await;
    assert!(first.usage("input_tokens") >= bare.usage("input_tokens") + 5);
    let after_bare = client.run(json!({"input": "y", "previous_response_id": bare.id()})).await;
    let after_first = client.run(json!({"input": "y", "previous_response_id": first.id()})).await;
    assert_eq!(after_first.usage("input_tokens"), after_bare.usage("input_tokens"));
    assert!(after_first.response()["instructions"].is_null());
}

async fn error_of(client: &mut Client, fields: Value) -> Value {
    client.create(fields).await;
    client.error().await
}

async fn assert_not_found(client: &mut Client, id: &str) {
    let error = error_of(client, json!({"previous_response_id": id})).await;
    assert_eq!((code(&error), &error["status"]), ("previous_response_not_found", &json!(400)), "{id}");
    assert_eq!(error["error"]["param"], "previous_response_id");
}

#[tokio::test]
async fn an_unknown_or_deleted_response_cannot_be_continued() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    assert_not_found(&mut client, "resp_nothing").await;
    let log = client.run(json!({})).await;
    assert_eq!(http::call(app.address, "DELETE", &format!("/v1/responses/{}", log.id())).send().await.status, 200);
    assert_not_found(&mut client, &log.id()).await;
}

#[tokio::test]
async fn a_running_response_cannot_be_continued_yet() {
    let app = spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::plain(&app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    let id = created["response"]["id"].as_str().unwrap();
    let error = error_of(&mut Client::plain(&app).await, json!({"previous_response_id": id})).await;
    assert_eq!((code(&error), &error["error"]["param"]), ("invalid_request", &json!("previous_response_id")));
}

async fn unstored(app: &App) -> (Client, EventLog) {
    let mut client = Client::plain(app).await;
    let log = client.run(json!({"store": false, "input": "one two three"})).await;
    assert_eq!(log.response()["store"], false);
    (client, log)
}

#[tokio::test]
async fn an_unstored_response_is_continued_on_its_own_connection_only() {
    let app = spawn_app(&[]);
    let (mut client, first) = unstored(&app).await;
    assert_not_found(&mut Client::plain(&app).await, &first.id()).await;
    let over_http =
        http::post(app.address, "/v1/responses", &json!({"input": "x", "previous_response_id": first.id()})).await;
    assert_eq!((over_http.status, &over_http.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    let mut turns = vec![first];
    for _ in 0..2 {
        let previous = turns.last().unwrap().id();
        turns.push(
            client.run(json!({"store": false, "input": "one two three", "previous_response_id": previous})).await,
        );
    }
    let growth = growth(&turns);
    assert!(growth[0] > 20 && growth[0] == growth[1], "{growth:?}");
}

#[tokio::test]
async fn an_error_on_a_continuation_evicts_the_unstored_chain() {
    let app = spawn_app(&[]);
    let (mut client, first) = unstored(&app).await;
    assert_not_found(&mut client, "resp_nothing").await;
    assert_not_found(&mut client, &first.id()).await;
}

#[tokio::test]
async fn truncation_leaves_out_the_oldest_turns_or_the_request_is_refused() {
    let app = spawn_app(&["engine.scripted.context_length=100", "engine.scripted.tokens=10"]);
    let mut client = Client::plain(&app).await;
    let mut last = client.run(json!({"input": "one two three four five"})).await;
    let mut refused = None;
    for _ in 0..10 {
        client
            .create(
                json!({"input": "one two three four five", "previous_response_id": last.id(), "max_output_tokens": 10}),
            )
            .await;
        let event = client.event().await;
        if event["type"] == "error" {
            refused = Some(event);
            break;
        }
        last = EventLog { events: vec![event] };
        client.rest(&mut last).await;
    }
    let refused = refused.expect("a hundred tokens are full at last");
    assert_eq!((code(&refused), &refused["status"]), ("context_length_exceeded", &json!(400)));
    let fitted = client
        .run(json!({"input": "one two three four five", "previous_response_id": last.id(), "truncation": "auto"}))
        .await;
    fitted.assert_gap_free();
    assert!(fitted.usage("input_tokens") < 100 && fitted.usage("input_tokens") > 30, "only the oldest are left out");
}
