//! Tests disconnects: the generation of a client that cannot resume is cancelled, a background response goes on.

use std::time::{Duration, Instant};

use caudal_tests::{
    App, Client,
    http::{Sse, call, get, post},
    log::kind,
    spawn_app, until,
};
use serde_json::{Value, json};

/// One generation at a time, each a minute long.
const ONE: [&str; 3] = ["engine.max_running=1", "engine.scripted.tokens=6000", "engine.scripted.tokens_per_second=100"];
/// The longest accepted time from a client's disconnect to the next request's first token.
const SOON: Duration = Duration::from_secs(3);

fn one(more: &[&str]) -> App {
    let mut settings = ONE.to_vec();
    settings.extend(more);
    spawn_app(&settings)
}

/// A client without the extensions that is following a generation.
enum Reader {
    Stream(Sse),
    Socket(Box<Client>),
    /// A connection whose answer has not begun.
    Waiting {
        _stream: tokio::net::TcpStream,
    },
}

const READERS: [&str; 5] = ["responses stream", "responses", "chat stream", "chat", "socket"];

async fn reader(app: &App, kind: &str) -> Reader {
    let chat = json!({"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": true});
    match kind {
        "responses stream" => {
            let body = json!({"input": "x", "stream": true});
            Reader::Stream(call(app.address, "POST", "/v1/responses").json(&body).events().await)
        }
        "chat stream" => Reader::Stream(call(app.address, "POST", "/v1/chat/completions").json(&chat).events().await),
        "responses" => Reader::Waiting { _stream: sent(app, "/v1/responses", &json!({"input": "x"})).await },
        "chat" => {
            let mut body = chat;
            body["stream"] = false.into();
            Reader::Waiting { _stream: sent(app, "/v1/chat/completions", &body).await }
        }
        _ => {
            let mut client = Box::new(Client::plain(app).await);
            client.create(json!({})).await;
            Reader::Socket(client)
        }
    }
}

/// Sends a request without reading the answer.
async fn sent(app: &App, path: &str, body: &Value) -> tokio::net::TcpStream {
    let body = body.to_string();
    let mut stream = tokio::net::TcpStream::connect(app.address).await.expect("the server accepts");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        app.address,
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("the request can be sent");
    stream
}

/// Creates a response that waits for the only permit. Returns its client and id.
async fn queued(app: &App) -> (Client, String) {
    until("a request to find the slot taken", || async {
        let mut client = Client::extended(app).await;
        client.create(json!({"max_output_tokens": 2})).await;
        let id = id(&client.event_of("response.created").await);
        if kind(&client.event().await) == "response.queued" {
            return Some((client, id));
        }
        // It came before the request that must get the permit, so it is cancelled.
        cancel(app, &id).await;
        None
    })
    .await
}

fn id(event: &Value) -> String {
    event["response"]["id"].as_str().expect("the event has a response with an id").to_owned()
}

async fn cancel(app: &App, id: &str) -> Value {
    call(app.address, "POST", &format!("/v1/responses/{id}/cancel")).send().await.json()
}

async fn ended(app: &App, id: &str) -> Value {
    let path = format!("/v1/responses/{id}");
    until("the response to end", || async {
        Some(get(app.address, &path).await.json()).filter(|r| r["status"] != "in_progress" && r["status"] != "queued")
    })
    .await
}

