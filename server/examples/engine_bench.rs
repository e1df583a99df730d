//! Measures, in one run and on one machine, what the pool of slots is worth: bare mistral.rs as its examples use it, on the
//! model file as published, against `MistralEngine` on the repacked one. Prints a table and a line of JSON.
//!
//! ```text
//! cargo run --release --example engine_bench -- [--tokens 96] [--slots 8] [--threads N] [--only bare|ours] [--model FILE]
//! ```

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use caudal_server::{
    engine::{
        Engine, GenerateRequest, Message, Role, Sampling,
        mistral::{MistralConfig, MistralEngine, default_slots, default_threads},
    },
    model,
};
use clap::Parser;
use either::Either;
use futures::future::join_all;
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig, MistralRs,
    MistralRsBuilder, ModelDType, NormalRequest, Request, RequestMessage, Response, SamplingParams, SchedulerConfig,
    TokenSource,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Chats of mixed length, as they come.
const CHATS: [&str; 8] = [
    "Hi!",
    "Tell me a long story about a river and the people who live beside it.",
    "What is the capital of Portugal?",
    "Explain, step by step and for a child of ten, how a water mill turns the flow of a river into flour, and why people built \
     mills where they did.",
    "Write a poem about rain.",
    "List ten things to pack for a week of walking in the mountains, with a reason for each of them.",
    "Why is the sky blue? Answer in detail.",
    "I have three apples and buy two bags with four apples each, then give away five. How many do I have? Show your reasoning, \
     check it, and then make up a similar problem.",
];

#[derive(Parser)]
struct Args {
    /// Tokens of every reply at most.
    #[arg(long, default_value_t = 96)]
    tokens: u32,
    #[arg(long)]
    slots: Option<usize>,
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long)]
    only: Option<String>,
    /// For the pool; the bare engine gets the file as published.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Rounds of each measurement; the best counts.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

/// One measurement: tokens and seconds of all streams together, and the longest wait between two tokens of one stream.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Speed {
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    first_token_seconds: f64,
    longest_gap_seconds: f64,
}

#[derive(Default)]
struct Stream {
    times: Vec<Instant>,
}

fn speed(begun: Instant, streams: &[Stream]) -> Speed {
    let tokens = streams.iter().map(|stream| stream.times.len()).sum::<usize>();
    let last = streams.iter().filter_map(|stream| stream.times.last()).max().copied().unwrap_or(begun);
    let seconds = last.duration_since(begun).as_secs_f64();
    let gaps = streams.iter().flat_map(|stream| stream.times.windows(2).map(|pair| pair[1].duration_since(pair[0])));
    Speed {
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds.max(1e-9),
        first_token_seconds: streams
            .iter()
            .filter_map(|stream| stream.times.first())
            .max()
            .map_or(0.0, |first| first.duration_since(begun).as_secs_f64()),
        longest_gap_seconds: gaps.max().unwrap_or(Duration::ZERO).as_secs_f64(),
    }
}

/// Tokens a second of one stream after its first token.
fn decode_speed(stream: &Stream) -> f64 {
    match stream.times.as_slice() {
        [first, .., last] => (stream.times.len() - 1) as f64 / last.duration_since(*first).as_secs_f64(),
        _ => 0.0,
    }
}

mod bare {
    use super::*;

    pub async fn load(path: &Path) -> anyhow::Result<Arc<MistralRs>> {
        let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
        let folder = path.parent().context("a folder")?.to_string_lossy().into_owned();
        let loader =
            GGUFLoaderBuilder::new(None, None, folder, vec![name], GGUFSpecificConfig::default(), false, None).build();
        let pipeline = loader.load_model_from_hf(
            None,
            TokenSource::None,
            &ModelDType::Auto,
            &candle_core::Device::Cpu,
            true,
            DeviceMapSetting::dummy(),
            None,
            None,
        )?;
        let method = DefaultSchedulerMethod::Fixed(NonZeroUsize::new(16).context("not 0")?);
        Ok(MistralRsBuilder::new(pipeline, SchedulerConfig::DefaultScheduler { method }, false, None).build().await)
    }

    pub async fn chat(engine: &MistralRs, text: &str, tokens: u32) -> anyhow::Result<Stream> {
        let (sender, mut answers) = mpsc::channel(256);
        let message = IndexMap::from([
            ("role".to_owned(), Either::Left("user".to_owned())),
            ("content".to_owned(), Either::Left(text.to_owned())),
        ]);
        let request = Request::Normal(Box::new(NormalRequest {
            messages: RequestMessage::Chat { messages: vec![message], enable_thinking: None, reasoning_effort: None },
            sampling_params: SamplingParams { max_len: Some(tokens as usize), ..SamplingParams::deterministic() },
            response: sender,
            return_logprobs: false,
            is_streaming: true,
            id: engine.next_request_id(),
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: None,
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }));
        let sender = engine.get_sender(None).map_err(|error| anyhow!("{error:?}"))?;
        sender.send(request).await.map_err(|_| anyhow!("the engine is gone"))?;
        let mut stream = Stream::default();
        while let Some(answer) = answers.recv().await {
            match answer {
                Response::Chunk(chunk) => {
                    stream.times.push(Instant::now());
                    if chunk.choices.iter().any(|choice| choice.finish_reason.is_some()) {
                        break;
                    }
                }
                Response::Done(_) => break,
                other => return Err(anyhow!("unexpected answer: {:?}", other.as_result().err())),
            }
        }
        Ok(stream)
    }
}

