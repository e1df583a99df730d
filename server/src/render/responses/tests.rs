use serde_json::{Value, json};

use super::*;
use crate::{
    dialect::{Dialect, Tags},
    store::{
        GenerationSpec,
        conformance::{delta, finished, header, said},
    },
    wire::request::Create,
};

/// A header whose model thinks and may call.
fn agent() -> Header {
    let create = json!({"input": "x", "tools": [{"type": "function", "name": "f"}]});
    let tags = Tags { open: "<think>".into(), close: "</think>".into(), opened: false, optional: false };
    Header {
        spec: Create::from_value(create).unwrap().into(),
        dialect: Dialect { reasoning: Some(tags), ..Dialect::default() },
        ..header("resp_1", "t")
    }
}

fn events(header: Header, entries: &[Entry]) -> Vec<Value> {
    let mut renderer = Renderer::new(Arc::new(header));
    let mut events = Vec::new();
    let mut collect = |number, event: Event| {
        assert_eq!(number, events.len() as u64, "numbers have no gap");
        let event = serde_json::to_value(&event).unwrap();
        events.push(event);
    };
    renderer.begin(&mut collect);
    entries.iter().for_each(|entry| renderer.entry(entry, &mut collect));
    events
}

fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap().strip_prefix("response.").unwrap()
}

fn names(entries: &[Entry]) -> Vec<String> {
    events(header("resp_1", "t"), entries).iter().map(|event| kind(event).to_owned()).collect()
}

fn ended(finish: Finish) -> Entry {
    match finished() {
        Entry::Finished { usage, completed_at, .. } => Entry::Finished { finish, usage, completed_at },
        other => other,
    }
}

const CLOSE: [&str; 3] = ["output_text.done", "content_part.done", "output_item.done"];
const OPEN: [&str; 2] = ["output_item.added", "content_part.added"];
const CALL: [&str; 4] =
    ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"];

#[test]
fn a_reply_has_the_full_order() {
    let held = said(9, "");
    let entries = [Entry::Queued, Entry::Started, held, delta(1), delta(2), finished()];
    let expected = [
        &["created", "queued", "in_progress"][..],
        &OPEN,
        &["output_text.delta", "output_text.delta"],
        &CLOSE,
        &["completed"],
    ];
    assert_eq!(names(&entries), expected.concat());
}

#[test]
fn a_call_that_is_whole_is_complete_wherever_the_bound_stands() {
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
    for (text, completed) in [
        (call.to_owned(), true),
        (format!("{call}\n</tool_call>"), true),
        (format!("Let me see. {call}\n</tool_call>\n"), true),
        (format!("{call}\n</tool_call>\nThat is"), false),
        (call[..call.len() - 3].to_owned(), false),
        ("<tool_call>\n{\"name\": \"f\"".to_owned(), false),
    ] {
        let entries = [Entry::Started, said(1, &text), ended(Finish::Length)];
        let (response, _) = response(&Arc::new(agent()), &entries);
        let expected = if completed { Status::Completed } else { Status::Incomplete };
        assert_eq!(response.status, expected, "{text}");
        let chat = crate::render::chat::completion(&[response]).unwrap();
        assert_eq!(chat.choices[0].finish_reason, if completed { "tool_calls" } else { "length" }, "{text}");
    }
}

#[test]
fn a_reply_that_ends_in_its_thought_has_an_empty_text() {
    let entries = [Entry::Started, said(1, "<think>hm"), ended(Finish::Length)];
    let chat = crate::render::chat::completion(&[response(&Arc::new(agent()), &entries).0]).unwrap();
    let message = &chat.choices[0].message;
    assert_eq!((message.content.as_deref(), message.reasoning_content.as_deref()), (Some(""), Some("hm")));
}

#[test]
fn every_ending_closes_what_is_open() {
    let empty = [Entry::Started, ended(Finish::Length)];
    assert_eq!(names(&empty), [&["created", "in_progress"][..], &OPEN, &CLOSE, &["incomplete"]].concat());
    let failed = [Entry::Started, delta(1), ended(Finish::Failed("x".into()))];
    let expected = [&["created", "in_progress"][..], &OPEN, &["output_text.delta"], &CLOSE, &["failed"]];
    assert_eq!(names(&failed), expected.concat());
    let early = [Entry::Started, ended(Finish::Failed("x".into()))];
    assert_eq!(names(&early), ["created", "in_progress", "failed"]);
}

