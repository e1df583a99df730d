//! An HTTP client on hyper with one connection for each request, which hides nothing of the answer.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, header::HeaderMap};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{PATIENCE, within};

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("expected JSON ({e}): {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// A request under construction.
pub struct Call {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub fn call(address: SocketAddr, method: &str, path: &str) -> Call {
    Call { address, method: method.into(), path: path.into(), headers: vec![], body: vec![] }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    call(address, "GET", path).send().await
}

/// As [`get`], but returns an error if no server answers.
pub async fn try_get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let ask = async {
        let stream = TcpStream::connect(address).await.map_err(|e| text(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", address.to_string()).body(Full::new(Bytes::new()));
        let response = sender.send_request(request.map_err(|e| text(&e))?).await.map_err(|e| text(&e))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.map_err(|e| text(&e))?;
        Ok(Answer { status, headers, body: body.to_bytes().into() })
    };
    tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    call(address, "POST", path).json(body).send().await
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub async fn send(self) -> Answer {
        let response = self.open().await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = within("the body", response.into_body().collect()).await.expect("the body arrives whole");
        Answer { status, headers, body: body.to_bytes().into() }
    }

    /// Sends the request and returns the answer as server-sent events.
    pub async fn events(self) -> Sse {
        let response = self.open().await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Sse { status, headers, body: response.into_body(), buffer: vec![] }
    }

    async fn open(self) -> Response<Incoming> {
        let stream = within("a TCP connection", TcpStream::connect(self.address)).await.expect("the server accepts");
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("an HTTP connection");
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(self.method.as_str()).uri(&self.path).header("host", self.address.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(self.body))).expect("a valid request");
        within("an answer", sender.send_request(request)).await.expect("the server answers")
    }
}

/// A stream of server-sent events. Dropping it drops the connection.
pub struct Sse {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    buffer: Vec<u8>,
}

/// One event with the values of its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct SseEvent {
    pub event: Option<String>,
    pub data: String,
    pub id: Option<String>,
}

impl Sse {
    /// Reads the next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(parse(&String::from_utf8(block).expect("events are UTF-8")));
            }
            let frame = within("an event", self.body.frame()).await;
            match frame {
                Some(frame) => {
                    let frame = frame.expect("the stream is whole");
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
                }
                None => {
                    assert!(self.buffer.is_empty(), "the stream ended within an event");
                    return None;
                }
            }
        }
    }

    /// Reads all events to the end of the stream.
    pub async fn all(mut self) -> Vec<SseEvent> {
        let mut events = vec![];
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> SseEvent {
    let mut parsed = SseEvent { event: None, data: String::new(), id: None };
    for line in block.lines().filter(|l| !l.is_empty() && !l.starts_with(':')) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => parsed.event = Some(value.into()),
            "data" => parsed.data.push_str(value),
            "id" => parsed.id = Some(value.into()),
            other => panic!("unknown field '{other}' in an event: {block}"),
        }
    }
    parsed
}
