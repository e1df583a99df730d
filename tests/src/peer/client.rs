//! One chat completion over SSE, timed piece by piece.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use super::{Options, server::Server};

/// A chat to send: its messages and the length of the reply.
#[derive(Debug, Clone)]
pub struct Chat {
    /// Objects with `role` and `content`.
    pub messages: Vec<Value>,
    /// The maximum number of tokens of the reply.
    pub tokens: u32,
    /// Seed of the sampler.
    pub seed: u32,
}

/// A reply as the client saw it.
#[derive(Debug, Clone)]
pub struct Reply {
    /// When the request was sent.
    pub sent: Instant,
    /// When each piece of text arrived; never empty.
    pub arrivals: Vec<Instant>,
    pub text: String,
    /// The number of tokens of the reply: the server's count, or else the number of pieces.
    pub tokens: u64,
    /// Tokens of the prompt, if the server counts them.
    pub prompt_tokens: Option<u64>,
    /// The number of tokens of the prompt that the server had cached, if it reports them.
    pub cached_tokens: Option<u64>,
}

impl Reply {
    pub fn first(&self) -> Instant {
        self.arrivals.first().copied().unwrap_or(self.sent)
    }

    pub fn last(&self) -> Instant {
        self.arrivals.last().copied().unwrap_or(self.sent)
    }

    /// Returns the time from the request to the first text.
    pub fn first_token(&self) -> Duration {
        self.first() - self.sent
    }

    /// Returns the tokens a second after the first one; `None` for a reply of one piece.
    pub fn decode_rate(&self) -> Option<f64> {
        let seconds = (self.last() - self.first()).as_secs_f64();
        (seconds > 0.0).then(|| self.tokens.saturating_sub(1) as f64 / seconds)
    }

    /// Returns the longest time without text that overlaps the time from `begin` to `end`.
    pub fn longest_gap(&self, begin: Instant, end: Instant) -> Option<Duration> {
        let pairs = self.arrivals.iter().zip(self.arrivals.iter().skip(1));
        pairs.filter(|(before, after)| **after > begin && **before < end).map(|(before, after)| *after - *before).max()
    }
}

/// Returns the longest time to wait for data of a server.
pub fn patience(options: &Options) -> Duration {
    Duration::from_secs(options.patience_s)
}

