//! Tests conversations: OpenAI's API over HTTP, the items that a turn reads and appends, and their visibility.

use std::time::Instant;

use caudal_tests::{
    App, Client, EventLog, Redis, http,
    http::{call, get, post},
    log::{is_terminal, kind},
    spawn_app, until,
    ws::code,
};
use futures::future::join_all;
use serde_json::{Value, json};

use super::redis::replica;

/// A reply of one second.
pub const SLOW: [&str; 2] = ["engine.scripted.tokens=50", "engine.scripted.tokens_per_second=50"];

pub async fn conversation(app: &App, body: Value) -> String {
    let created = post(app.address, "/v1/conversations", &body).await;
    assert_eq!(created.status, 200, "{created:?}");
    created.json()["id"].as_str().expect("an id").to_owned()
}

pub async fn items(app: &App, id: &str) -> Vec<Value> {
    let listed = get(app.address, &format!("/v1/conversations/{id}/items?order=asc&limit=100")).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    listed.json()["data"].as_array().expect("data").clone()
}

/// Returns role and text of each item.
pub fn said(items: &[Value]) -> Vec<(String, String)> {
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (item["role"].as_str().unwrap_or_default().to_owned(), text(item))).collect()
}

pub fn pair(role: &str, text: &str) -> (String, String) {
    (role.to_owned(), text.to_owned())
}

async fn delete(app: &App, path: &str) -> http::Answer {
    call(app.address, "DELETE", path).send().await
}

#[tokio::test]
async fn a_conversation_is_created_read_changed_and_deleted() {
    let app = spawn_app(&[]);
    let body = json!({"metadata": {"topic": "rivers"}, "items": [{"role": "user", "content": "Hello"}]});
    let created = post(app.address, "/v1/conversations", &body).await.json();
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("conv_"));
    assert_eq!((&created["object"], &created["metadata"]), (&json!("conversation"), &json!({"topic": "rivers"})));
    assert!(created["created_at"].is_u64());
    let path = format!("/v1/conversations/{id}");
    assert_eq!(get(app.address, &path).await.json(), created);
    let changed = post(app.address, &path, &json!({"metadata": {"topic": "lakes"}})).await.json();
    assert_eq!((&changed["id"], &changed["metadata"]), (&json!(id), &json!({"topic": "lakes"})));
    assert_eq!(get(app.address, &path).await.json(), changed);
    let deleted = delete(&app, &path).await.json();
    assert_eq!(deleted, json!({"id": id, "object": "conversation.deleted", "deleted": true}));
    for answer in
        [get(app.address, &path).await, delete(&app, &path).await, get(app.address, &format!("{path}/items")).await]
    {
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("conversation_not_found")));
    }
    let bare = call(app.address, "POST", "/v1/conversations").send().await;
    assert_eq!((bare.status, &bare.json()["metadata"]), (200, &json!({})), "a body is not needed");
}

#[tokio::test]
async fn items_are_appended_listed_in_pages_read_and_removed() {
    let app = spawn_app(&["conversations.max_items=8"]);
    let id = conversation(&app, json!({})).await;
    let path = format!("/v1/conversations/{id}/items");
    let new = json!({"items": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}]});
    let appended = post(app.address, &path, &new).await.json();
    assert_eq!((&appended["object"], &appended["has_more"]), (&json!("list"), &json!(false)));
    let all = items(&app, &id).await;
    assert_eq!(appended["data"], json!(all));
    assert_eq!(said(&all), [pair("user", "1"), pair("assistant", "2"), pair("user", "3")]);
    // OpenAI's default is the newest first.
    let first = get(app.address, &format!("{path}?limit=2")).await.json();
    assert_eq!((&first["data"], &first["has_more"]), (&json!([all[2], all[1]]), &json!(true)));
    let last = first["last_id"].as_str().unwrap();
    let rest = get(app.address, &format!("{path}?limit=2&after={last}")).await.json();
    assert_eq!((&rest["data"], &rest["has_more"]), (&json!([all[0]]), &json!(false)));
    let one = format!("{path}/{}", all[1]["id"].as_str().unwrap());
    assert_eq!(get(app.address, &one).await.json(), all[1]);
    assert_eq!(delete(&app, &one).await.json()["object"], "conversation");
    assert_eq!(get(app.address, &one).await.json()["error"]["code"], "item_not_found");
    assert_eq!(items(&app, &id).await.len(), 2);
    let gone = get(app.address, &format!("{path}?after={}", all[1]["id"].as_str().unwrap())).await;
    assert_eq!((gone.status, &gone.json()["error"]["param"]), (400, &json!("after")));
    for (query, param) in [("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order")] {
        assert_eq!(get(app.address, &format!("{path}?{query}")).await.json()["error"]["param"], param);
    }
    let many = json!({"items": vec![json!({"role": "user", "content": "x"}); 7]});
    let full = post(app.address, &path, &many).await;
    assert_eq!((full.status, &full.json()["error"]["param"]), (400, &json!("conversation")));
    assert_eq!(items(&app, &id).await.len(), 2, "all or none");
}

