//! A WebSocket client that returns every event as JSON and every close with its code.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderName, HeaderValue, Response, header},
    },
};

use crate::{
    App, EventLog,
    log::{is_terminal, kind},
    within,
};

pub const SUBPROTOCOL: &str = "caudal.responses.v1";

/// A connection to the server.
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    /// The answer to the upgrade.
    pub handshake: Response<Option<Vec<u8>>>,
    /// WebSocket pings seen so far; each was answered.
    pub pings: usize,
}

/// A message that a client receives.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Event(Value),
    /// The connection ended, with this close code or without one.
    Closed(Option<u16>),
}

/// How to connect.
pub struct Connect {
    address: SocketAddr,
    headers: Vec<(String, String)>,
    receive_buffer: Option<u32>,
}

impl Connect {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, headers: vec![], receive_buffer: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn protocols(self, protocols: &str) -> Self {
        self.header("sec-websocket-protocol", protocols)
    }

    /// Sets the size of the kernel's receive buffer. With a small one the server soon notices a client that does not read.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Connects. Returns the HTTP answer as an error if the server refuses.
    pub async fn open(self) -> Result<Client, Response<Option<Vec<u8>>>> {
        let mut request =
            format!("ws://{}/v1/responses", self.address).into_client_request().expect("the address is a URL");
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().expect("a header's name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("the receive buffer can be set");
        }
        let stream = within("a TCP connection", socket.connect(self.address)).await.expect("the server accepts");
        match within("the upgrade", client_async_with_config(request, stream, None)).await {
            Ok((socket, handshake)) => Ok(Client { socket, handshake, pings: 0 }),
            Err(tungstenite::Error::Http(response)) => Err(*response),
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }
}

impl Client {
    /// Connects with the extensions and reads the greeting.
    pub async fn extended(app: &App) -> Self {
        Self::extended_at(app.address).await
    }

    pub async fn extended_at(address: SocketAddr) -> Self {
        let mut client = Connect::to(address).protocols(SUBPROTOCOL).open().await.expect("the server upgrades");
        let session = client.event().await;
        assert_eq!(kind(&session), "caudal:session.created", "{session}");
        client
    }

    /// Connects without a subprotocol, as official SDKs do.
    pub async fn plain(app: &App) -> Self {
        Connect::to(app.address).open().await.expect("the server upgrades")
    }

    pub fn protocol(&self) -> Option<&str> {
        self.handshake.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|p| p.to_str().ok())
    }

    pub async fn send(&mut self, event: Value) {
        self.send_message(Message::text(event.to_string())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        within("room to send", self.socket.send(message)).await.expect("the message can be sent");
    }

    /// As [`Self::send_message`], but the server may have closed the connection. Returns whether the message was sent.
    pub async fn try_send(&mut self, message: Message) -> bool {
        within("room to send", self.socket.send(message)).await.is_ok()
    }

    /// Sends a `response.create` with these fields.
    pub async fn create(&mut self, fields: Value) {
        self.send(create(fields)).await;
    }

    pub async fn resume(&mut self, id: &str, after: Option<u64>) {
        let mut resume = json!({"type": "caudal:response.resume", "response_id": id});
        if let Some(after) = after {
            resume["starting_after"] = after.into();
        }
        self.send(resume).await;
    }

    pub async fn receive(&mut self) -> Received {
        within("an event", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let event =
                            serde_json::from_str(&text).unwrap_or_else(|e| panic!("an event is JSON ({e}): {text}"));
                        return Received::Event(event);
                    }
                    Some(Ok(Message::Close(frame))) => return Received::Closed(frame.map(|f| f.code.into())),
                    Some(Ok(Message::Ping(_))) => self.pings += 1,
                    Some(Ok(Message::Pong(_))) => {}
                    Some(Ok(other)) => panic!("the server sends text only, not {other:?}"),
                    Some(Err(_)) | None => return Received::Closed(None),
                }
            }
        })
        .await
    }

    /// Reads the next event.
    pub async fn event(&mut self) -> Value {
        match self.receive().await {
            Received::Event(event) => event,
            Received::Closed(code) => panic!("expected an event, the connection was closed with {code:?}"),
        }
    }

    /// Reads the next event of this type; skips events before it.
    pub async fn event_of(&mut self, wanted: &str) -> Value {
        loop {
            let event = self.event().await;
            if kind(&event) == wanted {
                return event;
            }
            assert!(!is_terminal(&event), "expected {wanted}, and the response ended: {event}");
            assert_ne!(kind(&event), "error", "expected {wanted}: {event}");
        }
    }

    /// Reads the next event, which must be an error. Returns its code.
    pub async fn error(&mut self) -> Value {
        let event = self.event().await;
        assert_eq!(kind(&event), "error", "expected an error: {event}");
        event
    }

    /// Reads the rest of a response. The connection must carry no other response.
    pub async fn rest(&mut self, log: &mut EventLog) {
        while !log.ended() {
            let event = self.event().await;
            if kind(&event).starts_with("caudal:") {
                continue;
            }
            assert_ne!(kind(&event), "error", "an error instead of the response's next event: {event}");
            log.push(event);
        }
    }

    pub async fn response(&mut self) -> EventLog {
        let mut log = EventLog::default();
        self.rest(&mut log).await;
        log
    }

    /// Creates a response and follows it to its end.
    pub async fn run(&mut self, fields: Value) -> EventLog {
        self.create(fields).await;
        self.response().await
    }

    /// Reads the events up to the end of the connection. Returns them and the close code.
    pub async fn drain(&mut self) -> (Vec<Value>, Option<u16>) {
        within("the connection to close", async {
            let mut events = vec![];
            loop {
                match self.receive().await {
                    Received::Event(event) => events.push(event),
                    Received::Closed(code) => return (events, code),
                }
            }
        })
        .await
    }

    /// Returns the close code; skips events before it.
    pub async fn closed(&mut self) -> Option<u16> {
        self.drain().await.1
    }

    /// Sends a ping. Returns the events that arrive before the pong.
    pub async fn settle(&mut self) -> Vec<Value> {
        self.send(json!({"type": "caudal:ping"})).await;
        let mut events = vec![];
        loop {
            let event = self.event().await;
            if kind(&event) == "caudal:pong" {
                return events;
            }
            events.push(event);
        }
    }

    /// Ends the TCP connection without a close frame.
    pub fn kill(self) {
        let stream = self.socket.into_inner();
        let _ = stream.set_zero_linger();
        drop(stream);
    }
}

/// Builds a `response.create` with these fields.
pub fn create(mut fields: Value) -> Value {
    let object = fields.as_object_mut().expect("fields are an object");
    object.insert("type".into(), "response.create".into());
    object.entry("input").or_insert_with(|| "Say something.".into());
    fields
}

/// Returns `error.code` of an error event.
pub fn code(event: &Value) -> &str {
    event["error"]["code"].as_str().unwrap_or_else(|| panic!("an error has a code: {event}"))
}
