//! Measures the Redis store on a server of its own: from an append to a follower on another replica, replay, bytes, CPU.
//! `cargo run --release --no-default-features --example store`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::{
    engine::Finish,
    store::{
        Created, Entry, Header, LOG_VERSION, Lease, Retention, Store,
        redis::{Config, RedisStore},
    },
    wire::{
        request::Create,
        response::{InputTokensDetails, OutputTokensDetails, Usage},
    },
};
use caudal_tests::Redis;
use futures::{StreamExt, future::join_all};

const STREAMS: u32 = 100;
const TOKENS: u32 = 100;
/// Between two tokens of a stream: 2,000 appends a second in all.
const PACE: Duration = Duration::from_millis(50);
const REPLAYED: u32 = 100_000;

fn store(redis: &Redis, replica: &str) -> RedisStore {
    let config = Config {
        url: redis.url(),
        prefix: "bench".into(),
        timeout: Duration::from_secs(5),
        retention: Retention {
            default: Duration::from_secs(600),
            tenants: Default::default(),
            resume_window: Duration::from_secs(600),
        },
        replica: replica.into(),
        lease: Duration::from_secs(5),
    };
    RedisStore::new(config).expect("a store")
}

async fn created(store: &RedisStore, id: &str) -> Lease {
    let create = Create::from_value(serde_json::json!({"input": "x"})).expect("a request");
    let header = Header {
        version: LOG_VERSION,
        id: id.into(),
        tenant: "t".into(),
        created_at: 0,
        model: "m".into(),
        create,
        prompt: vec![1; 50],
        seed: 1,
        max_output_tokens: REPLAYED,
        dialect: Default::default(),
        left_out: Default::default(),
        sharing: None,
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

fn cpu_seconds(redis: &Redis) -> f64 {
    let info = redis.ask(&["INFO", "cpu"]);
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    field("used_cpu_sys:").unwrap_or(0.0) + field("used_cpu_user:").unwrap_or(0.0)
}

/// One stream, followed on the other replica: how long each token took from before its append, in seconds.
async fn stream(writer: RedisStore, reader: RedisStore, n: u32) -> Vec<f64> {
    let lease = created(&writer, &format!("resp_{n}")).await;
    let mut followed = reader.follow("t", &lease.id).await.expect("follow");
    tokio::time::sleep(Duration::from_millis(500) + PACE / STREAMS * n).await;
    let (sender, mut sent) = tokio::sync::mpsc::channel(TOKENS as usize);
    let follower = tokio::spawn(async move {
        let mut latencies = vec![];
        while let Some(batch) = followed.rest.next().await {
            for _ in batch.expect("a batch").entries {
                let sent: Instant = sent.recv().await.expect("when it was sent");
                latencies.push(sent.elapsed().as_secs_f64());
            }
        }
        latencies
    });
    let mut pace = tokio::time::interval(PACE);
    for at in 0..TOKENS {
        pace.tick().await;
        let entry = if at + 1 == TOKENS { finished() } else { token(at) };
        sender.send(Instant::now()).await.expect("room");
        writer.append(&lease, u64::from(at), &[entry]).await.expect("append");
    }
    follower.await.expect("the follower ends")
}

#[tokio::main]
async fn main() {
    let redis = Redis::spawn();
    let (writer, reader) = (store(&redis, "a"), store(&redis, "b"));

    let cpu = cpu_seconds(&redis);
    let streams = (0..STREAMS).map(|n| tokio::spawn(stream(writer.clone(), reader.clone(), n)));
    let streams = join_all(streams).await;
    let mut latencies: Vec<f64> = streams.into_iter().flat_map(|stream| stream.expect("a stream")).collect();
    let cpu = cpu_seconds(&redis) - cpu;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] * 1000.0;
    let appends = f64::from(STREAMS * TOKENS);
    println!("token → follower on another replica, {} appends/s", f64::from(STREAMS) / PACE.as_secs_f64());
    println!("  p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0));
    println!("  redis: {:.2} ms CPU for 1000 tokens", cpu / appends * 1e6);
    let bytes = redis.ask(&["MEMORY", "USAGE", "bench:1:{resp_1}:log", "SAMPLES", "0"]);
    println!("  {:.0} bytes for 1000 tokens", bytes.parse::<f64>().unwrap_or(0.0) * 1000.0 / f64::from(TOKENS));

    let lease = created(&writer, "resp_replay").await;
    for at in (0..REPLAYED).step_by(100) {
        // As an engine writes them: a token an append.
        let appends = (at..at + 100).map(|at| (at, [token(at)]));
        for (at, entry) in appends {
            writer.append(&lease, u64::from(at), &entry).await.expect("append");
        }
    }
    writer.append(&lease, u64::from(REPLAYED), &[finished()]).await.expect("append");
    let begun = Instant::now();
    let followed = reader.follow("t", &lease.id).await.expect("follow");
    assert_eq!(followed.entries.len() as u32, REPLAYED + 1);
    println!("replay: {:.0} entries/s", f64::from(REPLAYED) / begun.elapsed().as_secs_f64());

    let mut opened = vec![];
    for n in 0..500 {
        let id = format!("resp_{}", n % STREAMS);
        let begun = Instant::now();
        reader.follow("t", &id).await.expect("follow");
        opened.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    opened.sort_by(f64::total_cmp);
    println!("resume of {TOKENS} tokens to the first entry: p50 {:.2} ms, p99 {:.2} ms", opened[250], opened[494]);
}
