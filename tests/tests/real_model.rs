//! Tests the real engine on the default model. Needs `make build`, which builds the engine and downloads the model.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, EventLog, Received, Setup, http,
    log::{kind, output_text},
    proxy::{Cut, cutting},
    until,
    ws::SUBPROTOCOL,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// Runs one test at a time, because the machine has few cores.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Starts a server that runs one generation at a time.
async fn app() -> (App, MutexGuard<'static, ()>) {
    let turn = turn().await;
    (Setup::real().set(&["engine.max_running=1"]).spawn(), turn)
}

fn seeded(more: Value) -> Value {
    let mut fields = json!({"input": "Name three rivers of Europe.", "seed": 42, "temperature": 0.8, "max_output_tokens": 24,
            // Without the cache every request reaches the engine.
            "cache": {"mode": "off"}});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fields
}

async fn stored(app: &App, id: &str) -> Value {
    http::get(app.address, &format!("/v1/responses/{id}")).await.json()
}

#[tokio::test]
async fn a_short_reply_streams_in_order() {
    let (app, _turn) = app().await;
    let log = Client::plain(&app).await.run(seeded(json!({}))).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert!(log.text().trim().len() > 10, "{:?}", log.text());
    assert!(log.of_kind("response.output_text.delta").count() > 5, "it streams");
    assert!(log.usage("input_tokens") > 5 && (1..=24).contains(&log.usage("output_tokens")));
    assert!(["completed", "incomplete"].contains(&log.status()));
    assert_eq!(&stored(&app, &log.id()).await, log.response());
    assert_eq!(http::get(app.address, "/v1/models").await.json()["data"][0]["id"], log.response()["model"]);
}

#[tokio::test]
async fn a_seeded_reply_repeats_and_another_seed_says_something_else() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let first = client.run(seeded(json!({}))).await;
    let second = client.run(seeded(json!({}))).await;
    assert_eq!(first.text(), second.text());
    assert_eq!(first.usage("output_tokens"), second.usage("output_tokens"));
    let mut others = vec![];
    for seed in 1..4 {
        others.push(client.run(seeded(json!({"seed": seed}))).await.text());
    }
    assert!(others.iter().any(|text| *text != first.text()), "the seed is of no effect: {others:?}");
}

#[tokio::test]
async fn another_answer_to_the_same_question_does_not_read_it_again() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let cached = |log: &EventLog| log.response()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let first = client.run(seeded(json!({"temperature": 1}))).await;
    assert_eq!(cached(&first), 0);
    let mut answers = vec![first.text()];
    for seed in 1..5 {
        let again = client.run(seeded(json!({"temperature": 1, "seed": seed}))).await;
        again.assert_gap_free();
        again.assert_text_agrees();
        // The last token of a prompt is always computed, because its logits are needed.
        assert_eq!(cached(&again), again.usage("input_tokens") - 1, "{}", again.text());
        answers.push(again.text());
    }
    answers.sort();
    answers.dedup();
    assert!(answers.len() > 2, "{answers:?}");
}

#[tokio::test]
async fn a_greedy_reply_repeats() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let first = client.run(seeded(json!({"temperature": 0, "seed": null}))).await;
    let second = client.run(seeded(json!({"temperature": 0, "seed": null}))).await;
    assert_eq!(first.text(), second.text());
}

#[tokio::test]
async fn biases_and_penalties_change_what_is_said() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let greedy = |more: Value| {
        let mut fields = json!({"temperature": 0, "max_output_tokens": 30});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        seeded(fields)
    };
    let plain = client.run(greedy(json!({}))).await.text();
    let biased = client.run(greedy(json!({"logit_bias": {"40": 100}, "max_output_tokens": 6}))).await.text();
    let piece: String = biased.chars().take(biased.chars().count() / 6).collect();
    assert!(!piece.is_empty() && biased == piece.repeat(6), "one token over and over: {biased:?}");
    let penalised =
        client.run(greedy(json!({"logit_bias": {"40": 3}, "frequency_penalty": 2, "presence_penalty": 2}))).await;
    penalised.assert_gap_free();
    assert_ne!(penalised.text(), plain);
    assert_eq!(penalised.response()["frequency_penalty"], 2.0);
    // With a strong enough penalty no word repeats often.
    let never_twice = client.run(greedy(json!({"repetition_penalty": 2}))).await.text();
    assert_ne!(never_twice, plain);
}