#[tokio::test]
async fn a_fork_has_what_was_said_up_to_an_item_and_leaves_the_original() {
    let app = spawn_app(&["engine.scripted.tokens=3"]);
    let words: Vec<_> = (0..20).map(|n| json!({"role": "user", "content": format!("{n}")})).collect();
    let id = conversation(&app, json!({"items": words, "metadata": {"topic": "rivers"}})).await;
    post(app.address, "/v1/responses", &json!({"conversation": id, "input": "more"})).await;
    let before = items(&app, &id).await;
    let path = format!("/v1/conversations/{id}/fork");

    let whole = call(app.address, "POST", &path).send().await.json();
    assert_eq!(whole["metadata"], json!({"topic": "rivers"}));
    let copied = items(&app, whole["id"].as_str().unwrap()).await;
    assert_eq!(said(&copied), said(&before));
    assert!(copied.iter().all(|copy| before.iter().all(|item| item["id"] != copy["id"])), "{copied:?}");
    let reference = json!({"input": [{"type": "item_reference", "id": copied[20]["id"]}]});
    assert_eq!(post(app.address, "/v1/responses", &reference).await.status, 200);

    let body = json!({"before": before[5]["id"], "metadata": {"topic": "lakes"}});
    let part = post(app.address, &path, &body).await.json();
    assert_eq!(part["metadata"], json!({"topic": "lakes"}));
    let part = part["id"].as_str().unwrap();
    assert_eq!(said(&items(&app, part).await), said(&before[..5]));
    post(app.address, "/v1/responses", &json!({"conversation": part, "input": "else"})).await;
    assert_eq!(items(&app, part).await.len(), 7);
    assert_eq!(items(&app, &id).await, before);

    let unknown = post(app.address, &path, &json!({"before": "msg_none"})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("item_not_found")));
    let nowhere = post(app.address, "/v1/conversations/conv_none/fork", &json!({})).await;
    assert_eq!((nowhere.status, &nowhere.json()["error"]["code"]), (404, &json!("conversation_not_found")));
}

#[tokio::test]
async fn a_turn_reads_and_extends_its_conversation() {
    let app = spawn_app(&["engine.scripted.tokens=5"]);
    let id = conversation(&app, json!({"items": [{"role": "user", "content": "one two three"}]})).await;
    let mut client = Client::extended(&app).await;
    let first = client.run(json!({"input": "four five", "conversation": id})).await;
    first.assert_gap_free();
    assert_eq!(first.response()["conversation"], json!({"id": id}));
    let text = first.text();
    let expected = [pair("user", "one two three"), pair("user", "four five"), pair("assistant", &text)];
    assert_eq!(said(&items(&app, &id).await), expected);
    let second = client.run(json!({"input": "six", "conversation": {"id": id}})).await;
    // The scripted engine counts two tokens for each message besides its words: the first turn's input, its reply, and this
    // input.
    assert_eq!(second.usage("input_tokens"), first.usage("input_tokens") + 2 + 5 + 2 + 1);
    let kept = items(&app, &id).await;
    assert_eq!(said(&kept)[3..], [pair("user", "six"), pair("assistant", &second.text())]);
    assert!(kept.iter().all(|item| item["id"].is_string() && item["status"] == "completed"), "{kept:?}");
    let over_http = post(app.address, "/v1/responses", &json!({"input": "seven", "conversation": id})).await;
    assert_eq!(over_http.json()["status"], "completed");
    assert_eq!(items(&app, &id).await.len(), 7);
    // A turn of a conversation is continued by the conversation only.
    let mut client = Client::extended(&app).await;
    client.create(json!({"previous_response_id": first.id()})).await;
    assert_eq!(client.error().await["error"]["param"], "previous_response_id");
}

