//! Tests the embedded store: a restart of the only process is a pause, and problems of its file are reported.

use std::{fs, net::SocketAddr, process::Command, sync::Arc, time::Duration};

use caudal_tests::{
    App, Client, DataDir, EventLog, Redis, Setup, http,
    log::kind,
    redis::{RedisCluster, free_port},
    until,
    ws::code,
};
use serde_json::{Value, json};

use super::{
    conversations::{conversation, items, pair, said},
    metrics::{ADMIN, samples},
    redis::{LONG, ready, refused, replay, replica_at, resumed, speaking},
};

/// A server that can be killed and started again at the same address and in the same folder.
struct Machine {
    data: Arc<DataDir>,
    setup: Setup,
}

impl Machine {
    fn new(settings: &[&str]) -> Self {
        let data = Arc::new(DataDir::create());
        let address: SocketAddr = free_port();
        let setup = Setup::in_folder(&data).set(settings).set(&[&format!("server.bind={address}")]);
        Self { data, setup }
    }

    fn start(&self) -> App {
        self.setup.clone().spawn()
    }

    /// Starts a server that must fail. Returns its error.
    fn refused(&self) -> String {
        let output = self.setup.clone().set(&["server.bind=127.0.0.1:0"]).run("serve");
        assert!(!output.status.success(), "it serves");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

async fn rest_after(app: &App, log: &mut EventLog) {
    let mut client = Client::extended(app).await;
    client.resume(&log.id(), log.last_number()).await;
    client.rest(log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
}

#[tokio::test]
async fn killed_and_started_again_it_goes_on_where_it_was() {
    let machine = Machine::new(&LONG);
    let app = machine.start();
    let whole = Client::extended(&app).await.run(json!({})).await;
    let done = Client::extended(&app).await.run(json!({"max_output_tokens": 5, "input": "short"})).await;
    let mut logs = vec![];
    for _ in 0..5 {
        logs.push(speaking(&app, 20).await.1);
    }
    app.kill();
    let app = machine.start();
    for log in &mut logs {
        rest_after(&app, log).await;
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
        assert_eq!(log.text(), whole.text());
        assert_eq!(replay(&app, &log.id()).await, *log);
    }
    assert_eq!(replay(&app, &done.id()).await, done);
    app.kill();
    let (is_whole, told) = machine.data.store_command(&["check"]);
    assert!(is_whole, "{told}");
}

#[tokio::test]
async fn what_a_conversation_waited_for_is_neither_lost_nor_doubled() {
    let machine = Machine::new(&["engine.scripted.tokens=100", "engine.scripted.tokens_per_second=50"]);
    let app = machine.start();
    let id = conversation(&app, json!({})).await;
    let mut logs = vec![];
    for n in 0..3 {
        let mut client = Client::extended(&app).await;
        client.create(json!({"input": n.to_string(), "conversation": id})).await;
        let mut log = EventLog::default();
        log.push(client.event().await);
        if n == 0 {
            while log.of_kind("response.output_text.delta").count() < 10 {
                log.push(client.event().await);
            }
        }
        logs.push(log);
    }
    app.kill();
    let app = machine.start();
    for log in &mut logs {
        rest_after(&app, log).await;
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 100));
    }
    let turns = logs.iter().enumerate();
    let expected: Vec<_> =
        turns.flat_map(|(n, log)| [pair("user", &n.to_string()), pair("assistant", &log.text())]).collect();
    assert_eq!(said(&items(&app, &id).await), expected);
}

#[tokio::test]
async fn who_waited_keeps_the_place_in_the_queue() {
    let pace = ["engine.scripted.tokens=120", "engine.scripted.tokens_per_second=100"];
    let machine = Machine::new(&["engine.max_running=1", pace[0], pace[1]]);
    let app = machine.start();
    let (_first, log) = speaking(&app, 5).await;
    let mut logs = vec![log];
    for _ in 0..3 {
        let mut client = Client::extended(&app).await;
        client.create(json!({})).await;
        let mut log = EventLog::default();
        log.push(client.event_of("response.created").await);
        logs.push(log);
    }
    app.kill();
    let app = machine.start();
    let mut ends = vec![];
    for log in &mut logs {
        rest_after(&app, log).await;
        ends.push(log.response()["completed_at"].as_u64().expect("it is completed"));
    }
    assert!(ends.is_sorted_by(|one, next| one < next), "{ends:?}");
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_is_continued_by_the_next_process() {
    let machine = Machine::new(&[LONG[0], LONG[1], "server.shutdown_deadline_ms=300"]);
    let mut app = machine.start();
    let (mut client, mut log) = speaking(&app, 5).await;
    app.signal("TERM");
    let (events, _) = client.drain().await;
    events.into_iter().filter(|event| !kind(event).starts_with("caudal:")).for_each(|event| log.push(event));
    assert_eq!(app.exit().code(), Some(0));
    drop(app);
    let app = machine.start();
    rest_after(&app, &mut log).await;
    assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
}

#[tokio::test]
async fn another_process_is_refused_and_told_whose_the_file_is() {
    let machine = Machine::new(&[]);
    let app = machine.start();
    let refused = machine.refused();
    let file = machine.data.file();
    for part in [file.to_string_lossy().as_ref(), &format!("process {}", app.id()), "CAUDAL_DATA_DIR"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    // A killed process holds no lock.
    app.kill();
    let app = machine.start();
    assert_eq!(Client::plain(&app).await.run(json!({})).await.status(), "completed");
}

#[tokio::test]
async fn a_backup_is_made_while_it_serves_and_is_used_in_its_place() {
    let machine = Machine::new(&LONG);
    let app = machine.start();
    let done = Client::extended(&app).await.run(json!({"max_output_tokens": 5})).await;
    let (mut client, mut log) = speaking(&app, 20).await;
    let copy = machine.data.path().join("copy.db");
    let (is_made, told) = machine.data.store_command(&["backup", &copy.to_string_lossy()]);
    assert!(is_made, "{told}");
    let (is_made, told) = machine.data.store_command(&["backup", &copy.to_string_lossy()]);
    assert!(!is_made && told.contains("exists"), "{told}");
    client.rest(&mut log).await;
    let other = Setup::in_folder(&machine.data).set(&[&format!("store.sqlite.path={}", copy.display())]);
    let other = other.set(&LONG).spawn();
    assert_eq!(replay(&other, &done.id()).await, done);
    // The copy has the running response up to the time of the copy, and continues it, too.
    assert_eq!(replay(&other, &log.id()).await.text(), log.text());
}

#[tokio::test]
async fn a_file_that_cannot_be_used_says_why_and_what_to_do() {
    let machine = Machine::new(&[]);
    let app = machine.start();
    Client::plain(&app).await.run(json!({})).await;
    let copy = machine.data.path().join("copy.db");
    assert!(machine.data.store_command(&["backup", &copy.to_string_lossy()]).0);
    app.kill();
    let whole = fs::read(&copy).unwrap();
    let put = |bytes: &[u8]| {
        let _ = fs::remove_file(machine.data.path().join("caudal.db-wal"));
        fs::write(machine.data.file(), bytes).unwrap();
    };
    // The version of the tables is at byte 60 of the file, the application id at byte 68.
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        bytes
    };
    for (bytes, says) in [
        (changed(63, 99), "update caudal"),
        (changed(71, 99), "another program"),
        (b"These are no tables. ".repeat(100), "store check"),
    ] {
        put(&bytes);
        let refused = machine.refused();
        assert!(refused.contains(says) && refused.contains("caudal.db"), "{says}: {refused}");
    }
    // Zeros in the middle of the rows.
    let mut damaged = whole.clone();
    let page = 4096 * (whole.len() / 4096 / 2);
    damaged[page..page + 4096].fill(0);
    put(&damaged);
    let (is_whole, told) = machine.data.store_command(&["check"]);
    assert!(!is_whole && told.contains("damaged"), "{told}");
    put(&whole);
    let (is_whole, told) = machine.data.store_command(&["check"]);
    assert!(is_whole, "{told}");
    let (found, told) = DataDir::create().store_command(&["check"]);
    assert!(!found && told.contains("no such file"), "{told}");
}

#[tokio::test]
async fn everything_is_copied_to_redis_and_back() {
    let redis = Redis::spawn();
    copied_to_and_back(&redis.url()).await;
}

#[tokio::test]
async fn everything_is_copied_to_a_cluster_and_back() {
    let cluster = RedisCluster::spawn();
    copied_to_and_back(&cluster.url()).await;
}

async fn copied_to_and_back(redis: &str) {
    let machine = Machine::new(&["engine.scripted.tokens=100", "engine.scripted.tokens_per_second=50"]);
    let app = machine.start();
    let prompt = http::post(app.address, "/v1/prompts", &json!({"instructions": "Greet {{name}}."})).await.json();
    let id = conversation(&app, json!({})).await;
    let mut client = Client::extended(&app).await;
    let done = client.run(json!({"input": "first", "conversation": id, "max_output_tokens": 5})).await;
    client.create(json!({"input": "second", "conversation": id})).await;
    let mut log = EventLog::default();
    while log.of_kind("response.output_text.delta").count() < 10 {
        log.push(client.event().await);
    }
    app.kill();
    let lines = machine.data.path().join("all.ndjson");
    let (is_made, told) = machine.data.store_command(&["export", &lines.to_string_lossy()]);
    assert!(is_made && told.contains("2 responses, 1 conversations, 1 versions"), "{told}");
    let url = format!("store.redis.url={redis}");
    let copied = |command: &str, file: &std::path::Path| {
        let setup = Setup::default().argument(command).argument(&file.to_string_lossy());
        let output = setup.set(&["store.kind=redis", &url]).run("store");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    copied("import", &lines);
    assert!(copied("import", &lines).contains("4 passed over"), "an import can be repeated");
    let app = replica_at(redis, &["engine.scripted.tokens=100"]);
    let check = async |app: &App, log: &EventLog| {
        let read = http::get(app.address, &format!("/v1/prompts/{}", prompt["id"].as_str().unwrap())).await.json();
        assert_eq!(read["instructions"], prompt["instructions"]);
        assert_eq!(replay(app, &done.id()).await, done);
        let expected = [
            pair("user", "first"),
            pair("assistant", &done.text()),
            pair("user", "second"),
            pair("assistant", &log.text()),
        ];
        assert_eq!(said(&items(app, &id).await), expected);
    };
    rest_after(&app, &mut log).await;
    assert_eq!(log.usage("output_tokens"), 100);
    check(&app, &log).await;
    drop(app);
    let back = machine.data.path().join("back.ndjson");
    copied("export", &back);
    let other = Arc::new(DataDir::create());
    let (is_read, told) = other.store_command(&["import", &back.to_string_lossy()]);
    assert!(is_read, "{told}");
    let app = Setup::in_folder(&other).spawn();
    check(&app, &log).await;
    assert_eq!(replay(&app, &log.id()).await, log);
}

/// A small file, and endless streams that need more room at once.
const SMALL: [&str; 6] = [
    "store.sqlite.max_mb=8",
    "generation.max_output_tokens=1000000",
    "engine.scripted.context_length=2000000",
    "engine.scripted.tokens=1000000",
    "engine.scripted.tokens_per_second=300",
    ADMIN,
];

/// Stores conversations until none fits. Returns their ids.
async fn fill(app: &App) -> Vec<String> {
    let (mut ids, mut length) = (vec![], 900 << 10);
    while length > 1000 {
        let items = json!([{"type": "message", "role": "user", "content": "x".repeat(length)}]);
        let answer = http::post(app.address, "/v1/conversations", &json!({"items": items})).await;
        match answer.status {
            200 => ids.push(answer.json()["id"].as_str().unwrap().to_owned()),
            // Ever smaller conversations.
            _ => length /= 4,
        }
    }
    ids
}

async fn delete(app: &App, path: &str) {
    let answer = http::call(app.address, "DELETE", path).send().await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
}

#[tokio::test]
async fn a_full_file_is_a_pause_and_what_ends_or_is_deleted_needs_no_room() {
    let machine = Machine::new(&SMALL);
    let app = machine.start();
    let (mut client, mut log) = speaking(&app, 5).await;
    let (mut unwanted, mut cancelled) = speaking(&app, 5).await;
    let filler = fill(&app).await;
    let answer = http::post(app.address, "/v1/responses", &json!({"input": "x".repeat(10_000)})).await;
    assert!(answer.status >= 500 && answer.json()["error"]["code"].is_string(), "{}", answer.text());
    until("the streams to wait for room", || async {
        (app.stderr().matches("the stream pauses until there is room").count() >= 2).then_some(())
    })
    .await;
    unwanted.send(json!({"type": "response.cancel", "response_id": cancelled.id()})).await;
    unwanted.rest(&mut cancelled).await;
    assert_eq!((cancelled.status(), cancelled.reason()), ("incomplete", "cancelled"));
    ready(&app, 200).await;
    for id in filler {
        delete(&app, &format!("/v1/conversations/{id}")).await;
    }
    let there = resumed(&app, &log.id(), None).await.1["last_sequence_number"].as_u64().unwrap();
    while log.last_number() < Some(there + 100) {
        log.push(client.event().await);
    }
    client.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    client.rest(&mut log).await;
    log.assert_gap_free();
    log.assert_text_agrees();
    assert_eq!(Client::plain(&app).await.run(json!({"max_output_tokens": 3})).await.usage("output_tokens"), 3);
}

/// Limits the size of the server's files to this many bytes, or `unlimited`. The system refuses a write beyond the limit, like
/// a full disk.
fn files_may_have(app: &App, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    let status = Command::new("prlimit").args(["--pid", &app.id().to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success(), "{limit}");
}

async fn paused(app: &App, streams: f64) {
    until("the streams to wait for room", || async { (samples(app).await["caudal_paused"] == streams).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_is_a_pause_also_when_the_process_is_killed_meanwhile() {
    // For a file that fails for another reason the server does not wait.
    let machine = Machine::new(&[LONG[0], LONG[1], "store.outage_ms=1", ADMIN]);
    let app = machine.start();
    let whole = Client::extended(&app).await.run(json!({})).await;
    let assert_whole = |log: &EventLog| {
        log.assert_gap_free();
        log.assert_text_agrees();
        assert_eq!((log.status(), log.usage("output_tokens")), ("completed", 300));
        assert_eq!(log.text(), whole.text(), "no token is lost or repeated");
    };
    let (mut client, mut log) = speaking(&app, 20).await;
    let (mut other, mut other_log) = speaking(&app, 20).await;
    for _ in 0..2 {
        files_may_have(&app, "1");
        paused(&app, 2.0).await;
        refused(&mut Client::extended(&app).await, "store_full").await;
        ready(&app, 200).await;
        files_may_have(&app, "unlimited");
        paused(&app, 0.0).await;
    }
    client.rest(&mut log).await;
    other.rest(&mut other_log).await;
    let (_client, mut killed) = speaking(&app, 20).await;
    files_may_have(&app, "1");
    paused(&app, 1.0).await;
    app.kill();
    let app = machine.start();
    rest_after(&app, &mut killed).await;
    for log in [&log, &other_log, &killed] {
        assert_whole(log);
        assert_eq!(replay(&app, &log.id()).await, *log);
    }
}

#[tokio::test]
async fn a_turn_that_comes_while_the_file_is_full_waits_for_room() {
    let machine = Machine::new(&SMALL);
    let app = machine.start();
    let id = conversation(&app, json!({})).await;
    let mut first = Client::extended(&app).await;
    first.create(json!({"input": "first", "conversation": id})).await;
    let mut log = EventLog::default();
    log.push(first.event_of("response.created").await);
    let mut others = vec![];
    for input in ["second", "third"] {
        let mut client = Client::extended(&app).await;
        client.create(json!({"input": input, "conversation": id, "max_output_tokens": 5})).await;
        let mut log = EventLog::default();
        log.push(client.event_of("response.created").await);
        others.push((client, log));
    }
    let filler = fill(&app).await;
    paused(&app, 1.0).await;
    first.send(json!({"type": "response.cancel", "response_id": log.id()})).await;
    first.rest(&mut log).await;
    assert_eq!(log.reason(), "cancelled");
    until("the second to wait for room", || async {
        app.stderr().contains("the turn waits until there is room").then_some(())
    })
    .await;
    // A waiting turn can still be cancelled.
    let (mut third, mut third_log) = others.pop().expect("the third");
    third.send(json!({"type": "response.cancel", "response_id": third_log.id()})).await;
    third.rest(&mut third_log).await;
    assert_eq!(third_log.reason(), "cancelled");
    for id in filler {
        delete(&app, &format!("/v1/conversations/{id}")).await;
    }
    let (mut second, mut second_log) = others.pop().expect("the second");
    second.rest(&mut second_log).await;
    assert_eq!((second_log.usage("output_tokens"), second_log.reason()), (5, "max_output_tokens"));
    paused(&app, 0.0).await;
    let expected = [
        pair("user", "first"),
        pair("assistant", &log.text()),
        pair("user", "second"),
        pair("assistant", &second_log.text()),
    ];
    assert_eq!(said(&items(&app, &id).await), expected);
}

#[tokio::test]
async fn after_its_retention_everything_is_gone_and_the_room_is_given_back() {
    let machine = Machine::new(&["store.retention_s=3", "generation.resume_window_ms=100"]);
    let app = machine.start();
    let temporary = Client::extended(&app).await.run(json!({"store": false})).await.id();
    let size = || fs::metadata(machine.data.file()).map_or(0, |file| file.len());
    let expired = until("the window to end", || async {
        Some(resumed(&app, &temporary, None).await.1).filter(|answer| answer["type"] == "error")
    })
    .await;
    assert_eq!(code(&expired), "resume_window_expired");
    let mut ids = vec![];
    for _ in 0..8 {
        ids.push(Client::plain(&app).await.run(json!({"input": "x".repeat(900_000)})).await.id());
    }
    for id in &ids {
        let path = format!("/v1/responses/{id}");
        until("the response to be gone", || async {
            (http::get(app.address, &path).await.status == 404).then_some(())
        })
        .await;
    }
    until("the file to be small again", || async { (size() < 4 << 20).then_some(()) }).await;
    let unknown: Value = http::get(app.address, &format!("/v1/responses/{temporary}")).await.json();
    assert_eq!(unknown["error"]["code"], "response_not_found", "it is not remembered for ever");
    tokio::time::timeout(Duration::from_secs(20), async { drop(app) }).await.unwrap();
}
