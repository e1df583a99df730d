//! Tests the cost of hostile input for others: during two hundred inputs of many kinds a healthy stream keeps its pace, and the
//! server's memory stays bounded.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use caudal_tests::{App, Client, Received, http, log::kind, raw::RawSocket, spawn_app, within, ws::code};
use futures::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

/// The limit of the server's memory growth.
const MOST_BYTES: u64 = 300 << 20;

/// Returns the longest accepted gap of the healthy stream. `CAUDAL_COST_GAP_MS` sets another one for an unoptimised server.
fn longest_gap() -> Duration {
    let ms = std::env::var("CAUDAL_COST_GAP_MS").map_or(250, |ms| ms.parse().expect("CAUDAL_COST_GAP_MS is a number"));
    Duration::from_millis(ms)
}

/// Measures how late a timer of this process fires, which shows the machine's other load.
struct Lateness {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Lateness {
    fn measure() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let thread = thread::spawn(move || {
            let (pause, mut longest) = (Duration::from_millis(20), Duration::ZERO);
            while !until.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(pause);
                longest = longest.max(begun.elapsed().saturating_sub(pause));
            }
            longest
        });
        Self { done, thread }
    }

    fn longest(self) -> Duration {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("the timer ends")
    }
}

/// A hostile input with its name.
type Case<'a> = (String, BoxFuture<'a, ()>);

#[test]
fn two_hundred_hostile_inputs_slow_nobody_down() {
    let app =
        spawn_app(&["engine.scripted.tokens=4000", "engine.scripted.tokens_per_second=50", "engine.max_running=64"]);
    let before = app.resident_bytes();
    let done = AtomicBool::new(false);
    let lateness = Lateness::measure();
    // The healthy stream has its own thread, so that building hostile inputs does not delay it.
    let ((count, (name, grown)), gap) = thread::scope(|scope| {
        let healthy = scope.spawn(|| block_on(healthy(&app, &done)));
        let _done = Done(&done);
        let hostile = block_on(hostile(&app, before));
        done.store(true, Ordering::Relaxed);
        (hostile, healthy.join().expect("the healthy stream goes on"))
    });
    let late = lateness.longest();
    println!("{count} inputs; longest gap {gap:?}, of a timer {late:?}; most memory {} MiB, after {name}", grown >> 20);
    assert!(count >= 200, "{count} inputs");
    assert!(gap < longest_gap() + 4 * late, "{gap:?}, beside a timer that was {late:?} late");
    assert!(grown < MOST_BYTES, "{} MiB after {name}", grown >> 20);
}

/// Ends the healthy stream even if a hostile input fails the test.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Sends all inputs one after the other. Returns their number, and the input after which the server's memory was largest, with
/// the growth.
async fn hostile(app: &App, before: u64) -> (usize, (String, u64)) {
    let mut cases = vec![];
    for kind in [templates, expansions, nesting, schemas, regexes, lanes, logs, chains, frames] {
        cases.extend(kind(app));
    }
    let count = cases.len();
    let mut worst = (String::new(), 0);
    for (name, case) in cases {
        case.await;
        let grown = app.resident_bytes().saturating_sub(before);
        if grown > worst.1 {
            worst = (name, grown);
        }
    }
    (count, worst)
}

