//! Faults on the real model: what breaks, when, and that nothing of it is heard by whoever listens.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use candle_core::{Result as CandleResult, Tensor};
use futures::future::join;
use mistralrs_core::CustomLogitsProcessor;

use super::{
    slot::Sequence,
    tests::{ENGINE, RUNTIME, collect, config, load, request, run, the},
    threads::lock,
    *,
};
use crate::engine::Finish;

/// How a step breaks.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Error,
    Panic,
    /// The engine's thread sleeps for so long.
    Sleep(Duration),
    /// The engine's thread computes for so long.
    Spin(Duration),
}

/// A fault in the generation of one seed at an output token, so many times.
struct Planned {
    seed: u64,
    token: usize,
    fault: Fault,
    times: usize,
}

static PLANNED: Mutex<Vec<Planned>> = Mutex::new(Vec::new());

/// The steps of a generation, with what is planned for it.
pub fn inject(sequence: Sequence, request: &GenerateRequest) -> Sequence {
    let seed = request.sampling.seed;
    // What was said before is made again first.
    let steps = Faulty { seed, token: AtomicUsize::new(0), steps: sequence.steps };
    Sequence { steps: Arc::new(steps), ..sequence }
}

struct Faulty {
    seed: u64,
    token: AtomicUsize,
    steps: Arc<dyn CustomLogitsProcessor>,
}

impl CustomLogitsProcessor for Faulty {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> CandleResult<Tensor> {
        let token = self.token.fetch_add(1, Ordering::Relaxed);
        let due = |planned: &&mut Planned| planned.seed == self.seed && planned.token == token && planned.times > 0;
        let fault = lock(&PLANNED).iter_mut().find(due).map(|planned| {
            planned.times -= 1;
            planned.fault
        });
        match fault {
            None => {}
            Some(Fault::Error) => candle_core::bail!("planned"),
            Some(Fault::Panic) => panic!("planned"),
            Some(Fault::Sleep(time)) => std::thread::sleep(time),
            Some(Fault::Spin(time)) => {
                let begun = Instant::now();
                while begun.elapsed() < time {}
            }
        }
        self.steps.apply(logits, context)
    }
}

fn plan(seed: u64, token: usize, fault: Fault, times: usize) {
    lock(&PLANNED).push(Planned { seed, token, fault, times });
}

/// Of a tenant of its own, so that every token is the engine's and none comes from what was kept of another's.
fn seeded(seed: u64, tokens: u32) -> GenerateRequest {
    static TENANTS: AtomicUsize = AtomicUsize::new(0);
    let mut request = request("Count from one to a hundred, in digits, with commas.", tokens);
    request.scope = format!("faults {}", TENANTS.fetch_add(1, Ordering::Relaxed)).into();
    request.sampling.seed = seed;
    request
}

const FOR_EVER: Duration = Duration::from_secs(90);

#[test]
fn a_generation_goes_on_through_every_fault_without_a_lost_or_repeated_token() {
    let whole = run(seeded(1, 24));
    let faults = [Fault::Error, Fault::Panic, Fault::Sleep(FOR_EVER), Fault::Spin(Duration::from_secs(60))];
    for (index, fault) in faults.into_iter().enumerate() {
        // A prefill that spins is told from a slow one by its length only, later.
        let tokens: &[usize] = if matches!(fault, Fault::Spin(_)) { &[1, 9] } else { &[0, 1, 9] };
        for &token in tokens {
            let seed = (1000 + index * 100 + token) as u64;
            plan(seed, token, fault, 1);
            let begun = Instant::now();
            assert_eq!(run(seeded(seed, 24)), whole, "{fault:?} at {token}");
            let took = begun.elapsed();
            eprintln!("{fault:?} at {token}: {took:?}");
            // Two seconds until it is seen, and the rest for a prompt, a reply, and a slot that may have to be loaded.
            assert!(took < Duration::from_secs(45), "{fault:?} at {token}: {took:?}");
        }
    }
}

#[test]
fn faults_that_come_again_and_again_end_it() {
    for (seed, fault) in [(2000, Fault::Error), (2001, Fault::Panic)] {
        let whole = run(seeded(1, 12));
        plan(seed, 5, fault, 2);
        assert_eq!(run(seeded(seed, 12)), whole, "twice");
        plan(seed + 10, 5, fault, 3);
        let reply = run(seeded(seed + 10, 12));
        assert!(matches!(reply.finish, Some(Finish::Failed(_))), "{reply:?}");
        assert_eq!(reply.tokens, whole.tokens[..5]);
    }
    assert_eq!(run(seeded(1, 2)).tokens.len(), 2);
}

