//! Responses over WebSocket, with one connection for each stream.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{Options, Stopwatch, Timed};

pub async fn stream(options: &Options, address: SocketAddr, prompts: &[String]) -> Vec<Timed> {
    let mut socket = match timeout(options.patience(), connect(options, address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return vec![Stopwatch::start().failed(error)],
        Err(_) => return vec![Stopwatch::start().failed("no connection in time")],
    };
    let mut timed = vec![];
    for prompt in prompts {
        let one = response(options, &mut socket, prompt).await;
        let failed = one.failure.is_some();
        timed.push(one);
        if failed {
            return timed;
        }
    }
    let _ = socket.close(None).await;
    timed
}

async fn connect(options: &Options, address: SocketAddr) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = format!("ws://{address}/v1/responses").into_client_request().map_err(|e| e.to_string())?;
    if let Some(key) = &options.key {
        let value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|e| e.to_string())?;
        request.headers_mut().insert("authorization", value);
    }
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    Ok(client_async(request, stream).await.map_err(|e| e.to_string())?.0)
}

async fn response(options: &Options, socket: &mut WebSocketStream<TcpStream>, prompt: &str) -> Timed {
    let mut create =
        json!({"type": "response.create", "input": prompt, "max_output_tokens": options.tokens, "store": false});
    if let Some(model) = &options.model {
        create["model"] = model.as_str().into();
    }
    let mut watch = Stopwatch::start();
    if let Err(error) = socket.send(Message::text(create.to_string())).await {
        return watch.failed(error);
    }
    let mut next = 0;
    loop {
        let text = match timeout(options.patience(), socket.next()).await {
            Err(_) => return watch.failed("silence"),
            Ok(None) => return watch.failed("the connection ended"),
            Ok(Some(Err(error))) => return watch.failed(error),
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Close(frame)))) => return watch.failed(format!("closed: {frame:?}")),
            Ok(Some(Ok(_))) => continue,
        };
        let event: Value = match serde_json::from_str(&text) {
            Ok(event) => event,
            Err(error) => return watch.failed(error),
        };
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "error" {
            return watch.failed(&event["error"]["code"]);
        }
        match event["sequence_number"].as_u64() {
            Some(number) if number < next => watch.timed.out_of_order += 1,
            Some(number) => {
                watch.timed.lost += number - next;
                next = number + 1;
            }
            None => watch.timed.lost += 1,
        }
        match kind {
            "response.output_text.delta" => watch.text(),
            "response.completed" | "response.incomplete" => {
                watch.timed.tokens = event["response"]["usage"]["output_tokens"].as_u64().unwrap_or(0);
                return watch.timed;
            }
            "response.failed" => return watch.failed("response.failed"),
            _ => {}
        }
    }
}