/// Hundreds of concurrent bodies that grow many times when they are decompressed or parsed: the memory of that is limited, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_bodies_grow_to_is_counted_for_all_that_are_read_at_once() {
    let numbers = |count: usize| format!("[{}0]", "0,".repeat(count));
    let schema = json!({"type": "json_schema", "name": "n", "schema": {"enum": [0]}}).to_string();
    let messages = r#"{"role":"user","content":[]},"#.repeat(20_000);
    let bodies = [
        ("numbers", format!(r#"{{"input":"x","metadata":{}}}"#, numbers(99_000))),
        ("a schema", format!(r#"{{"input":"x","text":{{"format":{}}}}}"#, schema.replace("[0]", &numbers(99_000)))),
        ("messages", format!(r#"{{"max_output_tokens":1,"input":[{messages}{{"role":"user","content":"x"}}]}}"#)),
        ("spaces", format!(r#"{{"input":"x"{}}}"#, " ".repeat(4_000_000))),
    ];
    for (name, body) in bodies {
        let mut compressor = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        compressor.write_all(body.as_bytes()).expect("memory takes all");
        let compressed = compressor.finish().expect("it is compressed");
        let app = spawn_app(&[]);
        let before = app.resident_bytes();
        let mut streams = vec![];
        for _ in 0..400 {
            let mut stream = TcpStream::connect(app.address).await.expect("the server accepts");
            let head = format!(
                "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                compressed.len()
            );
            stream.write_all(head.as_bytes()).await.expect("the head can be sent");
            stream.write_all(&compressed[..compressed.len() - 1]).await.expect("the body can be sent");
            streams.push(stream);
        }
        // All bodies are completed at the same time.
        let answers = streams.into_iter().map(async |mut stream| {
            stream.write_all(&compressed[compressed.len() - 1..]).await.expect("the last byte can be sent");
            let mut answer = vec![];
            within("an answer", stream.read_to_end(&mut answer)).await.expect("an answer");
            String::from_utf8_lossy(&answer).into_owned()
        });
        for answer in futures::future::join_all(answers).await {
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(matches!(status, "200" | "400" | "408" | "429"), "{name}: {answer}");
        }
        let grown = app.most_resident_bytes().saturating_sub(before);
        println!("400 bodies of {name}: {} MiB", grown >> 20);
        assert!(grown < MOST_BYTES, "{} MiB after {name}", grown >> 20);
    }
}

/// Runs a stream of 50 tokens a second until `done`. Returns its longest gap.
async fn healthy(app: &App, done: &AtomicBool) -> Duration {
    let mut client = Client::plain(app).await;
    client.create(json!({})).await;
    client.event_of("response.output_text.delta").await;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let event = client.event().await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if kind(&event) == "response.completed" {
            client.create(json!({})).await;
        }
    }
    longest
}

/// Posts a body and checks that the answer has a documented status.
async fn posted(app: &App, path: &str, body: Value) -> http::Answer {
    let answer = http::post(app.address, path, &body).await;
    assert!(matches!(answer.status, 200 | 400 | 404 | 413 | 429), "{path}: {} {}", answer.status, answer.text());
    answer
}

fn templates(app: &App) -> Vec<Case<'_>> {
    let shapes = ["{", "}", "{{ ", "{{a}}", "}}{{", "{{{{ }}", "{{a", "{{ \" }} "];
    let sizes = [1_000, 20_000, 80_000, 250_000];
    let cases = shapes.iter().flat_map(|shape| sizes.map(|size| (shape, size)));
    let case = |(shape, size): (&&str, usize)| {
        let text = shape.repeat(size / shape.len());
        let put = async move { drop(posted(app, "/v1/prompts", json!({"id": "bomb", "instructions": text})).await) };
        (format!("a template of {size} bytes of {shape:?}"), put.boxed())
    };
    cases.map(case).collect()
}

fn expansions(app: &App) -> Vec<Case<'_>> {
    let cases =
        [1, 100, 5_000, 50_000].into_iter().flat_map(|times| [10, 5_000, 60_000, 250_000].map(|size| (times, size)));
    let case = |(times, size): (usize, usize)| {
        let name = format!("{times} times a value of {size} bytes");
        let used = async move {
            let id = format!("times-{times}");
            let put = json!({"id": id, "instructions": "{{x}} ".repeat(times), "messages": [{"role": "user", "content": "?"}]});
            assert_eq!(posted(app, "/v1/prompts", put).await.status, 200);
            let prompt = json!({"id": id, "variables": {"x": "y".repeat(size)}});
            let answer = posted(app, "/v1/responses", json!({"prompt": prompt, "max_output_tokens": 1})).await;
            if times * size > 4 << 20 {
                assert_eq!(answer.json()["error"]["param"], "prompt.variables", "{}", answer.text());
            }
        };
        (name, used.boxed())
    };
    cases.map(case).collect()
}

/// Returns `width` lists side by side, each nested `depth` deep.
fn nested(depth: usize, width: usize) -> String {
    let one = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    format!("[{}]", vec![one; width].join(","))
}

fn nesting(app: &App) -> Vec<Case<'_>> {
    let mut cases: Vec<Case> = vec![];
    for (depth, width) in [(1, 100_000), (10, 10_000), (60, 2_000), (120, 1_000), (126, 1), (5_000, 1), (100_000, 1)] {
        for field in ["input", "tools", "metadata", "text", "stop", "unknown"] {
            let text =
                format!(r#"{{"type":"response.create","max_output_tokens":1,"{field}":{}}}"#, nested(depth, width));
            let name = format!("{width} times {depth} lists in {field}");
            let sent = async move {
                let mut client = Client::plain(app).await;
                client.send_message(Message::text(text.clone())).await;
                let error = client.error().await;
                assert!(matches!(code(&error), "invalid_request" | "invalid_json"), "{error}");
                let answer =
                    http::call(app.address, "POST", "/v1/responses").header("content-type", "application/json");
                assert_eq!(answer.body(text).send().await.status, 400);
            };
            cases.push((name, sent.boxed()));
        }
    }
    cases
}

fn formatted(app: &App, name: String, format: Value) -> Case<'_> {
    let body = json!({"input": "x", "max_output_tokens": 1, "text": {"format": format}});
    (name, async move { drop(posted(app, "/v1/responses", body).await) }.boxed())
}

fn schemas(app: &App) -> Vec<Case<'_>> {
    let mut cases = vec![];
    for width in [10, 100, 1_000, 5_000] {
        let names: Vec<String> = (0..width).map(|n| format!("p{n}")).collect();
        let properties: Value = names.iter().map(|name| (name.clone(), json!({"type": "string"}))).collect();
        let deep = (0..width.min(100))
            .fold(json!({"type": "string"}), |inner, _| json!({"type": "object", "properties": {"a": inner}}));
        let multiplied = |by: usize| -> Value {
            let next = |n: usize| vec![json!({"$ref": format!("#/$defs/d{}", n + 1)}); by];
            (0..width.min(1_000)).map(|n| (format!("d{n}"), json!({"anyOf": next(n)}))).collect()
        };
        for (what, schema) in [
            ("properties", json!({"type": "object", "properties": properties, "required": names})),
            ("one of", json!({"oneOf": names.iter().map(|name| json!({"const": name})).collect::<Vec<_>>()})),
            ("enum", json!({"type": "string", "enum": names})),
            ("depth", deep),
            ("references that double", json!({"$ref": "#/$defs/d0", "$defs": multiplied(2)})),
            (
                "references that multiply",
                json!({"properties": {"a": {}}, "allOf": [{"$ref": "#/$defs/d0"}], "$defs": multiplied(6)}),
            ),
            (
                "properties in each of as many alternatives",
                json!({
                    "type": "object", "properties": properties,
                    "anyOf": names.iter().map(|name| json!({"required": [name]})).collect::<Vec<_>>(),
                }),
            ),
            (
                "lists",
                json!({"type": "array", "minItems": width, "maxItems": width * 1000, "items": {"type": "integer"}}),
            ),
            (
                "all of",
                json!({"allOf": names.iter().map(|name| json!({"properties": {name.as_str(): {}}})).collect::<Vec<_>>()}),
            ),
            ("a rest of lists", json!({"enum": [serde_json::from_str::<Value>(&nested(50, width)).unwrap()]})),
        ] {
            let format = json!({"type": "json_schema", "name": "x", "schema": schema});
            cases.push(formatted(app, format!("a schema with {width} of {what}"), format));
        }
    }
    cases
}

fn regexes(app: &App) -> Vec<Case<'_>> {
    let mut patterns: Vec<String> =
        ["(a+)+b", "((a?){50}){50}", "(.*a){20}", "[^x]{0,9999}y", "(a|a)*b", "(x{100}){100}"].map(String::from).into();
    patterns.extend([100, 1_000, 10_000].map(|n| "(a|b)?".repeat(n)));
    patterns.extend([100, 1_000, 10_000].map(|n| "(".repeat(n) + "a" + &")".repeat(n)));
    let mut cases = vec![];
    for pattern in &patterns {
        let begin: String = pattern.chars().take(12).collect();
        let schema = json!({"type": "string", "pattern": pattern});
        let format = json!({"type": "json_schema", "name": "x", "schema": schema});
        cases.push(formatted(app, format!("a schema with the pattern {begin}"), format));
        let format = json!({"type": "grammar", "syntax": "regex", "definition": pattern});
        cases.push(formatted(app, format!("the regex {begin}"), format));
    }
    cases
}

/// Requests that fill lanes, with more than the lanes accept.
fn lanes(app: &App) -> Vec<Case<'_>> {
    let cases = [1, 4, 16].into_iter().flat_map(|lanes| [1_000, 60_000, 250_000].map(|size| (lanes, size)));
    let case = |(lanes, size): (usize, usize)| {
        let flood = async move {
            let mut client = Client::plain(app).await;
            let lists = nested(2, size / 5);
            let mut refused = 0;
            for n in 0..(20_000_000 / size).min(300) {
                let lane = format!("l{}", n % lanes);
                // The first request of a lane runs long, and the others wait.
                let text = if n < lanes {
                    json!({"type": "response.create", "stream_id": lane, "input": "x"}).to_string()
                } else {
                    format!(r#"{{"type":"response.create","stream_id":"{lane}","input":"x","tools":{lists}}}"#)
                };
                assert!(client.try_send(Message::text(text)).await, "the connection stays open");
            }
            client.send(json!({"type": "no such type"})).await;
            // The answer to the last message comes after all refusals before it.
            loop {
                let Received::Event(event) = client.receive().await else { panic!("the connection stays open") };
                match event["error"]["code"].as_str() {
                    Some("websocket_stream_limit_reached" | "rate_limit_exceeded") => refused += 1,
                    Some("invalid_request") if event["error"]["param"] == "type" => break,
                    _ => {}
                }
            }
            assert!(size < 250_000 || refused > 0, "20 MB of requests are too many");
        };
        (format!("{size} bytes of lists in each request of {lanes} lanes"), flood.boxed())
    };
    cases.map(case).collect()
}

/// Long logs with many followers that do not read.
fn logs(app: &App) -> Vec<Case<'_>> {
    let case = |followers: usize| {
        let followed = async move {
            let body = json!({"input": "x", "background": true, "max_output_tokens": 60, "top_logprobs": 20, "include": ["message.output_text.logprobs"]});
            let id = posted(app, "/v1/responses", body).await.json()["id"].as_str().expect("an id").to_owned();
            let path = format!("/v1/responses/{id}?stream=true");
            let follows = (0..followers).map(|_| http::call(app.address, "GET", &path).events());
            let follows = futures::future::join_all(follows).await;
            assert!(follows.iter().all(|follow| follow.status == 200));
        };
        (format!("{followers} followers that read nothing"), followed.boxed())
    };
    [1, 5, 10, 20, 40, 60].map(case).into()
}

