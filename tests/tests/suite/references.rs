//! Tests `item_reference`, empty input with a history, compaction, and the token count of a prompt.

use caudal_tests::{
    App, Client,
    http::{Answer, call, get, post},
    log::output_text,
    spawn_app,
};
use serde_json::{Value, json};

async fn respond(app: &App, body: Value) -> Answer {
    post(app.address, "/v1/responses", &body).await
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Returns the tokens of the prompt that the model received.
fn prompt_tokens(response: &Value) -> u64 {
    response["usage"]["input_tokens"].as_u64().unwrap_or_else(|| panic!("usage: {response}"))
}

#[tokio::test]
async fn a_reference_is_the_item_itself() {
    let app = spawn_app(&["engine.scripted.tokens=7"]);
    let first = respond(&app, json!({"input": "one two three"})).await.json();
    let item = first["output"][0].clone();
    let text = output_text(&first);
    let written = json!([user("one two three"), {"role": "assistant", "content": text}, user("go on")]);
    let expected = prompt_tokens(&respond(&app, json!({"input": written})).await.json());
    for reference in [
        json!({"type": "item_reference", "id": item["id"]}),
        json!({"type": null, "id": item["id"]}),
        json!({"id": item["id"]}),
    ] {
        let input = json!([user("one two three"), reference, user("go on")]);
        let answer = respond(&app, json!({"input": input})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(prompt_tokens(&answer.json()), expected);
        let path = format!("/v1/responses/{}/input_items?order=asc", answer.json()["id"].as_str().expect("an id"));
        let items = get(app.address, &path).await.json();
        assert_eq!(items["data"][1]["content"][0]["text"], text.as_str(), "the item stands there");
    }
}

#[tokio::test]
async fn items_of_inputs_conversations_and_calls_can_be_referred_to() {
    let app = spawn_app(&[
        "engine.scripted.text=<tool_call> {\"name\": \"f\", \"arguments\": {\"a\": 1}} </tool_call>",
        "engine.scripted.tokens=8",
    ]);
    let tools = json!([{"type": "function", "name": "f"}]);
    let first = respond(&app, json!({"input": "one two three", "tools": tools})).await.json();
    let called = first["output"][0].clone();
    assert_eq!(called["type"], "function_call", "{first}");
    let path = format!("/v1/responses/{}/input_items", first["id"].as_str().expect("an id"));
    let asked = get(app.address, &path).await.json()["data"][0]["id"].clone();
    let conversation =
        post(app.address, "/v1/conversations", &json!({"items": [user("from a conversation")]})).await.json();
    let id = conversation["id"].as_str().expect("an id");
    let kept = get(app.address, &format!("/v1/conversations/{id}/items")).await.json()["data"][0]["id"].clone();
    let input = json!([{"id": asked}, {"type": "item_reference", "id": called["id"]},
        {"type": "function_call_output", "call_id": called["call_id"], "output": "o"}, {"id": kept}]);
    let answer = respond(&app, json!({"input": input, "tools": tools})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let copied = json!({"items": [{"type": "item_reference", "id": kept}]});
    let appended = post(app.address, &format!("/v1/conversations/{id}/items"), &copied).await;
    assert_eq!(appended.json()["data"][0]["content"][0]["text"], "from a conversation", "{}", appended.text());
}

#[tokio::test]
async fn a_reference_to_nothing_is_named() {
    let keys = r#"auth.keys=[{key="alpha-key", tenant="alpha"}, {key="beta-key-", tenant="beta"}]"#;
    let app = spawn_app(&["auth.mode=keys", keys, "engine.scripted.tokens=3"]);
    let send = |key: &'static str, body: Value| {
        let request = call(app.address, "POST", "/v1/responses").header("authorization", &format!("Bearer {key}"));
        async move { request.json(&body).send().await }
    };
    let mine = send("alpha-key", json!({"input": "x"})).await.json();
    let unstored = send("alpha-key", json!({"input": "x", "store": false})).await.json();
    let id = |response: &Value| response["output"][0]["id"].clone();
    for (key, id) in [
        ("alpha-key", json!("msg_unknown")),
        ("alpha-key", json!("nonsense")),
        ("alpha-key", json!("msg_}_{")),
        ("alpha-key", id(&unstored)),
        ("beta-key-", id(&mine)),
    ] {
        let input = json!([user("x"), {"type": "item_reference", "id": id}]);
        let answer = send(key, json!({"input": input})).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, &error["code"], &error["param"]),
            (404, &json!("item_not_found"), &json!("input[1].id")),
            "{id}"
        );
    }
    let answer = send("alpha-key", json!({"input": [{"type": "item_reference"}]})).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("input[0].id")));
}

