//! Tests reasoning: it is an item of its own and never part of a later prompt.

use caudal_tests::{App, Client, http, spawn_app};
use serde_json::json;

const THINKING: &str = "engine.scripted.text=<think> Is it? It is. </think> Yes, é.";

fn thinking(tokens: u32) -> App {
    spawn_app(&[THINKING, "engine.scripted.reasoning=true", &format!("engine.scripted.tokens={tokens}")])
}

#[tokio::test]
async fn thoughts_go_to_the_summary_and_not_to_the_text() {
    let app = thinking(8);
    let log = Client::plain(&app).await.run(json!({"reasoning": {"effort": "low", "summary": "auto"}})).await;
    let [thought, message] = log.items() else { panic!("{:?}", log.items()) };
    let id = thought["id"].as_str().unwrap();
    assert!(id.starts_with("rs_"));
    let summary = json!([{"type": "summary_text", "text": "Is it? It is."}]);
    assert_eq!(*thought, json!({"type": "reasoning", "id": id, "status": "completed", "summary": summary}));
    assert_eq!(message["content"][0]["text"], "Yes, é. ");
    assert_eq!(log.text(), "Yes, é. ");
    let usage = &log.response()["usage"];
    assert_eq!((&usage["output_tokens"], &usage["output_tokens_details"]["reasoning_tokens"]), (&json!(8), &json!(6)));
    assert_eq!(log.response()["reasoning"], json!({"effort": "low", "summary": "auto"}));
    let part = log.one("response.reasoning_summary_part.added");
    assert_eq!((&part["item_id"], &part["summary_index"]), (&json!(id), &json!(0)));
}

#[tokio::test]
async fn a_thought_that_is_cut_is_incomplete() {
    let app = thinking(8);
    let log = Client::plain(&app).await.run(json!({"max_output_tokens": 3})).await;
    let [thought] = log.items() else { panic!("{:?}", log.items()) };
    assert_eq!((&thought["status"], &thought["summary"][0]["text"]), (&json!("incomplete"), &json!("Is it?")));
    assert_eq!((log.status(), log.reason()), ("incomplete", "max_output_tokens"));
}

#[tokio::test]
async fn thoughts_are_not_part_of_the_next_prompt() {
    let app = thinking(8);
    let plain = spawn_app(&["engine.scripted.text=Yes, é.", "engine.scripted.tokens=2"]);
    let mut tokens = vec![];
    for app in [&app, &plain] {
        let mut client = Client::plain(app).await;
        let first = client.run(json!({})).await;
        tokens.push(client.run(json!({"previous_response_id": first.id()})).await.usage("input_tokens"));
        // The same holds if a client sends the whole conversation.
        let mut input = vec![json!({"role": "user", "content": "Say something."})];
        input.extend_from_slice(first.items());
        input.push(json!({"role": "user", "content": "Say something."}));
        let whole = client.run(json!({"input": input, "include": ["reasoning.encrypted_content"]})).await;
        tokens.push(whole.usage("input_tokens"));
    }
    assert!(tokens.iter().all(|t| *t == tokens[0]), "{tokens:?}");
}

#[tokio::test]
async fn a_running_thought_is_in_the_stored_response() {
    let app = spawn_app(&[
        THINKING,
        "engine.scripted.reasoning=true",
        "engine.scripted.tokens=4000",
        "engine.scripted.tokens_per_second=20",
    ]);
    let mut client = Client::plain(&app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    client.event_of("response.reasoning_summary_text.delta").await;
    let id = created["response"]["id"].as_str().unwrap();
    let stored = http::get(app.address, &format!("/v1/responses/{id}")).await.json();
    assert_eq!(stored["output"][0]["type"], "reasoning");
    client.send(json!({"type": "response.cancel", "response_id": id})).await;
    client.event_of("response.incomplete").await;
}