fn chains(app: &App) -> Vec<Case<'_>> {
    let case = |size: usize| {
        let chained = async move {
            let mut previous = Value::Null;
            for _ in 0..5 {
                let body = json!({"input": "w".repeat(size), "previous_response_id": previous, "max_output_tokens": 1});
                let answer = posted(app, "/v1/responses", body).await.json();
                if answer["id"].is_null() {
                    assert_eq!(answer["error"]["param"], "previous_response_id", "{answer}");
                    return;
                }
                previous = answer["id"].clone();
            }
        };
        (format!("a chain of {size} bytes a link"), chained.boxed())
    };
    [100, 1_000, 10_000, 100_000, 250_000, 500_000, 750_000, 1_000_000].map(case).into()
}

fn frames(app: &App) -> Vec<Case<'_>> {
    let mut cases: Vec<Case> = vec![];
    for (what, first, payload, times) in [
        ("pings", 0x89, vec![b'x'; 125], 2_000),
        ("empty pings", 0x89, vec![], 5_000),
        ("pongs", 0x8a, vec![b'x'; 125], 2_000),
        ("pieces that never end", 0x01, vec![b'['; 1], 1),
        ("empty texts", 0x81, vec![], 2_000),
        ("braces", 0x81, vec![b'{'; 1_000], 300),
        ("brackets", 0x81, vec![b'['; 100_000], 30),
        ("quotes", 0x81, vec![b'"'; 100_000], 30),
        ("lone backslashes", 0x81, vec![b'\\'; 100_000], 30),
    ] {
        let sent = async move {
            let mut socket = RawSocket::connect(app.address).await;
            for _ in 0..times {
                if !socket.send(first, &payload).await {
                    break;
                }
            }
        };
        cases.push((format!("{times} {what}"), sent.boxed()));
    }
    for size in [10_000, 100_000, 1_000_000, 4_000_000] {
        for (what, text) in [
            ("spaces", format!("{}{{}}", " ".repeat(size))),
            ("a long type", json!({"type": "x".repeat(size)}).to_string()),
            ("a long lane", json!({"type": "response.create", "stream_id": "x".repeat(size)}).to_string()),
            ("a list as type", format!(r#"{{"type":{}}}"#, nested(3, size / 7))),
            ("a list as lane", format!(r#"{{"type":"response.create","stream_id":{}}}"#, nested(3, size / 7))),
            ("one field many times", format!("{{{}}}", vec![r#""type":"x""#; size / 11].join(","))),
            ("numbers", format!(r#"{{"type":"response.create","logit_bias":[{}]}}"#, vec!["1e9"; size / 4].join(","))),
        ] {
            let sent = async move {
                let mut client = Client::plain(app).await;
                client.send_message(Message::text(text)).await;
                client.error().await;
            };
            cases.push((format!("{what} of {size} bytes"), sent.boxed()));
        }
    }
    cases
}
