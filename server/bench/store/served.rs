//! Measures the whole server on each store, in this process, over real WebSockets, with the scripted engine: the prompt cache's time to
//! first token, and the rate of one stream.

use std::{net::SocketAddr, time::Instant};

use caudal_server::{
    app::App,
    settings::{Settings, Sources},
};
use caudal_tests::{Client, DataDir, EventLog, Redis, log::kind};
use serde_json::{Value, json};

use crate::{Figure, quantile};

const HITS: usize = 1000;
/// Time to the first token without a hit. It is so long that a miss cannot look like a hit.
const PREFILL_MS: u64 = 500;
/// Rounds of streams, with one stream on each store in turn.
const ROUNDS: usize = 9;
const PACE: u32 = 120;
const PACED_TOKENS: u32 = 240;
const UNPACED_TOKENS: u32 = 2000;

/// The stores that are measured side by side.
struct Places {
    redis: Redis,
    data: Vec<DataDir>,
}

#[derive(Clone, Copy)]
enum Place {
    Memory,
    Sqlite,
    Redis,
}

const PLACES: [(&str, Place); 3] = [("memory", Place::Memory), ("sqlite", Place::Sqlite), ("Redis", Place::Redis)];

async fn serve(places: &mut Places, place: Place, settings: &[&str]) -> anyhow::Result<SocketAddr> {
    let mut overrides = vec!["server.bind=127.0.0.1:0".to_owned(), "engine.kind=scripted".into()];
    match place {
        Place::Memory => overrides.push("store.kind=memory".into()),
        Place::Sqlite => {
            // Each server has a file of its own.
            let data = DataDir::create();
            overrides.extend(["store.kind=sqlite".into(), format!("store.sqlite.path={}", data.file().display())]);
            places.data.push(data);
        }
        Place::Redis => {
            overrides.extend(["store.kind=redis".into(), format!("store.redis.url={}", places.redis.url())]);
        }
    }
    overrides.extend(settings.iter().map(|setting| setting.to_string()));
    let app = App::build(Settings::load(&Sources { files: vec![], overrides })?).await?;
    let address = app.address;
    tokio::spawn(app.run());
    Ok(address)
}

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let mut places = Places { redis: Redis::spawn(), data: vec![] };
    let mut figures = vec![];
    for (store, place) in PLACES {
        let mut hits = hits(&mut places, place).await?;
        figures.push(Figure::new(
            format!("prompt-cache hit, {store}: first token, p50 ms"),
            quantile(&mut hits, 0.5),
            "",
        ));
        let p99 = quantile(&mut hits, 0.99);
        figures.push(Figure::new(format!("prompt-cache hit, {store}: first token, p99 ms"), p99, "≤ 5"));
    }
    for (how, tokens, pace, target) in
        [("at 120 tok/s", PACED_TOKENS, f64::from(PACE), "≥ 0.97"), ("without a pace", UNPACED_TOKENS, 0.0, "")]
    {
        let speeds = speeds(&mut places, tokens, pace).await?;
        for ((store, _), speed) in PLACES.into_iter().zip(speeds) {
            figures.push(Figure::new(format!("one stream {how}, {store}: tok/s"), speed, ""));
        }
        for ((store, _), speed) in PLACES.into_iter().zip(speeds).skip(1) {
            figures.push(Figure::new(format!("one stream {how}, {store} to memory"), speed / speeds[0], target));
        }
    }
    Ok(figures)
}

/// Times from a create to its first delta, in ms, of repeated requests.
async fn hits(places: &mut Places, place: Place) -> anyhow::Result<Vec<f64>> {
    let prefill = format!("engine.scripted.prefill_ms={PREFILL_MS}");
    let address = serve(places, place, &[&prefill, "engine.scripted.tokens_per_second=0"]).await?;
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

/// Median rates of one stream on each store, in tokens a second.
async fn speeds(places: &mut Places, tokens: u32, pace: f64) -> anyhow::Result<[f64; 3]> {
    let settings = [format!("engine.scripted.tokens={tokens}"), format!("engine.scripted.tokens_per_second={pace}")];
    let settings = [settings[0].as_str(), settings[1].as_str()];
    let mut clients = vec![];
    for (_, place) in PLACES {
        clients.push(Client::extended_at(serve(places, place, &settings).await?).await);
    }
    let mut speeds = [const { vec![] }; 3];
    for round in 0..ROUNDS {
        // The first stream of a round may be slower, so the stores take turns.
        for at in (0..3).map(|at| (at + round) % 3) {
            let begun = Instant::now();
            let (_, log) = run(&mut clients[at], json!({"max_output_tokens": tokens})).await;
            anyhow::ensure!(log.usage("output_tokens") == u64::from(tokens), "{:?}", log.events.last());
            speeds[at].push(f64::from(tokens) / begun.elapsed().as_secs_f64());
        }
    }
    Ok(speeds.map(|mut speeds: Vec<f64>| quantile(&mut speeds, 0.5)))
}

/// Runs a request. Returns the seconds to the first delta, and all events.
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
