//! Tests resumes: a socket may die at any event or within one, and the missed events come once and in order.

use caudal_tests::{
    App, Client, EventLog, Received, http,
    log::{is_terminal, kind, number, output_text},
    proxy::{Cut, cutting},
    spawn_app, until,
    ws::{code, create},
};
use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// 22 tokens make 30 events, slow enough that the connection can be cut between them.
const STREAM: [&str; 2] = ["engine.scripted.tokens=22", "engine.scripted.tokens_per_second=100"];
const EVENTS: usize = 30;

/// Reads the events of a response until the response or the connection ends.
async fn until_cut(client: &mut Client, log: &mut EventLog) {
    while !log.ended() {
        match client.receive().await {
            Received::Event(event) if kind(&event).starts_with("caudal:") => {}
            Received::Event(event) => log.push(event),
            Received::Closed(_) => return,
        }
    }
}

/// Resumes on a new connection and checks `caudal:response.resumed`.
async fn resume(app: &App, id: &str, log: &mut EventLog) {
    let mut client = Client::extended(app).await;
    let after = log.last_number();
    client.resume(id, after).await;
    let resumed = client.event().await;
    assert_eq!(kind(&resumed), "caudal:response.resumed", "{resumed}");
    assert_eq!(resumed["response_id"], id);
    assert_eq!(resumed["starting_after"], json!(after));
    let last = resumed["last_sequence_number"].as_u64().expect("last_sequence_number is a number");
    assert!(after.is_none_or(|after| last >= after), "{resumed}");
    assert!(resumed["status"].is_string(), "{resumed}");
    client.rest(log).await;
    assert!(log.last_number().is_some_and(|n| n >= last), "what existed at the resume has come");
}

/// Returns all events of the response as an uninterrupted follower receives them.
async fn replay(app: &App, id: &str) -> EventLog {
    let mut client = Client::extended(app).await;
    client.resume(id, None).await;
    let log = client.response().await;
    log.assert_gap_free();
    log
}

async fn cut_and_resume(app: &App, cut: Cut) -> EventLog {
    let request_id = format!("{cut:?}");
    let proxy = cutting(app.address, cut).await;
    let mut log = EventLog::default();
    let create = create(json!({"client_request_id": request_id}));
    let mut client = match cut {
        // The greeting is a frame, too.
        Cut::Frames(_) => Client::extended_at(proxy).await,
        Cut::Bytes(_) => caudal_tests::ws::Connect::to(proxy)
            .protocols(caudal_tests::ws::SUBPROTOCOL)
            .open()
            .await
            .expect("the server upgrades"),
    };
    client.send(create.clone()).await;
    until_cut(&mut client, &mut log).await;
    if log.ended() {
        return log;
    }
    if log.events.is_empty() {
        // The id is unknown, but the same request finds the same response.
        let mut client = Client::extended(app).await;
        client.send(create).await;
        client.rest(&mut log).await;
    } else {
        resume(app, &log.id(), &mut log).await;
    }
    log
}

#[tokio::test]
async fn cut_at_every_event_and_resumed_the_stream_is_whole() {
    let app = spawn_app(&STREAM);
    let app = &app;
    let cuts = (1..=EVENTS + 1).map(|frames| async move {
        let log = cut_and_resume(app, Cut::Frames(frames)).await;
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!(log.events.len(), EVENTS);
        assert_eq!(log, replay(app, &log.id()).await, "cut after {frames} frames");
    });
    join_all(cuts).await;
}

#[tokio::test]
async fn cut_within_a_frame_and_resumed_the_stream_is_whole() {
    let app = spawn_app(&STREAM);
    let mut random = StdRng::seed_from_u64(7);
    let cuts = (0..40).map(|_| {
        // The upgrade's answer is shorter than 400 bytes, the stream longer than 12,000.
        let cut = Cut::Bytes(random.random_range(400..12_000));
        let app = &app;
        async move {
            let log = cut_and_resume(app, cut).await;
            log.assert_gap_free();
            assert_eq!(log, replay(app, &log.id()).await, "{cut:?}");
        }
    });
    join_all(cuts).await;
}

