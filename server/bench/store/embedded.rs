//! Measures the embedded store against memory: followed streams with 5,000 appends a second in all; the time of an append; the bytes of
//! a token on the disk.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::store::{
    Store,
    memory::{MemoryLimits, MemoryStore},
};
use caudal_tests::DataDir;
use futures::{StreamExt, future::join_all};

use crate::{Figure, TENANT, created, embedded, finished, quantile, quotas, retention, token};

const STREAMS: u32 = 200;
const TOKENS: u32 = 250;
/// Time between two tokens of a stream, which gives 5,000 appends a second in all.
const PACE: Duration = Duration::from_millis(40);
/// Tokens of a single stream that is as fast as possible.
const ALONE: u32 = 20_000;

/// The figures of streams at once on one store.
struct Ran {
    /// Appends a second.
    rate: f64,
    /// Time of each append, in ms.
    appends: Vec<f64>,
    /// Time from the start of each append to its follower, in ms.
    followed: Vec<f64>,
}

async fn stream(store: Arc<dyn Store>, n: u32, tokens: u32, pace: Option<Duration>) -> (Vec<f64>, Vec<f64>) {
    let lease = created(&*store, &format!("resp_{n}")).await;
    let mut followed = store.follow(TENANT, &lease.id).await.expect("follow");
    let (sender, mut sent) = tokio::sync::mpsc::channel(tokens as usize);
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
    let mut appends = Vec::with_capacity(tokens as usize);
    let mut ticks = pace.map(|pace| tokio::time::interval_at((Instant::now() + pace / STREAMS * n).into(), pace));
    for at in 0..tokens {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let entry = if at + 1 == tokens { finished() } else { token(at) };
        let begun = Instant::now();
        sender.send(begun).await.expect("room");
        store.append(&lease, u64::from(at), &[entry]).await.expect("append");
        appends.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    (appends, follower.await.expect("the follower ends"))
}

async fn run(store: Arc<dyn Store>, streams: u32, tokens: u32, pace: Option<Duration>) -> Ran {
    let begun = Instant::now();
    let all = join_all((0..streams).map(|n| tokio::spawn(stream(store.clone(), n, tokens, pace)))).await;
    let rate = f64::from(streams * tokens) / begun.elapsed().as_secs_f64();
    let (appends, followed): (Vec<_>, Vec<_>) = all.into_iter().map(|stream| stream.expect("a stream")).unzip();
    Ran { rate, appends: appends.concat(), followed: followed.concat() }
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(MemoryLimits { retention: retention(), max_bytes: 1 << 30, quotas: quotas() }))
}

pub async fn rows() -> Vec<Figure> {
    println!("{STREAMS} streams of {TOKENS} tokens, one each {PACE:?}, and one of {ALONE} as fast as it can");
    let (data, alone) = (DataDir::create(), DataDir::create());
    let in_memory = run(memory(), STREAMS, TOKENS, Some(PACE)).await;
    let mut stored = run(Arc::new(embedded(&data)), STREAMS, TOKENS, Some(PACE)).await;
    let one_in_memory = run(memory(), 1, ALONE, None).await;
    let mut one = run(Arc::new(embedded(&alone)), 1, ALONE, None).await;
    vec![
        Figure::new("200 streams, memory: appends/s", in_memory.rate, ""),
        Figure::new("200 streams, sqlite: appends/s", stored.rate, ""),
        Figure::new("200 streams, sqlite to memory", stored.rate / in_memory.rate, "≥ 0.9"),
        Figure::new("200 streams, sqlite: append, p50 ms", quantile(&mut stored.appends, 0.5), ""),
        Figure::new("200 streams, sqlite: append, p99 ms", quantile(&mut stored.appends, 0.99), ""),
        Figure::new("200 streams, sqlite: append to follower, p50 ms", quantile(&mut stored.followed, 0.5), ""),
        Figure::new("200 streams, sqlite: append to follower, p99 ms", quantile(&mut stored.followed, 0.99), ""),
        Figure::new("one stream without a pace, memory: appends/s", one_in_memory.rate, ""),
        Figure::new("one stream without a pace, sqlite: appends/s", one.rate, ""),
        Figure::new("one stream without a pace, sqlite: append, p50 ms", quantile(&mut one.appends, 0.5), ""),
        Figure::new("one stream without a pace, sqlite: append, p99 ms", quantile(&mut one.appends, 0.99), ""),
        Figure::new(
            "sqlite: bytes of a token, its share of the header included",
            bytes(&data) / f64::from(STREAMS * TOKENS),
            "",
        ),
        Figure::new("sqlite: bytes of a token of a long response", bytes(&alone) / f64::from(ALONE), ""),
    ]
}

/// Bytes of the file without free pages.
fn bytes(data: &DataDir) -> f64 {
    let copy = data.path().join("small.db");
    let small = caudal_server::store::sqlite::back_up(&data.file(), &copy);
    small.expect("a copy");
    let free = caudal_server::store::sqlite::free_bytes(&copy).expect("a copy that can be read");
    std::fs::metadata(&copy).map_or(f64::NAN, |file| file.len() as f64 - free as f64)
}