mod ours {
    use super::*;

    pub async fn chat(engine: &MistralEngine, text: &str, tokens: u32) -> anyhow::Result<Stream> {
        let model = engine.models()[0].id.clone();
        let prompt = engine.tokenize(&model, &[Message { role: Role::User, content: text.into() }])?;
        let request = GenerateRequest {
            prompt,
            output: Vec::new(),
            sampling: Sampling { temperature: 0.0, top_p: 1.0, top_k: None, min_p: 0.0, seed: 0 },
            stop: Vec::new(),
            max_output_tokens: tokens,
            cancel: CancellationToken::new(),
        };
        let mut deltas = engine.generate(&model, request)?;
        let mut stream = Stream::default();
        while let Some(delta) = deltas.recv().await {
            if !delta.tokens.is_empty() {
                stream.times.push(Instant::now());
            }
        }
        Ok(stream)
    }
}

/// The best of some rounds: other work on the machine only ever makes one slower.
fn best(speeds: Vec<Speed>) -> Speed {
    speeds.into_iter().max_by(|a, b| a.tokens_per_second.total_cmp(&b.tokens_per_second)).unwrap_or_default()
}

macro_rules! measure {
    ($rounds:expr, $chat:expr) => {{
        let (mut single, mut together, mut serial, mut decode) = (Vec::new(), Vec::new(), Vec::new(), 0f64);
        for round in 0..$rounds {
            // Other words every round, so that the prefix cache does not answer.
            let text = |chat: &str| format!("{round}. {chat}");
            let begun = Instant::now();
            let stream = $chat(text("Tell me about the sea and everything that lives in it.")).await?;
            decode = decode.max(decode_speed(&stream));
            single.push(speed(begun, &[stream]));
            let begun = Instant::now();
            let streams = join_all(CHATS.iter().map(|chat| $chat(text(chat)))).await;
            together.push(speed(begun, &streams.into_iter().collect::<anyhow::Result<Vec<_>>>()?));
            let begun = Instant::now();
            let mut streams = Vec::new();
            for chat in CHATS {
                streams.push($chat(text(&format!("Well. {chat}"))).await?);
            }
            serial.push(Speed { longest_gap_seconds: 0.0, first_token_seconds: 0.0, ..speed(begun, &streams) });
        }
        (decode, best(single), best(together), best(serial))
    }};
}

fn print(name: &str, (decode, single, together, serial): (f64, Speed, Speed, Speed)) -> serde_json::Value {
    println!("{name:<28} {:>12} {:>12} {:>12} {:>12}", "tok/s", "tokens", "last first", "longest gap");
    for (what, speed) in [("one stream", single), ("8 chats at once", together), ("8 chats one by one", serial)] {
        println!(
            "  {what:<26} {:>12.1} {:>12} {:>11.2}s {:>11.2}s",
            speed.tokens_per_second, speed.tokens, speed.first_token_seconds, speed.longest_gap_seconds
        );
    }
    println!("  {:<26} {decode:>12.1}", "one stream, decode alone");
    serde_json::json!({ "decode": decode, "single": single, "together": together, "one_by_one": serial })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dir = model::default_dir();
    let published = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let served =
        args.model.clone().or_else(|| model::default_file(&dir)).context("no model: run `caudal model pull`")?;
    let wants = |what: &str| args.only.as_deref().is_none_or(|only| only == what);
    let mut report = serde_json::Map::new();

    let mut bare_result = None;
    if wants("bare") {
        let engine = bare::load(&published).await?;
        let result = measure!(args.rounds, |text: String| {
            let engine = &engine;
            async move { bare::chat(engine, &text, args.tokens).await }
        });
        report.insert("bare".into(), print("bare mistral.rs, Q4_1", result));
        bare_result = Some(result);
    }
    if wants("ours") {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = args.slots.unwrap_or_else(|| default_slots(cores, 16 << 30));
        let begun = Instant::now();
        let engine = MistralEngine::load(MistralConfig {
            model_path: served.clone(),
            model_id: "bench".into(),
            slots,
            threads_per_slot: args.threads.unwrap_or_else(|| default_threads(slots, cores)),
            prefix_cache_bytes: 256 << 20,
            context_length: None,
        })
        .await?;
        println!("{} in {slots} slots, loaded in {:.1} s", served.display(), begun.elapsed().as_secs_f64());
        let result = measure!(args.rounds, |text: String| {
            let engine = &engine;
            async move { ours::chat(engine, &text, args.tokens).await }
        });
        report.insert("ours".into(), print("caudal", result));
        if let Some(bare) = bare_result {
            let ratio = |ours: Speed, bare: Speed| ours.tokens_per_second / bare.tokens_per_second;
            let (single, together, serial) =
                (ratio(result.1, bare.1), ratio(result.2, bare.2), ratio(result.2, bare.3));
            println!(
                "one stream: {single:.2}x   8 chats: {together:.1}x of bare at once, {serial:.2}x of bare one by one"
            );
            report.insert(
                "ratio".into(),
                serde_json::json!({ "single": single, "together": together, "one_by_one": serial }),
            );
        }
    }
    println!("{}", serde_json::Value::Object(report));
    Ok(())
}