#[tokio::test]
async fn cut_again_and_again_the_stream_is_whole() {
    let app = spawn_app(&["engine.scripted.tokens=60", "engine.scripted.tokens_per_second=100"]);
    let proxy = cutting(app.address, Cut::Frames(4)).await;
    let mut client = Client::extended_at(proxy).await;
    client.create(json!({})).await;
    let mut log = EventLog::default();
    until_cut(&mut client, &mut log).await;
    let (id, mut cuts) = (log.id(), 1);
    while !log.ended() {
        let proxy = cutting(app.address, Cut::Frames(9)).await;
        let mut client = Client::extended_at(proxy).await;
        client.resume(&id, log.last_number()).await;
        until_cut(&mut client, &mut log).await;
        cuts += 1;
    }
    assert!(cuts >= 8, "{cuts}");
    log.assert_gap_free();
    assert_eq!(log, replay(&app, &id).await);
}

#[tokio::test]
async fn two_followers_beside_the_first_see_the_same_and_one_may_leave() {
    let app = spawn_app(&["engine.scripted.tokens=60", "engine.scripted.tokens_per_second=100"]);
    let mut first = Client::extended(&app).await;
    first.create(json!({})).await;
    let mut log = EventLog::default();
    log.push(first.event().await);
    let id = log.id();
    let (mut second, mut third) = (Client::extended(&app).await, Client::extended(&app).await);
    second.resume(&id, None).await;
    third.resume(&id, None).await;
    let (mut seconds, mut thirds) = (EventLog::default(), EventLog::default());
    while seconds.events.len() < 10 {
        let event = second.event().await;
        if !kind(&event).starts_with("caudal:") {
            seconds.push(event);
        }
    }
    // One follower leaves in the middle; the response goes on for the others.
    second.kill();
    first.rest(&mut log).await;
    third.rest(&mut thirds).await;
    log.assert_gap_free();
    assert_eq!(log, thirds);
    assert_eq!(seconds.events[..], log.events[..10]);
    assert_eq!(log.status(), "completed");
}

#[tokio::test]
async fn a_finished_response_is_replayed_from_any_event() {
    let app = spawn_app(&["engine.scripted.tokens=22"]);
    let log = Client::plain(&app).await.run(json!({})).await;
    let mut client = Client::extended(&app).await;
    for after in (0..EVENTS as u64 - 1).map(Some).chain([None]) {
        client.resume(&log.id(), after).await;
        let resumed = client.event().await;
        assert_eq!(kind(&resumed), "caudal:response.resumed");
        assert_eq!((&resumed["status"], &resumed["last_sequence_number"]), (&json!("completed"), &json!(EVENTS - 1)));
        let rest = client.response().await;
        let expected = &log.events[after.map_or(0, |n| n as usize + 1)..];
        assert_eq!(without_response_id(&rest), expected, "after {after:?}");
    }
    // A resume after the last event is answered without further events.
    client.resume(&log.id(), Some(EVENTS as u64 - 1)).await;
    assert_eq!(kind(&client.event().await), "caudal:response.resumed");
    assert_eq!(client.settle().await, Vec::<Value>::new());
}

/// Returns the events as a client without extensions receives them.
fn without_response_id(log: &EventLog) -> Vec<Value> {
    let mut events = log.events.clone();
    for event in &mut events {
        event.as_object_mut().expect("an event is an object").remove("response_id");
    }
    events
}

#[tokio::test]
async fn an_unknown_response_is_not_found() {
    let app = spawn_app(&[]);
    let mut client = Client::extended(&app).await;
    for id in ["resp_00000000000000000000000000000000", "", "nonsense", "../../etc/passwd", &"x".repeat(5000)] {
        client.resume(id, Some(3)).await;
        let error = client.error().await;
        assert_eq!((code(&error), &error["status"]), ("response_not_found", &json!(404)), "{id}");
    }
}

#[tokio::test]
async fn a_queued_response_can_be_resumed_before_it_starts() {
    let app =
        spawn_app(&["engine.max_running=1", "engine.scripted.tokens=40", "engine.scripted.tokens_per_second=100"]);
    let mut holder = Client::plain(&app).await;
    holder.create(json!({})).await;
    holder.event_of("response.in_progress").await;
    let mut queued = Client::extended(&app).await;
    queued.create(json!({})).await;
    let id = queued.event_of("response.queued").await["response"]["id"].as_str().unwrap().to_owned();
    queued.kill();
    let mut client = Client::extended(&app).await;
    client.resume(&id, None).await;
    let resumed = client.event().await;
    assert_eq!((kind(&resumed), &resumed["status"]), ("caudal:response.resumed", &json!("queued")));
    let log = client.response().await;
    log.assert_gap_free();
    assert_eq!(log.kinds()[..3], ["response.created", "response.queued", "response.in_progress"]);
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 40));
    assert!(holder.response().await.ended());
}

