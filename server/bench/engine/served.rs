//! The whole server in this process, and a minimal WebSocket client that speaks to it over a real socket.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Instant,
};

use anyhow::{bail, ensure};
use caudal_server::{
    app::App,
    engine::Engine,
    settings::{Settings, Sources},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::Stream;

pub async fn start(engine: Arc<dyn Engine>) -> anyhow::Result<SocketAddr> {
    let settings = Settings::load(&Sources { files: vec![], overrides: vec!["store.kind=memory".into()] })?;
    let app = App::new(settings, TcpListener::bind("127.0.0.1:0")?, engine)?;
    let address = app.address;
    tokio::spawn(app.run());
    Ok(address)
}

/// Runs one chat on a connection of its own.
pub async fn chat(address: SocketAddr, text: String, tokens: u32) -> anyhow::Result<Stream> {
    Connection::open(address).await?.chat(&text, tokens).await
}

pub struct Connection {
    socket: BufReader<TcpStream>,
    /// The response that the next turn continues.
    last: Option<String>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "GET /v1/responses HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        ensure!(line.contains("101"), "the upgrade was answered {line}");
        while line.trim_end() != "" {
            line.clear();
            stream.read_line(&mut line).await?;
        }
        Ok(Self { socket: stream, last: None })
    }

    pub async fn chat(&mut self, text: &str, tokens: u32) -> anyhow::Result<Stream> {
        self.turn(text, tokens, false).await
    }

    /// Runs one turn; if `continues`, of the conversation so far.
    pub async fn turn(&mut self, text: &str, tokens: u32, continues: bool) -> anyhow::Result<Stream> {
        let previous = self.last.take().filter(|_| continues);
        self.begin(text, tokens, previous).await?;
        let mut stream = Stream::default();
        loop {
            let event = self.receive().await?;
            match event["type"].as_str().unwrap_or_default() {
                "response.output_text.delta" => stream.times.push(Instant::now()),
                "response.completed" | "response.incomplete" => {
                    self.last = event["response"]["id"].as_str().map(Into::into);
                    // A delta without text is not an event, so the server's count of tokens holds.
                    let counted = event["response"]["usage"]["output_tokens"].as_u64().unwrap_or(0) as usize;
                    ensure!(stream.times.len() <= counted, "more deltas than tokens");
                    while let Some(last) = stream.times.last().copied().filter(|_| stream.times.len() < counted) {
                        stream.times.push(last);
                    }
                    return Ok(stream);
                }
                "error" | "response.failed" => bail!("{event}"),
                _ => {}
            }
        }
    }

    /// Sends a create without waiting for the answer.
    pub async fn begin(&mut self, text: &str, tokens: u32, previous: Option<String>) -> anyhow::Result<()> {
        let create = json!({
            "type": "response.create",
            "input": text,
            "temperature": 0,
            // The engine is measured, not the prompt cache.
            "cache": {"mode": "off"},
            "max_output_tokens": tokens,
            "previous_response_id": previous,
        });
        self.send(&create).await
    }

    /// Cancels the response with this id.
    pub async fn cancel(&mut self, id: &Value) -> anyhow::Result<()> {
        self.send(&json!({"type": "response.cancel", "response_id": id})).await
    }

    /// Sends a text frame with a mask of zeros.
    async fn send(&mut self, event: &Value) -> anyhow::Result<()> {
        let text = event.to_string();
        let length = u16::try_from(text.len())?.to_be_bytes();
        let head = [0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
        Ok(self.socket.get_mut().write_all(&[&head, text.as_bytes()].concat()).await?)
    }

    pub async fn receive(&mut self) -> anyhow::Result<Value> {
        loop {
            let opcode = self.socket.read_u8().await? & 0x0f;
            let length = match self.socket.read_u8().await? & 0x7f {
                126 => u64::from(self.socket.read_u16().await?),
                127 => self.socket.read_u64().await?,
                short => u64::from(short),
            };
            let mut body = vec![0; usize::try_from(length)?];
            self.socket.read_exact(&mut body).await?;
            match opcode {
                1 => return Ok(serde_json::from_slice(&body)?),
                8 => bail!("the server closed the connection"),
                _ => {}
            }
        }
    }
}