#[tokio::test]
async fn a_stop_string_is_never_shown() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let whole = client.run(seeded(json!({"temperature": 0, "max_output_tokens": 40}))).await.text();
    // A piece from the middle of the reply, across words and tokens.
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 7].iter().collect();
    let before = &whole[..whole.find(&stop).expect("a piece of it")];
    let log = client.run(seeded(json!({"temperature": 0, "max_output_tokens": 40, "stop": [stop]}))).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!(log.text(), before, "the text before the stop string {stop:?}, and nothing of it");
    assert_eq!(log.status(), "completed");
}

#[tokio::test]
async fn cancel_frees_the_only_slot_soon() {
    let (app, _turn) = app().await;
    let long = json!({"input": "Tell a very long story about a river.", "max_output_tokens": 2000, "seed": 7});
    let (mut first, mut second) = (Client::extended(&app).await, Client::extended(&app).await);
    first.create(long).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < 3 {
        log.push(first.event().await);
    }
    second.create(seeded(json!({"max_output_tokens": 4}))).await;
    second.event_of("response.queued").await;
    let cancelled = Instant::now();
    second.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    first.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    second.event_of("response.output_text.delta").await;
    let took = cancelled.elapsed();
    println!("the next reply's first token {took:?} after the cancel");
    assert!(took < Duration::from_secs(20), "2000 tokens take far longer than {took:?}");
}

#[tokio::test]
async fn killed_and_resumed_the_text_is_the_stored_one() {
    let (app, _turn) = app().await;
    for frames in [3, 6, 11, 19] {
        let proxy = cutting(app.address, Cut::Frames(frames)).await;
        let mut client = Client::extended_at(proxy).await;
        assert_eq!(client.protocol(), Some(SUBPROTOCOL));
        client.create(seeded(json!({}))).await;
        let mut log = EventLog::default();
        while let Received::Event(event) = client.receive().await {
            if !kind(&event).starts_with("caudal:") {
                log.push(event);
            }
        }
        assert!(!log.ended(), "it was cut before the end");
        let mut again = Client::extended(&app).await;
        again.resume(&log.id(), log.last_number()).await;
        assert_eq!(kind(&again.event().await), "caudal:response.resumed");
        again.rest(&mut log).await;
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!(output_text(&stored(&app, &log.id()).await), log.text());
    }
}

#[tokio::test]
async fn a_turn_knows_the_turns_before_it() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let first = client.run(json!({"input": "My name is Amalia. Say hello.", "seed": 1, "max_output_tokens": 16})).await;
    let alone = client.run(json!({"input": "What is my name?", "temperature": 0, "max_output_tokens": 16})).await;
    let second = client
        .run(json!({"input": "What is my name?", "temperature": 0, "max_output_tokens": 16, "previous_response_id": first.id()}))
        .await;
    let tokens = |log: &EventLog| log.usage("input_tokens");
    assert!(tokens(&second) > tokens(&first) + first.usage("output_tokens"), "the first turn is in the prompt");
    assert!(tokens(&second) > tokens(&alone) + 10);
    assert_ne!(second.text(), alone.text(), "what came before makes a difference");
}

fn weather() -> Value {
    json!([{"type": "function", "name": "get_weather", "description": "The weather in a city.", "parameters": {
        "type": "object", "required": ["city", "unit"],
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    }}])
}

#[tokio::test]
async fn it_calls_a_function_with_valid_arguments_and_is_told_the_result() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let ask = json!({"input": "What is the weather in Lisbon?", "tools": weather(), "tool_choice": "required",
        "parallel_tool_calls": false, "max_output_tokens": 80});
    let called = client.run(seeded(ask)).await;
    called.assert_gap_free();
    let call = &called.response()["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("get_weather")), "{call}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).expect("arguments are JSON");
    assert!(arguments["city"].is_string() && ["C", "F"].contains(&arguments["unit"].as_str().unwrap()), "{arguments}");
    let streamed: String = called
        .of_kind("response.function_call_arguments.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, call["arguments"].as_str().unwrap());
    let output = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "23 degrees, sunny"}]);
    let told = json!({"input": output, "previous_response_id": called.id(), "tools": weather()});
    let answer = client.run(seeded(told)).await;
    assert_ne!(answer.response()["output"], json!([]));
    assert!(answer.usage("input_tokens") > called.usage("input_tokens") + 20, "it was told the call and its result");
}