#[tokio::test]
async fn a_client_that_cannot_resume_and_leaves_frees_its_slot() {
    let app = one(&[]);
    for kind in READERS {
        let mut reader = reader(&app, kind).await;
        match &mut reader {
            Reader::Stream(stream) => {
                for _ in 0..5 {
                    stream.next().await.expect("an event");
                }
            }
            Reader::Socket(client) => {
                client.event_of("response.output_text.delta").await;
            }
            Reader::Waiting { .. } => {}
        }
        let (mut next, _) = queued(&app).await;
        let left = Instant::now();
        drop(reader);
        next.event_of("response.output_text.delta").await;
        assert!(left.elapsed() < SOON, "{kind}: {:?}", left.elapsed());
        next.event_of("response.incomplete").await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_prompt_is_read_frees_its_slot() {
    let app = one(&["engine.scripted.prefill_ms=20000"]);
    for kind in READERS {
        let reader = reader(&app, kind).await;
        let (mut next, id) = queued(&app).await;
        let left = Instant::now();
        drop(reader);
        next.event_of("response.in_progress").await;
        assert!(left.elapsed() < SOON, "{kind}: {:?}", left.elapsed());
        cancel(&app, &id).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_leaves_the_queue() {
    let app = one(&["admission.queue=2"]);
    let mut holder = Client::extended(&app).await;
    holder.create(json!({})).await;
    holder.event_of("response.output_text.delta").await;
    for kind in READERS {
        let waits = reader(&app, kind).await;
        let (second, id) = queued(&app).await;
        // Both places of the queue are taken until the first request has left.
        let refused = post(app.address, "/v1/responses", &json!({"input": "x"})).await;
        assert_eq!(refused.status, 503, "{kind}: {}", refused.text());
        let left = Instant::now();
        drop(waits);
        let (_third, third) = until("a place in the queue", || async {
            let mut client = Client::extended(&app).await;
            client.create(json!({})).await;
            let event = client.event().await;
            (event["type"] == "response.created").then(|| (client, self::id(&event)))
        })
        .await;
        assert!(left.elapsed() < SOON, "{kind}: {:?}", left.elapsed());
        for id in [id, third] {
            cancel(&app, &id).await;
        }
        drop(second);
    }
}

#[tokio::test]
async fn a_follower_that_can_resume_gives_a_generation_the_grace() {
    let app = one(&["generation.orphan_grace_ms=60000"]);
    let mut stream =
        call(app.address, "POST", "/v1/responses").json(&json!({"input": "x", "stream": true})).events().await;
    let created: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
    let mut client = Client::extended(&app).await;
    client.resume(&id(&created), None).await;
    client.event_of("response.output_text.delta").await;
    drop(stream);
    client.kill();
    // A cancel would happen within these two seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let response = get(app.address, &format!("/v1/responses/{}", id(&created))).await.json();
    assert_eq!(response["status"], "in_progress");
}

#[tokio::test]
async fn a_background_response_is_answered_at_once_and_runs_without_followers() {
    let app = spawn_app(&["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=100"]);
    let answer = post(app.address, "/v1/responses", &json!({"input": "x", "background": true})).await;
    let response = answer.json();
    assert_eq!(
        (answer.status, &response["status"], &response["background"]),
        (200, &json!("in_progress"), &json!(true))
    );
    let response = ended(&app, response["id"].as_str().expect("an id")).await;
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("completed"), &json!(300)));
    let path = format!("/v1/responses/{}?stream=true&starting_after=5", response["id"].as_str().expect("an id"));
    let events = call(app.address, "GET", &path).events().await.all().await;
    let first: Value = serde_json::from_str(&events[0].data).expect("JSON");
    assert_eq!(first["sequence_number"], 6);
}

#[tokio::test]
async fn a_background_stream_goes_on_when_its_client_leaves() {
    let app = spawn_app(&["engine.scripted.tokens=300", "engine.scripted.tokens_per_second=100"]);
    let body = json!({"input": "x", "background": true, "stream": true});
    let mut stream = call(app.address, "POST", "/v1/responses").json(&body).events().await;
    let created: Value = serde_json::from_str(&stream.next().await.expect("an event").data).expect("JSON");
    drop(stream);
    let response = ended(&app, &id(&created)).await;
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("completed"), &json!(300)));
}

#[tokio::test]
async fn a_background_response_that_waits_says_so_and_one_that_is_cancelled_too() {
    let app = one(&[]);
    let mut holder = Client::extended(&app).await;
    holder.create(json!({})).await;
    holder.event_of("response.output_text.delta").await;
    let answer = post(app.address, "/v1/responses", &json!({"input": "x", "background": true})).await.json();
    let id = answer["id"].as_str().expect("an id");
    let path = format!("/v1/responses/{id}");
    until("the response to be queued", || async {
        (get(app.address, &path).await.json()["status"] == "queued").then_some(())
    })
    .await;
    let cancelled = cancel(&app, id).await;
    assert_eq!((&cancelled["status"], &cancelled["error"]), (&json!("cancelled"), &Value::Null));
    let events = call(app.address, "GET", &format!("{path}?stream=true")).events().await.all().await;
    assert_eq!(events[events.len() - 2].event.as_deref(), Some("response.incomplete"), "what clients end on");
}

#[tokio::test]
async fn background_needs_a_stored_response() {
    let app = spawn_app(&[]);
    let answer = post(app.address, "/v1/responses", &json!({"input": "x", "background": true, "store": false})).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("background")));
    let log = Client::plain(&app).await.run(json!({"background": true, "store": false})).await;
    assert_eq!((log.status(), &log.response()["background"]), ("completed", &json!(false)), "ignored on a socket");
}
