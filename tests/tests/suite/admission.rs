//! Tests admission: requests that cannot run wait in a bounded queue, and their clients receive their place.

use std::collections::HashMap;

use caudal_tests::{
    App, Client, EventLog, http,
    log::kind,
    spawn_app, until,
    ws::{Connect, SUBPROTOCOL, code},
};
use serde_json::{Value, json};

const SLOW: [&str; 2] = ["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=100"];
/// The log shows what the server passes to the engine.
const TRACED: &str = "log.filter=info,caudal_server::generation=debug";
const KEYS: [&str; 2] = [
    "auth.mode=keys",
    r#"auth.keys=[{key="alpha-key", tenant="alpha"}, {key="beta-key", tenant="beta"}, {key="gamma-key", tenant="gamma"}]"#,
];
/// How many lanes of a connection may have work.
const LANES: usize = 16;

fn spawn(more: &[&str]) -> App {
    let mut settings = SLOW.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

/// Creates a response that runs until it is cancelled.
async fn holder(app: &App) -> (Client, String) {
    let mut client = Client::plain(app).await;
    client.create(json!({})).await;
    let created = client.event_of("response.created").await;
    client.event_of("response.output_text.delta").await;
    (client, created["response"]["id"].as_str().unwrap().to_owned())
}

async fn queued(app: &App) -> (Client, String) {
    let mut client = Client::extended(app).await;
    client.create(json!({"max_output_tokens": 3})).await;
    let event = client.event_of("response.queued").await;
    (client, event["response"]["id"].as_str().unwrap().to_owned())
}

async fn connected(app: &App, key: &str) -> Client {
    let connect = Connect::to(app.address).protocols(SUBPROTOCOL).header("authorization", &format!("Bearer {key}"));
    let mut client = connect.open().await.expect("the key is good");
    client.event_of("caudal:session.created").await;
    client
}

/// Creates requests that wait. Returns their connections, and their ids in the order of arrival.
async fn backlog(app: &App, key: &str, requests: impl IntoIterator<Item = Value>) -> (Vec<Client>, Vec<String>) {
    let (mut clients, mut ids) = (vec![], vec![]);
    for (n, mut request) in requests.into_iter().enumerate() {
        if n % LANES == 0 {
            clients.push(connected(app, key).await);
        }
        let client = clients.last_mut().unwrap();
        request["stream_id"] = json!((n % LANES).to_string());
        client.create(request).await;
        ids.push(client.event_of("response.queued").await["response"]["id"].as_str().unwrap().to_owned());
    }
    (clients, ids)
}

/// Returns the ids in the order in which the engine received them, once there are `expected` ones.
async fn to_the_engine(app: &App, expected: usize) -> Vec<String> {
    until(format!("{expected} generations"), || async {
        let log = app.stderr();
        let given = log.lines().filter(|line| line.contains("to the engine"));
        let id = |line: &str| line[line.find("resp_").expect("the line names the response")..][..37].to_owned();
        Some(given.map(id).collect::<Vec<_>>()).filter(|given| given.len() >= expected)
    })
    .await
}

async fn cancel(client: &mut Client, id: &str) {
    client.send(json!({"type": "response.cancel", "response_id": id})).await;
}

#[track_caller]
fn assert_overloaded(error: &Value) {
    assert_eq!(
        (code(error), &error["status"], &error["error"]["type"]),
        ("server_overloaded", &json!(503), &json!("server_error"))
    );
    assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
}

#[tokio::test]
async fn over_the_queues_bound_requests_are_refused() {
    let app = spawn(&["engine.max_running=1", "admission.queue=2"]);
    let (mut running, id) = holder(&app).await;
    let (mut first, _) = queued(&app).await;
    let (mut second, _) = queued(&app).await;
    let mut third = Client::plain(&app).await;
    third.create(json!({})).await;
    assert_overloaded(&third.error().await);
    let answer = http::post(app.address, "/v1/responses", &json!({"input": "x"})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("server_overloaded")));
    assert!(answer.header("retry-after").and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s > 0));
    // The waiting requests were not disturbed.
    running.send(json!({"type": "response.cancel", "response_id": id})).await;
    for client in [&mut first, &mut second] {
        client.event_of("response.in_progress").await;
        client.event_of("response.incomplete").await;
    }
    third.create(json!({"max_output_tokens": 1})).await;
    assert!(third.response().await.ended());
}

