//! What the server costs and what it is worth, in one run on one machine: bare mistral.rs as its README uses it, on the
//! model file as published; the pool of slots driven directly; and the whole server over its WebSocket, on that same pool.
//! Prints a table, and writes JSON where `--json FILE` says.
//!
//! ```text
//! cargo run --release --example bench -- [--tokens 96] [--rounds 2] [--json FILE]
//! ```

mod bare;
mod pool;
mod served;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration, time::Instant};

use caudal_server::{
    engine::{
        Engine,
        mistral::{MistralConfig, MistralEngine, Progress},
    },
    model,
};
use clap::Parser;
use futures::future::join_all;
use serde_json::json;

/// Chats of mixed length, as they come.
const CHATS: [&str; 8] = [
    "Hi!",
    "Tell me a long story about a river and the people who live beside it.",
    "What is the capital of Portugal?",
    "Explain, step by step and for a child of ten, how a water mill turns the flow of a river into flour, and why people \
     built mills where they did.",
    "Write a poem about rain.",
    "List ten things to pack for a week of walking in the mountains, with a reason for each of them.",
    "Why is the sky blue? Answer in detail.",
    "I have three apples and buy two bags with four apples each, then give away five. How many do I have? Show your \
     reasoning, check it, and then make up a similar problem.",
];
const ALONE: &str = "Tell me about the sea and everything that lives in it.";
/// Pairs of requests that the added time to first token is the median of.
const TTFT_PAIRS: usize = 101;
/// An engine ends a sequence a step after its last token was sent; by then it has.
const IDLE: Duration = Duration::from_millis(50);

#[derive(Parser)]
struct Args {
    /// Tokens of every reply at most.
    #[arg(long, default_value_t = 96)]
    tokens: u32,
    /// Rounds of each measurement; the best counts, since other work on the machine only ever makes one slower.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    #[arg(long)]
    json: Option<PathBuf>,
    /// cargo passes it to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

/// When the tokens of one reply came.
#[derive(Default)]
pub struct Stream {
    pub times: Vec<Instant>,
}

/// One measurement: all streams together, and the longest wait between two tokens of one stream.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Speed {
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    last_first_token_seconds: f64,
    longest_gap_seconds: f64,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Speeds {
    single: Speed,
    together: Speed,
    one_by_one: Speed,
}

impl Speed {
    fn of(begun: Instant, streams: &[Stream]) -> Self {
        let since = |at: &Instant| at.duration_since(begun).as_secs_f64();
        let tokens = streams.iter().map(|s| s.times.len()).sum();
        let seconds = streams.iter().filter_map(|s| s.times.last()).map(since).fold(1e-9, f64::max);
        let gaps = streams.iter().flat_map(|s| s.times.windows(2).map(|pair| pair[1].duration_since(pair[0])));
        Self {
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            last_first_token_seconds: streams.iter().filter_map(|s| s.times.first()).map(since).fold(0.0, f64::max),
            longest_gap_seconds: gaps.max().unwrap_or(Duration::ZERO).as_secs_f64(),
        }
    }

