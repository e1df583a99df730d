//! Measures the stores: Redis on servers of its own, the embedded store in folders of its own, and memory. Prints tables, and writes
//! JSON with `--json FILE`. Each group of rows is a module; `--rows` selects groups.
//!
//! ```text
//! cargo run --release --no-default-features -p caudal-bench --bin bench-store -- [--rows latency,replay] [--json FILE]
//! ```

mod conversations;
mod embedded;
mod latency;
mod replay;
mod served;

use std::{path::PathBuf, sync::Arc, time::Duration};

use caudal_server::{
    engine::Finish,
    store::{
        Created, Entry, Header, LOG_VERSION, Lease, Retention, Store,
        quota::StorageQuotas,
        redis::{RedisConfig, RedisStore},
        sqlite::{self, SqliteStore},
    },
    wire::{
        request::Create,
        response::{InputTokensDetails, OutputTokensDetails, Usage},
    },
};
use caudal_tests::{
    DataDir, Redis,
    figures::{self, Figure},
};
use clap::{Parser, ValueEnum};
use serde_json::{Map, json};

#[derive(Parser)]
struct Args {
    /// Groups of rows; absent: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Rows>,
    /// Stored conversations that are compared with a thousand.
    #[arg(long, default_value_t = 1_000_000)]
    conversations: usize,
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Time from an append to a follower on another replica; a resume; bytes and CPU of Redis.
    Latency,
    /// Rendered events a second of stored responses.
    Replay,
    /// The prompt cache's time to first token, and the speed of one stream on each store, over a WebSocket.
    Served,
    /// A million stored conversations against a thousand, on Redis and on the embedded store.
    Conversations,
    /// Appends on the embedded store against appends on memory; bytes of a token.
    Embedded,
}

const TENANT: &str = "t";

fn retention() -> Retention {
    let long = Duration::from_secs(3600);
    Retention { default: long, tenants: Default::default(), resume_window: long }
}

fn quotas() -> StorageQuotas {
    StorageQuotas { default: Default::default(), tenants: Default::default(), parts: 1 }
}

fn store(redis: &Redis, replica: &str) -> RedisStore {
    let config = RedisConfig {
        url: redis.url(),
        sentinel: Default::default(),
        prefix: "bench".into(),
        timeout: Duration::from_secs(5),
        retention: retention(),
        replica: replica.into(),
        lease: Duration::from_secs(5),
        quotas: quotas(),
        max_bytes: 0,
    };
    RedisStore::new(config).expect("a store")
}

fn embedded(data: &DataDir) -> SqliteStore {
    let config = sqlite::SqliteConfig {
        path: data.file(),
        max_bytes: 0,
        retention: retention(),
        quotas: quotas(),
        process: "a".into(),
    };
    SqliteStore::open(config).expect("a store")
}

async fn created(store: &dyn Store, id: &str) -> Lease {
    let create = Create::from_value(json!({"input": "x"})).expect("a request");
    let header = Header {
        version: LOG_VERSION,
        id: id.into(),
        tenant: TENANT.into(),
        created_at: 0,
        model: "m".into(),
        spec: create.into(),
        prompt: vec![1; 50],
        seed: 1,
        max_output_tokens: 100_000,
        dialect: Default::default(),
        left_out: Default::default(),
        holding: Default::default(),
        sharing: None,
        on_disconnect: Default::default(),
        origin: Default::default(),
        key_quota: None,
    };
    match store.create(header).await.expect("create") {
        Created::New(lease) => lease,
        Created::Existing(id) => panic!("{id} exists"),
    }
}

fn token(n: u32) -> Arc<Entry> {
    Arc::new(Entry::Delta { tokens: vec![20_000 + n], text: " token".into(), logprobs: vec![], cached_tokens: None })
}

fn finished() -> Arc<Entry> {
    let usage = Usage {
        input_tokens: 0,
        input_tokens_details: InputTokensDetails { cached_tokens: 0 },
        output_tokens: 0,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
        total_tokens: 0,
    };
    Arc::new(Entry::Finished { finish: Finish::Stop, usage, completed_at: 0 })
}

/// The value below which this share of `values` lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Map::new();
    let rows = if args.rows.is_empty() { Rows::value_variants() } else { &args.rows };
    for group in rows {
        let figures = match group {
            Rows::Latency => latency::rows().await,
            Rows::Replay => replay::rows(),
            Rows::Served => served::rows().await?,
            Rows::Conversations => conversations::rows(args.conversations).await,
            Rows::Embedded => embedded::rows().await,
        };
        figures::tell(figures, &mut report);
    }
    if let Some(path) = args.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}