#[tokio::test]
async fn what_is_cut_short_is_kept_and_what_failed_is_not() {
    let app = spawn_app(&SLOW);
    let id = conversation(&app, json!({})).await;
    let mut client = Client::extended(&app).await;
    client.create(json!({"conversation": id})).await;
    let mut log = EventLog::default();
    while log.text().is_empty() {
        log.push(client.event().await);
    }
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    let kept = items(&app, &id).await;
    assert_eq!(said(&kept)[1..], [pair("assistant", &log.text())]);
    assert_eq!(kept[1]["status"], "incomplete");

    let app = spawn_app(&["engine.scripted.fail_after=3"]);
    let id = conversation(&app, json!({})).await;
    let failed = Client::extended(&app).await.run(json!({"input": "x", "conversation": id})).await;
    assert_eq!(failed.status(), "failed");
    assert_eq!(said(&items(&app, &id).await), [pair("user", "x")]);
}

#[tokio::test]
async fn tabs_see_the_same_turns_live() {
    let app = spawn_app(&SLOW);
    let id = conversation(&app, json!({})).await;
    let (mut a, mut b) = (Client::extended(&app).await, Client::extended(&app).await);
    b.send(json!({"type": "caudal:response.resume", "conversation": id})).await;
    let error = b.error().await;
    assert_eq!((code(&error), &error["error"]["param"]), ("response_not_found", &json!("conversation")));
    a.create(json!({"conversation": id})).await;
    let turn = b.event_of("caudal:conversation.turn").await;
    assert_eq!(turn["conversation"], json!(id));
    let mut first = EventLog::default();
    first.push(a.event().await);
    assert_eq!(turn["response_id"], json!(first.id()));
    b.send(json!({"type": "caudal:response.resume", "conversation": {"id": id}})).await;
    let resumed = b.event_of("caudal:response.resumed").await;
    assert_eq!((&resumed["response_id"], &resumed["status"]), (&turn["response_id"], &json!("in_progress")));
    let seen = b.response().await;
    a.rest(&mut first).await;
    assert_eq!(seen, first);
    // The first tab is notified of the other tab's turn, and no tab is notified twice.
    b.create(json!({"conversation": id})).await;
    let told = a.event_of("caudal:conversation.turn").await;
    let second = b.response().await;
    assert_eq!(told["response_id"], json!(second.id()));
    assert!(b.settle().await.iter().all(|event| kind(event) != "caudal:conversation.turn"));
    // No turn runs, so the latest is replayed.
    let mut late = Client::extended(&app).await;
    late.send(json!({"type": "caudal:response.resume", "conversation": id, "starting_after": 3})).await;
    assert_eq!(late.event().await["status"], "completed");
    let tail = late.response().await;
    assert_eq!(tail.events, second.events[4..]);
}

#[tokio::test]
async fn deleting_a_conversation_ends_and_deletes_its_responses() {
    let app = spawn_app(&SLOW);
    let id = conversation(&app, json!({})).await;
    let mut client = Client::extended(&app).await;
    let ended = client.run(json!({"conversation": id, "max_output_tokens": 2})).await;
    client.create(json!({"conversation": id})).await;
    let mut running = EventLog::default();
    while running.text().is_empty() {
        running.push(client.event().await);
    }
    assert_eq!(delete(&app, &format!("/v1/conversations/{id}")).await.status, 200);
    loop {
        let event = client.event().await;
        assert!(!is_terminal(&event), "{event}");
        if kind(&event) == "error" {
            assert_eq!(code(&event), "response_not_found");
            break;
        }
    }
    for id in [ended.id(), running.id()] {
        assert_eq!(get(app.address, &format!("/v1/responses/{id}")).await.status, 404);
    }
    client.create(json!({"conversation": id})).await;
    assert_eq!(code(&client.error().await), "conversation_not_found");
}