#[tokio::test]
async fn a_format_holds_also_where_the_length_ends_it() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "likes"], "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "likes": {"type": "array", "items": {"type": "string"}}}});
    let format = json!({"type": "json_schema", "name": "person", "strict": true, "schema": schema});
    let mut cut = 0;
    for length in [27, 29, 31, 90] {
        let fields = json!({"input": "Invent a person.", "text": {"format": format}, "max_output_tokens": length, "seed": length});
        let log = client.run(seeded(fields)).await;
        let person: Value = serde_json::from_str(&log.text()).unwrap_or_else(|e| panic!("{e}: {}", log.text()));
        assert!(person["name"].is_string() && person["age"].is_i64() && person["likes"].is_array(), "{person}");
        assert!(log.usage("output_tokens") <= length);
        cut += usize::from(log.status() == "incomplete");
    }
    assert!(cut > 0, "none was cut");
    let regex = json!({"type": "grammar", "syntax": "regex", "definition": "[0-9]{4}-[0-9]{2}"});
    let date = client.run(seeded(json!({"input": "A month, please.", "text": {"format": regex}}))).await;
    assert_eq!((date.status(), date.text().len()), ("completed", 7), "{}", date.text());
    let short = client.run(seeded(json!({"text": {"format": format}, "max_output_tokens": 3}))).await;
    assert_eq!((short.status(), short.usage("output_tokens")), ("incomplete", 3), "nothing that fits is as short");
}

#[tokio::test]
async fn likelihoods_are_of_the_tokens_said_and_the_second_turn_finds_the_first() {
    let (app, _turn) = app().await;
    let mut client = Client::plain(&app).await;
    let warmed = client.run(seeded(json!({"generate": false}))).await;
    assert_eq!((warmed.status(), warmed.usage("output_tokens")), ("completed", 0));
    let fields = json!({"top_logprobs": 3, "temperature": 0, "max_output_tokens": 8});
    let log = client.run(seeded(fields)).await;
    let events = log.of_kind("response.output_text.delta").flat_map(|event| event["logprobs"].as_array().unwrap());
    let said: Vec<&Value> = events.collect();
    assert_eq!(said.len() as u64, log.usage("output_tokens"));
    for token in said {
        assert_eq!(token["top_logprobs"].as_array().map(Vec::len), Some(3));
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"], "temperature 0 says the likeliest");
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    let next = json!({"input": "Tell me more of the first.", "previous_response_id": log.id()});
    let next = client.run(seeded(next)).await;
    let cached = next.response()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= log.usage("input_tokens"), "{cached} of {}", next.usage("input_tokens"));
}