    fn better(self, other: Self) -> Self {
        if other.tokens_per_second > self.tokens_per_second { other } else { self }
    }
}

/// Measures whatever answers a chat.
async fn measure<F: Future<Output = anyhow::Result<Stream>>>(
    rounds: usize,
    chat: impl Fn(String) -> F,
) -> anyhow::Result<Speeds> {
    let mut best = Speeds { single: Speed::default(), together: Speed::default(), one_by_one: Speed::default() };
    for round in 0..rounds {
        // Other words every round, so that no prefix cache answers.
        let begun = Instant::now();
        let stream = chat(format!("{round}. {ALONE}")).await?;
        best.single = best.single.better(Speed::of(begun, &[stream]));

        let begun = Instant::now();
        let streams = join_all(CHATS.iter().map(|text| chat(format!("{round}. {text}")))).await;
        best.together =
            best.together.better(Speed::of(begun, &streams.into_iter().collect::<anyhow::Result<Vec<_>>>()?));

        let begun = Instant::now();
        let mut streams = Vec::new();
        for text in CHATS {
            streams.push(chat(format!("Well, {round}. {text}")).await?);
        }
        best.one_by_one = best.one_by_one.better(Speed::of(begun, &streams));
    }
    Ok(best)
}

fn print(name: &str, speeds: &Speeds) {
    println!("{name:<28} {:>10} {:>8} {:>12} {:>12}", "tok/s", "tokens", "last first", "longest gap");
    let Speeds { single, together, one_by_one } = speeds;
    for (what, speed) in [("one chat", single), ("8 chats at once", together), ("8 chats one by one", one_by_one)] {
        println!(
            "  {what:<26} {:>10.1} {:>8} {:>11.2}s {:>11.2}s",
            speed.tokens_per_second, speed.tokens, speed.last_first_token_seconds, speed.longest_gap_seconds
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dir = model::default_dir();
    let published = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");

    let engine = bare::load(&published).await?;
    let bare = measure(args.rounds, |text| bare::chat(&engine, text, args.tokens)).await?;
    print("bare mistral.rs", &bare);
    drop(engine);

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = Arc::new(MistralEngine::load(MistralConfig::default(), Progress::default()).await?);
    engine.loaded().await;
    let slots = engine.status()[0].slots;
    let pool = measure(args.rounds, |text| pool::chat(&*engine, format!("So, {text}"), args.tokens)).await?;
    print(&format!("the pool, {slots} slots"), &pool);

    let address = served::start(engine.clone() as Arc<dyn Engine>).await?;
    let server = measure(args.rounds, |text| served::chat(address, text, args.tokens)).await?;
    print("the server, over WebSocket", &server);

    let (direct_ttft_ms, added_ttft_ms) = added_ttft(&engine, address).await?;
    let ratio = |ours: Speed, bare: Speed| ours.tokens_per_second / bare.tokens_per_second;
    let ratios = json!({
        "single_vs_bare": ratio(server.single, bare.single),
        "together_vs_bare_together": ratio(server.together, bare.together),
        "together_vs_bare_one_by_one": ratio(server.together, bare.one_by_one),
        "single_vs_pool": ratio(server.single, pool.single),
        "direct_ttft_ms": direct_ttft_ms,
        "added_ttft_ms": added_ttft_ms,
    });
    println!();
    for (name, target) in [
        ("single_vs_bare", "≥ 1.5"),
        ("together_vs_bare_together", "≥ 10"),
        ("together_vs_bare_one_by_one", "≥ 1.4"),
        ("single_vs_pool", ""),
        ("direct_ttft_ms", ""),
        ("added_ttft_ms", "≤ 3"),
    ] {
        println!("{name:<30} {:>8.2}   {target}", ratios[name].as_f64().unwrap_or(f64::NAN));
    }
    if let Some(path) = args.json {
        let report =
            json!({"cores": cores, "slots": slots, "bare": bare, "pool": pool, "server": server, "ratios": ratios});
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Milliseconds to the first token of a short prompt, driven directly, and what the server adds to them: medians of pairs,
/// in turn directly and over the WebSocket, each on an idle pool.
async fn added_ttft(engine: &MistralEngine, address: std::net::SocketAddr) -> anyhow::Result<(f64, f64)> {
    let mut connection = served::Connection::open(address).await?;
    let (mut direct, mut added) = (Vec::new(), Vec::new());
    for _ in 0..TTFT_PAIRS {
        tokio::time::sleep(IDLE).await;
        let begun = Instant::now();
        let alone = pool::chat(engine, "Hi!".into(), 1).await?.times[0] - begun;
        tokio::time::sleep(IDLE).await;
        let begun = Instant::now();
        let served = connection.chat("Hi!", 1).await?.times[0] - begun;
        direct.push(alone.as_secs_f64() * 1000.0);
        added.push((served.as_secs_f64() - alone.as_secs_f64()) * 1000.0);
    }
    Ok((median(direct), median(added)))
}
