//! A thousand replies whose clients cancel or disconnect, one after another and at different moments, beside a stream. Measures the
//! longest gap of the stream, and checks that all places are free afterwards.

use std::{net::SocketAddr, sync::Arc};

use caudal_server::engine::{Engine, mistral::MistralEngine};

use serde_json::Value;

use crate::{Args, Figure, direct, served};

/// The most events that a client reads before it leaves.
const MOMENTS: usize = 12;

/// Creates a reply and leaves after some events: cancels it if `number` is even, disconnects otherwise.
async fn leave(address: SocketAddr, number: usize) -> anyhow::Result<()> {
    let mut connection = served::Connection::open(address).await?;
    let (cancels, moment) = (number.is_multiple_of(2), number / 2 % MOMENTS);
    let text = format!("{number}: tell me a story.");
    connection.begin(&text, if cancels { 500 } else { 16 }, None).await?;
    let mut id = Value::Null;
    for _ in 0..moment.max(usize::from(cancels)) {
        let event = connection.receive().await?;
        if event["type"] == "response.created" {
            id = event["response"]["id"].clone();
        }
    }
    if !cancels {
        return Ok(());
    }
    connection.cancel(&id).await?;
    loop {
        let event = connection.receive().await?;
        match event["type"].as_str().unwrap_or_default() {
            "response.incomplete" | "response.completed" | "response.cancelled" => return Ok(()),
            "error" | "response.failed" => anyhow::bail!("{event}"),
            _ => {}
        }
    }
}

/// The longest gap of a stream, in seconds, while `cancels` clients leave.
async fn gap(engine: &Arc<MistralEngine>, address: SocketAddr, cancels: usize) -> anyhow::Result<f64> {
    let done = Arc::new(tokio::sync::Notify::new());
    let (stream, until) = (engine.clone(), done.clone());
    let streaming = tokio::spawn(async move {
        let mut longest = 0f64;
        let until = until.notified();
        tokio::pin!(until);
        // The bench runs one stream after another until the clients have left, at least one. Each has another prompt, so that
        // its prompt is computed.
        for number in 0.. {
            let text = format!("Tell me a long story about mill {number} of {cancels}.");
            let stream = direct::chat(&*stream, text, 200).await?;
            longest = longest.max(stream.longest_gap().as_secs_f64());
            if cancels == 0 || futures::FutureExt::now_or_never(until.as_mut()).is_some() {
                break;
            }
        }
        anyhow::Ok(longest)
    });
    for number in 0..cancels {
        leave(address, number).await?;
    }
    done.notify_one();
    streaming.await?
}

pub async fn rows(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let address = served::start(engine.clone() as Arc<dyn Engine>).await?;
    let quiet = gap(&engine, address, 0).await?;
    let beside = gap(&engine, address, args.cancels).await?;
    // The engine still answers.
    let all = futures::future::join_all((0..8).map(|n| direct::chat(&*engine, format!("{n}: are you there?"), 2)));
    let answered = all.await.into_iter().filter(|reply| reply.as_ref().is_ok_and(|s| s.times.len() == 2)).count();
    Ok(vec![
        Figure::new("longest gap of a stream alone, s", quiet, ""),
        Figure::new("longest gap beside a thousand that leave, s", beside, ""),
        Figure::new("chats that are answered after them", answered as f64, "all"),
    ])
}
