//! Tests `response.steer`: input of the user to a running response.

use caudal_tests::{
    App, Client, EventLog,
    http::{get, post},
    log::kind,
    spawn_app,
};
use serde_json::{Value, json};

const LONG: [&str; 2] = ["engine.scripted.tokens=3000", "engine.scripted.tokens_per_second=100"];

async fn begun(app: &App, mut fields: Value) -> (Client, EventLog) {
    let mut client = Client::plain(app).await;
    fields["model"] = "scripted".into();
    client.create(fields).await;
    let mut log = EventLog::default();
    while log.events.last().is_none_or(|event| kind(event) != "response.output_text.delta") {
        log.push(client.event().await);
    }
    (client, log)
}

async fn steer(client: &mut Client, id: &str, input: Value) {
    client.send(json!({"type": "response.steer", "previous_response_id": id, "input": input})).await;
}

/// Reads the next event that belongs to no response; appends the events before it to `log`.
async fn answer(client: &mut Client, log: &mut EventLog) -> Value {
    loop {
        let event = client.event().await;
        if kind(&event).starts_with("response.steer.") {
            return event;
        }
        log.push(event);
    }
}

async fn asked(app: &App, id: &str) -> Vec<String> {
    let items = get(app.address, &format!("/v1/responses/{id}/input_items?order=asc")).await.json();
    let data = items["data"].as_array().expect("data").iter();
    data.map(|item| item["content"][0]["text"].as_str().unwrap_or("an item").to_owned()).collect()
}

/// Returns the id of the next created response.
async fn created(client: &mut Client) -> String {
    loop {
        let event = client.event().await;
        if kind(&event) == "response.created" {
            return event["response"]["id"].as_str().expect("an id").to_owned();
        }
    }
}

#[tokio::test]
async fn a_steered_response_ends_and_its_successor_goes_on() {
    let app = spawn_app(&LONG);
    for store in [true, false] {
        let fields = json!({"stream_id": "lane", "store": store, "instructions": "Be brief.", "metadata": {"a": "b"}});
        let (mut client, mut log) = begun(&app, fields).await;
        let id = log.id();
        steer(&mut client, &id, json!("faster")).await;
        let accepted = answer(&mut client, &mut log).await;
        assert_eq!((kind(&accepted), &accepted["stream_id"]), ("response.steer.accepted", &json!("lane")));
        assert_eq!(accepted["steer"]["previous_response_id"], id.as_str());
        assert!(accepted["steer"]["id"].is_string() && accepted["sequence_number"].is_u64());
        client.rest(&mut log).await;
        log.assert_gap_free();
        assert_eq!((log.status(), log.reason()), ("incomplete", "steered"));
        let created = client.event_of("response.created").await;
        let next = &created["response"];
        assert_eq!((&next["previous_response_id"], &created["stream_id"]), (&json!(id), &json!("lane")));
        assert_eq!((&next["instructions"], &next["metadata"]), (&json!("Be brief."), &json!({"a": "b"})), "inherited");
        let next = next["id"].as_str().expect("an id").to_owned();
        assert_eq!(asked(&app, &next).await, ["faster"]);
        client.event_of("response.output_text.delta").await;
        // A second input steers the successor.
        steer(&mut client, &next, json!([{"role": "user", "content": "and louder"}])).await;
        assert_eq!(client.event_of("response.incomplete").await["response"]["incomplete_details"]["reason"], "steered");
        client.event_of("response.created").await;
    }
}

#[tokio::test]
async fn several_inputs_are_committed_in_order_by_one_successor() {
    let app = spawn_app(&LONG);
    // The first input ends the response; the second must come before that.
    for _ in 0..50 {
        let (mut client, mut log) = begun(&app, json!({})).await;
        for input in ["one", "two"] {
            steer(&mut client, &log.id(), json!(input)).await;
        }
        let answers = [answer(&mut client, &mut log).await, answer(&mut client, &mut log).await];
        let [first, second] = answers.each_ref().map(kind);
        assert_eq!(first, "response.steer.accepted");
        if second == "response.steer.accepted" {
            client.rest(&mut log).await;
            assert_eq!(asked(&app, &created(&mut client).await).await, ["one", "two"]);
            return;
        }
        assert_eq!(answers[1]["error"]["code"], "response_already_completed");
    }
    panic!("no second input came before the response ended");
}

#[tokio::test]
async fn a_response_that_waits_is_steered_at_once() {
    let app = spawn_app(&["engine.max_running=1", LONG[0], LONG[1]]);
    let (mut client, mut log) = begun(&app, json!({})).await;
    let mut second = Client::plain(&app).await;
    second.create(json!({})).await;
    let id = second.event_of("response.queued").await["response"]["id"].as_str().expect("an id").to_owned();
    steer(&mut second, &id, json!("one")).await;
    let mut waiting = EventLog::default();
    assert_eq!(kind(&answer(&mut second, &mut waiting).await), "response.steer.accepted");
    assert_eq!(asked(&app, &created(&mut second).await).await, ["one"]);
    steer(&mut client, &log.id(), json!("stop")).await;
    client.rest(&mut log).await;
}

