//! Tests placement: a response begins on the replica that has its prompt cached, if that one is not busier, and its client
//! notices no other difference.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client, EventLog, Redis,
    http::{self, call},
    log::kind,
    until,
};
use serde_json::{Value, json};

use super::{
    metrics::{ADMIN, samples},
    redis::{replay, replica},
};

/// Settings with which a prompt takes a second if nothing of it is cached.
const CACHING: [&str; 5] = [
    "engine.scripted.cached_prompts=8",
    "engine.scripted.prefill_ms=1000",
    "engine.scripted.tokens=300",
    "engine.scripted.tokens_per_second=100",
    ADMIN,
];
const REPORTS: &str = "caudal:1:{fleet}:reports";

/// Two replicas that exchange reports of their caches.
struct Pair {
    redis: Redis,
    a: App,
    b: App,
}

impl Pair {
    /// Starts both. `a` has computed the prompt of [`asked`], and `b` has received a's report.
    async fn caching(settings: &[&str]) -> Self {
        let redis = Redis::spawn();
        let named =
            |name: &str| replica(&redis, &[&CACHING[..], settings, &[&format!("cluster.replica={name}")]].concat());
        let (a, b) = (named("a"), named("b"));
        let pair = Self { redis, a, b };
        Client::extended(&pair.a).await.run(asked(1)).await;
        pair.heard().await;
        pair
    }

    /// Returns the report of a replica.
    fn report(&self, name: &str) -> Value {
        let names = self.redis.ask(&["HKEYS", REPORTS]);
        let name = names.lines().find(|line| line.starts_with(&format!("{name}-"))).unwrap_or_default();
        serde_json::from_str(&self.redis.ask(&["HGET", REPORTS, name])).unwrap_or_default()
    }

    /// Waits until `b` has received a's report of its cache. A replica judges others only after a lease.
    async fn heard(&self) {
        until("a to tell what it has cached", || async {
            (self.report("a")["prompts"].as_array().is_some_and(|prompts| !prompts.is_empty())).then_some(())
        })
        .await;
        let score = || {
            let all = self.redis.ask(&["ZRANGE", "caudal:1:{fleet}:replicas", "0", "-1", "WITHSCORES"]);
            let lines: Vec<&str> = all.lines().collect();
            let own = lines.chunks(2).find(|pair| pair[0].starts_with("b-"));
            own.map(|pair| pair[1].to_owned()).expect("b beats")
        };
        // Waits for two reports: after the second, the first has been processed.
        for _ in 0..2 {
            let last = score();
            until("b to beat", || async { (score() != last).then_some(()) }).await;
        }
    }

    async fn placed(&self) -> f64 {
        samples(&self.a).await["caudal_placed_total"]
    }
}

/// Returns a request with a prompt of more than 600 tokens.
fn asked(tokens: u32) -> Value {
    json!({"input": "word ".repeat(600), "max_output_tokens": tokens})
}

fn cached(log: &EventLog) -> u64 {
    log.response()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a count")
}

/// Creates a response through `b` that runs on `a`. Returns its client and events.
async fn placed(pair: &Pair) -> (Client, EventLog) {
    let mut client = Client::extended(&pair.b).await;
    client.create(asked(300)).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < 20 {
        log.push(client.event().await);
    }
    assert!(pair.a.stderr().contains(&format!("response=\"{}\"", log.id())), "it does not run there");
    (client, log)
}

#[tokio::test]
async fn a_response_begins_where_its_prompt_is_cached() {
    let pair = Pair::caching(&[]).await;
    let whole = Client::extended(&pair.a).await.run(json!({"input": "x"})).await;
    pair.heard().await;
    let (mut client, mut log) = placed(&pair).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
    assert_eq!(log.text(), whole.text(), "no token is lost or repeated");
    assert_eq!(cached(&log), 592, "all whole blocks");
    for app in [&pair.a, &pair.b] {
        assert_eq!(replay(app, &log.id()).await, log);
    }
    assert_eq!(pair.placed().await, 1.0);
    // The next turn of a chain finds more cached tokens there.
    pair.heard().await;
    let mut client = Client::extended(&pair.b).await;
    let next = client.run(json!({"previous_response_id": log.id(), "input": "y", "max_output_tokens": 5})).await;
    assert!(cached(&next) >= 592, "{}", cached(&next));
    until("it to be counted", || async { (pair.placed().await == 2.0).then_some(()) }).await;
}

#[tokio::test]
async fn what_the_prompt_cache_runs_is_placed_as_well() {
    let pair = Pair::caching(&[]).await;
    let mut fields = asked(10);
    fields["cache"] = json!({"mode": "read_write"});
    let first = Client::extended(&pair.b).await.run(fields.clone()).await;
    assert_eq!((first.usage("output_tokens"), cached(&first)), (10, 592));
    let again = Client::extended(&pair.b).await.run(fields).await;
    assert_eq!((again.text(), cached(&again)), (first.text(), again.usage("input_tokens")));
    until("it to be counted", || async { (pair.placed().await == 1.0).then_some(()) }).await;
}

#[tokio::test]
async fn who_is_busier_or_has_less_gets_nothing() {
    let pair = Pair::caching(&[]).await;
    let mut busy = Client::extended(&pair.a).await;
    busy.create(json!({"input": "x"})).await;
    until("a to tell that it is busy", || async {
        (pair.report("a")["models"]["scripted"]["running"] == 1).then_some(())
    })
    .await;
    pair.heard().await;
    let mut client = Client::extended(&pair.b).await;
    assert_eq!(cached(&client.run(asked(2)).await), 0, "b is idle");
    // Now `b` has the prompt cached, too.
    busy.response().await;
    pair.heard().await;
    assert_eq!(cached(&client.run(asked(2)).await), 592);
    assert_eq!(cached(&client.run(json!({"input": "short", "max_output_tokens": 2})).await), 0);
    assert_eq!(pair.placed().await, 0.0);
}

