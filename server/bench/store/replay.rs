//! Measures replays: stored responses are followed to their end, rendered, and serialised as a connection sends them. Everything runs on
//! one thread, so that a second of its CPU is a second of a core.

use std::{sync::Arc, time::Instant};

use caudal_server::{
    engine::scripted::{Scripted, ScriptedSettings},
    generation::Generations,
    settings::{Settings, Sources},
    store::{
        Store, Stores, conversations,
        memory::{MemoryCache, MemoryConversations, MemoryLimits, MemoryPrompts, MemoryRates, MemoryStore},
        prompts,
    },
    wire::event::Numbered,
};
use caudal_tests::Redis;

use crate::{Figure, TENANT, created, finished, quantile, quotas, retention, store, token};

const RESPONSES: u32 = 100;
/// Tokens of a response, one in each append.
const TOKENS: u32 = 2000;
const ROUNDS: usize = 5;
/// Replays of each response in a round. A round must be long against a tick of the CPU clock.
const TIMES: u32 = 5;
const ROOM: u64 = 1 << 30;

/// Events per second of real time, and per second of this thread's CPU.
struct Rates {
    wall: f64,
    core: f64,
}

fn limits() -> MemoryLimits {
    MemoryLimits { retention: retention(), max_bytes: ROOM, quotas: quotas() }
}

pub fn rows() -> Vec<Figure> {
    println!("{RESPONSES} responses of {TOKENS} tokens, each replayed whole, as JSON events");
    let memory = on_one_thread(|| async { Arc::new(MemoryStore::new(limits())) as Arc<dyn Store> });
    let redis = Redis::spawn();
    let shared = on_one_thread(|| async { Arc::new(store(&redis, "a")) as Arc<dyn Store> });
    vec![
        Figure::new("replay from memory, events/s a core", memory.core, "≥ 200000"),
        Figure::new("replay from memory, events/s of the clock", memory.wall, ""),
        Figure::new("replay from Redis, events/s of the clock", shared.wall, "≥ 50000"),
        Figure::new("replay from Redis, events/s a core, Redis' own not counted", shared.core, ""),
    ]
}

/// Measures some rounds on one thread, and returns their medians.
fn on_one_thread<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F + Send) -> Rates {
    let measure = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let store = make().await;
            fill(&*store).await;
            let generations = generations(store);
            let (mut wall, mut core) = (vec![], vec![]);
            for _ in 0..ROUNDS {
                let (begun, cpu) = (Instant::now(), cpu_seconds());
                let mut events = 0;
                for n in 0..RESPONSES * TIMES {
                    events += replay(&generations, &format!("resp_{}", n % RESPONSES)).await;
                }
                wall.push(f64::from(events) / begun.elapsed().as_secs_f64());
                core.push(f64::from(events) / (cpu_seconds() - cpu));
            }
            Rates { wall: quantile(&mut wall, 0.5), core: quantile(&mut core, 0.5) }
        })
    };
    std::thread::scope(|scope| scope.spawn(measure).join().expect("the measurement ends"))
}

async fn fill(store: &dyn Store) {
    let responses = (0..RESPONSES).map(|n| async move {
        let lease = created(store, &format!("resp_{n}")).await;
        for at in 0..TOKENS {
            store.append(&lease, u64::from(at), &[token(at)]).await.expect("append");
        }
        store.append(&lease, u64::from(TOKENS), &[finished()]).await.expect("append");
    });
    futures::future::join_all(responses).await;
}

fn generations(responses: Arc<dyn Store>) -> Arc<Generations> {
    let settings = Settings::load(&Sources::default()).expect("the defaults");
    let bounds = conversations::ConversationBounds { items: 1, bytes: 1 };
    let stores = Stores {
        responses,
        conversations: Arc::new(MemoryConversations::new(limits(), bounds)),
        prompts: Arc::new(MemoryPrompts::new(prompts::PromptBounds { prompts: 1, versions: 1, bytes: 1 })),
        cache: Arc::new(MemoryCache::new(ROOM, retention().default)),
        rates: Arc::new(MemoryRates::default()),
        fleet: None,
        inventory: None,
    };
    Generations::new(Arc::new(Scripted::new(ScriptedSettings::default(), 1)), stores, &settings)
}

/// Follows a response and serialises its events, as a connection does. Returns the number of events.
async fn replay(generations: &Generations, id: &str) -> u32 {
    let mut follow = generations.follow(TENANT, id, None, Default::default()).await.expect("follow");
    let (mut events, mut bytes) = (0, 0);
    while let Some(next) = follow.next().await {
        let (sequence_number, event) = next.expect("an event");
        let numbered =
            Numbered { event: &event, sequence_number, response_id: Some(id), stream_id: None, warnings: &[] };
        bytes += serde_json::to_string(&numbered).expect("JSON").len();
        events += 1;
    }
    assert!(events > TOKENS && bytes > 100 * TOKENS as usize, "{events} events of {bytes} bytes");
    events
}

/// The CPU time of this thread, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}