#[tokio::test]
async fn what_cannot_be_steered_gives_the_input_back() {
    let app = spawn_app(&LONG);
    let (mut client, mut log) = begun(&app, json!({})).await;
    let id = log.id();
    let mut refused = async |id: &str, input: Value| {
        steer(&mut client, id, input.clone()).await;
        let failed = answer(&mut client, &mut log).await;
        assert_eq!(kind(&failed), "response.steer.failed", "{failed}");
        assert_eq!((&failed["steer"]["input"], &failed["error"]["type"]), (&input, &json!("invalid_request_error")));
        assert!(failed["steer"].get("id").is_none() && failed["error"]["message"].is_string());
        failed["error"]["code"].as_str().expect("a code").to_owned()
    };
    assert_eq!(refused("resp_unknown", json!("x")).await, "response_not_found");
    for input in [json!([]), json!(null), json!([{"role": "system", "content": "x"}]), json!([{"role": "user"}])] {
        assert_eq!(refused(&id, input).await, "invalid_input");
    }
    let done = post(app.address, "/v1/responses", &json!({"input": "x", "max_output_tokens": 1})).await.json();
    assert_eq!(
        refused(done["id"].as_str().expect("an id"), json!("x")).await,
        "response_not_found",
        "of another connection"
    );
    let mut short = Client::plain(&app).await;
    let ended = short.run(json!({"max_output_tokens": 1})).await.id();
    steer(&mut short, &ended, json!("x")).await;
    assert_eq!(short.event().await["error"]["code"], "response_already_completed");
    let conversation = post(app.address, "/v1/conversations", &json!({})).await.json()["id"].clone();
    short.create(json!({"conversation": conversation})).await;
    let turn = short.event_of("response.created").await["response"]["id"].as_str().expect("an id").to_owned();
    steer(&mut short, &turn, json!("x")).await;
    assert_eq!(answer(&mut short, &mut EventLog::default()).await["error"]["code"], "steering_not_supported");
}

#[tokio::test]
async fn a_cancelled_response_gives_its_inputs_back() {
    let app = spawn_app(&["engine.max_running=1", LONG[0], LONG[1]]);
    let (mut client, mut log) = begun(&app, json!({"seed": 1})).await;
    let id = log.id();
    // A run of the prompt cache may have other followers, so it goes on, and a successor would begin only at its end.
    steer(&mut client, &id, json!("x")).await;
    let accepted = answer(&mut client, &mut log).await;
    client.send(json!({"type": "response.cancel", "response_id": id})).await;
    let failed = answer(&mut client, &mut log).await;
    assert_eq!((kind(&failed), &failed["steer"]["id"]), ("response.steer.failed", &accepted["steer"]["id"]));
    assert_eq!((&failed["error"]["code"], &failed["steer"]["input"]), (&json!("response_not_active"), &json!("x")));
    assert_eq!(log.reason(), "cancelled");
}

#[tokio::test]
async fn an_input_waits_for_the_outputs_of_calls() {
    let call = "<tool_call> {\"name\": \"f\", \"arguments\": {}} </tool_call>";
    let text = format!("engine.scripted.text={}{call}", "word ".repeat(100));
    let app = spawn_app(&[&text, "engine.scripted.tokens=105", "engine.scripted.tokens_per_second=100"]);
    let tools = json!([{"type": "function", "name": "f"}]);
    // An input does not end a run of the prompt cache, so the call is made.
    let (mut client, mut log) = begun(&app, json!({"tools": tools, "seed": 1})).await;
    let id = log.id();
    steer(&mut client, &id, json!("hurry")).await;
    let accepted = answer(&mut client, &mut log).await;
    let pending = answer(&mut client, &mut log).await;
    assert_eq!(log.status(), "completed");
    let called = log.items().last().expect("an item")["call_id"].clone();
    assert_eq!((kind(&pending), &pending["reason"]), ("response.steer.pending", &json!("waiting_for_required_input")));
    assert_eq!(pending["steer"], accepted["steer"]);
    assert_eq!(pending["required_input"], json!([{"type": "function_call_output", "call_id": called}]));
    let output = json!([{"type": "function_call_output", "call_id": called, "output": "o"}]);
    client.create(json!({"input": output, "previous_response_id": id, "tools": tools, "max_output_tokens": 1})).await;
    let next = client.response().await;
    assert_eq!(asked(&app, &next.id()).await, ["hurry", "an item"]);
}
