use serde_json::json;

use super::*;
use crate::wire::{input::InputRole, sampling::SamplingOptions};

fn param_of(body: Value) -> String {
    match Create::from_value(body) {
        Err(WireError::InvalidRequest { param: Some(param), .. }) => param,
        other => panic!("expected an invalid_request with a param, got {other:?}"),
    }
}

#[test]
fn errors_name_the_field() {
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": "x", "temperature": "hot"}), "temperature"),
        (json!({"input": "x", "temperature": 2.5}), "temperature"),
        (json!({"input": "x", "top_p": 0}), "top_p"),
        (json!({"input": "x", "frequency_penalty": 3}), "frequency_penalty"),
        (json!({"input": "x", "repetition_penalty": 0}), "repetition_penalty"),
        (json!({"input": "x", "logit_bias": {"7": 101}}), "logit_bias"),
        (json!({"input": "x", "logit_bias": {"cat": 1}}), "logit_bias"),
        (json!({"input": "x", "seed": 0.5}), "seed"),
        (json!({"input": "x", "metadata": {"a": 1}}), "metadata.a"),
        (json!({"input": "x", "nonsense": 1}), "nonsense"),
        (json!({"input": "x", "stop": [1]}), "stop[0]"),
        (json!({"input": "x", "text": {"format": {"type": "json_schema"}}}), "text.format.name"),
        (json!({"input": "x", "reasoning": {"effort": "enormous"}}), "reasoning.effort"),
        (json!({"input": "x", "include": ["nonsense"]}), "include[0]"),
        (json!({"input": "x", "top_logprobs": 21}), "top_logprobs"),
        (json!({"input": "x", "text": {"colour": 1}}), "text.colour"),
        (json!({"input": "x", "tools": [{}]}), "tools[0].type"),
        (json!({"input": "x", "service_tier": "scale"}), "service_tier"),
        (json!({"input": "x", "conversation": 7}), "conversation"),
        (json!({"input": "x", "conversation": {"name": "c"}}), "conversation.name"),
        (json!({"input": "x", "conversation": "c", "previous_response_id": "r"}), "conversation"),
        (json!({"input": "x", "conversation": "c", "cache": {"mode": "read"}}), "cache"),
        (json!({"input": "x", "cache": {"mode": "write"}}), "cache.mode"),
        (json!({"input": "x", "cache": {"ttl_s": 0}}), "cache.ttl_s"),
        (json!({"input": "x", "prompt": "p"}), "prompt"),
        (json!({"input": 5}), "input"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"role": "cook", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type"),
        (json!({"input": [{"type": "item_reference"}]}), "input[0].id"),
        (json!({"input": []}), "input"),
        (json!({"input": [["user", "hi"]]}), "input[0]"),
        (json!({"input": "x", "text": [null, null]}), "text"),
        (json!({"input": "x", "max_tool_calls": 0}), "max_tool_calls"),
        (json!({"input": "x", "background": true, "store": false}), "background"),
        (json!({"input": [{"type": "function_call_output"}]}), "input[0].call_id"),
        (json!({"input": [{"type": "function_call_output", "call_id": "c"}]}), "input[0].output"),
        (
            json!({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": ""}]}),
            "input[0].call_id",
        ),
        (json!({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}), "input[0].arguments"),
        (json!({"input": [{"type": "reasoning", "summary": 7}]}), "input[0].summary"),
    ] {
        assert_eq!(param_of(body.clone()), param, "{body}");
    }
}

#[test]
fn openai_fields_that_change_nothing_are_accepted() {
    let body = json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
        "stream": true, "background": false, "client_metadata": {"a": 1}, "prompt_cache_retention": "24h", "tools": [], "tool_choice": "auto", "include": ["file_search_call.results"],
        "reasoning": {"effort": null, "context": "auto"}, "text": {"format": {"type": "text"}, "verbosity": "low"}, "service_tier": "auto", "generate": true, "cache": {"mode": "off"}});
    assert_eq!(Create::from_value(body).unwrap().input, [InputItem::message(InputRole::User, "ab")]);
}

#[test]
fn items_of_an_earlier_output_are_accepted_back() {
    let input = json!([
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": null},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "b"}]},
    ]);
    let create = Create::from_value(json!({"input": input, "include": ["reasoning.encrypted_content"]})).unwrap();
    assert_eq!(create.input.len(), 4);
    assert!(!create.logprobs);
}

#[test]
fn items_of_other_tools_are_understood_or_ignored() {
    let input = json!([
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "f", "input": "ls -l"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "b"}]},
        {"type": "mcp_call", "id": "mcp_1", "name": "f", "server_label": "s", "arguments": "{}"},
        {"role": "user", "content": "x"},
    ]);
    let create = Create::from_value(json!({"input": input, "tools": [{"type": "web_search"}]})).unwrap();
    let call = crate::wire::input::InputCall {
        call_id: "c".into(),
        name: "f".into(),
        arguments: "{\"input\":\"ls -l\"}".into(),
    };
    assert_eq!(create.input[1], InputItem::FunctionCall(call));
    assert!(matches!(&create.input[2], InputItem::FunctionCallOutput(output) if output.output == "b"));
    assert_eq!(create.ignored, ["tools[0]: web_search", "input[0]: web_search_call", "input[3]: mcp_call"]);
    let stored = serde_json::to_value(&create).unwrap();
    assert_eq!(serde_json::from_value::<Create>(stored).unwrap(), create, "as stores read it");
    assert_eq!(param_of(json!({"input": [{"type": "web_search_call"}]})), "input");
    assert_eq!(param_of(json!({"input": [{"type": "telepathy_call"}]})), "input[0].type");
    assert_eq!(
        param_of(json!({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]})),
        "input[0].input"
    );
}

/// In a rolling deploy, replicas of both versions read each other's logs.
#[test]
fn sampling_options_stand_in_a_log_as_earlier_versions_wrote_them() {
    let mut create = Create::from_value(json!({"input": "x", "temperature": 0.7, "top_k": 3})).unwrap();
    create.sampling = create.sampling.completed(SamplingOptions { top_p: Some(0.9), ..SamplingOptions::default() });
    let stored = serde_json::to_string(&create).unwrap();
    let options = "\"temperature\":0.7,\"top_p\":0.9,\"top_k\":3,\"min_p\":null,\"frequency_penalty\":0.0,\
                   \"presence_penalty\":0.0,\"repetition_penalty\":null,\"logit_bias\":{}";
    assert!(stored.contains(options), "{stored}");
    assert_eq!(serde_json::from_str::<Create>(&stored).unwrap(), create);
}
