//! Tests truncation: which turns are left out if a prompt does not fit, and how the response reports it.

use caudal_tests::{Client, spawn_app, ws::code};
use serde_json::{Value, json};

const SMALL: [&str; 2] = ["engine.scripted.context_length=100", "engine.scripted.tokens=5"];

/// Returns six turns of twenty words, each with a message of the user and one of the assistant. The scripted engine counts two
/// tokens for each message besides its words.
fn long_input() -> Vec<Value> {
    let turn = |n: usize| {
        [
            json!({"role": "user", "content": "word ".repeat(10)}),
            json!({"role": "assistant", "content": format!("{n} ").repeat(10)}),
        ]
    };
    (0..6).flat_map(turn).chain([json!({"role": "user", "content": "and now?"})]).collect()
}

#[tokio::test]
async fn whole_turns_of_a_long_input_are_left_out_and_it_is_said() {
    let app = spawn_app(&SMALL);
    let mut client = Client::plain(&app).await;
    client.create(json!({"input": long_input(), "max_output_tokens": 5})).await;
    let error = client.error().await;
    assert_eq!(code(&error), "context_length_exceeded");
    let message = error["error"]["message"].as_str().unwrap();
    // 6 × 24 + 4, and the context.
    assert!(message.contains("148") && message.contains("100"), "{message}");
    let log = client.run(json!({"input": long_input(), "max_output_tokens": 5, "truncation": "auto"})).await;
    // Three turns of 24 tokens and the last of 4 leave room for the five tokens of the output.
    assert_eq!(log.usage("input_tokens"), 3 * 24 + 4);
    assert_eq!(log.response()["truncation_details"], json!({"dropped_turns": 3}));
    assert_eq!(log.events[0]["response"]["truncation_details"], json!({"dropped_turns": 3}));
    let short = client.run(json!({"truncation": "auto"})).await;
    assert!(short.response().get("truncation_details").is_none());
}

#[tokio::test]
async fn instructions_and_system_messages_stay() {
    let app = spawn_app(&SMALL);
    let mut client = Client::plain(&app).await;
    let mut input = long_input();
    input.insert(0, json!({"role": "system", "content": "never forget this"}));
    input.insert(3, json!({"role": "developer", "content": "nor this"}));
    let fields = json!({"input": input, "instructions": "be brief", "max_output_tokens": 5, "truncation": "auto"});
    let log = client.run(fields).await;
    let dropped = log.response()["truncation_details"]["dropped_turns"].as_u64().unwrap();
    assert_eq!(log.usage("input_tokens"), (6 - dropped) * 24 + 4 + 5 + 4 + 4);
}

#[tokio::test]
async fn a_call_and_its_output_are_left_out_together() {
    let app = spawn_app(&SMALL);
    let mut client = Client::plain(&app).await;
    let mut input = vec![
        json!({"role": "user", "content": "look it up"}),
        json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
        json!({"type": "function_call_output", "call_id": "c", "output": "word ".repeat(90)}),
    ];
    input.extend(long_input().into_iter().skip(10));
    let log = client.run(json!({"input": input, "max_output_tokens": 5, "truncation": "auto"})).await;
    assert_eq!(log.usage("input_tokens"), 24 + 4);
    assert_eq!(log.response()["truncation_details"], json!({"dropped_turns": 1}));
}

#[tokio::test]
async fn the_last_turn_is_never_left_out() {
    let app = spawn_app(&SMALL);
    let mut client = Client::plain(&app).await;
    let input = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "word ".repeat(150)}]);
    client.create(json!({"input": input, "truncation": "auto"})).await;
    assert_eq!(code(&client.error().await), "context_length_exceeded");
}
