//! Measures the time from an append on one replica to a follower on another, the time of a resume to its first entry, and the CPU and
//! memory of Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::store::{Store, redis::RedisStore};
use caudal_tests::Redis;
use futures::{StreamExt, future::join_all};
use tokio::sync::Barrier;

use crate::{Figure, TENANT, created, finished, quantile, store, token};

/// Streams at once: 2,000 and 20,000 appends a second in all.
const FEW: u32 = 100;
const MANY: u32 = 1000;
const TOKENS: u32 = 100;
/// Time between two tokens of a stream.
const PACE: Duration = Duration::from_millis(50);
const RESUMES: u32 = 500;

fn cpu_seconds(redis: &Redis) -> f64 {
    let info = redis.ask(&["INFO", "cpu"]);
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    field("used_cpu_sys:").unwrap_or(0.0) + field("used_cpu_user:").unwrap_or(0.0)
}

/// Runs one stream that is followed on the other replica. Returns the time of each token from its append to the follower, in ms.
async fn stream(
    writer: RedisStore,
    reader: RedisStore,
    (n, streams): (u32, u32),
    created_all: Arc<Barrier>,
) -> Vec<f64> {
    let lease = created(&writer, &format!("resp_{n}")).await;
    let mut followed = reader.follow(TENANT, &lease.id).await.expect("follow");
    created_all.wait().await;
    tokio::time::sleep(PACE / streams * n).await;
    let (sender, mut sent) = tokio::sync::mpsc::channel(TOKENS as usize);
    let follower = tokio::spawn(async move {
        let mut latencies = vec![];
        while let Some(batch) = followed.rest.next().await {
            for _ in batch.expect("a batch").entries {
                let sent: Instant = sent.recv().await.expect("when it was sent");
                latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
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

/// Runs all streams at once. Returns the latencies of their tokens in ms, and the seconds of CPU that Redis used for the tokens.
async fn load(redis: &Redis, streams: u32) -> (Vec<f64>, f64) {
    let (writer, reader) = (store(redis, "a"), store(redis, "b"));
    let created_all = Arc::new(Barrier::new(streams as usize + 1));
    let running: Vec<_> = (0..streams)
        .map(|n| tokio::spawn(stream(writer.clone(), reader.clone(), (n, streams), created_all.clone())))
        .collect();
    created_all.wait().await;
    let cpu = cpu_seconds(redis);
    let latencies = join_all(running).await.into_iter().flat_map(|stream| stream.expect("a stream")).collect();
    (latencies, cpu_seconds(redis) - cpu)
}

pub async fn rows() -> Vec<Figure> {
    let mut figures = vec![];
    for (streams, most_cpu) in [(FEW, ""), (MANY, "≤ 15")] {
        let redis = Redis::spawn();
        let (mut added, cpu) = load(&redis, streams).await;
        let rate = f64::from(streams) / PACE.as_secs_f64();
        let row = |what: &str| format!("{rate} appends/s: {what}");
        figures.extend([
            Figure::new(row("append to follower, p50 ms"), quantile(&mut added, 0.5), ""),
            Figure::new(row("append to follower, p99 ms"), quantile(&mut added, 0.99), "≤ 5"),
            Figure::new(row("append to follower, max ms"), quantile(&mut added, 1.0), ""),
            Figure::new(row("redis CPU for 1000 tokens, ms"), cpu / f64::from(streams * TOKENS) * 1e6, most_cpu),
        ]);
    }
    figures.extend(resumes().await);
    figures
}

async fn resumes() -> Vec<Figure> {
    let redis = Redis::spawn();
    load(&redis, FEW).await;
    let bytes = redis.ask(&["MEMORY", "USAGE", "bench:1:{resp_1}:log", "SAMPLES", "0"]);
    let reader = store(&redis, "b");
    let mut resumed = vec![];
    for n in 0..RESUMES {
        let begun = Instant::now();
        reader.follow(TENANT, &format!("resp_{}", n % FEW)).await.expect("follow");
        resumed.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    vec![
        Figure::new(
            "redis bytes for 1000 tokens",
            bytes.parse::<f64>().unwrap_or(f64::NAN) * 1000.0 / f64::from(TOKENS),
            "",
        ),
        Figure::new("resume of 100 tokens to the first entry, p50 ms", quantile(&mut resumed, 0.5), ""),
        Figure::new("resume of 100 tokens to the first entry, p99 ms", quantile(&mut resumed, 0.99), "≤ 10"),
    ]
}