/// Opens a connection to the server.
pub async fn open(server: &Server, options: &Options) -> Result<SendRequest<Full<Bytes>>, String> {
    let connect = TcpStream::connect(server.address);
    let stream = timeout(patience(options), connect).await.map_err(|_| "no connection in time")?;
    let stream = stream.map_err(|e| format!("the server cannot be reached: {e}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a chat and reads its reply to the end.
pub async fn chat(server: &Server, options: &Options, chat: &Chat) -> Result<Reply, String> {
    exchange(server, options, chat, None).await
}

/// As [`chat`]; fires `running` when a few pieces of the reply have arrived.
pub async fn chat_that_signals(
    server: &Server,
    options: &Options,
    chat: &Chat,
    running: oneshot::Sender<()>,
) -> Result<Reply, String> {
    exchange(server, options, chat, Some(running)).await
}

/// After this many pieces of its reply a chat counts as running.
const RUNNING: usize = 16;

async fn exchange(
    server: &Server,
    options: &Options,
    chat: &Chat,
    mut running: Option<oneshot::Sender<()>>,
) -> Result<Reply, String> {
    let mut sender = open(server, options).await?;
    let request = request(server, options, chat)?;
    let sent = Instant::now();
    let answer = timeout(patience(options), sender.send_request(request)).await.map_err(|_| "no answer in time")?;
    let response = answer.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let (mut body, mut reader) = (response.into_body(), Reader::new(sent));
    while !reader.done {
        let frame = timeout(patience(options), body.frame()).await.map_err(|_| "the stream fell silent")?;
        let Some(frame) = frame else { break };
        reader.read(frame.map_err(|e| e.to_string())?.data_ref().map_or(&[][..], |data| data), Instant::now())?;
        if reader.reply.arrivals.len() >= RUNNING
            && let Some(running) = running.take()
        {
            let _ = running.send(());
        }
    }
    reader.finish()
}

fn request(server: &Server, options: &Options, chat: &Chat) -> Result<Request<Full<Bytes>>, String> {
    let mut body = json!({"model": server.model, "messages": chat.messages, "max_tokens": chat.tokens, "stream": true,
        "stream_options": {"include_usage": true}, "temperature": options.temperature, "seed": chat.seed});
    if !options.ban.is_empty() {
        body["logit_bias"] = options.ban.iter().map(|id| (id.to_string(), json!(-100))).collect();
    }
    Request::post("/v1/chat/completions")
        .header("host", server.address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| e.to_string())
}

/// Reads why the server refused a request.
async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
    format!("the server answered {status}: {text}")
}

/// Reads the events of a stream into a reply.
struct Reader {
    buffer: Vec<u8>,
    reply: Reply,
    done: bool,
}

impl Reader {
    fn new(sent: Instant) -> Self {
        let (arrivals, text) = (vec![], String::new());
        let reply = Reply { sent, arrivals, text, tokens: 0, prompt_tokens: None, cached_tokens: None };
        Self { buffer: vec![], reply, done: false }
    }

    /// Reads bytes of the body that arrived at `now`.
    fn read(&mut self, bytes: &[u8], now: Instant) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                Some(b"[DONE]") => self.done = true,
                Some(data) => self.chunk(&serde_json::from_slice(data).map_err(|e| e.to_string())?, now)?,
                None => {}
            }
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: &Value, now: Instant) -> Result<(), String> {
        if !chunk["error"].is_null() {
            return Err(format!("the stream failed: {}", chunk["error"]));
        }
        let usage = &chunk["usage"];
        if let Some(tokens) = usage["completion_tokens"].as_u64() {
            self.reply.tokens = tokens;
            self.reply.prompt_tokens = usage["prompt_tokens"].as_u64();
            self.reply.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        }
        let delta = &chunk["choices"][0]["delta"];
        let pieces = ["content", "reasoning_content"].into_iter().filter_map(|key| delta[key].as_str());
        let text: String = pieces.collect();
        if !text.is_empty() {
            self.reply.arrivals.push(now);
            self.reply.text.push_str(&text);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Reply, String> {
        if self.reply.arrivals.is_empty() {
            return Err("the reply has no text".into());
        }
        if !self.done {
            return Err("the stream ended without [DONE]".into());
        }
        if self.reply.tokens == 0 {
            self.reply.tokens = self.reply.arrivals.len() as u64;
        }
        Ok(self.reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(piece: &str) -> String {
        format!("data: {}\n\n", json!({"choices": [{"delta": {"content": piece}}]}))
    }

    #[test]
    fn a_reply_is_read_from_any_cut_of_its_bytes() {
        let usage = json!({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 30,
            "prompt_tokens_details": {"cached_tokens": 2}}});
        let role = "data: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\": null}}]}\r\n\r\n";
        let stream = format!("{role}: comment\n\n{}{}data: {usage}\n\ndata: [DONE]\n\n", text("one"), text(" two é"));
        for cut in 0..stream.len() {
            let mut reader = Reader::new(Instant::now());
            reader.read(&stream.as_bytes()[..cut], Instant::now()).expect("the first part");
            reader.read(&stream.as_bytes()[cut..], Instant::now()).expect("the second part");
            let reply = reader.finish().expect("a reply");
            assert_eq!(reply.text, "one two é");
            assert_eq!((reply.arrivals.len(), reply.tokens), (2, 5));
            assert_eq!((reply.prompt_tokens, reply.cached_tokens), (Some(30), Some(2)));
        }
    }

    #[test]
    fn pieces_are_counted_where_the_server_counts_nothing() {
        let mut reader = Reader::new(Instant::now());
        reader.read(format!("{}{}data: [DONE]\n", text("a"), text("b")).as_bytes(), Instant::now()).expect("a stream");
        let reply = reader.finish().expect("a reply");
        assert_eq!((reply.tokens, reply.prompt_tokens), (2, None));
    }

    #[test]
    fn a_stream_that_fails_or_breaks_off_is_an_error() {
        let mut reader = Reader::new(Instant::now());
        let error = reader.read(b"data: {\"error\": {\"message\": \"out of memory\"}}\n\n", Instant::now());
        assert!(error.is_err_and(|e| e.contains("out of memory")));
        assert!(Reader::new(Instant::now()).finish().is_err());
        let mut reader = Reader::new(Instant::now());
        reader.read(text("a").as_bytes(), Instant::now()).expect("a piece");
        assert!(reader.finish().is_err_and(|e| e.contains("[DONE]")));
    }

    #[test]
    fn rates_and_gaps_come_from_the_arrivals() {
        let sent = Instant::now();
        let at = |ms| sent + Duration::from_millis(ms);
        let mut reader = Reader::new(sent);
        for ms in [100, 110, 400, 1100] {
            reader.read(text("x").as_bytes(), at(ms)).expect("a piece");
        }
        reader.read(b"data: [DONE]\n", at(1100)).expect("the end");
        let reply = reader.finish().expect("a reply");
        assert_eq!(reply.first_token(), Duration::from_millis(100));
        assert_eq!(reply.decode_rate(), Some(3.0));
        assert_eq!(reply.longest_gap(at(105), at(390)), Some(Duration::from_millis(290)));
        assert_eq!(reply.longest_gap(at(200), at(500)), Some(Duration::from_millis(700)));
        assert_eq!(reply.longest_gap(at(1100), at(2000)), None);
    }
}