/// What was said without the engine is not said again, nor lost, when the engine breaks after it: where it has left an earlier
/// reply, and where the engine makes that one again.
#[test]
fn another_answer_goes_on_through_a_fault() {
    let sampled = |seed, temperature| {
        let mut request = seeded(seed, 24);
        request.sampling.temperature = temperature;
        request
    };
    for (seed, temperature, tokens) in [(7000, 1.0, [1, 5]), (7100, 0.0, [5, 18])] {
        let whole = run(sampled(seed, temperature));
        for token in tokens {
            // As many faults as tenants, each with an earlier reply of its own.
            let fresh = seeded(seed + 1, 24);
            let (tenant, prompt) = (fresh.scope.clone(), fresh.prompt.len() as u32);
            run(GenerateRequest { sampling: sampled(seed + 1, temperature).sampling, ..fresh });
            plan(seed, token, Fault::Panic, 1);
            let again = run(GenerateRequest { scope: tenant, ..sampled(seed, temperature) });
            assert!(lock(&PLANNED).iter().all(|planned| planned.seed != seed || planned.times == 0), "it never broke");
            let reused = if temperature > 0.0 { prompt } else { 0 };
            assert_eq!(again.cached_tokens, Some(reused), "{again:?}");
            assert_eq!(again, whole, "at temperature {temperature}, token {token}");
        }
    }
}

/// When the tokens of a reply came.
async fn times(request: GenerateRequest) -> Vec<Instant> {
    let mut deltas = ENGINE.generate("m", request).unwrap();
    let mut times = Vec::new();
    while let Some(delta) = deltas.recv().await {
        times.extend(delta.tokens.iter().map(|_| Instant::now()));
    }
    times
}

#[test]
fn the_other_slots_go_on() {
    let whole = run(seeded(1, 24));
    plan(3000, 5, Fault::Sleep(FOR_EVER), 1);
    let (reply, other) = RUNTIME.block_on(join(
        async { collect(ENGINE.generate("m", seeded(3000, 24)).unwrap()).await },
        times(request("Tell me a long story about a mill.", 300)),
    ));
    assert_eq!(reply, whole);
    assert_eq!(other.len(), 300);
    let longest = other.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    eprintln!("longest gap of the other: {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn an_engine_that_wakes_up_late_says_nothing_and_gives_its_memory_back() {
    let whole = run(seeded(1, 24));
    let slots: Vec<_> = the(&ENGINE).pool.slots().iter().map(|slot| Arc::downgrade(slot.model())).collect();
    plan(4000, 5, Fault::Sleep(Duration::from_secs(6)), 1);
    let begun = Instant::now();
    assert_eq!(run(seeded(4000, 24)), whole);
    eprintln!("done after {:?}", begun.elapsed());
    while slots.iter().all(|slot| slot.upgrade().is_some()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the old engine is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(slots.iter().filter(|slot| slot.upgrade().is_none()).count(), 1, "that slot alone");
    assert_eq!(run(seeded(1, 24)), whole);
}

/// The only slot breaks and its file is gone; later it is back.
#[test]
fn without_a_slot_it_fails_at_once_and_recovers_when_one_can_be_loaded() {
    let dir = std::env::temp_dir().join(format!("caudal-faults-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (here, gone) = (dir.join("model.gguf"), dir.join("gone.gguf"));
    let original = crate::model::default_file(&crate::model::default_dir()).unwrap();
    std::os::unix::fs::symlink(&original, &here).unwrap();
    RUNTIME.block_on(async {
        let mut config = config(1, 0);
        config.models[0].model = here.to_string_lossy().into_owned();
        let engine = load(config).await.unwrap();
        let say = |seed, tokens| collect(engine.generate("m", seeded(seed, tokens)).unwrap());
        let whole = say(1, 12).await;
        std::fs::rename(&here, &gone).unwrap();
        plan(5000, 5, Fault::Panic, 1);
        let reply = say(5000, 12).await;
        assert!(matches!(&reply.finish, Some(Finish::Failed(reason)) if reason.contains("model.gguf")), "{reply:?}");
        assert_eq!(reply.tokens, whole.tokens[..5]);
        let begun = Instant::now();
        assert!(matches!(say(1, 12).await.finish, Some(Finish::Failed(_))));
        assert!(begun.elapsed() < Duration::from_secs(1));
        std::fs::rename(&gone, &here).unwrap();
        while say(1, 12).await != whole {
            assert!(begun.elapsed() < Duration::from_secs(60), "it was never loaded again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_cancel_is_heard_while_the_engine_hangs() {
    plan(6000, 5, Fault::Sleep(FOR_EVER), 1);
    RUNTIME.block_on(async {
        let hanging = seeded(6000, 24);
        let cancel = hanging.cancel.clone();
        let mut deltas = ENGINE.generate("m", hanging).unwrap();
        for _ in 0..5 {
            deltas.recv().await.unwrap();
        }
        cancel.cancel();
        let last = tokio::time::timeout(Duration::from_millis(500), deltas.recv()).await.expect("in time").unwrap();
        assert_eq!(last.finish, Some(Finish::Cancelled));
        assert_eq!(deltas.recv().await, None);
    });
}