#[tokio::test]
async fn without_a_queue_the_slots_are_the_bound() {
    let app = spawn(&["engine.max_running=2", "admission.queue=0"]);
    let _running = (holder(&app).await, holder(&app).await);
    let mut client = Client::plain(&app).await;
    client.create(json!({})).await;
    assert_overloaded(&client.error().await);
}

/// Reads until the client receives this position; before, it may receive the last one again.
async fn stands_at(client: &mut Client, position: u64) {
    loop {
        let event = client.event().await;
        assert_eq!(kind(&event), "caudal:response.queued", "{event}");
        assert!(event["estimated_wait_ms"].is_u64() && event["response_id"].is_string(), "{event}");
        let told = event["position"].as_u64().expect("position is a number");
        assert!(told >= position, "expected {position}: {event}");
        if told == position {
            return;
        }
    }
}

#[tokio::test]
async fn who_waits_is_told_where_it_stands() {
    let app = spawn(&["engine.max_running=1"]);
    let (mut running, holder) = holder(&app).await;
    let (mut first, first_id) = queued(&app).await;
    let (mut second, second_id) = queued(&app).await;
    let (mut third, _) = queued(&app).await;
    for (client, position) in [(&mut first, 1), (&mut second, 2), (&mut third, 3)] {
        stands_at(client, position).await;
    }
    // A cancelled request leaves the queue, and the others move up.
    running.send(json!({"type": "response.cancel", "response_id": first_id})).await;
    for (client, position) in [(&mut second, 1), (&mut third, 2)] {
        stands_at(client, position).await;
    }
    first.event_of("response.incomplete").await;
    running.send(json!({"type": "response.cancel", "response_id": holder})).await;
    second.event_of("response.in_progress").await;
    third.event_of("response.in_progress").await;
    let mut replay = Client::extended(&app).await;
    replay.resume(&second_id, None).await;
    let log = replay.response().await;
    log.assert_gap_free();
    assert_eq!(
        log.kinds()[..3],
        ["response.created", "response.queued", "response.in_progress"],
        "one queued event, in its place"
    );
}