const TEXT: &str = "<think>\nhm\n</think>\n\nSo: <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
                    <tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";

#[test]
fn thoughts_text_and_calls_are_items_in_order() {
    let entries = [Entry::Started, said(1, TEXT), finished()];
    let events = events(agent(), &entries);
    let thought = [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ];
    let message = [&OPEN[..], &["output_text.delta"], &CLOSE].concat();
    let expected = [&["created", "in_progress"][..], &thought, &message, &CALL, &CALL, &["completed"]].concat();
    assert_eq!(events.iter().map(kind).collect::<Vec<_>>(), expected);
    let output = &events.last().unwrap()["response"]["output"];
    let part = json!({"type": "output_text", "text": "So: ", "annotations": [], "logprobs": []});
    assert_eq!(
        *output,
        json!([
            {"type": "reasoning", "id": "rs_1", "status": "completed",
             "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "id": "msg_1_1", "status": "completed", "role": "assistant", "content": [part]},
            {"type": "function_call", "id": "fc_1_2", "status": "completed", "call_id": "call_1_2", "name": "f",
             "arguments": "{\"a\": 1}"},
            {"type": "function_call", "id": "fc_1_3", "status": "completed", "call_id": "call_1_3", "name": "f",
             "arguments": "{}"},
        ])
    );
    let done: Vec<&Value> = events.iter().filter(|event| kind(event) == "output_item.done").collect();
    for (at, event) in done.into_iter().enumerate() {
        assert_eq!((&event["item"], &event["output_index"]), (&output[at], &json!(at)));
    }
}

#[test]
fn calls_over_the_bound_are_left_out() {
    let spec = GenerationSpec { max_tool_calls: Some(1), ..agent().spec };
    let header = Arc::new(Header { spec, ..agent() });
    let (response, _) = response(&header, &[said(1, TEXT), finished()]);
    let calls = response.output.iter().filter(|item| matches!(item, OutputItem::FunctionCall(_)));
    assert_eq!((calls.count(), response.output.len(), response.max_tool_calls), (1, 3, Some(1)));
}

#[test]
fn items_do_not_depend_on_how_the_text_was_cut() {
    let whole = response(&Arc::new(agent()), &[said(1, TEXT), finished()]).0.output;
    for width in 1..9 {
        let chars: Vec<char> = TEXT.chars().collect();
        let mut entries: Vec<Entry> =
            chars.chunks(width).map(|piece| said(1, &piece.iter().collect::<String>())).collect();
        entries.push(finished());
        assert_eq!(response(&Arc::new(agent()), &entries).0.output, whole);
    }
}

#[test]
fn a_call_that_is_cut_is_incomplete() {
    let cut = &TEXT[..TEXT.rfind("{}").unwrap() + 1];
    for finish in [Finish::Length, Finish::Cancelled, Finish::Stop, Finish::Failed("x".into())] {
        let (response, _) = response(&Arc::new(agent()), &[said(1, cut), ended(finish)]);
        let statuses: Vec<ItemStatus> = response.output.iter().map(status).collect();
        let (last, before) = statuses.split_last().unwrap();
        assert_eq!(*last, ItemStatus::Incomplete);
        assert!(before.iter().all(|status| *status == ItemStatus::Completed) && before.len() == 3);
    }
    let running = response(&Arc::new(agent()), &[said(1, cut)]).0;
    assert_eq!((running.output.len(), status(&running.output[3])), (4, ItemStatus::InProgress));
}

fn status(item: &OutputItem) -> ItemStatus {
    match item {
        OutputItem::Message(message) => message.status,
        OutputItem::FunctionCall(call) => call.status,
        OutputItem::Reasoning(thought) => thought.status,
    }
}

#[test]
fn the_tokens_of_thoughts_are_counted() {
    let count = |pieces: &[&str]| {
        let mut entries: Vec<Entry> = pieces.iter().map(|piece| said(1, piece)).collect();
        entries.push(finished());
        let usage = response(&Arc::new(agent()), &entries).0.usage.unwrap();
        usage.output_tokens_details.reasoning_tokens
    };
    assert_eq!(count(&["Hello", " <", "x", ">"]), 0);
    assert_eq!(count(&["<think>", "a", "", " b", "</think>", "\n", "Hello", "!"]), 5);
    assert_eq!(count(&["<", "th", "ink", ">", "a", "</", "think", ">", "Hello"]), 8);
    assert_eq!(count(&["<", "th", "ought", ">"]), 0);
}

#[test]
fn logprobs_go_with_the_text_that_their_tokens_became() {
    let logprob = |token: &str| crate::engine::Logprobs {
        token: crate::engine::TokenLogprob { token: token.into(), bytes: token.into(), logprob: -0.5 },
        top: vec![],
    };
    let said = |text: &str, token: &str| match said(1, text) {
        Entry::Delta { tokens, text, .. } => {
            Entry::Delta { tokens, text, logprobs: vec![logprob(token)], cached_tokens: None }
        }
        other => other,
    };
    let entries = [
        said("<think>", "<think>"),
        said("hm", "hm"),
        said("</think>", "</think>"),
        said("a ", "a "),
        said("<", "<"),
        said("b", "b"),
        finished(),
    ];
    let events = events(agent(), &entries);
    let tokens = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|l| l["token"].as_str().unwrap().to_owned()).collect()
    };
    let deltas: Vec<_> =
        events.iter().filter(|e| kind(e) == "output_text.delta").map(|e| tokens(&e["logprobs"])).collect();
    assert_eq!(deltas, [vec!["a "], vec!["<", "b"]]);
    let done = events.iter().find(|e| kind(e) == "output_text.done").unwrap();
    assert_eq!(tokens(&done["logprobs"]), ["a ", "<", "b"]);
    assert_eq!(done["logprobs"][0]["logprob"], -0.5);
    assert_eq!(done["logprobs"][0]["bytes"], json!([97, 32]));
    let part = &events.last().unwrap()["response"]["output"][1]["content"][0];
    assert_eq!(part["logprobs"], done["logprobs"]);
}

