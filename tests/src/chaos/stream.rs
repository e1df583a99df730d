//! A client that creates responses one after the other and follows each to its end, however often its connections are lost.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::Drops;
use crate::{
    EventLog, http,
    log::{item_texts, without_ids},
    ws::{SUBPROTOCOL, create},
};

/// A response that takes longer counts as failed.
const LIMIT: Duration = Duration::from_secs(90);
/// A connection that is silent for this long is closed, as a client's heartbeat would do.
const SILENCE: Duration = Duration::from_secs(4);
/// The wait before the next attempt to connect.
const BACKOFF: Duration = Duration::from_millis(100);

/// A request that clients repeat.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The fields of its `response.create`.
    pub fields: Value,
    /// The output that the response must have, without ids; `None`: any.
    pub output: Option<Value>,
}

impl Ask {
    /// Returns a request whose output may be any text.
    pub fn anything() -> Arc<[Self]> {
        [Self { fields: json!({"input": "Say something."}), output: None }].into()
    }
}

pub struct Lane {
    pub number: u64,
    pub address: SocketAddr,
    /// The client's requests, in turn.
    pub asks: Arc<[Ask]>,
    pub drops: watch::Receiver<Drops>,
    pub over: watch::Receiver<bool>,
}

/// The course of one response.
#[derive(Debug, Default)]
pub struct Ended {
    pub events: usize,
    pub reconnects: usize,
    /// The times between two new events.
    pub gaps: Vec<Duration>,
    pub failure: Option<String>,
}

/// The reason why a client stops reading from a connection.
enum Stop {
    Reconnect,
    Done,
    Failed(String),
}

struct Follow {
    request: Value,
    output: Option<Value>,
    id: Option<String>,
    log: EventLog,
    last: Instant,
    ended: Ended,
}

impl Lane {
    pub async fn run(mut self) -> Vec<Ended> {
        let mut all = Vec::new();
        for turn in 0.. {
            if *self.over.borrow() {
                break;
            }
            let Some(ask) = self.asks.get((self.number as usize + turn) % self.asks.len().max(1)).cloned() else {
                break;
            };
            all.push(self.response(ask, turn).await);
        }
        all
    }

    async fn response(&mut self, ask: Ask, turn: usize) -> Ended {
        let mut request = create(ask.fields);
        request["client_request_id"] = format!("chaos-{}-{turn}", self.number).into();
        request["cache"] = json!({"mode": "off"});
        let (log, last) = (EventLog::default(), Instant::now());
        let mut follow = Follow { request, output: ask.output, id: None, log, last, ended: Ended::default() };
        let failure = match timeout(LIMIT, self.follow(&mut follow)).await {
            Ok(Ok(())) => self.judge(&follow).await.err(),
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(format!("no end in {LIMIT:?} after {} events", follow.log.events.len())),
        };
        let id = follow.id.as_deref().unwrap_or("no id");
        Ended { failure: failure.map(|failure| format!("{id}: {failure}")), ..follow.ended }
    }

    async fn follow(&mut self, follow: &mut Follow) -> Result<(), String> {
        loop {
            let stop = match self.connect().await {
                Ok(socket) => self.listen(socket, follow).await,
                Err(_) => Stop::Reconnect,
            };
            match stop {
                Stop::Done => return Ok(()),
                Stop::Failed(failure) => return Err(failure),
                Stop::Reconnect => {
                    follow.ended.reconnects += 1;
                    sleep(BACKOFF).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, String> {
        let connect = async {
            let mut request =
                format!("ws://{}/v1/responses", self.address).into_client_request().map_err(|e| e.to_string())?;
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
            let stream = TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
            Ok(client_async(request, stream).await.map_err(|e| e.to_string())?.0)
        };
        timeout(SILENCE, connect).await.map_err(|_| "no connection in time".to_owned())?
    }

    async fn listen(&mut self, mut socket: WebSocketStream<TcpStream>, follow: &mut Follow) -> Stop {
        let hello = match &follow.id {
            None => follow.request.clone(),
            Some(id) => match follow.log.last_number() {
                Some(after) => json!({"type": "caudal:response.resume", "response_id": id, "starting_after": after}),
                None => json!({"type": "caudal:response.resume", "response_id": id}),
            },
        };
        if socket.send(Message::text(hello.to_string())).await.is_err() {
            return Stop::Reconnect;
        }
        self.drops.mark_unchanged();
        loop {
            let message = tokio::select! {
                message = timeout(SILENCE, socket.next()) => message,
                _ = self.drops.changed() => {
                    let drops = *self.drops.borrow();
                    if drops.share > 0 && (self.number + drops.round).is_multiple_of(drops.share) {
                        return Stop::Reconnect;
                    }
                    continue;
                }
            };
            let text = match message {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Close(frame)))) => match frame.map(|frame| u16::from(frame.code)) {
                    Some(code @ (1008 | 1009 | 4500..)) => return Stop::Failed(format!("closed with {code}")),
                    _ => return Stop::Reconnect,
                },
                Ok(_) | Err(_) => return Stop::Reconnect,
            };
            let event: Value = match serde_json::from_str(&text) {
                Ok(event) => event,
                Err(error) => return Stop::Failed(format!("no JSON ({error}): {text}")),
            };
            if let Some(stop) = follow.hear(event).await {
                return stop;
            }
        }
    }

    /// Checks a response: it is completed, its deltas equal its output, the output is the required one and is stored.
    async fn judge(&self, follow: &Follow) -> Result<(), String> {
        let response = follow.log.events.last().map(|event| event["response"].clone()).unwrap_or_default();
        if response["status"] != "completed" {
            return Err(format!("ended as {}: {}", response["status"], response["error"]));
        }
        let output = &response["output"];
        if item_texts(output) != follow.log.deltas() {
            return Err(format!("the deltas are not those of {output}"));
        }
        if let Some(expected) = follow.output.as_ref().filter(|expected| without_ids(output) != **expected) {
            return Err(format!("{output} instead of {expected}"));
        }
        let path = format!("/v1/responses/{}", follow.id.as_deref().unwrap_or_default());
        for _ in 0..100 {
            match http::try_get(self.address, &path).await {
                Ok(answer) if answer.status == 200 => {
                    let stored = &answer.json()["output"];
                    return if stored == output { Ok(()) } else { Err(format!("{stored} is stored, not {output}")) };
                }
                Ok(answer) if answer.status < 500 => return Err(format!("reading it back: {}", answer.text())),
                _ => sleep(BACKOFF).await,
            }
        }
        Err("it could not be read back".into())
    }
}

impl Follow {
    async fn hear(&mut self, event: Value) -> Option<Stop> {
        let kind = event["type"].as_str().unwrap_or_default();
        if kind.starts_with("caudal:") {
            return None;
        }
        if kind == "error" {
            let Some(wait) = event["retry_after_ms"].as_u64() else {
                return Some(Stop::Failed(format!("{}: {}", event["error"]["code"], event["error"]["message"])));
            };
            sleep(Duration::from_millis(wait.min(1000))).await;
            return Some(Stop::Reconnect);
        }
        let expected = self.log.last_number().map_or(0, |last| last + 1);
        let number = event["sequence_number"].as_u64();
        if number != Some(expected) {
            return Some(Stop::Failed(format!("event {number:?} instead of {expected}: {event}")));
        }
        if self.id.is_none() {
            self.id = event["response"]["id"].as_str().map(str::to_owned);
        } else {
            self.ended.gaps.push(self.last.elapsed());
        }
        self.last = Instant::now();
        self.ended.events += 1;
        self.log.push(event);
        self.log.ended().then_some(Stop::Done)
    }
}