#[tokio::test]
async fn the_queue_is_served_in_order() {
    let app = spawn(&["engine.max_running=1"]);
    let (mut running, holder) = holder(&app).await;
    // All requests are on one connection, each in its own lane, so the order of their events is the order of admission.
    let mut client = Client::plain(&app).await;
    let mut logs = vec![EventLog::default(); 6];
    for (lane, log) in logs.iter_mut().enumerate() {
        client.create(json!({"stream_id": lane.to_string(), "max_output_tokens": 5})).await;
        while log.events.len() < 2 {
            log.push(client.event().await);
        }
        assert_eq!(log.kinds(), ["response.created", "response.queued"]);
    }
    running.send(json!({"type": "response.cancel", "response_id": holder})).await;
    let mut started = vec![];
    while !logs.iter().all(EventLog::ended) {
        let event = client.event().await;
        let lane: usize = event["stream_id"].as_str().unwrap().parse().unwrap();
        if kind(&event) == "response.in_progress" {
            started.push(lane);
        }
        logs[lane].push(event);
    }
    logs.iter().for_each(EventLog::assert_gap_free);
    assert_eq!(started, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn slots_bound_what_runs_at_once() {
    let app =
        spawn_app(&["engine.max_running=3", "engine.scripted.tokens=20", "engine.scripted.tokens_per_second=100"]);
    let mut client = Client::plain(&app).await;
    for lane in 0..12 {
        client.create(json!({"stream_id": lane.to_string()})).await;
    }
    let (mut running, mut most, mut ended) = (0, 0, 0);
    while ended < 12 {
        match kind(&client.event().await) {
            "response.in_progress" => running += 1,
            "response.completed" => {
                running -= 1;
                ended += 1;
            }
            _ => {}
        }
        most = most.max(running);
    }
    // A request may start just before the last event of the previous one is read.
    assert!((3..=6).contains(&most), "{most} ran at once on three slots");
}

/// Starts a server whose only permit is taken. Waiting requests are served in the order of the log once the holder is
/// cancelled.
async fn one_slot(more: &[&str]) -> (App, Client, String) {
    let mut settings = vec!["engine.max_running=1", TRACED];
    settings.extend(KEYS);
    settings.extend(more);
    let app = spawn(&settings);
    let mut holder = connected(&app, "gamma-key").await;
    holder.create(json!({})).await;
    let id = holder.event_of("response.created").await["response"]["id"].as_str().unwrap().to_owned();
    holder.event_of("response.output_text.delta").await;
    (app, holder, id)
}

#[tokio::test]
async fn two_hundred_requests_of_a_tenant_do_not_delay_anothers_single_one() {
    let (app, mut holder, id) = one_slot(&[]).await;
    let _many = backlog(&app, "alpha-key", vec![json!({"max_output_tokens": 1}); 200]).await;
    let (_clients, one) = backlog(&app, "beta-key", [json!({"max_output_tokens": 1})]).await;
    cancel(&mut holder, &id).await;
    let given = to_the_engine(&app, 4).await;
    assert!(given[1..3].contains(&one[0]), "it is first or second: {:?}, {given:?}", one[0]);
}

#[tokio::test]
async fn tenants_share_by_weight() {
    let (app, mut holder, id) = one_slot(&["admission.weights.alpha=3.0"]).await;
    let request = json!({"max_output_tokens": 2});
    let (_alpha, alpha) = backlog(&app, "alpha-key", vec![request.clone(); 32]).await;
    let (_beta, _) = backlog(&app, "beta-key", vec![request; 32]).await;
    cancel(&mut holder, &id).await;
    let given = to_the_engine(&app, 25).await;
    let of_alpha = given[1..25].iter().filter(|id| alpha.contains(id)).count();
    assert!((17..=19).contains(&of_alpha), "three of four, not {of_alpha} of 24");
}

#[tokio::test]
async fn the_shortest_goes_first_and_nobody_is_overtaken_more_than_eight_times() {
    let (app, mut holder, id) = one_slot(&[]).await;
    let lengths = [60, 30].into_iter().chain([2; 14]);
    let (_clients, ids) = backlog(&app, "alpha-key", lengths.map(|n| json!({"max_output_tokens": n}))).await;
    cancel(&mut holder, &id).await;
    let given = to_the_engine(&app, 17).await;
    let expected: Vec<&String> = ids[2..10].iter().chain(&ids[..2]).chain(&ids[10..]).collect();
    assert_eq!(given[1..].iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn tiers_go_in_their_order_and_none_starves() {
    let (app, mut holder, id) = one_slot(&[r#"admission.priority=["alpha"]"#]).await;
    let tiers = ["flex", "default", "priority", "priority", "priority", "priority", "priority", "priority", "auto"];
    let requests = tiers.map(|tier| json!({"service_tier": tier, "max_output_tokens": 1}));
    let (_clients, ids) = backlog(&app, "alpha-key", requests).await;
    cancel(&mut holder, &id).await;
    let given = to_the_engine(&app, 10).await;
    let order: Vec<_> = given[1..].iter().map(|given| ids.iter().position(|id| id == given).unwrap()).collect();
    assert_eq!(order, [2, 3, 4, 5, 1, 0, 6, 7, 8]);
}

#[tokio::test]
async fn priority_is_for_tenants_that_a_setting_names() {
    let (app, mut holder, id) = one_slot(&[r#"admission.priority=["beta"]"#]).await;
    let tiers = ["flex", "default", "priority"].map(|tier| json!({"service_tier": tier, "max_output_tokens": 1}));
    let (_clients, ids) = backlog(&app, "alpha-key", tiers).await;
    cancel(&mut holder, &id).await;
    let given = to_the_engine(&app, 4).await;
    let order: Vec<_> = given[1..].iter().map(|given| ids.iter().position(|id| id == given).unwrap()).collect();
    assert_eq!(order, [1, 2, 0], "priority of a tenant without the right is default");
    let log = connected(&app, "alpha-key").await.run(json!({"service_tier": "priority", "max_output_tokens": 1})).await;
    assert_eq!(log.one("response.incomplete")["response"]["service_tier"], "default");
    let log = connected(&app, "beta-key").await.run(json!({"service_tier": "priority", "max_output_tokens": 1})).await;
    assert_eq!(log.one("response.incomplete")["response"]["service_tier"], "priority");
}

#[tokio::test]
async fn the_tier_is_echoed() {
    let app = spawn_app(&[r#"admission.priority=["default"]"#]);
    let mut client = Client::plain(&app).await;
    for (asked, told) in [
        (json!({}), "default"),
        (json!({"service_tier": null}), "default"),
        (json!({"service_tier": "auto"}), "default"),
        (json!({"service_tier": "default"}), "default"),
        (json!({"service_tier": "priority"}), "priority"),
        (json!({"service_tier": "flex"}), "flex"),
    ] {
        let log = client.run(asked.clone()).await;
        for event in [log.one("response.created"), log.one("response.completed")] {
            assert_eq!(event["response"]["service_tier"], told, "{asked}");
        }
        let mut chat = json!({"messages": [{"role": "user", "content": "hello"}]});
        chat.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        let completion = http::post(app.address, "/v1/chat/completions", &chat).await.json();
        assert_eq!(completion["service_tier"], told, "{asked}");
        chat["stream"] = true.into();
        let mut chunks = http::call(app.address, "POST", "/v1/chat/completions").json(&chat).events().await;
        let chunk: Value = serde_json::from_str(&chunks.next().await.expect("a chunk").data).unwrap();
        assert_eq!(chunk["service_tier"], told, "{asked}");
    }
}

#[tokio::test]
async fn a_tenant_cannot_fill_the_queue() {
    let (app, mut holder, id) = one_slot(&["admission.queue=3", "admission.queue_per_tenant=2"]).await;
    let request = json!({"max_output_tokens": 1});
    let (_alpha, ids) = backlog(&app, "alpha-key", vec![request.clone(); 2]).await;
    let mut third = connected(&app, "alpha-key").await;
    third.create(request.clone()).await;
    let error = third.error().await;
    assert_eq!(
        (code(&error), &error["status"], &error["error"]["type"]),
        ("rate_limit_exceeded", &json!(429), &json!("rate_limit_error"))
    );
    assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    let (_beta, _) = backlog(&app, "beta-key", [request.clone()]).await;
    let mut fourth = connected(&app, "beta-key").await;
    fourth.create(request.clone()).await;
    assert_overloaded(&fourth.error().await);
    // A request that leaves makes room at once.
    cancel(&mut third, &ids[1]).await;
    loop {
        fourth.create(request.clone()).await;
        let event = fourth.event().await;
        if kind(&event) == "response.created" {
            break;
        }
        assert_overloaded(&event);
    }
    cancel(&mut holder, &id).await;
    fourth.event_of("response.in_progress").await;
}

#[tokio::test]
async fn who_is_cancelled_or_abandoned_in_the_queue_never_reaches_the_engine() {
    let (app, mut holder, id) = one_slot(&["generation.orphan_grace_ms=100"]).await;
    let request = json!({"max_output_tokens": 1});
    let (mut clients, ids) = backlog(&app, "alpha-key", vec![request.clone(); 3 * LANES]).await;
    // One third is cancelled, one third is abandoned, one third stays.
    let abandoned: HashMap<_, _> = ids[LANES..2 * LANES].iter().map(|id| (id.clone(), "abandoned")).collect();
    clients.remove(1).kill();
    let mut canceller = connected(&app, "alpha-key").await;
    for id in &ids[..LANES] {
        cancel(&mut canceller, id).await;
    }
    for id in &ids[..2 * LANES] {
        let call = || http::call(app.address, "GET", &format!("/v1/responses/{id}"));
        let response = until("its end", || async {
            let response = call().header("authorization", "Bearer alpha-key").send().await.json();
            Some(response).filter(|response| response["status"] == "incomplete")
        })
        .await;
        let what = abandoned.get(id).unwrap_or(&"cancelled");
        assert_eq!(response["incomplete_details"]["reason"], "cancelled", "{what}");
        assert_eq!(response["usage"]["output_tokens"], 0, "{what}");
    }
    // They leave although the permit is still taken: a new request is right behind those that stay.
    let mut last = connected(&app, "alpha-key").await;
    last.create(request).await;
    let last_id = last.event_of("response.queued").await["response"]["id"].as_str().unwrap().to_owned();
    stands_at(&mut last, LANES as u64 + 1).await;
    cancel(&mut holder, &id).await;
    last.event_of("response.incomplete").await;
    let given = to_the_engine(&app, LANES + 2).await;
    let expected: Vec<&String> = [&id].into_iter().chain(&ids[2 * LANES..]).chain([&last_id]).collect();
    assert_eq!(given.iter().collect::<Vec<_>>(), expected);
}
