//! Tests function calls: as items with streamed arguments, and sent back with their outputs.

use caudal_tests::{App, Client, EventLog, http, spawn_app, ws::code};
use serde_json::{Value, json};

const CALL: &str = "<tool_call> {\"name\": \"weather\", \"arguments\": {\"city\": \"São Paulo\"}} </tool_call> ";
const ARGUMENTS: &str = "{\"city\": \"São Paulo\"}";

/// Starts a server whose model outputs `text` once.
fn saying(text: &str) -> App {
    let tokens = text.split_whitespace().count();
    spawn_app(&[&format!("engine.scripted.text={text}"), &format!("engine.scripted.tokens={tokens}")])
}

fn tools() -> Value {
    json!([{"type": "function", "name": "weather", "description": "The weather in a city.", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, "strict": null}])
}

/// Returns the type of each item, and name and arguments of each call.
fn summary(log: &EventLog) -> Vec<Value> {
    let items = log.items().iter();
    items
        .map(|item| match item["type"].as_str() {
            Some("function_call") => json!([item["name"], item["arguments"], item["status"]]),
            Some("message") => item["content"][0]["text"].clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_call_is_an_item_with_streamed_arguments() {
    let app = saying(&format!("Let me see. {CALL}"));
    let log = Client::plain(&app).await.run(json!({"tools": tools()})).await;
    assert_eq!(summary(&log), [json!("Let me see. "), json!(["weather", ARGUMENTS, "completed"])]);
    let deltas = log.of_kind("response.function_call_arguments.delta").count();
    assert_eq!(deltas, 3, "as the words come, the last with its brace");
    let call = &log.items()[1];
    assert!(call["call_id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
    let added = log.of_kind("response.output_item.added").nth(1).unwrap();
    assert_eq!((&added["item"]["arguments"], &added["item"]["status"]), (&json!(""), &json!("in_progress")));
    assert_eq!(log.status(), "completed");
    // A replay on another connection, and the stored response, are equal.
    let mut again = Client::extended(&app).await;
    again.resume(&log.id(), None).await;
    again.event_of("caudal:response.resumed").await;
    let replayed = again.response().await;
    assert_eq!(replayed.response(), log.response());
    let stored = http::get(app.address, &format!("/v1/responses/{}", log.id())).await.json();
    assert_eq!(stored["output"], log.response()["output"]);
}

#[tokio::test]
async fn several_calls_are_several_items() {
    let app = saying(&format!("{CALL}{CALL}Done."));
    let log = Client::plain(&app).await.run(json!({"tools": tools()})).await;
    let call = json!(["weather", ARGUMENTS, "completed"]);
    assert_eq!(summary(&log), [call.clone(), call, json!("Done. ")]);
    let ids: Vec<&Value> = log.items()[..2].iter().map(|item| &item["call_id"]).collect();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn without_tools_it_is_text() {
    let app = saying(CALL);
    for fields in [json!({}), json!({"tools": tools(), "tool_choice": "none"})] {
        let log = Client::plain(&app).await.run(fields).await;
        assert_eq!(summary(&log), [json!(CALL)]);
    }
}

#[tokio::test]
async fn what_is_no_call_after_all_is_text() {
    let app = saying("<tool_call> weather in Porto </tool_call> ");
    let log = Client::plain(&app).await.run(json!({"tools": tools()})).await;
    assert_eq!(summary(&log), [json!("<tool_call> weather in Porto </tool_call> ")]);
    log.assert_text_agrees();
}

#[tokio::test]
async fn a_call_that_is_cut_is_incomplete() {
    let app = saying(CALL);
    let log = Client::plain(&app).await.run(json!({"tools": tools(), "max_output_tokens": 5})).await;
    assert_eq!((log.status(), log.reason()), ("incomplete", "max_output_tokens"));
    assert_eq!(summary(&log), [json!(["weather", "{\"city\": ", "incomplete"])]);
    let failing = spawn_app(&[&format!("engine.scripted.text={CALL}"), "engine.scripted.fail_after=6"]);
    let log = Client::plain(&failing).await.run(json!({"tools": tools()})).await;
    assert_eq!(summary(&log), [json!(["weather", "{\"city\": \"São ", "incomplete"])]);
}

#[tokio::test]
async fn tools_and_choice_are_echoed() {
    let app = saying("Hello.");
    let mut client = Client::plain(&app).await;
    let bare = client.run(json!({"tools": [{"type": "function", "name": "f"}]})).await;
    let expected = json!([{"type": "function", "name": "f", "description": null, "parameters": null, "strict": null}]);
    assert_eq!(bare.response()["tools"], expected);
    assert_eq!(bare.response()["tool_choice"], "auto");
    let allowed = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]});
    for choice in [json!("none"), json!("required"), json!({"type": "function", "name": "weather"}), allowed] {
        let log = client.run(json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false})).await;
        let response = log.response();
        assert_eq!((&response["tools"], &response["tool_choice"]), (&tools(), &choice));
        assert_eq!(response["parallel_tool_calls"], false);
    }
}

#[tokio::test]
async fn a_model_is_told_of_its_tools() {
    let app = saying("Hello.");
    let mut client = Client::plain(&app).await;
    let bare = client.run(json!({})).await.usage("input_tokens");
    let with = client.run(json!({"tools": tools()})).await.usage("input_tokens");
    let none = client.run(json!({"tools": tools(), "tool_choice": "none"})).await.usage("input_tokens");
    assert!(with > bare + 20, "{with} tokens with tools, {bare} without");
    assert_eq!(none, bare, "where they may not be called they are not spoken of");
}

#[tokio::test]
async fn the_next_turn_has_the_call_and_its_output() {
    let app = saying(CALL);
    let mut client = Client::plain(&app).await;
    let first = client.run(json!({"tools": tools()})).await;
    let call_id = &first.items()[0]["call_id"];
    let output = json!({"type": "function_call_output", "call_id": call_id, "output": "thirty degrees and some wind"});
    let second = client.run(json!({"tools": tools(), "previous_response_id": first.id(), "input": [output]})).await;
    assert_eq!(second.status(), "completed");
    let (before, after) = (first.usage("input_tokens"), second.usage("input_tokens"));
    assert!(after >= before + first.usage("output_tokens") + 5, "{before} then {after} tokens");
    let items = http::get(app.address, &format!("/v1/responses/{}/input_items", second.id())).await.json();
    let item = &items["data"][0];
    assert_eq!((&item["type"], &item["call_id"]), (&json!("function_call_output"), call_id));
    assert_eq!(item["output"], "thirty degrees and some wind");
    // The same conversation, sent completely by a client that stores it itself.
    let input = json!([{"role": "user", "content": "Say something."}, first.items()[0], output]);
    let whole = client.run(json!({"tools": tools(), "store": false, "input": input})).await;
    assert_eq!(whole.usage("input_tokens"), after);
}

#[tokio::test]
async fn an_output_of_no_call_is_refused() {
    let app = saying(CALL);
    let mut client = Client::plain(&app).await;
    let first = client.run(json!({"tools": tools()})).await;
    let known = json!({"type": "function_call_output", "call_id": first.items()[0]["call_id"], "output": "x"});
    let unknown = json!({"type": "function_call_output", "call_id": "call_nothing", "output": "x"});
    for (fields, param) in [
        (json!({"input": [known.clone()]}), "input[0].call_id"),
        (json!({"input": [known, unknown], "previous_response_id": first.id()}), "input[1].call_id"),
    ] {
        client.create(fields).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["error"]["param"]), ("invalid_request", &json!(param)));
    }
}
