//! Chat completions over SSE, for any OpenAI-compatible server.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use super::{Options, Stopwatch, Timed};

pub async fn stream(options: &Options, address: SocketAddr, prompts: &[String]) -> Vec<Timed> {
    let mut timed = vec![];
    for prompt in prompts {
        let mut watch = Stopwatch::start();
        timed.push(match completion(options, address, prompt, &mut watch).await {
            Ok(()) => watch.timed,
            Err(error) => watch.failed(error),
        });
    }
    timed
}

async fn completion(options: &Options, address: SocketAddr, prompt: &str, watch: &mut Stopwatch) -> Result<(), String> {
    let patience = options.patience();
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let body = json!({"model": options.model.as_deref().unwrap_or("default"), "stream": true, "max_tokens": options.tokens,
        "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": prompt}]});
    let mut request = Request::post("/v1/chat/completions")
        .header("host", address.to_string())
        .header("content-type", "application/json");
    if let Some(key) = &options.key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())?;
    let response =
        timeout(patience, sender.send_request(request)).await.map_err(|_| "silence")?.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let (mut body, mut buffer, mut finished) = (response.into_body(), Vec::new(), false);
    while let Some(frame) = timeout(patience, body.frame()).await.map_err(|_| "silence")? {
        let frame = frame.map_err(|e| e.to_string())?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                return if finished { Ok(()) } else { Err("[DONE] without a finish_reason".into()) };
            }
            let chunk: Value = serde_json::from_slice(data).map_err(|e| e.to_string())?;
            finished |= read_chunk(&chunk, watch);
        }
    }
    Err("the stream ended without [DONE]".into())
}

/// Records a chunk. Returns whether the reply has ended.
fn read_chunk(chunk: &Value, watch: &mut Stopwatch) -> bool {
    if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
        watch.timed.tokens = tokens;
    }
    let choice = &chunk["choices"][0];
    if choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
        watch.text();
    }
    choice["finish_reason"].is_string()
}
