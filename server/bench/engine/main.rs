//! Benchmarks of the engine and of the server on it, in one run on one machine. Prints tables, and writes JSON with `--json FILE`.
//! Each group of rows is a module; `--rows` selects groups.
//!
//! ```text
//! cargo run --release -p caudal-bench --bin bench-engine -- [--rows speed,turns] [--tokens 96] [--rounds 2] [--json FILE]
//! ```

mod again;
mod bound;
mod cancels;
mod direct;
mod kv;
mod memory;
mod prefill;
mod served;
mod shared;
mod speed;
mod turns;

use std::{path::PathBuf, sync::Arc, time::Duration, time::Instant};

use caudal_server::engine::mistral::{LoadProgress, MistralConfig, MistralEngine};
use caudal_tests::figures::{self, Figure};
use clap::{Parser, ValueEnum};
use serde_json::Map;

#[derive(Parser)]
struct Args {
    /// Groups of rows; absent: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Rows>,
    /// Most tokens of a reply when speed is measured.
    #[arg(long, default_value_t = 96)]
    tokens: u32,
    /// Rounds of each measurement. The best round counts, because other work on the machine can only make a round slower.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Short chats after which memory is compared.
    #[arg(long, default_value_t = 2000)]
    chats: usize,
    /// Conversations of ten turns after which memory is compared.
    #[arg(long, default_value_t = 200)]
    conversations: usize,
    /// Replies whose client cancels or disconnects.
    #[arg(long, default_value_t = 1000)]
    cancels: usize,
    #[arg(long)]
    json: Option<PathBuf>,
    /// Ignored; cargo passes it to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Tokens a second of the engine and of the server on it, and the time to first token that the server adds.
    Speed,
    /// Time to first token over ten turns of a conversation.
    Turns,
    /// Chats that begin with the same long instructions.
    Shared,
    /// A repeated prompt.
    Again,
    /// Four streams while a long prompt is computed beside them.
    Prefill,
    /// Plain chats beside a chat with a JSON schema.
    Bound,
    /// A stream while other clients cancel or disconnect.
    Cancels,
    /// A prompt that another replica computed, or this one before a restart.
    Kv,
    /// Memory after many chats and conversations.
    Memory,
}

/// The times at which the tokens of one reply came.
#[derive(Default)]
pub struct Stream {
    pub times: Vec<Instant>,
}

impl Stream {
    /// The longest time between two tokens.
    pub fn longest_gap(&self) -> Duration {
        self.times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Loads an engine as the server does.
pub async fn engine() -> anyhow::Result<Arc<MistralEngine>> {
    Ok(Arc::new(MistralEngine::load(MistralConfig::default(), LoadProgress::default()).await?))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Map::new();
    let rows = if args.rows.is_empty() { Rows::value_variants() } else { &args.rows };
    for group in rows {
        let figures = match group {
            Rows::Speed => speed::rows(&args, &mut report).await?,
            Rows::Turns => turns::rows(&args, &mut report).await?,
            Rows::Shared => shared::rows().await?,
            Rows::Again => again::rows().await?,
            Rows::Prefill => prefill::rows().await?,
            Rows::Bound => bound::rows(&args).await?,
            Rows::Cancels => cancels::rows(&args).await?,
            Rows::Kv => kv::rows().await?,
            Rows::Memory => memory::rows(&args, &mut report).await?,
        };
        figures::tell(figures, &mut report);
    }
    if let Some(path) = args.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}
