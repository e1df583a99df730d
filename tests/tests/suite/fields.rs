//! Tests fields that clients send besides the protocol: hints, telemetry, foreign tools, returned items, nulls.

use caudal_tests::{
    App, Client,
    http::{Answer, call, get, post},
    log::output_text,
    spawn_app,
    ws::code,
};
use serde_json::{Value, json};

async fn respond(app: &App, body: Value) -> Answer {
    post(app.address, "/v1/responses", &body).await
}

#[track_caller]
fn assert_refused(answer: &Answer, param: &str) {
    let error = answer.json()["error"].clone();
    assert_eq!(
        (answer.status, &error["code"], &error["param"]),
        (400, &json!("invalid_request"), &json!(param)),
        "{error}"
    );
    let message = error["message"].as_str().expect("a message");
    for rust in ["struct", "sequence", "u32", "i64", "f32", "map", "unit"] {
        assert!(!message.contains(rust), "a type of Rust's in the message: {message}");
    }
}

#[tokio::test]
async fn hints_and_telemetry_are_taken_and_do_nothing() {
    let app = spawn_app(&[]);
    let plain = respond(&app, json!({"input": "x"})).await.json();
    for field in [
        json!({"client_metadata": {"a": "b", "nested": {"c": [1, null]}}}),
        json!({"text": {"verbosity": "low"}}),
        json!({"prompt_cache_retention": "24h"}),
        json!({"prompt_cache_options": {"mode": "explicit"}}),
        json!({"reasoning": {"context": "all_turns"}}),
        json!({"include": ["web_search_call.action.sources", "code_interpreter_call.outputs"]}),
        json!({"stream_options": {"include_obfuscation": false}}),
        json!({"background_options": {"completion_window": "2h"}}),
    ] {
        let mut body = field.clone();
        body["input"] = "x".into();
        let answer = respond(&app, body).await;
        assert_eq!(answer.status, 200, "{field}: {}", answer.text());
        assert_eq!(output_text(&answer.json()), output_text(&plain));
        assert_eq!(answer.header("x-caudal-ignored"), None, "a hint is no tool");
    }
}