#[tokio::test]
async fn operators_see_what_was_computed() {
    let _turn = turn().await;
    let app = Setup::real().set(&["engine.max_running=1", "auth.admin_key=admin-key-1"]).spawn();
    let mut client = Client::plain(&app).await;
    let first = client.run(seeded(json!({}))).await;
    let next = json!({"input": "Tell me more of the first.", "previous_response_id": first.id()});
    let next = client.run(seeded(next)).await;
    let model = first.response()["model"].as_str().unwrap().to_owned();
    let cached = next.response()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let expected = [
        format!(
            "caudal_prompt_tokens_total{{model=\"{model}\"}} {}",
            first.usage("input_tokens") + next.usage("input_tokens")
        ),
        format!("caudal_prompt_tokens_cached_total{{model=\"{model}\"}} {cached}"),
        format!("caudal_time_to_first_token_seconds_count{{model=\"{model}\"}} 2"),
    ];
    assert!(cached > 0);
    until("both to be counted", || async {
        let ask = http::call(app.address, "GET", "/admin/metrics").header("authorization", "Bearer admin-key-1");
        let text = ask.send().await.text();
        expected.iter().all(|line| text.lines().any(|told| told == line)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn characters_are_never_cut() {
    let (app, _turn) = app().await;
    let log = Client::plain(&app)
        .await
        .run(json!({"input": "Repeat exactly: 🙂 日本語 é 🙂 日本語 é", "temperature": 0, "max_output_tokens": 30}))
        .await;
    log.assert_gap_free();
    log.assert_text_agrees();
    let ended = log.reason() == "max_output_tokens";
    let text = log.text();
    let body = if ended { text.trim_end_matches('\u{fffd}') } else { &text };
    assert!(!body.contains('\u{fffd}'), "{text:?}");
}

#[tokio::test]
async fn a_model_is_reloaded_under_a_running_stream() {
    let _turn = turn().await;
    let app = Setup::real().set(&["engine.max_running=2", "auth.admin_key=admin-key-1"]).spawn();
    let model = http::get(app.address, "/v1/models").await.json()["data"][0]["id"].as_str().expect("an id").to_owned();
    let reload = || async {
        let call = http::call(app.address, "POST", &format!("/admin/models/{model}/reload"));
        call.header("authorization", "Bearer admin-key-1").send().await
    };
    let long = json!({"input": "Tell a long story about a river.", "temperature": 0, "max_output_tokens": 200});
    let mut client = Client::extended(&app).await;
    let whole = client.run(long.clone()).await;
    let before = app.resident_bytes();
    for round in 0..3 {
        client.create(long.clone()).await;
        let mut log = EventLog::default();
        while log.of_kind("response.output_text.delta").count() < 3 {
            log.push(client.event().await);
        }
        let (first, second) = tokio::join!(reload(), reload());
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{} {}", first.text(), second.text());
        client.rest(&mut log).await;
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!(log.text(), whole.text(), "round {round}");
        assert_eq!(client.run(long.clone()).await.text(), whole.text(), "the new one says the same");
    }
    let returned = || async { Some(app.resident_bytes()).filter(|after| *after < before + before / 4) };
    let after = until("the memory of the old ones to be given back", returned).await;
    println!("{} MB before, {} MB after three reloads", before >> 20, after >> 20);
}

#[tokio::test]
async fn a_broken_file_does_not_replace_the_model() {
    let _turn = turn().await;
    let source = std::env::home_dir().expect("a home").join(".cache/caudal/models");
    let source = std::env::var_os("CAUDAL_MODEL_DIR").map_or(source, Into::into);
    let path = std::env::temp_dir().join(format!("caudal-swap-{}.gguf", std::process::id()));
    std::fs::copy(source.join("SmolLM2-135M-Instruct.Q4_1.gguf"), &path).expect("the default model");
    let models = format!("engine.models=[{{model={path:?}, id=\"m\", aliases=[\"n\"], sampling={{temperature=0.0}}}}]");
    let app = Setup::real().set(&[&models, "engine.max_running=1", "auth.admin_key=admin-key-1"]).spawn();
    let question = json!({"input": "Name a river.", "model": "n", "max_output_tokens": 8});
    let mut client = Client::plain(&app).await;
    let first = client.run(question.clone()).await;
    assert_eq!((&first.response()["temperature"], &first.response()["model"]), (&json!(0.0), &json!("m")));
    std::fs::write(&path, "not a model").unwrap();
    let failed = until("the first loading to end", || async {
        let call = http::call(app.address, "POST", "/admin/models/n/reload");
        let answer = call.header("authorization", "Bearer admin-key-1").send().await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!((failed.status, &failed.json()["error"]["code"]), (500, &json!("reload_failed")));
    assert!(failed.text().contains("not a GGUF file"), "{}", failed.text());
    assert_eq!(client.run(question).await.text(), first.text());
}

#[test]
fn a_model_that_cannot_be_served_ends_the_server_and_says_why() {
    for (models, expected) in [
        (r#"engine.models=/nowhere/model.gguf"#, "/nowhere/model.gguf"),
        (r#"engine.models=[{sha256="00"}]"#, "sha256"),
        (r#"engine.models=[{id="a"}, {id="a"}]"#, "`a`"),
    ] {
        let output = Setup::real().set(&[models]).run("serve");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{models}: {output:?}");
        assert!(stderr.contains("engine.models[") && stderr.contains(expected), "{models}: {stderr}");
    }
}