#[tokio::test]
async fn a_turn_of_a_conversation_and_another_tenants_prompt_stay() {
    let keys = r#"auth.keys=[{key="alpha-key", tenant="one"}, {key="beta-key", tenant="other"}]"#;
    let redis = Redis::spawn();
    let named = |name: &str| {
        replica(&redis, &[&CACHING[..], &["auth.mode=keys", keys, &format!("cluster.replica={name}")]].concat())
    };
    let pair = Pair { a: named("a"), b: named("b"), redis };
    let ask = async |app: &App, key: &str, body: Value| {
        let answer = call(app.address, "POST", "/v1/responses").header("authorization", &format!("Bearer {key}"));
        let answer = answer.json(&body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["usage"]["input_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    assert_eq!(ask(&pair.a, "alpha-key", asked(1)).await, 0);
    pair.heard().await;
    assert_eq!(ask(&pair.b, "beta-key", asked(1)).await, 0, "tenants never meet");
    let conversation = call(pair.b.address, "POST", "/v1/conversations").header("authorization", "Bearer alpha-key");
    let conversation = conversation.json(&json!({})).send().await.json();
    let mut turn = asked(1);
    turn["conversation"] = conversation["id"].clone();
    assert_eq!(ask(&pair.b, "alpha-key", turn).await, 0);
    assert_eq!(pair.placed().await, 0.0);
}

#[tokio::test]
async fn cancelling_steering_and_leaving_reach_the_other_replica() {
    let pair = Pair::caching(&[]).await;
    let (mut client, mut log) = placed(&pair).await;
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!((log.status(), log.reason()), ("incomplete", "cancelled"));
    assert!(log.usage("output_tokens") < 300);

    pair.heard().await;
    let mut body = asked(300);
    body["stream"] = true.into();
    let mut stream = call(pair.b.address, "POST", "/v1/responses").json(&body).events().await;
    let created: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
    let id = created["response"]["id"].as_str().expect("an id").to_owned();
    while stream.next().await.expect("an event").event.as_deref() != Some("response.output_text.delta") {}
    assert!(pair.a.stderr().contains(&id), "it does not run there");
    drop(stream);
    let left = Instant::now();
    let ended = until("it to be cancelled", || async {
        let response = http::get(pair.b.address, &format!("/v1/responses/{id}")).await.json();
        (response["status"] != "in_progress").then_some(response)
    })
    .await;
    assert_eq!(ended["incomplete_details"]["reason"], "cancelled", "{ended}");
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
    pair.heard().await;
    let (mut client, mut log) = placed(&pair).await;
    let steer = json!({"type": "response.steer", "previous_response_id": log.id(), "input": "stop"});
    client.send(steer).await;
    while !log.ended() {
        let event = client.event().await;
        if !kind(&event).starts_with("response.steer.") {
            log.push(event);
        }
    }
    assert_eq!((log.status(), log.reason()), ("incomplete", "steered"));
    until("all to be counted", || async { (pair.placed().await >= 3.0).then_some(()) }).await;
}

/// Steers a response while it is offered to another replica, when no replica has registered it.
#[tokio::test]
async fn a_steer_at_once_reaches_a_response_on_its_way() {
    let pair = Pair::caching(&[]).await;
    pair.heard().await;
    let mut client = Client::extended(&pair.b).await;
    client.create(asked(300)).await;
    let mut log = EventLog::default();
    log.push(client.event_of("response.created").await);
    client.send(json!({"type": "response.steer", "previous_response_id": log.id(), "input": "stop"})).await;
    while !log.ended() {
        let event = client.event().await;
        if !kind(&event).starts_with("response.steer.") {
            log.push(event);
        }
    }
    assert_eq!((log.status(), log.reason()), ("incomplete", "steered"));
    assert!(log.usage("output_tokens") < 100, "{}", log.usage("output_tokens"));
}

#[tokio::test]
async fn a_replica_that_does_not_take_what_it_is_offered_holds_nothing() {
    let pair = Pair::caching(&[]).await;
    let mut client = Client::extended(&pair.b).await;
    pair.a.signal("STOP");
    let begun = Instant::now();
    client.create(asked(20)).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() == 0 {
        log.push(client.event().await);
    }
    // At most a heartbeat and the prompt.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    pair.a.signal("CONT");
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.usage("output_tokens"), cached(&log)), (20, 0));
    let told = pair.b.stderr();
    assert!(told.contains("taken over"), "it was offered, and taken back");
    assert!(!told.contains("fenced out"), "who is late takes nothing away");
    assert_eq!(pair.placed().await, 0.0);
}

#[tokio::test]
async fn the_death_of_either_replica_is_a_pause() {
    let pair = Pair::caching(&[]).await;
    let (mut client, mut log) = placed(&pair).await;
    pair.a.signal("KILL");
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));

    let pair = Pair::caching(&[]).await;
    let (_client, mut log) = placed(&pair).await;
    pair.b.signal("KILL");
    let mut client = Client::extended(&pair.a).await;
    client.resume(&log.id(), log.last_number()).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
}

#[tokio::test]
async fn a_placed_response_is_charged_once() {
    let pair = Pair::caching(&["limits.requests_per_minute=3"]).await;
    let (mut client, mut log) = placed(&pair).await;
    client.rest(&mut log).await;
    client.run(json!({"input": "x", "max_output_tokens": 1})).await;
    client.create(json!({"input": "x"})).await;
    assert_eq!(client.error().await["error"]["code"], "rate_limit_exceeded");
}
