//! The whole server on either store, in this process, over real WebSockets, with the scripted engine: the prompt cache's time to
//! first token, and the speed of one stream.

use std::{net::SocketAddr, time::Instant};

use caudal_server::{
    app::App,
    settings::{Settings, Sources},
};
use caudal_tests::{Client, EventLog, Redis, log::kind};
use serde_json::{Value, json};

use crate::{Figure, quantile};

const HITS: usize = 1000;
/// What a hit spares, so that none can be mistaken for one.
const PREFILL_MS: u64 = 500;
/// Pairs of streams, one on each store by turns.
const PAIRS: usize = 9;
const PACE: u32 = 120;
const PACED_TOKENS: u32 = 240;
const UNPACED_TOKENS: u32 = 2000;

async fn serve(redis: Option<&Redis>, settings: &[&str]) -> anyhow::Result<SocketAddr> {
    let mut overrides = vec!["server.bind=127.0.0.1:0".to_owned(), "engine.kind=scripted".into()];
    if let Some(redis) = redis {
        overrides.extend(["store.kind=redis".into(), format!("store.redis.url={}", redis.url())]);
    }
    overrides.extend(settings.iter().map(|setting| setting.to_string()));
    let app = App::build(Settings::load(&Sources { files: vec![], overrides })?).await?;
    let address = app.address;
    tokio::spawn(app.run());
    Ok(address)
}

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let redis = Redis::spawn();
    let mut figures = vec![];
    for (store, redis) in [("memory", None), ("Redis", Some(&redis))] {
        let mut hits = hits(redis).await?;
        figures.push(Figure::new(
            format!("prompt-cache hit, {store}: first token, p50 ms"),
            quantile(&mut hits, 0.5),
            "",
        ));
        let p99 = quantile(&mut hits, 0.99);
        figures.push(Figure::new(format!("prompt-cache hit, {store}: first token, p99 ms"), p99, "≤ 5"));
    }
    let (paced, pace) = (PACED_TOKENS, f64::from(PACE));
    let (memory, shared) = pairs(&redis, paced, pace).await?;
    figures.push(Figure::new("one stream at 120 tok/s, memory: tok/s", memory, ""));
    figures.push(Figure::new("one stream at 120 tok/s, Redis: tok/s", shared, ""));
    figures.push(Figure::new("one stream at 120 tok/s, Redis to memory", shared / memory, "≥ 0.97"));
    let (memory, shared) = pairs(&redis, UNPACED_TOKENS, 0.0).await?;
    figures.push(Figure::new("one stream without a pace, memory: tok/s", memory, ""));
    figures.push(Figure::new("one stream without a pace, Redis: tok/s", shared, ""));
    figures.push(Figure::new("one stream without a pace, Redis to memory", shared / memory, ""));
    Ok(figures)
}

/// From a create to its first delta, in ms, of requests that were answered before.
async fn hits(redis: Option<&Redis>) -> anyhow::Result<Vec<f64>> {
    let prefill = format!("engine.scripted.prefill_ms={PREFILL_MS}");
    let address = serve(redis, &[&prefill, "engine.scripted.tokens_per_second=0"]).await?;
    let mut client = Client::extended_at(address).await;
    let request = json!({"input": "Tell me about rivers. ".repeat(50), "temperature": 0});
    client.run(request.clone()).await;
    let mut times = vec![];
    for _ in 0..HITS {
        let (first, log) = run(&mut client, request.clone()).await;
        let usage = &log.response()["usage"];
        anyhow::ensure!(usage["input_tokens_details"]["cached_tokens"] == usage["input_tokens"], "no hit: {usage}");
        times.push(first * 1000.0);
    }
    Ok(times)
}

/// Tokens a second of one stream, on memory and on Redis: the medians of pairs.
async fn pairs(redis: &Redis, tokens: u32, pace: f64) -> anyhow::Result<(f64, f64)> {
    let settings = [format!("engine.scripted.tokens={tokens}"), format!("engine.scripted.tokens_per_second={pace}")];
    let settings = [settings[0].as_str(), settings[1].as_str()];
    let mut clients = vec![];
    for redis in [None, Some(redis)] {
        clients.push(Client::extended_at(serve(redis, &settings).await?).await);
    }
    let mut speeds = [vec![], vec![]];
    for pair in 0..PAIRS {
        // Who is first may be slower.
        for at in [pair % 2, 1 - pair % 2] {
            let begun = Instant::now();
            let (_, log) = run(&mut clients[at], json!({"max_output_tokens": tokens})).await;
            anyhow::ensure!(log.usage("output_tokens") == u64::from(tokens), "{:?}", log.events.last());
            speeds[at].push(f64::from(tokens) / begun.elapsed().as_secs_f64());
        }
    }
    let [mut memory, mut shared] = speeds;
    Ok((quantile(&mut memory, 0.5), quantile(&mut shared, 0.5)))
}

/// Seconds from the request to the first delta, and all of the response.
async fn run(client: &mut Client, request: Value) -> (f64, EventLog) {
    let begun = Instant::now();
    client.create(request).await;
    let (mut log, mut first) = (EventLog::default(), f64::NAN);
    while first.is_nan() {
        let event = client.event().await;
        if kind(&event) == "response.output_text.delta" {
            first = begun.elapsed().as_secs_f64();
        }
        log.push(event);
    }
    client.rest(&mut log).await;
    (first, log)
}