#[tokio::test]
async fn null_is_absent_for_every_field() {
    let app = spawn_app(&[]);
    let fields = [
        "model",
        "instructions",
        "previous_response_id",
        "conversation",
        "store",
        "background",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "stop",
        "max_output_tokens",
        "max_tool_calls",
        "seed",
        "truncation",
        "parallel_tool_calls",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "client_request_id",
        "top_logprobs",
        "include",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "prompt",
        "cache",
        "generate",
        "service_tier",
        "stream",
        "stream_options",
        "client_metadata",
        "never_heard_of",
    ];
    let mut body: serde_json::Map<String, Value> =
        fields.iter().map(|field| (field.to_string(), Value::Null)).collect();
    body.insert("input".into(), "x".into());
    let answer = respond(&app, Value::Object(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nested = json!({"text": {"format": null, "verbosity": null}, "reasoning": {"effort": null, "odd": null},
        "metadata": {"a": null}, "input": [{"type": null, "role": "user", "content": "x", "status": null, "id": null}],
        "tools": [{"type": "function", "name": "f", "description": null, "parameters": null, "strict": null, "odd": null}]});
    let answer = respond(&app, nested).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nulls: serde_json::Map<String, Value> = ["stream", "n", "tools", "stop", "max_tokens", "functions", "audio"]
        .iter()
        .map(|field| (field.to_string(), Value::Null))
        .collect();
    let mut chat = json!({"messages": [{"role": "user", "content": "x", "name": null, "tool_calls": null}]});
    chat.as_object_mut().expect("an object").extend(nulls);
    let answer = post(app.address, "/v1/chat/completions", &chat).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn arrays_are_no_objects() {
    let app = spawn_app(&[]);
    for (body, param) in [
        (json!({"input": [["user", "hi", null, null, null, null]]}), "input[0]"),
        (json!({"input": [{"role": "user", "content": [["input_text", "x"]]}]}), "input[0].content[0]"),
        (json!({"input": "x", "text": [null, null]}), "text"),
        (json!({"input": "x", "reasoning": ["low"]}), "reasoning"),
        (json!({"input": "x", "tools": [["function", "f"]]}), "tools[0]"),
        (json!({"input": "x", "tools": [{"type": "function", "name": ["f"]}]}), "tools[0].name"),
        (json!({"input": "x", "text": {"format": ["text"]}}), "text.format"),
        (json!({"input": "x", "metadata": []}), "metadata"),
        (json!({"input": "x", "cache": ["off"]}), "cache"),
        (json!({"input": "x", "prompt": ["p"]}), "prompt"),
        (json!({"input": "x", "temperature": []}), "temperature"),
        (json!({"input": "x", "max_output_tokens": 1.5}), "max_output_tokens"),
    ] {
        assert_refused(&respond(&app, body).await, param);
    }
    let answer = respond(&app, json!([null])).await;
    assert_eq!(answer.status, 400);
    let messages = post(app.address, "/v1/chat/completions", &json!({"messages": [["user", "x"]]})).await;
    assert_refused(&messages, "messages[0]");
    let options = json!({"messages": [{"role": "user", "content": "x"}], "stream_options": [true]});
    assert_refused(&post(app.address, "/v1/chat/completions", &options).await, "stream_options");
}

#[tokio::test]
async fn items_that_come_back_may_have_any_fields() {
    let app = spawn_app(&[]);
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "a", "colour": 1}], "colour": "red"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [], "encrypted_content": null, "extra": 1},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final", "parsed": {"x": 1},
         "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": [], "parsed": {"x": 1}}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "parsed_arguments": {}, "namespace": "n"},
        {"type": "function_call_output", "call_id": "c", "output": "o", "created_by": "me"},
        {"type": "message", "role": "assistant", "content": null},
    ]);
    let answer = respond(&app, json!({"input": input})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let chat = json!({"messages": [
        {"role": "user", "content": "a", "odd": 1},
        {"role": "assistant", "content": null, "refusal": null, "parsed": {"x": 1}, "reasoning_content": "hm",
         "tool_calls": [{"id": "c", "type": "function", "index": 0, "odd": 1,
                         "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}}}]},
        {"role": "tool", "tool_call_id": "c", "content": "o", "odd": 1},
        {"role": "assistant", "content": null},
        {"role": "user", "content": "b"},
    ]});
    let answer = post(app.address, "/v1/chat/completions", &chat).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Unknown fields of the request itself are still refused by name.
    assert_refused(&respond(&app, json!({"input": "x", "colour": 1})).await, "colour");
    assert_refused(&respond(&app, json!({"input": "x", "text": {"colour": 1}})).await, "text.colour");
}

#[tokio::test]
async fn tools_that_are_not_here_are_left_out_and_named() {
    let app = spawn_app(&[
        "engine.scripted.text=<tool_call> {\"name\": \"g\", \"arguments\": {}} </tool_call>",
        "engine.scripted.tokens=8",
    ]);
    let tools = json!([
        {"type": "web_search", "external_web_access": false},
        {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false},
        {"type": "namespace", "name": "files", "description": "d", "tools": [{"type": "function", "name": "g", "parameters": {"type": "object"}}]},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"a\""}},
    ]);
    let answer = respond(&app, json!({"input": "x", "tools": tools})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-caudal-ignored"), Some("tools[0]: web_search, tools[3]: custom"));
    let response = answer.json();
    let names: Vec<&str> =
        response["tools"].as_array().expect("tools").iter().map(|t| t["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["f", "g"]);
    let call = &response["output"][0];
    assert_eq!((&call["name"], &call["namespace"]), (&json!("g"), &json!("files")), "{response}");
    let mut client = Client::extended(&app).await;
    let log = client.run(json!({"tools": tools})).await;
    assert_eq!(log.events[0]["caudal:warnings"], json!(["tools[0]: web_search", "tools[3]: custom"]));
    assert!(log.events[1..].iter().all(|event| event.get("caudal:warnings").is_none()));
    let plain = Client::plain(&app).await.run(json!({"tools": tools})).await;
    assert!(plain.events[0].get("caudal:warnings").is_none(), "official parsers know no such field");
    assert_refused(&respond(&app, json!({"input": "x", "tools": [{"type": "teleporter"}]})).await, "tools[0].type");
}

#[tokio::test]
async fn metadata_is_counted_in_characters() {
    let app = spawn_app(&[]);
    let longest = json!({"input": "x", "metadata": {"名".repeat(64): "日".repeat(512)}});
    assert_eq!(respond(&app, longest).await.status, 200);
    for metadata in [json!({"a": "日".repeat(513)}), json!({"名".repeat(65): "a"})] {
        assert_refused(&respond(&app, json!({"input": "x", "metadata": metadata})).await, "metadata");
    }
}

#[tokio::test]
async fn a_seed_is_a_number_of_64_bits_with_or_without_a_sign() {
    let app = spawn_app(&[]);
    for seed in [json!(-1), json!(i64::MIN), json!(0), json!(u64::MAX)] {
        assert_eq!(respond(&app, json!({"input": "x", "seed": seed})).await.status, 200, "{seed}");
        let chat = json!({"messages": [{"role": "user", "content": "x"}], "seed": seed});
        assert_eq!(post(app.address, "/v1/chat/completions", &chat).await.status, 200, "{seed}");
    }
    for seed in [json!(0.5), json!("1"), json!(1e30)] {
        assert_refused(&respond(&app, json!({"input": "x", "seed": seed})).await, "seed");
    }
}

#[tokio::test]
async fn a_field_is_named_as_it_was_sent() {
    let app = spawn_app(&[]);
    for (fields, param) in [
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": "many"}), "max_completion_tokens"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"function_call": "auto"}), "function_call"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"verbosity": "endless"}), "verbosity"),
        (json!({"n": 9}), "n"),
    ] {
        let mut body = fields;
        body["messages"] = json!([{"role": "user", "content": "x"}]);
        assert_refused(&post(app.address, "/v1/chat/completions", &body).await, param);
    }
    for (path, param) in [
        ("/v1/conversations?limit=abc", "limit"),
        ("/v1/conversations?limit=0", "limit"),
        ("/v1/conversations?order=up", "order"),
        ("/v1/conversations?colour=red", "colour"),
        ("/v1/responses/resp_a/input_items?limit=101", "limit"),
        ("/v1/responses/resp_a?starting_after=soon", "starting_after"),
        ("/v1/responses/resp_a?stream=maybe", "stream"),
        ("/v1/prompts?include[]=nonsense", "include"),
    ] {
        assert_refused(&get(app.address, path).await, param);
    }
}

#[tokio::test]
async fn calls_are_bounded_by_max_tool_calls() {
    let call = "<tool_call> {\"name\": \"f\", \"arguments\": {}} </tool_call> ";
    let app = spawn_app(&[&format!("engine.scripted.text={}", call.repeat(3)), "engine.scripted.tokens=18"]);
    let tools = json!([{"type": "function", "name": "f"}]);
    for (bound, calls) in [(json!(1), 1), (json!(2), 2), (Value::Null, 3)] {
        let log = Client::plain(&app).await.run(json!({"tools": tools, "max_tool_calls": bound})).await;
        log.assert_gap_free();
        let made = log.items().iter().filter(|item| item["type"] == "function_call").count();
        assert_eq!((made, &log.response()["max_tool_calls"]), (calls, &bound));
    }
}

#[tokio::test]
async fn the_lane_of_a_broken_message_gets_its_error() {
    let app = spawn_app(&[]);
    let mut client = Client::plain(&app).await;
    for (message, lane) in [
        (r#"{"type":"response.create","stream_id":"a","input":"cut \ud83d"}"#, "a"),
        (r#"{"input":"cut \ud83d","stream_id":"b","type":"response.create"}"#, "b"),
        (r#"{"type":"response.create","stream_id":"c","input":"#, "c"),
        (r#"{"type":"response.create","stream_id":"d","input":5}"#, "d"),
        (r#"{"type":"response.cancel","stream_id":"e","response_id":"resp_unknown"}"#, "e"),
        (r#"{"type":"nonsense","stream_id":"f"}"#, "f"),
        (r#"{"type":"response.create","stream_id":"not one","input":"x"}"#, "not one"),
    ] {
        client.send_message(tokio_tungstenite::tungstenite::Message::text(message)).await;
        let error = client.error().await;
        assert_eq!(error["stream_id"], lane, "{message}: {error}");
    }
}

#[tokio::test]
async fn a_resume_after_an_event_that_does_not_exist_is_refused() {
    let app = spawn_app(&["engine.scripted.tokens=3000", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let id = client.event_of("response.created").await["response"]["id"].as_str().expect("an id").to_owned();
    let mut other = Client::extended(&app).await;
    other.resume(&id, Some(50_000)).await;
    let error = other.error().await;
    assert_eq!((code(&error), &error["error"]["param"]), ("invalid_request", &json!("starting_after")));
    let path = format!("/v1/responses/{id}?stream=true&starting_after=50000");
    let answer = get(app.address, &path).await;
    assert_refused(&answer, "starting_after");
    call(app.address, "POST", &format!("/v1/responses/{id}/cancel")).send().await;
    assert_refused(&get(app.address, &path).await, "starting_after");
}

#[tokio::test]
async fn a_history_with_items_of_other_tools_is_taken() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let input = json!([
        {"role": "user", "content": "Search, then run it."},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "custom_tool_call", "call_id": "call_1", "name": "shell", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "README"},
        {"type": "function_call_output", "call_id": "call_1", "output": "again"},
    ]);
    let answer = post(app.address, "/v1/responses", &json!({ "input": input })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-caudal-ignored"), Some("input[1]: web_search_call"));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let items = get(app.address, &format!("/v1/responses/{id}/input_items?order=asc")).await.json();
    let kinds: Vec<&str> = items["data"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call_output", "function_call_output"]);
    let lost = json!([{"type": "web_search_call"}, {"type": "custom_tool_call_output", "call_id": "c", "output": "x"}]);
    let answer = post(app.address, "/v1/responses", &json!({ "input": lost })).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("input[1].call_id")));
}

#[tokio::test]
async fn shapes_of_chat_are_read_strictly_and_named_as_sent() {
    let app = spawn_app(&["engine.scripted.context_length=64"]);
    let f = json!({"type": "function", "function": {"name": "f"}});
    for (fields, param) in [
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": null}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema", "json_schema": []}}), "response_format.json_schema"),
        (json!({"response_format": {"type": "grammar"}}), "response_format.syntax"),
        (json!({"tools": [{"type": "function", "function": {"name": "f", "type": "x"}}]}), "tools[0].function.type"),
        (json!({"tools": [{"type": "function", "function": {"name": "f"}, "odd": 1}]}), "tools[0].odd"),
        (json!({"tools": [f], "tool_choice": {"type": "function", "function": {}}}), "tool_choice.function.name"),
        (json!({"tools": [f], "tool_choice": {"type": "allowed_tools"}}), "tool_choice.allowed_tools"),
    ] {
        let mut body = fields;
        body["messages"] = json!([{"role": "user", "content": "x"}]);
        assert_refused(&post(app.address, "/v1/chat/completions", &body).await, param);
    }
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(100)}]});
    let error = post(app.address, "/v1/chat/completions", &long).await.json()["error"].clone();
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
}

#[tokio::test]
async fn items_and_tools_of_other_implementations_are_left_out() {
    let app = spawn_app(&[]);
    let input = json!([
        {"type": "acme:search_result", "id": "x_1", "results": []},
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
        {"role": "assistant", "content": [{"type": "reasoning_text", "text": "hm"}, {"type": "output_text", "text": "a"}]},
        {"role": "user", "content": "x"},
    ]);
    let answer =
        respond(&app, json!({"input": input, "tools": [{"type": "acme:document_search", "index": "i"}]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.header("x-caudal-ignored"),
        Some("tools[0]: acme:document_search, input[0]: acme:search_result, input[1]: configuration_update")
    );
    for kind in ["acme:", ":search", "search_results"] {
        assert_refused(
            &respond(&app, json!({"input": [{"type": kind}, {"role": "user", "content": "x"}]})).await,
            "input[0].type",
        );
    }
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let app = spawn_app(&[]);
    let answer = respond(&app, json!({"input": "x", "max_output_tokens": 3.0, "seed": 7.0, "top_k": 1e1})).await;
    assert_eq!((answer.status, answer.json()["usage"]["output_tokens"].as_u64()), (200, Some(3)), "{}", answer.text());
    assert_refused(&respond(&app, json!({"input": "x", "max_output_tokens": 3.5})).await, "max_output_tokens");
}

#[tokio::test]
async fn ids_and_stop_strings_are_counted_in_characters() {
    let app = spawn_app(&[]);
    let ids = json!({"input": "x", "user": "日".repeat(256), "stop": "日".repeat(256)});
    assert_eq!(respond(&app, ids).await.status, 200);
    assert_refused(&respond(&app, json!({"input": "x", "user": "日".repeat(257)})).await, "user");
    assert_refused(&respond(&app, json!({"input": "x", "stop": "日".repeat(257)})).await, "stop");
}

#[tokio::test]
async fn an_address_of_sockets_says_so() {
    let app = spawn_app(&[]);
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let old = call(app.address, "GET", "/v1/responses")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "8")
        .header("sec-websocket-key", key);
    for answer in [get(app.address, "/v1/responses").await, old.send().await] {
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (426, &json!("upgrade_required")));
        assert_eq!((answer.header("upgrade"), answer.header("sec-websocket-version")), (Some("websocket"), Some("13")));
    }
    let empty = get(app.address, "/v1/conversations?include=&include[]=").await;
    assert_eq!(empty.status, 200, "empty is absent: {}", empty.text());
}

#[tokio::test]
async fn the_header_with_what_is_ignored_is_bounded() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let mut input = vec![json!({"type": "web_search_call", "id": "ws_1"}); 5000];
    input.push(json!({"role": "user", "content": "x"}));
    let odd = json!({"type": "acme:line\r\nbreak, and more"});
    let answer = respond(&app, json!({"input": input, "tools": [odd]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let header = answer.header("x-caudal-ignored").expect("names what was ignored");
    assert!(header.len() < 1500 && header.starts_with("tools[0]: acme:linebreak and more, input[0]: "), "{header}");
    let (_, last) = header.rsplit_once(", ").expect("many names");
    let more: usize = last.strip_suffix(" more").and_then(|more| more.parse().ok()).expect("a count");
    assert_eq!(header.split(", ").count() - 1 + more, 5001);
}