#[tokio::test]
async fn another_tenants_conversation_reads_like_none() {
    let keys = r#"auth.keys=[{key = "key-of-a", tenant = "a"}, {key = "key-of-b", tenant = "b"}]"#;
    let app = spawn_app(&["auth.mode=keys", keys, "store.tenants.b.retention_s=1"]);
    let ask = |method: &'static str, path: String, key: &'static str, body: Option<Value>| {
        let call = call(app.address, method, &path).header("authorization", &format!("Bearer {key}"));
        async move {
            match body {
                Some(body) => call.json(&body).send().await,
                None => call.send().await,
            }
        }
    };
    let created = ask("POST", "/v1/conversations".into(), "key-of-a", Some(json!({}))).await.json();
    let id = created["id"].as_str().unwrap();
    let path = format!("/v1/conversations/{id}");
    let nobody = "/v1/conversations/conv_nothing".to_owned();
    for (method, suffix, body) in [
        ("GET", "", None),
        ("POST", "", Some(json!({"metadata": {}}))),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", Some(json!({"items": [{"role": "user", "content": "x"}]}))),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
    ] {
        let theirs = ask(method, format!("{path}{suffix}"), "key-of-b", body.clone()).await;
        let none = ask(method, format!("{nobody}{suffix}"), "key-of-b", body).await;
        assert_eq!((theirs.status, none.status), (404, 404), "{method} {suffix}");
        assert_eq!(theirs.text().replace(id, "X"), none.text().replace("conv_nothing", "X"));
    }
    let turn = ask("POST", "/v1/responses".into(), "key-of-b", Some(json!({"input": "x", "conversation": id}))).await;
    assert_eq!((turn.status, &turn.json()["error"]["code"]), (404, &json!("conversation_not_found")));
    assert_eq!(ask("GET", "/v1/conversations".into(), "key-of-b", None).await.json()["data"], json!([]));
    assert_eq!(ask("GET", path.clone(), "key-of-a", None).await.json(), created);
    // Each tenant has its own retention.
    let short = ask("POST", "/v1/conversations".into(), "key-of-b", Some(json!({}))).await.json();
    let short = format!("/v1/conversations/{}", short["id"].as_str().unwrap());
    until("the conversation to expire", || async {
        (ask("GET", short.clone(), "key-of-b", None).await.status == 404).then_some(())
    })
    .await;
    assert_eq!(ask("GET", path, "key-of-a", None).await.status, 200);
}

async fn listed(app: &App, query: &str) -> (Vec<String>, bool) {
    let listed = get(app.address, &format!("/v1/conversations?{query}")).await.json();
    let ids = listed["data"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned());
    (ids.collect(), listed["has_more"].as_bool().unwrap())
}

#[tokio::test]
async fn a_tenants_conversations_are_listed_in_pages_by_age() {
    let app = spawn_app(&[]);
    let mut all = vec![];
    for _ in 0..7 {
        all.push(conversation(&app, json!({})).await);
    }
    assert_eq!(listed(&app, "order=asc&limit=100").await, (all.clone(), false));
    let mut seen: Vec<String> = vec![];
    loop {
        let after = seen.last().map(|id| format!("&after={id}")).unwrap_or_default();
        let (page, more) = listed(&app, &format!("limit=3{after}")).await;
        seen.extend(page);
        if !more {
            break;
        }
    }
    all.reverse();
    assert_eq!(seen, all);
}

/// Returns the median duration of a request.
async fn median<F: Future<Output = ()>>(ask: impl Fn() -> F) -> f64 {
    let mut took = vec![];
    for _ in 0..51 {
        let begun = Instant::now();
        ask().await;
        took.push(begun.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    took[25]
}

#[tokio::test]
async fn ten_thousand_conversations_cost_no_more_than_a_hundred() {
    let redis = Redis::spawn();
    let app = replica(&redis, &[]);
    let create = async |count: usize| {
        for _ in 0..count / 50 {
            join_all((0..50).map(|_| conversation(&app, json!({})))).await;
        }
    };
    let costs = async || {
        let list = median(|| async { assert_eq!(listed(&app, "limit=20").await.0.len(), 20) }).await;
        let create = median(|| async { drop(conversation(&app, json!({})).await) }).await;
        (list, create)
    };
    create(100).await;
    let few = costs().await;
    create(9_900).await;
    let many = costs().await;
    println!("list: {:.3} → {:.3} ms, create: {:.3} → {:.3} ms", few.0 * 1e3, many.0 * 1e3, few.1 * 1e3, many.1 * 1e3);
    // A generous factor: linear cost would be a hundred times as slow.
    assert!(many.0 < few.0 * 5.0 && many.1 < few.1 * 5.0);
}