#[test]
fn a_warmed_prompt_completes_without_output() {
    let spec = GenerationSpec { generate: false, ..header("resp_1", "t").spec };
    let header = Arc::new(Header { spec, ..header("resp_1", "t") });
    for finish in [Finish::Stop, Finish::Length] {
        let (response, last) = response(&header, &[Entry::Started, ended(finish)]);
        assert_eq!((response.status, response.output.len(), last), (Status::Completed, 0, 2));
    }
    let (cancelled, _) = response(&header, &[Entry::Started, ended(Finish::Cancelled)]);
    assert_eq!((cancelled.status, cancelled.output.len()), (Status::Incomplete, 0));
}

#[test]
fn a_snapshot_has_the_text_so_far() {
    let text = |response: &Response| match &response.output[..] {
        [OutputItem::Message(message)] => message.content[0].text.clone(),
        other => panic!("{other:?}"),
    };
    let header = Arc::new(header("resp_1", "t"));
    let (running, last) = response(&header, &[Entry::Started, delta(1), delta(2)]);
    assert_eq!((running.status, last), (Status::InProgress, 5));
    assert_eq!(text(&running), " 1 2");
    let (done, _) = response(&header, &[Entry::Started, delta(1), finished()]);
    assert_eq!((done.status, done.usage.map(|u| u.output_tokens)), (Status::Completed, Some(1)));
    let failed = response(&header, &[ended(Finish::Failed("secret detail".into()))]).0;
    assert!(!serde_json::to_string(&failed).unwrap().contains("secret detail"));
}

#[test]
fn what_was_left_out_is_said() {
    let left_out = crate::store::TruncatedItems { turns: 3 };
    let cut = Header { left_out, ..header("resp_1", "t") };
    let events = events(cut, &[]);
    assert_eq!(events[0]["response"]["truncation_details"], json!({"dropped_turns": 3}));
    let whole = self::events(header("resp_1", "t"), &[]);
    assert!(whole[0]["response"].get("truncation_details").is_none());
}