#[tokio::test]
async fn a_response_can_be_resumed_during_its_prefill() {
    let app = spawn_app(&["engine.scripted.prefill_ms=700", "engine.scripted.tokens=5"]);
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let mut log = EventLog::default();
    while log.events.len() < 2 {
        log.push(client.event().await);
    }
    assert_eq!(log.kinds(), ["response.created", "response.in_progress"]);
    client.kill();
    let id = log.id();
    let mut again = Client::extended(&app).await;
    again.resume(&id, log.last_number()).await;
    let resumed = again.event().await;
    assert_eq!((&resumed["status"], &resumed["last_sequence_number"]), (&json!("in_progress"), &json!(1)));
    again.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!(log, replay(&app, &id).await);
}

#[tokio::test]
async fn disconnect_is_not_cancel() {
    let app = spawn_app(&STREAM);
    let mut client = Client::extended(&app).await;
    client.create(json!({})).await;
    let id = client.event_of("response.created").await["response"]["id"].as_str().unwrap().to_owned();
    client.kill();
    let path = format!("/v1/responses/{id}");
    let response = until("the response to complete without a follower", || async {
        Some(http::get(app.address, &path).await.json()).filter(|r| r["status"] != "in_progress")
    })
    .await;
    assert_eq!(response["status"], "completed");
    assert_eq!(output_text(&response), replay(&app, &id).await.text());
}

#[tokio::test]
async fn a_repeated_client_request_id_finds_the_same_response() {
    let app = spawn_app(&STREAM);
    let fields = json!({"client_request_id": "turn-1"});
    let (mut first, mut second) = (Client::extended(&app).await, Client::extended(&app).await);
    first.create(fields.clone()).await;
    let mut log = EventLog::default();
    log.push(first.event().await);
    second.create(fields.clone()).await;
    let during = second.response().await;
    first.rest(&mut log).await;
    log.assert_gap_free();
    assert_eq!(during, log);
    let after = Client::extended(&app).await.run(fields.clone()).await;
    assert_eq!(after, log);
    let other = Client::extended(&app).await.run(json!({"client_request_id": "turn-2"})).await;
    assert_ne!(other.id(), log.id());
    let over_http =
        http::post(app.address, "/v1/responses", &json!({"input": "x", "client_request_id": "turn-1"})).await;
    assert_eq!(over_http.json()["id"], log.id().as_str());
}

#[tokio::test]
async fn many_who_ask_the_same_at_once_get_one_response() {
    let app = spawn_app(&STREAM);
    let asked = (0..8).map(|_| async { Client::extended(&app).await.run(json!({"client_request_id": "once"})).await });
    let logs = join_all(asked).await;
    logs[0].assert_gap_free();
    assert!(logs.iter().all(|log| *log == logs[0]));
}

#[tokio::test]
async fn an_unstored_response_can_be_resumed_within_its_window() {
    let app = spawn_app(&["generation.resume_window_ms=600"]);
    let log = Client::extended(&app).await.run(json!({"store": false})).await;
    let mut client = Client::extended(&app).await;
    client.resume(&log.id(), None).await;
    assert_eq!(client.response().await, log);
    let error = until("the window to end", || async {
        let mut client = Client::extended(&app).await;
        client.resume(&log.id(), None).await;
        let event = client.event().await;
        (kind(&event) == "error").then_some(event)
    })
    .await;
    assert_eq!((code(&error), &error["status"]), ("resume_window_expired", &json!(410)));
}

#[tokio::test]
async fn a_resume_takes_its_turn_in_its_lane() {
    let app = spawn_app(&STREAM);
    let mut client = Client::extended(&app).await;
    let first = client.run(json!({})).await;
    client.create(json!({})).await;
    client.resume(&first.id(), None).await;
    let second = client.response().await;
    second.assert_gap_free();
    assert_ne!(second.id(), first.id());
    let (mut replayed, mut lanes) = (EventLog::default(), vec![]);
    client.rest(&mut replayed).await;
    assert_eq!(replayed, first);
    client.send(json!({"type": "caudal:response.resume", "response_id": first.id(), "stream_id": "lane"})).await;
    loop {
        let event = client.event().await;
        assert_eq!(event["stream_id"], "lane", "{event}");
        if !kind(&event).starts_with("caudal:") {
            lanes.push(number(&event));
        }
        if is_terminal(&event) {
            break;
        }
    }
    assert_eq!(lanes, (0..EVENTS as u64).collect::<Vec<_>>());
}
