//! Measures tokens a second of the engine driven directly, and of the whole server over its WebSocket on the same engine; and the time
//! to first token that the server adds.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::engine::{Engine, mistral::MistralEngine};
use futures::future::join_all;
use serde_json::{Map, Value, json};

use crate::{Args, Figure, Stream, direct, median, served};

/// Chats of mixed length.
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
/// Pairs of requests for the median of the added time to first token.
const TTFT_PAIRS: usize = 101;
/// Pairs of chats, directly and over the server, for the comparison of their medians.
const SINGLE_PAIRS: usize = 20;
/// Pause until the engine is idle: it ends a sequence one step after the sequence's last token was sent.
const IDLE: Duration = Duration::from_millis(50);

/// One measurement: all streams together, and the longest wait between two tokens of one stream.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Speed {
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    last_first_token_seconds: f64,
    longest_gap_seconds: f64,
}

#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
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
        Self {
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            last_first_token_seconds: streams.iter().filter_map(|s| s.times.first()).map(since).fold(0.0, f64::max),
            longest_gap_seconds: streams.iter().map(Stream::longest_gap).max().unwrap_or_default().as_secs_f64(),
        }
    }

    fn better(self, other: Self) -> Self {
        if other.tokens_per_second > self.tokens_per_second { other } else { self }
    }
}

/// Measures chats at once, with an equal number of each of [`CHATS`].
async fn together<F: Future<Output = anyhow::Result<Stream>>>(
    chats: usize,
    begin: &str,
    chat: impl Fn(String) -> F,
) -> anyhow::Result<Speed> {
    let begun = Instant::now();
    let texts = (0..chats).map(|n| format!("{begin} {}. {}", n / CHATS.len(), CHATS[n % CHATS.len()]));
    let streams = join_all(texts.map(chat)).await;
    Ok(Speed::of(begun, &streams.into_iter().collect::<anyhow::Result<Vec<_>>>()?))
}

/// Measures `chat`, which runs one chat with a text.
async fn measure<F: Future<Output = anyhow::Result<Stream>>>(
    rounds: usize,
    chat: impl Fn(String) -> F,
) -> anyhow::Result<Speeds> {
    let mut best = Speeds::default();
    for round in 0..rounds {
        // Other words in each round, so that no prompt is cached.
        let begun = Instant::now();
        let stream = chat(format!("{round}. {ALONE}")).await?;
        best.single = best.single.better(Speed::of(begun, &[stream]));

        best.together = best.together.better(together(CHATS.len(), &format!("{round}"), &chat).await?);

        let begun = Instant::now();
        let mut streams = Vec::new();
        for text in CHATS {
            streams.push(chat(format!("Well, {round}. {text}")).await?);
        }
        best.one_by_one = best.one_by_one.better(Speed::of(begun, &streams));
    }
    Ok(best)
}

fn print(name: &str, speeds: &[(&str, Speed)]) {
    println!("{name:<28} {:>10} {:>8} {:>12} {:>12}", "tok/s", "tokens", "last first", "longest gap");
    for (what, speed) in speeds {
        println!(
            "  {what:<26} {:>10.1} {:>8} {:>11.2}s {:>11.2}s",
            speed.tokens_per_second, speed.tokens, speed.last_first_token_seconds, speed.longest_gap_seconds
        );
    }
}

fn print_all(name: &str, speeds: &Speeds) {
    let Speeds { single, together, one_by_one } = *speeds;
    print(name, &[("one chat", single), ("8 chats at once", together), ("8 chats one by one", one_by_one)]);
}

pub async fn rows(args: &Args, report: &mut Map<String, Value>) -> anyhow::Result<Vec<Figure>> {
    let engine = crate::engine().await?;
    let engine_alone = measure(args.rounds, |text| direct::chat(&*engine, format!("So, {text}"), args.tokens)).await?;
    print_all("the engine", &engine_alone);

    let address = served::start(engine.clone() as Arc<dyn Engine>).await?;
    let server = measure(args.rounds, |text| served::chat(address, text, args.tokens)).await?;
    print_all("the server, over WebSocket", &server);
    let (mut of_8, mut of_32) = (Speed::default(), Speed::default());
    for round in 0..args.rounds {
        let chat = |text| served::chat(address, text, args.tokens);
        of_8 = of_8.better(together(8, &format!("Eight {round}"), chat).await?);
        of_32 = of_32.better(together(32, &format!("Many {round}"), chat).await?);
    }
    print("the server, crowded", &[("8 chats at once", of_8), ("32 chats at once", of_32)]);

    let beside = beside_the_engine(&engine, address, args.tokens).await?;
    let (direct_ttft_ms, added_ttft_ms) = added_ttft(&engine, address).await?;

    report.insert("engine".into(), json!(engine_alone));
    report.insert("server".into(), json!(server));
    report.insert("crowded".into(), json!({"8": of_8, "32": of_32}));
    let ratio = |ours: Speed, other: Speed| ours.tokens_per_second / other.tokens_per_second;
    Ok(vec![
        Figure::new("8 at once / one chat", ratio(server.together, server.single), "≥ 2"),
        Figure::new("32 at once / 8 at once", ratio(of_32, of_8), "≥ 0.95"),
        Figure::new("single over the server / on the engine", beside, "≥ 0.98"),
        Figure::new("time to first token on the engine, ms", direct_ttft_ms, ""),
        Figure::new("time to first token that the server adds, ms", added_ttft_ms, "≤ 3"),
    ])
}

/// The ratio of one chat's rate over the server to its rate on the engine alone: medians of pairs. The two alternate in which is first.
async fn beside_the_engine(engine: &MistralEngine, address: SocketAddr, tokens: u32) -> anyhow::Result<f64> {
    let (mut direct, mut served) = (Vec::new(), Vec::new());
    for turn in 0..SINGLE_PAIRS * 2 {
        tokio::time::sleep(IDLE).await;
        let text = format!("Pair {turn}. {ALONE}");
        let begun = Instant::now();
        let (speeds, stream) = match turn % 4 {
            0 | 3 => (&mut direct, direct::chat(engine, text, tokens).await?),
            _ => (&mut served, served::chat(address, text, tokens).await?),
        };
        speeds.push(Speed::of(begun, &[stream]).tokens_per_second);
    }
    Ok(median(served) / median(direct))
}

/// The time to the first token of a short prompt on the engine alone, and the time that the server adds, in milliseconds: medians of
/// pairs, each request on an idle engine.
async fn added_ttft(engine: &MistralEngine, address: SocketAddr) -> anyhow::Result<(f64, f64)> {
    let mut connection = served::Connection::open(address).await?;
    let (mut direct, mut added) = (Vec::new(), Vec::new());
    for pair in 0..TTFT_PAIRS {
        // Each prompt is new, so that its last block is not cached.
        let greeting = |who| format!("Hi {who} {pair}!");
        tokio::time::sleep(IDLE).await;
        let begun = Instant::now();
        let alone = direct::chat(engine, greeting("engine"), 1).await?.times[0] - begun;
        tokio::time::sleep(IDLE).await;
        let begun = Instant::now();
        let served = connection.chat(&greeting("host"), 1).await?.times[0] - begun;
        direct.push(alone.as_secs_f64() * 1000.0);
        added.push((served.as_secs_f64() - alone.as_secs_f64()) * 1000.0);
    }
    Ok((median(direct), median(added)))
}
