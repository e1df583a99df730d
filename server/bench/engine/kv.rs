//! Measures a prompt that another replica computed: fetched from Redis or from a folder, against computing it; and the delay of small
//! commands at the same Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::{
    engine::{
        Engine, GenerateRequest, Message, Role,
        kv::{KvEncoding, KvStore, Reuse},
        mistral::{KvSharing, LoadProgress, MistralConfig, MistralEngine},
    },
    store::{
        Retention,
        kv_folder::KvFolder,
        redis::{KvConfig, RedisKv},
    },
};
use caudal_tests::Redis;
use redis::cmd;

use crate::{Figure, direct, median};

/// This many words make a prompt of about 1,700 tokens.
const WORDS: usize = 420;
const TIMES: usize = 5;
const PINGS: usize = 400;
const HOUR: Duration = Duration::from_secs(3600);

pub async fn rows() -> anyhow::Result<Vec<Figure>> {
    let redis = Redis::spawn();
    let shared = || -> anyhow::Result<Arc<dyn KvStore>> {
        Ok(Arc::new(RedisKv::new(KvConfig {
            url: redis.url(),
            sentinel: Default::default(),
            prefix: "bench".into(),
            retention: Retention { default: HOUR, tenants: Default::default(), resume_window: HOUR },
            max_bytes: 4 << 30,
        })?))
    };
    let (a, b) = (engine(shared()?).await?, engine(shared()?).await?);
    let mut figures = between("redis", &a, &b).await?;
    figures.push(Figure::new("p99 of a small command at Redis, ms", p99(ping(&redis).await?), ""));
    let moving = tokio::spawn(async move {
        for round in 0.. {
            ask(&a, &format!("moving {round}"), Reuse::Expected).await?;
            ask(&b, &format!("moving {round}"), Reuse::Unknown).await?;
        }
        anyhow::Ok(())
    });
    figures.push(Figure::new("the same while blocks move, ms", p99(ping(&redis).await?), ""));
    moving.abort();

    let folder = std::env::temp_dir().join(format!("caudal-bench-kv-{}", std::process::id()));
    let disk = || -> Arc<dyn KvStore> { Arc::new(KvFolder::new(folder.clone(), 4 << 30)) };
    // A folder belongs to one process. The second engine stands for that process after a restart: it lists the folder again.
    let before = engine(disk()).await?;
    for time in 0..TIMES {
        ask(&before, &format!("disk {time}"), Reuse::Expected).await?;
    }
    let after = engine(disk()).await?;
    let (mut fresh, mut warm) = (Vec::new(), Vec::new());
    for time in 0..TIMES {
        fresh.push(ask(&after, &format!("disk, fresh {time}"), Reuse::Unknown).await?);
        warm.push(ask(&after, &format!("disk {time}"), Reuse::Unknown).await?);
    }
    figures.extend(compared("disk, after a restart", fresh, warm));
    std::fs::remove_dir_all(folder)?;
    Ok(figures)
}

async fn engine(store: Arc<dyn KvStore>) -> anyhow::Result<MistralEngine> {
    let sharing = Some(KvSharing { store, encoding: KvEncoding::Exact });
    let engine =
        MistralEngine::load(MistralConfig { sharing, ..MistralConfig::default() }, LoadProgress::default()).await?;
    // Time for the engine to hash the model's file.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(engine)
}

/// Generates one token after a long prompt that begins with `name`.
async fn ask(engine: &MistralEngine, name: &str, reuse: Reuse) -> anyhow::Result<direct::Reply> {
    let long: String = (0..WORDS).map(|n| format!("{n} rivers ")).collect();
    let request = direct::ask(engine, vec![Message::text(Role::User, format!("{name}: {long}"))], 1)?;
    let reply = direct::run(engine, GenerateRequest { reuse, ..request }).await?;
    engine.flush_blocks().await;
    Ok(reply)
}

async fn between(store: &str, a: &MistralEngine, b: &MistralEngine) -> anyhow::Result<Vec<Figure>> {
    let (mut fresh, mut warm) = (Vec::new(), Vec::new());
    for time in 0..TIMES {
        fresh.push(ask(b, &format!("fresh {time}"), Reuse::Unknown).await?);
        ask(a, &format!("on a {time}"), Reuse::Expected).await?;
        warm.push(ask(b, &format!("on a {time}"), Reuse::Unknown).await?);
    }
    Ok(compared(store, fresh, warm))
}

fn compared(store: &str, fresh: Vec<direct::Reply>, warm: Vec<direct::Reply>) -> Vec<Figure> {
    let (tokens, cached) = (warm[0].prompt_tokens, warm.iter().map(|reply| reply.cached_tokens).min().unwrap_or(0));
    println!("{store}: a prompt of {tokens} tokens, {cached} at least not computed");
    let first = |replies: Vec<direct::Reply>| median(replies.iter().map(|reply| reply.first.as_secs_f64()).collect());
    let (fresh, warm) = (first(fresh), first(warm));
    vec![
        Figure::new(format!("{store}: first token, computed, s"), fresh, ""),
        Figure::new(format!("{store}: fetched, s"), warm, ""),
        Figure::new(format!("{store}: fetched / computed"), warm / fresh, "≤ 0.25"),
    ]
}

/// Times of small writes, such as appends to logs, in milliseconds.
async fn ping(redis: &Redis) -> anyhow::Result<Vec<f64>> {
    let client = redis::Client::open(redis.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut times = Vec::with_capacity(PINGS);
    for n in 0..PINGS {
        let begun = Instant::now();
        cmd("XADD").arg("ping").arg("*").arg("n").arg(n).query_async::<String>(&mut connection).await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(times)
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}