#[tokio::test]
async fn on_a_connection_its_own_unstored_items_can_be_referred_to() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let mut client = Client::plain(&app).await;
    let first = client.run(json!({"store": false})).await;
    let id = first.response()["output"][0]["id"].clone();
    let again = client.run(json!({"store": false, "input": [{"id": id}, user("x")]})).await;
    assert_eq!(again.status(), "completed");
}

#[tokio::test]
async fn input_may_be_empty_where_there_is_history() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let mut client = Client::plain(&app).await;
    let warm = client.run(json!({"input": "one two", "generate": false})).await.id();
    for input in [json!([]), Value::Null] {
        let log = client.run(json!({"input": input, "previous_response_id": warm})).await;
        assert_eq!(log.status(), "completed");
        assert_eq!(log.usage("input_tokens"), 4, "the warmed input is the prompt");
    }
    let conversation = post(app.address, "/v1/conversations", &json!({"items": [user("one two")]})).await.json();
    let full = conversation["id"].clone();
    let log = client.run(json!({"input": [], "conversation": full})).await;
    assert_eq!((log.status(), log.usage("input_tokens")), ("completed", 4));
    let empty = post(app.address, "/v1/conversations", &json!({})).await.json()["id"].clone();
    for body in [json!({}), json!({"input": []}), json!({"input": null}), json!({"conversation": empty})] {
        let answer = respond(&app, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("input")), "{body}");
    }
    let instructions = client.run(json!({"input": [], "generate": false, "instructions": "Be brief."})).await;
    assert_eq!((instructions.status(), instructions.usage("input_tokens")), ("completed", 4));
}

#[tokio::test]
async fn the_length_of_a_prompt_is_told_without_an_answer() {
    let app = spawn_app(&["engine.scripted.tokens=3", "engine.scripted.context_length=50"]);
    let count = async |body: Value| post(app.address, "/v1/responses/input_tokens", &body).await;
    let first = respond(&app, json!({"input": "one two three"})).await.json();
    for body in [
        json!({"input": "one two three"}),
        json!({"input": "one two three", "instructions": "be brief"}),
        json!({"input": "go on", "previous_response_id": first["id"]}),
        json!({"input": [user("a b"), {"role": "assistant", "content": "c"}], "personality": null}),
    ] {
        let counted = count(body.clone()).await;
        assert_eq!(
            (counted.status, &counted.json()["object"]),
            (200, &json!("response.input_tokens")),
            "{}",
            counted.text()
        );
        let told = prompt_tokens(&respond(&app, body).await.json());
        assert_eq!(counted.json()["input_tokens"], told);
    }
    let long = count(json!({"input": "word ".repeat(100)})).await;
    assert_eq!(long.json()["input_tokens"], 102, "whether it fits or not");
    assert_eq!(count(json!({})).await.json()["error"]["param"], "input");
    assert_eq!(count(json!({"input": "x", "model": "nothing"})).await.status, 404);
}

#[tokio::test]
async fn a_compacted_conversation_can_be_continued() {
    let app = spawn_app(&["engine.scripted.text=They met in Porto.", "engine.scripted.tokens=4"]);
    let first = respond(&app, json!({"input": "one two three"})).await.json();
    let body = json!({"model": "scripted", "input": "and then?", "previous_response_id": first["id"]});
    let answer = post(app.address, "/v1/responses/compact", &body).await;
    let compacted = answer.json();
    assert_eq!((answer.status, &compacted["object"]), (200, &json!("response.compaction")), "{compacted}");
    assert!(compacted["id"].is_string() && compacted["created_at"].is_u64());
    assert_eq!(compacted["usage"]["output_tokens"], 4);
    let item = compacted["output"][0].clone();
    assert_eq!(item["type"], "compaction");
    assert!(item["id"].is_string() && item["encrypted_content"].is_string());
    let next = respond(&app, json!({"input": [item, user("go on")]})).await;
    assert_eq!(next.status, 200, "{}", next.text());
    let path = format!("/v1/responses/{}/input_items?order=asc", next.json()["id"].as_str().expect("an id"));
    let items = get(app.address, &path).await.json();
    let summary = items["data"][0]["content"][0]["text"].as_str().expect("a text");
    assert!(summary.ends_with("They met in Porto."), "{summary}");
    let other = json!({"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAABk"});
    let refused = respond(&app, json!({"input": [other]})).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("input[0].encrypted_content")));
}
